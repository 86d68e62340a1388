"""What a person reads for a figure's name: its field's name, its unit, and which way is better."""

from typing import NamedTuple


class Reading(NamedTuple):
    """How a figure is read."""

    label: str
    unit: str = ""
    better: str = ""
    """HIGHER or LOWER; empty: neither is, by itself."""


HIGHER, LOWER = "↑", "↓"
READINGS = {
    "psnr_db": Reading("PSNR", "dB", HIGHER),
    "ssim": Reading("SSIM", "at most 1", HIGHER),
    "lpips_alex": Reading("LPIPS, AlexNet", "", LOWER),
    "lpips_vgg": Reading("LPIPS, VGG", "", LOWER),
    "frechet": Reading("Fréchet distance", "", LOWER),
    "precision": Reading("precision", "0 to 1", HIGHER),
    "recall": Reading("recall", "0 to 1", HIGHER),
    "clip_score": Reading("CLIP score", "0 to 100", HIGHER),
    "diversity": Reading("diversity within a prompt", "ratio"),
    "all_factors_right": Reading("all factors right", "fraction", HIGHER),
    "factors_right": Reading("factors right", "fraction", HIGHER),
    "nearest_training_ratio": Reading("distance to the nearest training image", "ratio"),
    "nearer_than_99_percent_of_real": Reading("nearer than 99 % of real ones", "fraction", LOWER),
    "latent": Reading("latent", "channels, rows, columns"),
    "mean": Reading("mean of latents", "each channel"),
    "std": Reading("deviation of latents", "each channel"),
    "active_channels": Reading("active channels", "number"),
    "spectrum": Reading("spectrum of latents", "fraction, each octave"),
    "kl_nats_per_site": Reading("KL divergence", "nats a site, each channel"),
    "rate_bits": Reading("rate", "bits an image", LOWER),
    "code_use": Reading("codes in use", "fraction", HIGHER),
    "code_perplexity": Reading("perplexity of codes", "codes", HIGHER),
    "batch_size": Reading("batch size", "images"),
    "encode_images_per_second": Reading("encoding", "images/s", HIGHER),
    "decode_images_per_second": Reading("decoding", "images/s", HIGHER),
    "images_per_second": Reading("drawing", "images/s", HIGHER),
    "encode_peak_mib": Reading("memory of encoding", "MiB", LOWER),
    "decode_peak_mib": Reading("memory of decoding", "MiB", LOWER),
    "peak_mib": Reading("memory of drawing", "MiB", LOWER),
    "bits_per_token": Reading("bits per token", "", LOWER),
    "bits_per_token_without_prompt": Reading("bits per token without prompt", "", LOWER),
    "bits_per_pixel": Reading("bits per pixel", "", LOWER),
}
LEGEND = (f"{HIGHER} more is better, {LOWER} less is. `calotype explain NAME` says what a figure "
          "means.")  # fmt: skip


def glossed(name: str) -> str:
    """A figure's name as JSON has it, for a person: "PSNR, dB ↑" of psnr_db. What stands behind a
    colon is a part of it, and a name that is not known stays, without its underscores.
    """
    whole, colon, part = name.partition(": ")
    label, unit, better = READINGS.get(whole, Reading(whole.replace("_", " ")))
    label += f"{colon}{part}"
    return f"{label}, {unit} {better}".rstrip() if unit else f"{label} {better}".rstrip()
