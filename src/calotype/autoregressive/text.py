"""Prompts of a transformer: whose tokens they are, and what ends them.

A cache keeps the tokens of a text tokenizer: CLIP's, as a text encoder reads them, or one of those
here. The tokenizer of a pipeline is that one with one token more, begin-of-image, which ends every
prompt: the next that a transformer says is an image.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from tokenizers.models import WordLevel

from calotype.lazy import transformers
from calotype.training.network import located, place, reason
from tokenizers import Tokenizer

BEGIN = "<|image|>"
"""Begin-of-image."""
IMAGE = "<|image_{}|>"
"""An image token, by its number, or begin-of-image of a shape, by that."""
UNKNOWN = "<|unknown|>"
"""Any class that no caption named."""
MARKS = ("bos_token", "eos_token", "unk_token", "pad_token")
"""What is kept of a tokenizer's named tokens: transformers asks it for these."""
PADS = ("pad_token", "eos_token", "unk_token")
"""What pads, best first."""


@dataclass(frozen=True)
class HubTokenizer:
    """Any fast tokenizer of transformers, as it stands."""

    path: str
    """A folder or a name on the Hub."""
    length: int = 64
    """Tokens of a prompt at most, its tokenizer's marks included; longer ones are cut."""

    def tokenizer(self, captions: Iterable[str]) -> "transformers.PreTrainedTokenizerFast":
        """The tokenizer; the captions are not looked at. It pads with its end or its unknown token
        where it has none to pad with.

        Raises:
            ValueError: there is none that is fast, or none that an image can follow, or its marks
                leave no room for a word.
        """
        found = _load(self.path)
        marks = found.num_special_tokens_to_add()
        if self.length <= marks:
            raise ValueError(
                f"text.length is {self.length}: with the {marks} marks of {self.path} it is "
                f"{marks + 1} or more"
            )
        made = _rebuilt(found, _backend(found), model_max_length=self.length)
        prompt_tokenizer(made)  # what this refuses is refused before any work
        return made


@dataclass(frozen=True)
class Classes:
    """Each distinct caption is a token: prompts are names of classes, such as a folder's."""

    def tokenizer(self, captions: Iterable[str]) -> "transformers.PreTrainedTokenizerFast":
        """The captions in alphabetical order, spelt as they are; the empty one has no token."""
        names = sorted(set(captions) - {"", UNKNOWN})
        model = WordLevel({name: i for i, name in enumerate([UNKNOWN, *names])}, unk_token=UNKNOWN)
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(model), unk_token=UNKNOWN, pad_token=UNKNOWN,
            model_max_length=1,
        )  # fmt: skip


@dataclass(frozen=True)
class PipelineTokenizer:
    """That of a trained transformer's prompts, for new pictures on which it goes on."""

    path: str
    """Folder of a token pipeline, or of its run, or a name on the Hub."""

    def tokenizer(self, captions: Iterable[str]) -> "transformers.PreTrainedTokenizerFast":
        """The tokenizer without begin-of-image; the captions are not looked at.

        Raises:
            ValueError: there is none.
        """
        found = _load(located(self.path, "model"))
        begin = found.get_vocab().get(BEGIN)
        if begin is None:
            raise ValueError(f"text.path: {self.path} holds no prompts of a transformer's")
        parts = json.loads(_backend(found).to_str())
        parts["added_tokens"] = [token for token in parts["added_tokens"] if token["id"] < begin]
        for step in _steps(parts["post_processor"]):
            if step["type"] == "TemplateProcessing":
                step["single"] = [part for part in step["single"] if not _is_begin(part)]
                step["special_tokens"].pop(BEGIN, None)
        backend = Tokenizer.from_str(json.dumps(parts))
        return _rebuilt(found, backend, model_max_length=found.model_max_length - 1)


def _is_begin(part: dict[str, Any]) -> bool:
    """Whether a template's part is begin-of-image."""
    return part.get("SpecialToken", {}).get("id") == BEGIN


PromptSpec = HubTokenizer | PipelineTokenizer | Classes
"""Whose tokens prompts are, where no text encoder reads them."""


def prompt_tokenizer(
    text: "transformers.PreTrainedTokenizerBase",
) -> "transformers.PreTrainedTokenizerFast":
    """A text tokenizer that ends every prompt with begin-of-image, its token of the largest id.

    Called with `padding=True, truncation=True, return_tensors="pt"` it makes what `generate()`
    takes: padded on the left, and of a prompt that is too long the same tokens as a cache's. It is
    stock, and says so in its own files. A prompt that spells `<|image|>` out says begin-of-image.

    Raises:
        ValueError: it is not fast, has such a token already, or leaves out ids.
    """
    if not isinstance(text, transformers.PreTrainedTokenizerFast):
        raise ValueError(
            f"{type(text).__name__} is not a fast tokenizer: choose one with a tokenizer.json"
        )
    begin = max(text.get_vocab().values()) + 1
    backend = _backend(text, begin)
    if not backend.add_special_tokens([BEGIN]) or backend.token_to_id(BEGIN) != begin:
        raise ValueError(
            f"no {BEGIN} can be added to this tokenizer, which has one or leaves out ids: choose "
            "another"
        )
    return _rebuilt(
        text, backend, model_max_length=text.model_max_length + 1, padding_side="left",
        extra_special_tokens=[BEGIN],
    )  # fmt: skip


