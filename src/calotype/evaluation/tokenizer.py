"""Everything that is measured of a tokenizer, in one pass over pictures."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from calotype.data.loading.batches import draw_keys
from calotype.data.loading.passes import Turn
from calotype.data.reading.transforms import eight_bits
from calotype.evaluation.health import LatentHealth, LatentSums
from calotype.evaluation.judges import Evaluation, Judges
from calotype.evaluation.likelihood import Importance
from calotype.evaluation.reconstructions import CodeCounts, Look, Reconstructions
from calotype.evaluation.speed import speed
from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import Discrete
from calotype.training import Batch
from calotype.training.agreement import by_main
from calotype.training.devices import Precision, computing, settled
from calotype.training.images import sent_images
from calotype.training.noise import generators
from calotype.training.progress import Told
from calotype.training.sharing import in_turn


@torch.no_grad()
def evaluate_tokenizer(
    tokenizer: ImageTokenizer, batches: Iterable[Batch], judges: Judges, seed: int = 0,
    examples: int = 16, precision: Precision = "fp32",
) -> Evaluation:  # fmt: skip
    """Reconstruct every picture from its likeliest latent, and measure; encoder and decoder compute
    in `precision`.

    Raises:
        ValueError: there are fewer than two pictures.
    """
    return survey_tokenizer(tokenizer, in_order(batches), judges, seed, examples, precision)()


@torch.no_grad()
def survey_tokenizer(
    tokenizer: ImageTokenizer, turns: Iterable[Turn], judges: Judges, seed: int = 0,
    examples: int = 16, precision: Precision = "fp32", importance: Importance | None = None,
) -> Callable[[], Evaluation]:  # fmt: skip
    """Look at every picture, as `evaluate_tokenizer`; of several ranks each looks at its own turns.
    With `importance` also at how likely each is.
    What it returns is for the main process to call, which makes figures of what all have seen: the
    same as one process would find.
    """
    tokenizer = tokenizer.eval()
    device = tokenizer.last_layer.weight.device
    health, first = LatentHealth(tokenizer), list[Tensor]()

    def look(turn: Turn) -> Look | None:
        if not turn.batch:
            return None
        images = sent_images(turn.batch["image"], device)
        if not first:
            first.append(images)  # for how fast it is
        keys = draw_keys(seed, turn.first, len(images))
        h = tokenizer.features(images)
        real, fake, packed, sums = _pass(tokenizer, images, h, keys, health)
        found = Look.at(real, fake, packed, sums, judges, counts, examples)
        if importance is not None:
            weights = importance.log_weights(tokenizer, images, h, generators(keys))
            found.values.update(importance.figures(weights, images[0].numel()))
        return found

    said = {"nll_nats": importance.said} if importance else {}
    pictures, counts = Reconstructions(judges, examples), CodeCounts(tokenizer)
    with computing(precision, device, *tokenizer.networks):
        for found in in_turn(turns, look):
            if found is not None:
                pictures.add(found)
                counts.add(found.codes)
                health.total.add(found.latents)

    by_main(lambda: _check_enough(health.total.images))

    def figures() -> Evaluation:
        values, errors = pictures.figures()
        protocol = replace(
            judges.protocol(
                health.total.images, pictures.width, str(pictures.digest), seed
            ), precision=settled(precision, device), device=device.type,
            importance_samples=importance and importance.samples,
        )  # fmt: skip
        with computing(precision, device, *tokenizer.networks):
            fast = throughput(tokenizer, first[0]) if first else {}
        return Evaluation(
            values, protocol, errors, pictures.notes() | said,
            health.figures() | counts.figures(), fast, pictures.pairs(),
        )  # fmt: skip

    return figures


def _check_enough(images: int) -> None:
    if images < 2:
        raise ValueError(f"{images} pictures to measure: give 2 or more")


def in_order(batches: Iterable[Batch]) -> Iterator[Turn]:
    """All batches of a pass, as turns of one process."""
    first = 0
    for batch in batches:
        yield Turn(first, batch)
        first += len(batch["image"])


def _pass(
    tokenizer: ImageTokenizer, images: Float[Tensor, "b c H W"], h: Float[Tensor, "b in h w"],
    keys: list[int], health: LatentHealth,
) -> tuple[UInt8[Tensor, "b c H W"], UInt8[Tensor, "b c H W"], Tensor, LatentSums]:  # fmt: skip
    bottleneck = tokenizer.bottleneck
    packed = bottleneck.pack(h)
    z = bottleneck.unpack(packed, generators(keys))
    mode = z if isinstance(bottleneck, Discrete) else bottleneck.mode(h)
    sums = health.sums(packed, z, mode)
    return eight_bits(images), eight_bits(tokenizer.decode(mode)), packed, sums


@torch.no_grad()
def throughput(
    tokenizer: ImageTokenizer, images: Float[Tensor, "b c H W"]
) -> dict[str, float | int]:
    """Images a second of encoding and decoding a batch of this size, and MiB that each takes
    beside the weights.
    """
    device = images.device
    encoded = tokenizer.bottleneck.mode(tokenizer.features(images))
    with Told("timing", None):
        there = speed(lambda: tokenizer.bottleneck.mode(tokenizer.features(images)), device)
        back = speed(lambda: tokenizer.decode(encoded), device)
    return {
        "batch_size": len(images),
        "encode_images_per_second": round(len(images) / there.seconds, 2),
        "decode_images_per_second": round(len(images) / back.seconds, 2),
        "encode_peak_mib": round(there.peak_mib, 1),
        "decode_peak_mib": round(back.peak_mib, 1),
    }
