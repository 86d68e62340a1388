"""Prompts of a transformer: sampled with the tokens that it was trained on, then an image."""

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers.models import BPE, Unigram, WordLevel, WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel, Metaspace
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer, UnigramTrainer, WordPieceTrainer
from transformers import (
    AutoTokenizer,
    ByT5Tokenizer,
    CLIPTokenizer,
    GPT2Config,
    GPT2Tokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

import tiny
from calotype.autoregressive.text import (
    BEGIN,
    Classes,
    HubTokenizer,
    name_images,
    prompt_tokenizer,
)
from calotype.commands.cache_latents import cache
from calotype.commands.train_generator import train_generator
from calotype.data import LatentCache
from calotype.data.cache.index import TEXT_TOKENIZER
from calotype.data.prompts import tokenize
from calotype.diffusion import LearntText
from tokenizers import Tokenizer, processors

LENGTH = 8
CLASSES = ["great white shark", "tench, Tinca tinca", " spaced  out", "naïve—円", "a", "a b", ""]
LETTERS = [*"abgred  .,<|>円é\n", "</s>", "[CLS]", "<unk>", "<|endoftext|>"]
RANDOM = ["".join(random.Random(i).choices(LETTERS, k=i % 25)) for i in range(100)]
PROMPTS = ["a red circle", "", "A  RED circle!", "a large pink ring on a wide and very blue square",
           "naïve — 円\n", "red" * 40, " ", "[SEP]</s> <|endoftext|> a [CLS]", "<|unknown|> a",
           *tiny.CAPTIONS[:4], *CLASSES, *RANDOM]  # fmt: skip


@pytest.fixture(autouse=True)
def offline(monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def gpt2() -> Tokenizer:
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    backend.train_from_iterator(tiny.CAPTIONS, BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=ByteLevel.alphabet(),
    ))  # type: ignore[reportCallIssue]  # fmt: skip
    return backend


def t5() -> Tokenizer:
    backend = Tokenizer(Unigram())
    backend.pre_tokenizer = Metaspace()
    backend.train_from_iterator(tiny.CAPTIONS, UnigramTrainer(
        vocab_size=60, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>",
        show_progress=False,
    ))  # type: ignore[reportCallIssue]  # fmt: skip
    backend.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return backend


def bert() -> Tokenizer:
    backend = Tokenizer(WordPiece(unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    backend.train_from_iterator(tiny.CAPTIONS, WordPieceTrainer(
        vocab_size=80, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False,
    ))  # type: ignore[reportCallIssue]  # fmt: skip
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return backend


def fast(backend: Tokenizer, **options) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=LENGTH, **options)


def marked() -> PreTrainedTokenizerFast:
    """One that begins prompts, by the second of two post-processors."""
    backend = gpt2()
    begin = TemplateProcessing("<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    backend.post_processor = processors.Sequence([processors.ByteLevel(), begin])
    return fast(backend, bos_token="<|endoftext|>", pad_token="<|endoftext|>")


def bare() -> PreTrainedTokenizerFast:
    """One without a post-processor, and that cuts what comes first."""
    text = fast(gpt2(), pad_token="<|endoftext|>", truncation_side="left")
    text.backend_tokenizer.post_processor = None  # type: ignore[reportAttributeAccessIssue]
    return text


TEXTS = {
    "clip": lambda: replace(tiny.TEXT, length=LENGTH).tokenizer(tiny.CAPTIONS),
    "classes": lambda: Classes().tokenizer(CLASSES),
    "gpt2": lambda: fast(gpt2(), eos_token="<|endoftext|>", pad_token="<|endoftext|>"),
    "t5": lambda: fast(t5(), eos_token="</s>", unk_token="<unk>", pad_token="<pad>"),
    "bert": lambda: fast(bert(), unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]",
                         sep_token="[SEP]", model_input_names=["input_ids", "token_type_ids"]),
    "marked": marked,
    "bare": bare,
}  # fmt: skip


@pytest.fixture(scope="module", params=TEXTS)
def text(request) -> PreTrainedTokenizerFast:
    return TEXTS[request.param]()


def trained(text: PreTrainedTokenizerFast) -> Iterator[list[int]]:
    """What the transformer is trained to draw behind; of the empty prompt, its own tokens."""
    tokens, lengths = tokenize(text, PROMPTS)
    marks = len(text("").input_ids)
    for said, row, length in zip(PROMPTS, tokens, lengths, strict=True):
        assert said or length == 0, "it is the null prompt"
        yield [*row[: length if said else marks].tolist(), len(text)]


def test_prompts_are_sampled_as_they_were_trained(text):
    prompt = prompt_tokenizer(text)
    for said, expected in zip(PROMPTS, trained(text), strict=True):
        assert prompt(said, truncation=True).input_ids == expected, said


def test_a_batch_is_padded_on_the_left(text):
    rows = list(trained(text))
    batch = prompt_tokenizer(text)(PROMPTS, padding=True, truncation=True, return_tensors="pt")
    widest = max(map(len, rows))
    assert batch.input_ids.shape == (len(PROMPTS), widest)
    for ids, mask, row in zip(batch.input_ids, batch.attention_mask, rows, strict=True):
        assert mask.tolist() == [0] * (widest - len(row)) + [1] * len(row)
        assert ids[mask.bool()].tolist() == row


def test_begin_of_image_is_the_next_token(text):
    prompt = prompt_tokenizer(text)
    before, after = text.get_vocab(), prompt.get_vocab()
    assert after == {**before, BEGIN: len(text)} and len(prompt) == len(text) + 1
    assert len(text) in prompt.all_special_ids
    assert prompt.model_max_length == text.model_max_length + 1
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        assert getattr(prompt, name) == getattr(text, name)
    assert BEGIN not in text.get_vocab()  # which is left as it was


def test_image_tokens_have_names(text, tmp_path):
    """Behind begin-of-image, so that whoever decodes what was drawn sees what is what."""
    prompt = prompt_tokenizer(text)
    name_images(prompt, 20)
    prompt.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    first = len(text) + 1
    assert len(again) == first + 20
    assert again.convert_ids_to_tokens([first, first + 17]) == ["<|image_0|>", "<|image_17|>"]
    for said, expected in zip(PROMPTS, trained(text), strict=True):
        assert again(said, truncation=True).input_ids == expected, said
        drawn = [*expected, first + 3, first + 17]
        assert again.decode(drawn).split("<|image_3|>")[1].strip() == "<|image_17|>", said
        assert "<|image" not in again.decode(drawn, skip_special_tokens=True), said


@pytest.mark.parametrize("name", ["clip", "bert", "classes"])
def test_words_are_decoded_with_their_spaces(name):
    """Bug: of CLIP's they had `</w>` between them, which its own class takes out by itself."""
    prompt = prompt_tokenizer(TEXTS[name]())
    said = "a" if name == "classes" else "a red circle"
    assert prompt.decode(prompt(said).input_ids, skip_special_tokens=True) == said


def test_what_a_tokenizer_did_last_does_not_matter(text):
    fresh = prompt_tokenizer(text).backend_tokenizer.to_str()
    text(["a", "a b"], padding="max_length", truncation=True, max_length=4)
    assert prompt_tokenizer(text).backend_tokenizer.to_str() == fresh


def test_a_saved_one_is_stock(tmp_path):
    """Even beside a LlamaForCausalLM, for which transformers has tokenizers of its own."""
    expected = {}
    for name, make in TEXTS.items():
        prompt = prompt_tokenizer(make())
        batch = prompt(PROMPTS, padding=True, truncation=True)
        expected[name] = [batch.input_ids, batch.attention_mask]
        prompt.save_pretrained(tmp_path / name)
        LlamaConfig().save_pretrained(tmp_path / name)
    script = """if True:
        import json, sys
        sys.modules["calotype"] = None
        from transformers import AutoTokenizer
        folder, names, prompts = json.loads(sys.argv[1])
        said = {}
        for name in names:
            batch = AutoTokenizer.from_pretrained(f"{folder}/{name}")(
                prompts, padding=True, truncation=True)
            assert set(batch) == {"input_ids", "attention_mask"}
            said[name] = [batch.input_ids, batch.attention_mask]
        print(json.dumps(said))
    """
    arguments = json.dumps([str(tmp_path), list(TEXTS), PROMPTS])
    done = subprocess.run([sys.executable, "-c", script, arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == expected


def test_generate_takes_it(text):
    prompt = prompt_tokenizer(text)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(prompt), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, bos_token_id=None, eos_token_id=None, pad_token_id=None,
    ))  # fmt: skip
    batch = prompt(PROMPTS, padding=True, truncation=True, return_tensors="pt")
    drawn = model.generate(**batch, max_new_tokens=2, do_sample=False)  # type: ignore[reportAttributeAccessIssue]
    assert drawn.shape == (len(PROMPTS), batch.input_ids.shape[1] + 2)


@pytest.mark.parametrize("fault", ["slow", "has one", "leaves out ids"])
def test_a_tokenizer_that_no_image_can_follow_is_refused(fault):
    vocabulary = {"<unk>": 0, "a": 1, BEGIN if fault == "has one" else "b": 5}
    text = ByT5Tokenizer() if fault == "slow" else fast(Tokenizer(WordLevel(vocabulary)))
    with pytest.raises(ValueError, match=r"not a fast tokenizer|no <.* can be added") as said:
        prompt_tokenizer(text)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("name", TEXTS)
def test_lengths_are_of_what_is_no_padding(name):
    """CLIP pads with its end token, so that ids do not tell."""
    text = TEXTS[name]()
    tokens, lengths = tokenize(text, PROMPTS)
    assert tokens.shape == (len(PROMPTS), text.model_max_length)
    for said, row, length in zip(PROMPTS, tokens, lengths, strict=True):
        assert row[:length].tolist() == (text(said, truncation=True).input_ids if said else [])
        if said:
            assert set(row[length:].tolist()) <= {text.pad_token_id}


def test_a_class_is_a_token():
    text = Classes().tokenizer([*CLASSES, *CLASSES[::-1]])
    tokens, lengths = tokenize(text, [*CLASSES, "no such class", "great white"])
    named = [name for name in CLASSES if name]
    assert sorted(tokens[: len(named), 0].tolist()) == list(range(1, 1 + len(named)))
    assert text.batch_decode(tokens[: len(named)]) == named
    assert lengths.tolist() == [1] * len(named) + [0, 1, 1]  # the empty prompt has none
    assert tokens[-2:].tolist() == [[text.unk_token_id]] * 2
    assert text.get_vocab() == Classes().tokenizer(CLASSES).get_vocab()
    assert len(Classes().tokenizer([])) == 1


def test_a_hub_tokenizer_is_itself_and_reloads(tmp_path):
    trained = json.loads(gpt2().to_str())["model"]
    merges = [tuple(pair) for pair in trained["merges"]]
    stock = GPT2Tokenizer(trained["vocab"], merges)  # type: ignore[reportArgumentType]
    stock(["a", "b"], padding=False, truncation=True, max_length=3)
    stock.save_pretrained(tmp_path / "gpt2")
    GPT2Config().save_pretrained(tmp_path / "gpt2")
    text = HubTokenizer(str(tmp_path / "gpt2"), length=LENGTH).tokenizer(["not looked at"])
    for prompt in PROMPTS:
        assert text(prompt).input_ids == stock(prompt).input_ids
    assert text.pad_token == "<|endoftext|>" and text.model_max_length == LENGTH
    text.save_pretrained(tmp_path / "again")
    again = AutoTokenizer.from_pretrained(tmp_path / "again")
    for one, two in zip(tokenize(text, PROMPTS), tokenize(again, PROMPTS), strict=True):
        assert torch.equal(one, two)


def test_a_hub_tokenizer_that_cuts_and_pads_of_itself(tmp_path):
    """As those of sentence encoders do, in the files that the Hub has of them."""
    backend = bert()
    backend.enable_truncation(4)
    backend.enable_padding(direction="left", length=20, pad_token="[PAD]")
    fast(backend, pad_token="[PAD]", padding_side="left").save_pretrained(tmp_path)
    text = HubTokenizer(str(tmp_path), LENGTH).tokenizer([])
    tokens, lengths = tokenize(text, ["a red circle", "a " * 20])
    assert lengths.tolist() == [5, LENGTH] and tokens.shape[1] == LENGTH
    assert tokens[0, 5:].eq(0).all()


def folder(root: Path, fault: str) -> Path:
    """Where no tokenizer of use is."""
    root.mkdir()
    if fault == "broken":
        (root / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
        (root / "tokenizer_config.json").write_text("{}")
    elif fault == "config alone":
        GPT2Config().save_pretrained(root)
    elif fault == "slow":
        ByT5Tokenizer().save_pretrained(root)
    elif fault == "no pad":
        fast(Tokenizer(WordLevel({"a": 0, "b": 1}))).save_pretrained(root)
    elif fault == "code":
        (root / "own.py").write_text(f"open({str(root / 'ran')!r}, 'w')")
        own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
        (root / "tokenizer_config.json").write_text(json.dumps(own))
        (root / "config.json").write_text("{}")
    return root


@pytest.mark.parametrize(
    "fault", ["absent", "empty", "broken", "config alone", "slow", "no pad", "code"]
)
def test_a_folder_without_a_fast_tokenizer_is_refused(fault, tmp_path):
    path = tmp_path / "absent" if fault == "absent" else folder(tmp_path / "text", fault)
    with pytest.raises(
        ValueError, match=r"^text\.path: .*(no fast tokenizer|no token to pad)"
    ) as e:
        HubTokenizer(str(path)).tokenizer([])
    assert "\n" not in str(e.value) and str(path) in str(e.value)
    assert not (path / "ran").exists()


def test_marks_leave_room_for_a_word(tmp_path):
    fast(bert(), pad_token="[PAD]").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"text\.length is 2: with the 2 marks of .* 3 or more"):
        HubTokenizer(str(tmp_path), length=2).tokenizer([])


@pytest.mark.parametrize("kind", ["classes", "hub"])
def test_a_cache_is_made_with_it_and_no_diffusion_model_reads_it(kind, artifacts, tmp_path):
    fast(t5(), eos_token="</s>", pad_token="<pad>").save_pretrained(tmp_path / "t5")
    spec = Classes() if kind == "classes" else HubTokenizer(str(tmp_path / "t5"), 200)
    recipe = tiny.cache_recipe(artifacts, out=tmp_path / "latents", text=spec)
    latents = LatentCache(cache(recipe))
    text = AutoTokenizer.from_pretrained(recipe.out / TEXT_TOKENIZER)
    expected, batch = tokenize(text, list(latents.captions)), latents.batch([3, 0], [0, 0])
    assert torch.equal(batch["tokens"], expected.tokens[[3, 0]])
    assert torch.equal(batch["lengths"], expected.lengths[[3, 0]])
    if kind == "classes":
        assert text.batch_decode(batch["tokens"]) == [latents.captions[i] for i in (3, 0)]
    diffusion = tiny.generator_recipe(artifacts, cache=recipe.out, run=tiny.run(tmp_path / "run"))
    with pytest.raises(ValueError, match=f"made with {type(spec).__name__}, which no text encoder"):
        train_generator(diffusion)
    assert not (tmp_path / "run").exists()


def test_another_text_leaves_nothing_of_the_first(artifacts, tmp_path):
    recipe = tiny.cache_recipe(artifacts, out=tmp_path / "latents")
    cache(recipe)
    folder = recipe.out / TEXT_TOKENIZER
    assert isinstance(AutoTokenizer.from_pretrained(folder), CLIPTokenizer)
    cache(replace(recipe, text=Classes()))
    text = AutoTokenizer.from_pretrained(folder)
    assert not isinstance(text, CLIPTokenizer) and text.model_max_length == 1
    assert {file.name for file in folder.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}


def test_a_learnt_text_serves_too():
    text = LearntText(length=6, vocabulary=600).tokenizer(tiny.CAPTIONS)
    assert prompt_tokenizer(text)("a red circle", truncation=True).input_ids[-2:] == [
        text.eos_token_id, len(text)
    ]  # fmt: skip