def name_images(tokenizer: "transformers.PreTrainedTokenizerFast", count: int) -> None:
    """Give the tokens behind begin-of-image names, so that whoever decodes what a transformer drew
    reads `<|image_17|>`, and words alone with `skip_special_tokens=True`.
    """
    tokenizer.add_tokens([IMAGE.format(i) for i in range(count)], special_tokens=True)


def name_shapes(
    tokenizer: "transformers.PreTrainedTokenizerFast", shapes: Iterable[tuple[int, int]]
) -> None:
    """Give begin-of-image of each shape but the usual one, the first, a name by its width and
    height in pixels, such as `<|image_88x48|>`: in place of a prompt's last token it asks for an
    image of that shape.
    """
    names = [IMAGE.format(f"{width}x{height}") for width, height in shapes]
    tokenizer.add_tokens(names[1:], special_tokens=True)


def knows_classes(tokenizer: "transformers.PreTrainedTokenizerFast") -> bool:
    """Whether its prompts are classes."""
    return tokenizer.unk_token == UNKNOWN


def check_classes(
    tokenizer: "transformers.PreTrainedTokenizerFast", prompts: Iterable[str]
) -> None:
    """Refuse prompts that name no class, where a tokenizer knows classes alone.

    Raises:
        ValueError: one does not.
    """
    if not knows_classes(tokenizer):
        return
    vocabulary = tokenizer.get_vocab()
    first = vocabulary.get(BEGIN, len(vocabulary))
    known = {name for name, i in vocabulary.items() if i < first} - {UNKNOWN}
    for prompt in prompts:
        if prompt and prompt not in known:
            near = get_close_matches(prompt, known, 3) or sorted(known)[:3]
            raise ValueError(f"no class {prompt!r}: choose one as training had, as {near[0]!r}")


def _rebuilt(
    like: "transformers.PreTrainedTokenizerFast", backend: Tokenizer, **options: Any
) -> "transformers.PreTrainedTokenizerFast":
    """A tokenizer of no model's own class: those build their parts anew when they are loaded."""
    marks = {name: mark for name, mark in like.special_tokens_map.items() if name in MARKS}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, truncation_side=like.truncation_side,
        split_special_tokens=like.split_special_tokens,
        model_input_names=["input_ids", "attention_mask"], **marks, **options,
    )  # fmt: skip


def _backend(
    tokenizer: "transformers.PreTrainedTokenizerFast", end: int | None = None
) -> Tokenizer:
    """A copy that neither cuts nor pads of itself, whatever the tokenizer did last; with `end` as
    the id of begin-of-image it ends all that it encodes with that.
    """
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    if end is not None:
        parts["post_processor"] = _ended(parts["post_processor"], end)
        if suffix := parts["model"].get("end_of_word_suffix"):
            parts["decoder"] = _spaced(parts["decoder"], suffix)
    return Tokenizer.from_str(json.dumps({**parts, "truncation": None, "padding": None}))


def _ended(processor: dict[str, Any] | None, begin: int) -> dict[str, Any]:
    """A post-processor's JSON with begin-of-image behind what it makes.

    It becomes part of a template that is there: two of them in a row take the first one's marks for
    sequences.
    """
    steps = list(_steps(processor))
    templates = [step for step in steps if step["type"] == "TemplateProcessing"]
    if not templates:
        sequences = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
        templates = [{"type": "TemplateProcessing", "single": sequences[:1], "pair": sequences,
                      "special_tokens": {}}]  # fmt: skip
        steps += templates
    templates[0]["single"].append({"SpecialToken": {"id": BEGIN, "type_id": 0}})
    templates[0]["special_tokens"][BEGIN] = {"id": BEGIN, "ids": [begin], "tokens": [BEGIN]}
    return {"type": "Sequence", "processors": steps}


def _spaced(decoder: dict[str, Any], suffix: str) -> dict[str, Any]:
    """A decoder's JSON that makes spaces of what ends words, as CLIP's own class does by itself."""
    last = {"type": "Replace", "pattern": {"Regex": f"{re.escape(suffix)}$"}, "content": ""}
    space = {"type": "Replace", "pattern": {"String": suffix}, "content": " "}
    if decoder.get("decoders", [None])[-1] == space:  # of a transformer that goes on
        return decoder
    return {"type": "Sequence", "decoders": [decoder, last, space]}


def _steps(processor: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """What a post-processor does, one after another."""
    if processor and processor["type"] == "Sequence":
        for each in processor["processors"]:
            yield from _steps(each)
    elif processor:
        yield processor


def _load(path: str) -> "transformers.PreTrainedTokenizerFast":
    """A fast tokenizer with a pad token; no code that stands beside it is run."""
    try:
        where = place(path).whole()
        found = transformers.AutoTokenizer.from_pretrained(
            where.root, revision=where.revision, trust_remote_code=False
        )
    except Exception as error:  # of a broken file, `tokenizers` raises just that
        raise ValueError(
            f"text.path: no fast tokenizer in {path}, of which no code is run{reason(path, error)}"
        ) from error
    # Where there is no vocabulary, transformers silently makes one of the special tokens and "▁".
    words = {*found.get_vocab()} - {*found.all_special_tokens, "▁"}
    if not isinstance(found, transformers.PreTrainedTokenizerFast) or not words:
        raise ValueError(f"text.path: no fast tokenizer in {path}: expected a tokenizer.json")
    special = found.special_tokens_map
    pad = next((special[name] for name in PADS if name in special), None)
    if pad is None:
        raise ValueError(
            f"text.path: {path} has no token to pad with: give its tokenizer a pad_token"
        )
    found.pad_token = pad
    return found
