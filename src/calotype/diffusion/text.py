"""Text: a CLIPTextModel, learnt with the denoiser or taken as it is."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import filterfalse
from typing import Any

import torch
from jaxtyping import Int
from safetensors import SafetensorError
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from torch import Tensor

from calotype.data.prompts import tokenize as prompted
from calotype.lazy import transformers
from calotype.training.holds import instead
from calotype.training.network import missed, place, reason
from tokenizers import Tokenizer


@dataclass(frozen=True)
class LearntText:
    """A small CLIPTextModel trained jointly, on a CLIPTokenizer learnt from the captions."""

    width: int = 256
    """Channels of a token."""
    layers: int = 4
    """Transformer blocks."""
    heads: int = 4
    """Attention heads; must divide the width."""
    length: int = 32
    """Tokens of a prompt, begin and end included; longer ones are cut, shorter ones padded."""
    vocabulary: int = 4096
    """Number of tokens at most; the two marks and 512 of single bytes are always among them."""

    def __post_init__(self) -> None:
        if self.length < 3:
            raise ValueError(f"text.length is {self.length}: with both marks it is 3 or more")
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"text.heads: {self.heads} must divide text.width {self.width}")

    def tokenizer(self, captions: Iterable[str]) -> "transformers.CLIPTokenizer":
        """Learn byte-pair encoding from the captions: the same from the same ones."""
        blank = transformers.CLIPTokenizer()
        learner = Tokenizer.from_str(blank.backend_tokenizer.to_str())
        trainer = BpeTrainer(  # type: ignore[reportCallIssue]
            vocab_size=self.vocabulary, end_of_word_suffix=END_OF_WORD, show_progress=False,
            special_tokens=[blank.bos_token, blank.eos_token, *_bytes()],
        )  # fmt: skip
        learner.train_from_iterator(captions, trainer)
        model = json.loads(learner.to_str())["model"]
        merges = [tuple(pair) for pair in model["merges"]]
        return transformers.CLIPTokenizer(model["vocab"], merges, model_max_length=self.length)  # type: ignore[arg-type]

    def encoder(self, tokenizer: "transformers.CLIPTokenizer") -> "transformers.CLIPTextModel":
        """A fresh text encoder for the tokenizer's vocabulary."""
        return transformers.CLIPTextModel(self._config(tokenizer))

    def projecting_encoder(
        self, tokenizer: "transformers.CLIPTokenizer"
    ) -> "transformers.CLIPTextModelWithProjection":
        """The same with a projection of the pooled prompt, as wide as a token."""
        return transformers.CLIPTextModelWithProjection(self._config(tokenizer))

    def _config(self, tokenizer: "transformers.CLIPTokenizer") -> "transformers.CLIPTextConfig":
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        ids: dict[str, Any] = {name: getattr(tokenizer, name) for name in names}
        return transformers.CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=self.width, intermediate_size=4 * self.width,
            num_hidden_layers=self.layers, num_attention_heads=self.heads,
            max_position_embeddings=tokenizer.model_max_length, projection_dim=self.width, **ids,
        )  # fmt: skip


END_OF_WORD = "</w>"


def _bytes() -> list[str]:
    """Every byte, within a word and at its end. Given to the trainer in order: it numbers those
    that it meets at random, and breaks ties between merges by their numbers.
    """
    alphabet = sorted(ByteLevel.alphabet())
    return [*alphabet, *(byte + END_OF_WORD for byte in alphabet)]


@dataclass(frozen=True)
class PretrainedText:
    """A CLIP text encoder and its tokenizer as they stand, frozen."""

    path: str = "openai/clip-vit-large-patch14"
    """A folder or a name on the Hub; a pipeline's folder, or its run's, serves too."""

    def tokenizer(self, captions: Iterable[str]) -> "transformers.CLIPTokenizer":
        """The encoder's own; the captions are not looked at."""
        found = self._load(transformers.CLIPTokenizer, "tokenizer", "tokenizer_config.json")
        # Where there is no vocabulary, transformers silently makes one of the special tokens alone.
        if len(found) <= len(transformers.CLIPTokenizer()):
            raise ValueError(f"text.path: no CLIP tokenizer in {self.path}{_besides(self.path)}")
        return found

    def encoder(self, tokenizer: "transformers.CLIPTokenizer") -> "transformers.CLIPTextModel":
        """The frozen text encoder.

        Raises:
            ValueError: there is none, or it is not whole, or the tokenizer, whose tokens it is to
                read, is not its own.
        """
        part = "text_encoder", "config.json"
        kind = self._load(transformers.AutoConfig, *part).model_type
        if kind not in ("clip", "clip_text_model"):
            raise ValueError(
                f"text.path: {self.path} holds a {kind}, and prompts are read by a CLIP text "
                "encoder: choose one, such as openai/clip-vit-large-patch14"
            )
        loaded: Any = self._load(
            transformers.CLIPTextModel, *part, use_safetensors=True, dtype=torch.float32,
            output_loading_info=True,
        )  # fmt: skip
        model, report = loaded
        # What is missing, transformers leaves at random; what is too much may be its other name.
        wrong = [*report["missing_keys"], *filterfalse(_is_of_others, report["unexpected_keys"])]
        if wrong:
            raise ValueError(
                f"text.path: the text encoder in {self.path} is not whole: {wrong[0]} is where it "
                "is not expected, or missing: fetch it again"
            )
        if tokenizer.get_vocab() != self.tokenizer([]).get_vocab():
            raise ValueError(
                f"text.path: {self.path} cannot read these tokens, which another tokenizer made: "
                "run cache-latents with the same text"
            )
        return model.requires_grad_(False).eval()

    def _load(self, kind, part: str, file: str, **options):
        """Read it from the part of a pipeline, where `file` is in one, or as it stands."""
        try:
            where = place(self.path, "pipeline", "model")
            where = where / part if (where / part / file).fetched() else where
            return kind.from_pretrained(where.root, **where.options, **options)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            holds = instead(self.path, "pipeline", "network")
            raise ValueError(
                "text.path: no CLIP text encoder with safetensors weights in "
                f"{self.path}{holds or reason(self.path, error)}"
            ) from error


def _besides(path: str) -> str:
    return instead(path, "pipeline", "network") or missed(path)


def _is_of_others(name: str) -> bool:
    """Whether a weight belongs to what stands around a text encoder: an image encoder, and what
    compares the two.
    """
    return name.startswith(("vision_model.", "visual_projection.", "text_projection.",
                            "logit_scale")) or name.endswith("position_ids")  # fmt: skip


TextSpec = LearntText | PretrainedText


def tokenize(
    tokenizer: "transformers.CLIPTokenizer", prompts: Sequence[str]
) -> Int[Tensor, "b length"]:
    """Token ids as StableDiffusionPipeline makes them: padded and cut to the model's length."""
    return prompted(tokenizer, prompts).tokens
