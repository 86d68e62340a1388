"""Mixed and balanced sources are drawn as they promise, from anywhere, by any number of ranks."""

import re
from collections import Counter
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from calotype.cli import main
from calotype.cli.parsing import named_recipe, parse
from calotype.commands.command_line import spell
from calotype.commands.data import Data
from calotype.data import (
    Balanced,
    CenterCrop,
    Filtered,
    Folder,
    Loader,
    Mixture,
    Parquet,
    Pictures,
    Reader,
    Record,
    Source,
    Transform,
    once,
)
from calotype.data.loading.order import Order, Shuffled
from calotype.data.mixtures import BalancedPictures, MixedPictures, shares
from calotype.data.nested import within
from calotype.recipes.tokenizers import TOKENIZERS
from calotype.training.description import describe, restore

PICTURE = Image.new("RGB", (4, 4))
WEIGHTS = st.floats(0.01, 10)


def pictures(captions: list[str], name: str = "some", on_error: str = "skip") -> Pictures:
    records = [Record(PICTURE, f"{name} {i}", caption) for i, caption in enumerate(captions)]
    return Pictures(records, Reader(on_error, name), lambda: f"{name} {captions}")  # pyright: ignore[reportArgumentType]


def drawn(order: Order, start: int, count: int) -> list[int]:
    return order(start, count).tolist()


@settings(deadline=None, max_examples=40)
@given(st.data(), st.lists(st.tuples(st.integers(1, 30), WEIGHTS), min_size=2, max_size=3))
def test_a_mixture_may_be_begun_anywhere(data, sources):
    mixed = MixedPictures([pictures(["x"] * n) for n, _ in sources], [w for _, w in sources])
    start, count = data.draw(st.integers(0, 2500)), data.draw(st.integers(1, 300))
    whole = drawn(mixed.draws(3), 0, start + count)
    assert drawn(mixed.draws(3), start, count) == whole[start:]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(1, 30), WEIGHTS), min_size=2, max_size=3))
def test_of_every_block_each_source_has_its_share_and_its_epochs_go_round(sources):
    lengths, weights = [n for n, _ in sources], [w for _, w in sources]
    mixed = MixedPictures([pictures(["x"] * n) for n in lengths], weights)
    each = shares(weights)
    starts = np.cumsum([0, *lengths])
    draws = mixed.draws(1)(0, 2 * sum(each))
    for block in draws.reshape(2, -1):
        assert np.histogram(block, starts)[0].tolist() == each
    for n, start in zip(lengths, starts, strict=False):
        own = draws[(draws >= start) & (draws < start + n)] - start
        epochs = [own[i : i + n].tolist() for i in range(0, len(own), n)]
        assert all(sorted(epoch) == list(range(n)) for epoch in epochs[:-1])
        assert len(set(epochs[-1])) == len(epochs[-1])


@settings(deadline=None, max_examples=40)
@given(st.lists(WEIGHTS, min_size=2, max_size=3))
def test_shares_are_the_weights_to_a_draw_of_a_thousand(weights):
    found = shares(weights)
    exact = np.asarray(weights) / sum(weights)
    assert min(found) >= 1 and np.abs(np.asarray(found) / sum(found) - exact).max() < 0.0021
    assert (
        shares([3.0, 1.0]) == [3, 1]
        and shares([0.5, 0.5]) == [1, 1]
        and shares([1.0, 2.0]) == [1, 2]
    )


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from("abcd"), min_size=2, max_size=25).filter(lambda c: len({*c}) > 1))
def test_every_class_comes_once_a_round_and_all_of_it_before_any_again(captions):
    balanced = BalancedPictures(pictures(captions))
    n, classes = len(captions), len({*captions})
    draws = drawn(balanced.draws(7), 0, 20 * n * classes)
    rounds = [draws[i : i + classes] for i in range(0, len(draws), classes)]
    assert all({captions[i] for i in each} == {*captions} for each in rounds)
    for caption, members in Counter(captions).items():
        own = [i for i in draws if captions[i] == caption]
        assert all(len({*own[i : i + members]}) == members
                   for i in range(0, len(own) - members + 1, members))  # fmt: skip
    assert drawn(balanced.draws(7), 11, 9) == draws[11:20]
    assert drawn(balanced.draws(8), 0, 40) != drawn(balanced.draws(7), 0, 40) or n < 4


