"""Autoencoders in scikit-learn's manner: rows of numbers or pictures in, latents out."""

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from calotype.tokenizers import ImageTokenizer, Reconstruction
from calotype.tokenizers.bottlenecks import BottleneckSpec, Identity
from calotype.tokenizers.terms import L2
from calotype.tokenizers.vector import Dense
from calotype.training import AdamW, Batch, Run, fit
from calotype.training.images import Pixels
from calotype.training.progress import hushed
from calotype.uses.representations import of_latents


class LatentTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """An autoencoder of plain layers that is trained on rows of numbers, such as flattened
    pictures, and makes latents of them: where PCA would stand in a pipeline.

    Rows are standardised before, and what is decoded is scaled back.

    Args:
        bottleneck: What passes, such as `Gaussian(8, kl_weight=1e-3)`; None: `Identity(8)`. One
            whose latent is a vector of numbers.
        widths: Units of the encoder's hidden layers; the decoder's are the same in reverse.
        steps: Of the optimiser.
        batch_size: Rows of a step.
        lr: Of Adam, which falls to 0 by a cosine.
        random_state: Of weights, order and draws.
    """

    def __init__(
        self, bottleneck: BottleneckSpec | None = None, widths: tuple[int, ...] = (128,), *,
        steps: int = 1000, batch_size: int = 64, lr: float = 1e-3, random_state: Any = None,
    ) -> None:  # fmt: skip
        self.bottleneck = bottleneck
        self.widths = widths
        self.steps = steps
        self.batch_size = batch_size
        self.lr = lr
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> "LatentTransformer":
        """Train on rows [n, d] of finite numbers.

        Raises:
            ValueError: there are fewer than two rows, or a number is not possible.
        """
        rows: Any = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        seed = int(check_random_state(self.random_state).randint(2**31))
        self.mean_, scale = rows.mean(0), rows.std(0)
        self.scale_ = np.where(scale > 0, scale, 1.0)
        images = self._as_images(rows).float()
        spec = Identity(8) if self.bottleneck is None else self.bottleneck
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = Dense(self.widths, "silu").autoencoder(spec, images.shape[-1], 1)
            objective = Reconstruction(
                ImageTokenizer(made, spec.build()), {"pixel": (1.0, L2().build())},
                AdamW(self.lr, schedule="cosine"),
            )  # fmt: skip
            with tempfile.TemporaryDirectory() as folder, hushed():
                run = Run(Path(folder, "run"), self.steps, self.batch_size, ema=None,
                          precision="fp32", save_every=10**9, sample_every=10**9, seed=seed,
                          log_every=10**9)  # fmt: skip
                fit([objective], _Rows(images, self.batch_size, seed), run)
        # In double precision a row's latent does not depend on those beside it.
        self.tokenizer_ = objective.tokenizer.cpu().eval().double()
        self._n_features_out = self.tokenizer_.bottleneck.z_channels
        return self

    def transform(self, X: Any) -> np.ndarray:
        """The likeliest latents [n, z] of rows [n, d]."""
        check_is_fitted(self)
        rows: Any = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        with torch.no_grad():
            found = self.tokenizer_.latents(self._as_images(rows))
        return found.flatten(1).numpy().astype(rows.dtype)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Rows [n, d] of latents [n, z]."""
        check_is_fitted(self)
        latents = torch.from_numpy(np.asarray(X, np.float64))[..., None, None]
        with torch.no_grad():
            found = self.tokenizer_.decode(latents)
        return found.flatten(1)[:, : len(self.mean_)].numpy() * self.scale_ + self.mean_

    def score(self, X: Any, y: Any = None) -> float:
        """How much of the variance of rows is rebuilt: 1 is all of it, 0 is the mean's."""
        rows: Any = validate_data(self, X, dtype=np.float64, reset=False)
        rebuilt = self.inverse_transform(self.transform(rows))
        spread = ((rows - self.mean_) ** 2 / self.scale_**2).sum()
        return float(1 - ((rows - rebuilt) ** 2 / self.scale_**2).sum() / max(spread, 1e-12))

    def _as_images(self, rows: np.ndarray) -> Float64[Tensor, "n 1 s s"]:
        """Standardised rows as grey squares, which is what a tokenizer takes; the numbers that they
        have more are 0.
        """
        scaled = (rows.astype(np.float64) - self.mean_) / self.scale_
        side = math.isqrt(scaled.shape[1] - 1) + 1
        more = side**2 - scaled.shape[1]
        return torch.from_numpy(np.pad(scaled, ((0, 0), (0, more)))).view(-1, 1, side, side)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class _Rows:
    """Batches of rows in memory, in another order each pass, for one process."""

    def __init__(self, rows: Tensor, batch_size: int, seed: int) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed

    def batches(
        self, position: int = 0, rank: int = 0, world: int = 1, micro_batch: int | None = None
    ) -> Iterator[Batch]:
        """From a row on, without end."""
        while True:
            places = range(position, position + self.batch_size)
            chosen = [self._at(place) for place in places]
            yield {"image": self.rows[chosen], "key": [(self.seed + p) % 2**32 for p in places]}
            position += self.batch_size

    def _at(self, place: int) -> int:
        turn, within = divmod(place, len(self.rows))
        if getattr(self, "_turn", None) != turn:
            self._turn = turn
            self._order = np.random.default_rng((self.seed, turn)).permutation(len(self.rows))
        return int(self._order[within])


