"""What stands beside a figure's name: its unit, and which way is better."""

ARROWS = {"higher": " ↑", "lower": " ↓", "neither": ""}
UNITS = {
    "psnr_db": ("dB", "higher"),
    "ssim": ("at most 1", "higher"),
    "lpips_alex": ("", "lower"),
    "lpips_vgg": ("", "lower"),
    "frechet": ("", "lower"),
    "precision": ("fraction of 1", "higher"),
    "recall": ("fraction of 1", "higher"),
    "clip_score": ("0 to 100", "higher"),
    "diversity": ("ratio", "higher"),
    "all_factors_right": ("fraction of 1", "higher"),
    "factors_right": ("fraction of 1", "higher"),
    "nearest_training_ratio": ("ratio", "higher"),
    "nearer_than_99_percent_of_real": ("fraction of 1", "lower"),
    "latent": ("channels, height, width", "neither"),
    "mean": ("by channel", "neither"),
    "std": ("by channel", "neither"),
    "active_channels": ("channels", "neither"),
    "spectrum": ("fractions of 1, from coarse to fine", "neither"),
    "kl_nats_per_site": ("nats, by channel", "neither"),
    "rate_bits": ("bits an image", "lower"),
    "code_use": ("fraction of 1", "higher"),
    "code_perplexity": ("codes", "higher"),
    "batch_size": ("images", "neither"),
    "images_per_second": ("images a second", "higher"),
    "encode_images_per_second": ("images a second", "higher"),
    "decode_images_per_second": ("images a second", "higher"),
    "peak_mib": ("MiB", "lower"),
    "encode_peak_mib": ("MiB", "lower"),
    "decode_peak_mib": ("MiB", "lower"),
    "bits_per_token": ("bits", "lower"),
    "bits_per_token_without_prompt": ("bits", "lower"),
    "bits_per_pixel": ("bits", "lower"),
}
LEGEND = "↑ more is better, ↓ less is; `calotype explain NAME` says what a figure means."


def glossed(name: str) -> str:
    """A figure's name as JSON has it, with unit and direction: `psnr_db, dB ↑`. What stands behind
    a colon is a part of the figure; a name that has neither stays as it is.
    """
    unit, better = UNITS.get(name.partition(": ")[0], ("", "neither"))
    return f"{name}{unit and f', {unit}'}{ARROWS[better]}"