def test_ranks_and_a_resumed_run_see_what_one_process_sees():
    """By the loader, with a balanced source inside the mixture, and with workers."""
    inside = BalancedPictures(pictures(["owl", "barn", "owl", "owl", "owl"], "birds"))
    mixed = MixedPictures([inside, pictures(["sea"] * 3, "seas")], [1.0, 2.0])

    def names(batch_size: int, position: int = 0, rank: int = 0, world: int = 1, workers: int = 0):
        loader = Loader(mixed, batch_size * world, seed=5, workers=workers)
        batches = islice(loader.batches(position, rank, world), 24 // batch_size // world)
        return [list(zip(b["name"], b["key"], strict=True)) for b in batches]

    def flat(batches):
        return list(chain.from_iterable(batches))

    alone = flat(names(4))
    assert flat(names(4, 8))[:16] == alone[8:]
    first, second = (names(4, 0, rank, 2, workers=rank) for rank in (0, 1))
    assert flat(a + b for a, b in zip(first, second, strict=True)) == alone
    assert Counter(name.split()[0] for name, _ in alone) == {"birds": 8, "seas": 16}
    owls = Counter(name for name, _ in alone if name.startswith("birds"))
    assert owls["birds 1"] == 4  # the only barn, as often as the four owls together
    assert [n for b in once(mixed, 3) for n in b["name"]] == [
        *(f"birds {i}" for i in range(5)), *(f"seas {i}" for i in range(3))
    ]  # fmt: skip


def test_without_weights_a_mixture_is_one_dataset():
    mixed = MixedPictures([pictures(["x"] * 5), pictures(["y"] * 2)])
    assert drawn(mixed.draws(4), 0, 21) == drawn(Shuffled(7, 4), 0, 21)


def test_what_is_broken_is_told_of_every_source():
    torn = Pictures([Record(b"torn", "torn", "")], Reader("skip", "torn ones"))
    mixed = MixedPictures([torn, pictures(["sea"])])
    with pytest.warns(UserWarning, match="torn"):
        assert {name for b in once(mixed, 1) for name in b["name"]} == {"some 0"}
    assert list(mixed.reader.skipped) == ["torn"]


def folder(path: Path, count: int, *, label: str = "") -> Folder:
    (path / label).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (8 + i, 8)).save(path / label / f"{i}.png")
    return Folder(path)


def test_identity_covers_weights_filters_and_sources(tmp_path):
    first, second = folder(tmp_path / "a", 3), folder(tmp_path / "b", 4)
    for label, count in (("owl", 2), ("barn", 1)):
        folder(tmp_path / "c", count, label=label)
    specs: list[Source] = [
        Mixture(first, second), Mixture(first, second, weights=(1.0, 2.0)),
        Mixture(first, second, weights=(2.0, 1.0)), Mixture(second, first, weights=(1.0, 2.0)),
        Mixture(Filtered(first, greatest_ratio=1.2), second), Filtered(first, least_side=2),
        Filtered(first, least_side=3), Balanced(Folder(tmp_path / "c")), Folder(tmp_path / "c"),
    ]  # fmt: skip
    known = [spec.build().identity() for spec in specs]  # pyright: ignore
    assert len({*known}) == len(specs)
    assert known == [spec.build().identity() for spec in specs]  # pyright: ignore
    (tmp_path / "c/barn/more.png").write_bytes((tmp_path / "c/barn/0.png").read_bytes())
    assert specs[-2].build().identity() != known[-2]  # pyright: ignore


SPECS: list[Source] = [
    Filtered(Parquet("x.parquet"), least_side=64, words=(2, 60), duplicates=4),
    Balanced(Filtered(Folder("birds"), greatest_ratio=2.0)),
    Mixture(Balanced(Folder("birds")), Filtered(Folder("photos")), weights=(3.0, 1.0)),
    Mixture(Folder("a"), Folder("b"), Parquet("c.parquet")),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
def test_recipes_and_the_command_line_say_them(spec):
    recipe = TOKENIZERS["small-kl"]()
    chosen = replace(recipe, data=spec)
    assert spec == restore(Source, describe(spec)) or isinstance(
        spec, Mixture | Filtered | Balanced
    )
    _, _, name, *arguments = spell("train-tokenizer", "small-kl", recipe, chosen).split()
    assert str(named_recipe("train-tokenizer", TOKENIZERS, [name, *arguments])) == str(chosen)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Mixture(weights=(1.0,)), "data.weights are 1, and there are 2 sources"),
        (lambda: Mixture(weights=(1.0, 0.0)), "each must be above 0"),
        (lambda: Mixture(Balanced(Folder("a"))), "give a weight for each source"),
        (lambda: BalancedPictures(pictures(["one", "one"])), "some: all its captions are 'one'"),
        (lambda: Balanced(Parquet("{}", streaming=True)), "choose --data.source.no-streaming"),
        (lambda: Mixture(Folder("{}"), Folder("{}", on_error="stop")), "on_error .* choose one"),
        (
            lambda: Mixture(
                Folder("{}"), Balanced(Parquet("{}", streaming=True)), weights=(1.0, 1.0)
            ),
            "choose --data.second.source.no-streaming",
        ),
    ],
)
def test_what_cannot_be_is_said_in_a_line(build, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "{}", 1)
    with pytest.raises(ValueError, match=said) as error:
        spec = build()
        if isinstance(spec, Balanced | Mixture):  # a folder of one parquet file
            import pyarrow as pa
            import pyarrow.parquet

            table = pa.table({"image": [(tmp_path / "{}/0.png").read_bytes()], "caption": ["a"]})
            pyarrow.parquet.write_table(table, tmp_path / "{}/rows.parquet")
        spec.build()
    assert "\n" not in str(error.value)


