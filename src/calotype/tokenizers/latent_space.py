"""The latent contract: mean 0 and standard deviation 1 in every channel, by the weights alone.

Stock pipelines read `scaling_factor` and nothing else, so measured statistics are folded into the
1x1 convolutions around the bottleneck and `scaling_factor` becomes 1.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calotype.tokenizers.bottlenecks import Autoencoder, Discrete
from calotype.tokenizers.tokenizer import ImageTokenizer
from calotype.training.distributed import all_mean, processes
from calotype.training.images import sent_images
from calotype.training.noise import generators
from calotype.training.objective import Batch
from calotype.training.weights import digest


@dataclass(frozen=True)
class LatentStatistics:
    """Per-channel statistics of sampled latents, as pipelines see them: times scaling_factor."""

    mean: Float[Tensor, " c"]
    std: Float[Tensor, " c"]
    images: int
    """How many images were measured."""

    def worst(self) -> float:
        """Largest departure of any channel from mean 0 or standard deviation 1."""
        return max(self.mean.abs().max().item(), (self.std - 1).abs().max().item())

    def isotropic(self) -> "LatentStatistics":
        """One standard deviation for all channels: the root of their mean variance."""
        std = self.std.square().mean().sqrt().expand_as(self.std)
        return LatentStatistics(self.mean, std, self.images)


@torch.no_grad()
def measure(tokenizer: ImageTokenizer, batches: Iterable[Batch]) -> LatentStatistics:
    """Encode images and measure their latents; of several ranks each gives as many batches of its
    own, and all get the statistics of all.
    """
    device = tokenizer.last_layer.weight.device
    count = images = 0
    total = squares = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        packed = tokenizer.pack(sent_images(batch["image"], device))
        latents = tokenizer.bottleneck.unpack(packed, generators(batch["key"]))
        z = latents.cpu().double() * tokenizer.autoencoder.config["scaling_factor"]
        total = total + z.sum((0, 2, 3))
        squares = squares + z.square().sum((0, 2, 3))
        count, images = count + z[:, 0].numel(), images + len(z)
    if not images:
        raise ValueError("no images to measure latents on: the data source is empty")
    # Summed in float64 on the CPU, because not every device has it; exchanged in float32.
    moments = torch.stack([total / count, squares / count]).float().to(device)
    mean, square = all_mean(moments).cpu().double()
    std = (square - mean.square()).clamp_min(0).sqrt()
    return LatentStatistics(mean.float(), std.float(), images * processes().num_processes)


def check_folds(tokenizer: ImageTokenizer) -> tuple[nn.Conv2d, nn.Conv2d]:
    """The 1x1 convolutions that statistics are folded into.

    Raises:
        ValueError: it has none, or its decoder looks at z past them.
    """
    autoencoder = tokenizer.autoencoder
    into, out = autoencoder.quant_conv, autoencoder.post_quant_conv
    if not isinstance(into, nn.Conv2d) or not isinstance(out, nn.Conv2d):
        raise ValueError("latents cannot be folded: use_quant_conv or use_post_quant_conv is off")
    if autoencoder.config.get("norm_type") == "spatial":
        raise ValueError("latents cannot be folded: with spatial norms the decoder reads z itself")
    return into, out


@torch.no_grad()
def fold(tokenizer: ImageTokenizer, statistics: LatentStatistics) -> LatentStatistics:
    """Normalise a tokenizer's latents in its weights: z' = (z - mean) / std, undone by the
    decoder's side. Decoded images do not change. Codes are divided by one number for all channels,
    so that the nearest stays the nearest.

    Returns:
        What was folded, of z as it was: `unfold` undoes it.

    Raises:
        ValueError: it has no 1x1 convolutions to fold into, or a channel is constant.
    """
    autoencoder, bottleneck = tokenizer.autoencoder, tokenizer.bottleneck
    if isinstance(bottleneck, Discrete):
        statistics = statistics.isotropic()
    into, out = check_folds(tokenizer)
    if not (statistics.std > 1e-6).all():
        channel = int(statistics.std.argmin())
        mend = "lower the KL weight, train longer"
        if isinstance(bottleneck, Discrete):
            mend = f"hardly a code is in use, {bottleneck.remedy}"
        raise ValueError(f"latent channel {channel} is constant: {mend}")
    assert into.bias is not None and out.bias is not None
    scale = autoencoder.config["scaling_factor"]
    mean, std = statistics.mean.to(into.weight) / scale, statistics.std.to(into.weight) / scale
    c = len(std)
    out.bias += out.weight.flatten(1) @ mean
    out.weight *= std[:, None, None]
    into.weight[:c] /= std[:, None, None, None]
    into.bias[:c] = (into.bias[:c] - mean) / std
    if isinstance(bottleneck, Discrete):
        bottleneck.normalise(mean, std)
    else:
        into.bias[c:] -= 2 * std.log()
    autoencoder.register_to_config(scaling_factor=1.0)
    return LatentStatistics(mean, std, statistics.images)


def unfold(tokenizer: ImageTokenizer, folded: LatentStatistics) -> None:
    """Give a tokenizer the latents that it had before they were folded."""
    mean, std = folded.mean, folded.std
    fold(tokenizer, LatentStatistics(-mean / std, 1 / std, folded.images))


def fingerprint(tokenizer: ImageTokenizer | Autoencoder) -> str:
    """What a cache, a generator and a pipeline name their latent space by: the SHA-256 of all that
    turns an image into a latent, as 16 hexadecimal digits.

    The decoder does not count: a finetuned one serves all that was trained in the same latents.
    """
    ours = isinstance(tokenizer, ImageTokenizer)
    autoencoder = tokenizer.autoencoder if ours else tokenizer
    settings = {name: autoencoder.config.get(name) for name in LATENT_SETTINGS}
    weights = dict(autoencoder.state_dict())
    if ours:
        weights |= tokenizer.bottleneck.latent_state()
    counted = [(name, weight) for name, weight in sorted(weights.items())
               if not name.startswith(("decoder.", "post_quant_conv."))]  # fmt: skip
    return digest(counted, json.dumps(settings))


LATENT_SETTINGS = ("act_fn", "norm_num_groups", "scaling_factor", "shift_factor")
"""What of an autoencoder's configuration changes its latents and not its weights' shapes."""
