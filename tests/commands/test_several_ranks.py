"""Ranks draw and measure together what one process would, and write each file once."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sharing
import tiny
from calotype.commands.cache_latents import cache
from calotype.commands.train_generator import train_generator
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import CenterCrop, Folder, Transform
from calotype.data.loading.passes import once, own_turns
from calotype.pipelines import picture
from calotype.training import sharing as shares
from calotype.training.devices import Computation
from ranks import started, together

COUNT = 11


@pytest.fixture(scope="module")
def models(artifacts, tmp_path_factory) -> Path:
    """Tokenizers, pipelines and eleven pictures, of which the fifth and sixth are broken."""
    root = tmp_path_factory.mktemp("models")
    tiny.tokenizer(0, tiny.VQ_BOTTLENECK).save(root / "vq")
    (root / "kl").symlink_to(artifacts / "tokenizer/model")
    (root / "drawer").symlink_to(artifacts / "generator/model")
    tokenizer, cached, recipe = tiny.token_recipes(root / "made", tiny.VQ_BOTTLENECK)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # three steps use few codes
        train_tokenizer(tokenizer)
        cache(cached)
        (root / "tokens").symlink_to(train_generator(recipe))
    for folder in ("pictures", "broken"):
        (root / folder).mkdir()
    for i, image in enumerate(tiny.images(COUNT)):
        file = root / "pictures" / f"{i:02}.png"
        picture(image).save(file)
        file.with_suffix(".txt").write_text(f"picture {i}")
        (root / "broken" / f"{i}.png").write_bytes(b"broken")
        if i in (4, 5):
            file.write_bytes(file.read_bytes()[:-40])
    return root


@pytest.fixture(scope="module")
def both(models, tmp_path_factory) -> tuple[Path, Path]:
    """What one process wrote, and what two ranks did."""
    root = tmp_path_factory.mktemp("both")
    (root / "one").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        said = sharing.all_verbs(models, root / "one")
    together(2, sharing.verbs_as_rank, models, root / "two")
    for rank in (0, 1):
        came = json.loads((root / f"came-to-{rank}.json").read_text())
        assert said["missing"].startswith("NoneReadError: ")
        assert came["missing"] == "ValueError: 0 pictures to measure: give 2 or more"
        came["missing"] = said["missing"]
        assert came == {name: each.replace("/one", "/two") for name, each in said.items()}
    return root / "one", root / "two"


def told(file: Path) -> Any:
    """A report without how fast it was."""
    found = json.loads(file.read_text())
    for each in found if isinstance(found, list) else [found]:
        assert each.pop("speed")["batch_size"] > 0
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vq.json", "d.json", "page/comparison.json"])
def test_figures_of_two_ranks_are_those_of_one_to_the_last_bit(name, both):
    one, two = (told(folder / name) for folder in both)
    assert one == two
    first = one[0] if isinstance(one, list) else one
    assert first["protocol"]["images"] == 8, "one of nine is broken"
    assert "frechet" in first["figures"]


@pytest.mark.slow
def test_scores_and_rankings_of_two_ranks_are_those_of_one(both):
    for name in ("scores.jsonl", "worst.jsonl", "worst.html"):
        one, two = ((folder / name).read_text().replace(str(folder), "") for folder in both)
        assert one == two, name
    one, two = (np.asarray(Image.open(folder / "pairs.png")) for folder in both)
    assert (one == two).all()


@pytest.mark.slow
def test_two_ranks_draw_the_same_pixels_as_one_each_once(both):
    one, two = (sorted(folder.joinpath("drawn").glob("*.png")) for folder in both)
    assert [path.name for path in one] == [path.name for path in two] and len(one) == 14
    for a, b in zip(one, two, strict=True):
        with Image.open(a) as first, Image.open(b) as second:
            assert (np.asarray(first) == np.asarray(second)).all(), a.name
            if a.name[0].isdigit():
                batches = [json.loads(each.info["calotype"])["batch"] for each in (first, second)]
                assert batches[0] == batches[1]
    lines = both[1].joinpath("drawn/drawn.jsonl").read_text().splitlines()
    assert len({json.loads(line)["file"] for line in lines}) == len(lines) == 12


@pytest.mark.slow
def test_one_of_the_ranks_reports(both):
    said = [(both[0].parent / f"said-{rank}.txt").read_text() for rank in (0, 1)]
    assert said[1] == ""
    for part in ("bits", "PSNR", "seeds 0 to 5 of each prompt", "grid: "):
        assert part.lower() in said[0].lower()
    assert not [path for path in both[1].rglob("*") if "partial" in path.name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "ends"),
    [("raises", ["ValueError: the disk is on fire"] * 2),
     ("killed", ["LostError: another process has ended and left no word: see what it said last, "
                 "where it ran", None])],
)  # fmt: skip
def test_a_rank_that_fails_ends_all_with_its_reason(how, ends, models, tmp_path):
    codes = started(2, sharing.measure_and_die, models, tmp_path, how)
    assert codes == [3, 3 if ends[1] else -9]
    for rank, end in enumerate(ends):
        file = tmp_path / f"end-{rank}.txt"
        assert (file.read_text() if file.exists() else None) == end
    assert not (tmp_path / "vq.json").exists()


class World:
    """As one of so many ranks sees it."""

    def __init__(self, rank: int, world: int) -> None:
        self.process_index, self.num_processes = rank, world
        self.is_main_process = rank == 0


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("world", [1, 2, 3, 30])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("count", [None, 7])
def test_turns_of_all_ranks_are_the_batches_of_one_pass(
    count, streamed, world, models, monkeypatch
):
    """Also where pictures are broken, and a batch in which nothing is left keeps its turn."""
    from calotype.data.streams import Stream, Whole

    transform, every = Transform(CenterCrop(tiny.SIZE)), {}
    for rank in range(world):
        data: Any = Folder(models / "pictures").build()
        if streamed:
            data = Stream(Whole(lambda found=data: iter(found.records)), data.reader, local=True)
        state = World(rank, world)
        monkeypatch.setattr("calotype.data.loading.passes.processes", lambda state=state: state)
        for first, batch in own_turns(data, 2, transform, count=count):
            assert first not in every
            every[first] = batch
    firsts = range(0, count or COUNT, 2)
    assert sorted(every) == [*firsts] and not every[4]
    names = [name for first in firsts for name in every[first].get("name", ())]
    whole = [name for batch in once(Folder(models / "pictures").build(), 2, transform)
             for name in batch["name"]]  # fmt: skip
    assert names == whole[: len(whole) if count is None else count - 2]


def test_ranks_have_a_card_each(monkeypatch):
    """Bug: all drew on the first one."""
    cards = [f"cuda:{i}" for i in range(2)]
    monkeypatch.setattr("calotype.training.devices.available", lambda: ["cpu", *cards])
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("calotype.training.devices.processes", lambda: World(1, 2))
    monkeypatch.setattr("calotype.training.devices.own_device", lambda: torch.device("cuda:1"))
    assert str(Computation().place) == "cuda:1" and str(Computation(device="cpu").place) == "cpu"
    with pytest.raises(ValueError, match=r"--device is cuda:0, and each of 2 processes has a dev"):
        _ = Computation(device="cuda:0").place
    monkeypatch.setattr("calotype.training.devices.processes", lambda: World(0, 1))
    assert str(Computation(device="cuda:0").place) == "cuda:0"


def test_pieces_are_dealt_one_by_one(monkeypatch):
    for rank, own in ((0, [0, 3, 6]), (2, [2, 5])):
        monkeypatch.setattr(shares, "processes", lambda r=rank: World(r, 3))
        assert [*shares.own_part(range(7))] == own