class PretrainedLatents(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """The likeliest latents of pictures, by a tokenizer that is trained already; `fit` learns
    nothing of what it is given.

    Args:
        tokenizer: A trained one, or its folder or name on the Hub, from which `fit` loads it.
        batch_size: Pictures that are encoded at a time.
    """

    def __init__(self, tokenizer: ImageTokenizer | str | Path, *, batch_size: int = 64) -> None:
        self.tokenizer = tokenizer
        self.batch_size = batch_size

    def fit(self, X: Any, y: Any = None) -> "PretrainedLatents":
        """Load the tokenizer, and see that it takes pictures such as these, as `transform` does.

        Raises:
            ValueError: it does not, or there is no such tokenizer.
        """
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}: it must be at least 1")
        given = self.tokenizer
        self.tokenizer_ = given if isinstance(given, ImageTokenizer) else ImageTokenizer.load(given)
        self._n_features_out = self.transform(X[:1]).shape[1]
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Latents [n, z] of pictures [n, H, W, c], or grey ones [n, H, W]: of 8 bits, or floating
        in [0, 1]; with alpha, colours are over white.

        Raises:
            ValueError: they are no such pictures, or of other channels than the tokenizer takes.
        """
        check_is_fitted(self)
        images, most = self._as_images(np.asarray(X)), self.batch_size
        represent = of_latents(self.tokenizer_)
        return np.concatenate([represent(some).numpy() for some in images.split(most)])

    def _as_images(self, X: np.ndarray) -> Pixels:
        if X.ndim not in (3, 4) or not len(X):
            raise ValueError(f"pictures of shape {X.shape}: give [n, H, W, c] or, grey, [n, H, W]")
        images = torch.from_numpy(X[..., None] if X.ndim == 3 else X).movedim(3, 1)
        channels = self.tokenizer_.channels
        if images.shape[1] != channels:
            raise ValueError(
                f"pictures of {images.shape[1]} channels, and the tokenizer takes {channels}"
            )
        if images.dtype == torch.uint8:
            return images
        if not images.is_floating_point() or not 0 <= images.min() <= images.max() <= 1:
            raise ValueError("pictures neither uint8 nor floating in [0, 1]: scale them")
        return images.float() * 2 - 1

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = False, True
        tags.transformer_tags.preserves_dtype = []
        return tags
