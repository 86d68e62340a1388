"""Terms of latents that a recipe cannot have, told before any work."""

from collections.abc import Mapping

from calotype.tokenizers import ImageTokenizer
from calotype.tokenizers.bottlenecks import Discrete, GaussianBottleneck
from calotype.tokenizers.bottlenecks.divergences import Decomposed
from calotype.tokenizers.encoder_terms import EncoderTerm
from calotype.training import Run


def check_encoder_terms(terms: Mapping[str, EncoderTerm], run: Run, learns: bool) -> None:
    """Refuse terms of an encoder that is not trained, and second derivatives of compiled networks.

    Args:
        terms: By their fields' names.
        run: In which they are paid.
        learns: Whether the encoder does.

    Raises:
        ValueError: one cannot be.
    """
    for name in terms:
        if not learns:
            raise ValueError(
                f"{name} is a term of the encoder, and of model:pretrained-decoder that stays as "
                f"it is: choose {name}:none, or model:continued"
            )
    if "contraction" in terms and run.compile:
        raise ValueError(
            "contraction differentiates the encoder twice, which torch.compile cannot: choose "
            "--run.no-compile or contraction:none"
        )


def check_latent_terms(
    tokenizer: ImageTokenizer, terms: Mapping[str, EncoderTerm], run: Run, pictures: int | None
) -> None:
    """Refuse what a tokenizer's latents cannot pay, or not in micro-batches or for these data.

    Args:
        tokenizer: Whose latents they are.
        terms: Of its encoder, by their fields' names.
        run: In which they are paid.
        pictures: In the data set; None: it is a stream.

    Raises:
        ValueError: one cannot be.
    """
    bottleneck = tokenizer.bottleneck
    if terms and isinstance(bottleneck, Discrete):
        name = next(iter(terms))
        raise ValueError(
            f"{name} asks how latents change, and those of {type(bottleneck).__name__} are codes, "
            f"which jump: choose {name}:none, or a continuous bottleneck"
        )
    comparing = [name for name, term in terms.items() if term.compares]
    comparing += ["bottleneck.divergence"] * bottleneck.compares
    if comparing and run.accumulate > 1:
        raise ValueError(
            f"{comparing[0]} compares all pictures of a step with one another, and run.accumulate "
            f"shares them out to {run.accumulate} micro-batches: choose --run.accumulate 1"
        )
    if comparing and run.batch_size < 2:
        raise ValueError(
            f"{comparing[0]} compares pictures with one another: choose a run.batch_size of 2 or "
            "more"
        )
    if isinstance(bottleneck, GaussianBottleneck):
        _check_pictures(bottleneck, pictures)


def _check_pictures(bottleneck: GaussianBottleneck, pictures: int | None) -> None:
    divergence = bottleneck.spec.divergence
    if isinstance(divergence, Decomposed) and pictures not in (None, divergence.pictures):
        raise ValueError(
            f"bottleneck.divergence.pictures is {divergence.pictures}, and there are {pictures}: "
            f"say {pictures}"
        )