def test_a_random_caption_is_the_keys_and_moves_nothing_else():
    texts = tuple(f"text {i}" for i in range(5))
    noise = Image.effect_noise((12, 12), 90).convert("RGB")
    records = [Record(noise, f"{i}", texts[0], texts if i else ()) for i in range(4)]
    dataset = Pictures(records, Reader("stop", "some"))

    def samples(choice: str, position: int = 0):
        transform = Transform(CenterCrop(8), caption=choice)  # pyright: ignore
        batches = islice(Loader(dataset, 4, seed=1, transform=transform).batches(position), 30)
        return [(n, c, i.numpy().tobytes()) for b in batches for n, c, i in
                zip(b["name"], b["caption"], b["image"], strict=True)]  # fmt: skip

    random, first = samples("random"), samples("first")
    assert random[8:] == samples("random", 8)[:112]
    assert [(n, i) for n, _, i in random] == [(n, i) for n, _, i in first]
    assert {c for _, c, _ in first} == {"text 0"} == {c for n, c, _ in random if n == "0"}
    assert {c for n, c, _ in random if n == "1"} == {*texts}  # another each epoch
    assert {c for b in once(dataset, 4) for c in b["caption"]} == {"text 0"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("data:filtered data.source:folder --data.source.path a", "--data.source.uncaptioned skip"),
        ("data:balanced data.source:folder --data.source.path a", "--data.source.uncaptioned skip"),
        ("data:mixture --data.first.path b --data.second.path a", "--data.second.uncaptioned skip"),
        ("data:mixture data.first:filtered data.first.source:folder --data.first.source.path a",
         "--data.first.source.uncaptioned skip"),
        ("data:filtered data.source:parquet --data.source.path a --data.source.lanes 0",
         "data.source.lanes is 0"),
        ("a", "--data.uncaptioned skip"),
    ],
)  # fmt: skip
def test_bug_what_is_wrong_with_a_source_within_another_named_no_flag_of_its(
    arguments, said, tmp_path, monkeypatch, capsys
):
    folder(tmp_path / "a", 2)
    (tmp_path / "a/0.txt").write_text("said")
    folder(tmp_path / "b", 1)
    monkeypatch.chdir(tmp_path)
    with pytest.raises((SystemExit, ValueError)) as stop:
        main(["data", *arguments.split()])
    assert said in str(stop.value) + capsys.readouterr().err


def test_a_folder_by_its_path_may_be_read_otherwise(tmp_path, capsys):
    """As its message says it, without naming it as data again."""
    options = parse(Data, "calotype data", [str(tmp_path), "--data.uncaptioned", "empty"])
    assert options.source == Folder(tmp_path, uncaptioned="empty")
    with pytest.raises(SystemExit):
        parse(Data, "calotype data", ["x.parquet", "--data.uncaptioned", "empty"])
    assert "say by one of them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("give --data.path its folder", "give --data.first.path its folder"),
        ("data.lanes is 0: it must be at least 1", "data.first.lanes is 0: it must be at least 1"),
        ("data.path: no such folder", "data.first.path: no such folder"),
        *((same, same) for same in (
            "/a/data.jsonl line 1: no caption", "a/my-data.parquet row 3: it is cut off",
            "data.csv has no column caption", "see https://host/data.tar",
        )),
    ],
)  # fmt: skip
def test_bug_names_of_files_were_taken_for_flags_within_a_mixture(said: str, told: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(told)}$"), within("first"):
        raise ValueError(said)
