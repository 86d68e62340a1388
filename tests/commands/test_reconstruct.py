"""`calotype reconstruct` takes any tokenizer, ours or a stock one."""

import base64
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import VQModel
from PIL import Image

import contract
import tiny
from calotype.commands.reconstruct import Reconstruct, reconstruct, write_pairs
from calotype.commands.worst import Worst, rank
from calotype.data import CenterCrop, Folder, Scenes, Transform, once
from calotype.data.streams import Stream, Whole
from calotype.evaluation.tokenizer import in_order
from calotype.pages.worst import Rebuilt
from calotype.pipelines import picture
from calotype.tokenizers import ImageTokenizer, psnr
from calotype.tokenizers.bottlenecks import FSQ, LFQ, RVQ, Gumbel
from calotype.training.images import scaled

OURS: dict[str, Any] = {
    "vq": tiny.VQ_BOTTLENECK,
    "gumbel": Gumbel(codes=32, channels=4),
    "lfq": LFQ(bits=15),
    "fsq": FSQ((5, 4, 3)),
    "rvq": RVQ(2, tiny.VQ_BOTTLENECK.codebook),
}
STOCK: dict[str, dict[str, Any]] = {
    "plain": {},
    "narrow codes": {"vq_embed_dim": 2},
    "spatial norm": {"norm_type": "spatial", "block_out_channels": (32, 32)},
}
COUNT = 4


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Pictures twice as wide as what the tokenizers here were made for."""
    folder = tmp_path_factory.mktemp("photos")
    for i, image in enumerate(tiny.images(COUNT)):
        picture(image.repeat_interleave(2, 1).repeat_interleave(2, 2)).save(folder / f"{i}.png")
    return folder


def images(photos: Path) -> torch.Tensor:
    """The photos at the size of the tokenizers."""
    transform = Transform(CenterCrop(tiny.SIZE), None)
    return scaled(next(once(Folder(photos).build(), COUNT, transform))["image"])


def vqmodel(**settings: Any) -> VQModel:
    """A stock one with weights at random, and codes about as wide apart as features."""
    torch.manual_seed(0)
    small = {"block_out_channels": (8, 16), "norm_num_groups": 4, "latent_channels": 4}
    made = VQModel(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        num_vq_embeddings=32, sample_size=tiny.SIZE, **{**small, **settings},
    )  # fmt: skip
    torch.nn.init.normal_(made.quantize.embedding.weight, std=0.3)
    return made.eval()


def check(model: Path, photos: Path, decoded: torch.Tensor, said: pytest.CaptureFixture) -> None:
    """Reconstruct by the command; its picture and its figure are those of `decoded`."""
    out, real, fake = model.parent / "pairs.png", images(photos), decoded.clamp(-1, 1)
    assert (fake.amax((0, 2, 3)) - fake.amin((0, 2, 3))).min() > 0.1, "it shows something"
    how: Any = {"count": COUNT, "out": out, "precision": "fp32", "device": "cpu"}
    assert reconstruct(Reconstruct(str(model), Folder(photos), **how)) == out
    told = (f"PSNR {psnr(fake, real).mean():.2f} dB over {COUNT} pictures of {tiny.SIZE} pixels, "
            "in fp32 on cpu")  # fmt: skip
    assert told in said.readouterr().out
    expected = model.parent / "expected.png"
    write_pairs(expected, [(real, fake)])
    with Image.open(out) as ours, Image.open(expected) as theirs:
        levels = [np.asarray(pairs, dtype=int) for pairs in (ours, theirs)]
    assert abs(levels[0] - levels[1]).max() <= 1, "but for the rounding of a level"


@torch.no_grad()
@pytest.mark.parametrize("name", OURS)
def test_ours_are_reconstructed_at_their_own_size(name, photos, tmp_path, capsys):
    made = contract.tokenizer(OURS[name])
    made.save(tmp_path / "model")
    check(tmp_path / "model", photos, made.reconstruct(images(photos)), capsys)


@torch.no_grad()
@pytest.mark.parametrize("name", STOCK)
def test_a_stock_vqmodel_is_reconstructed_as_by_itself(name, photos, tmp_path, capsys):
    stock = vqmodel(**STOCK[name])
    stock.save_pretrained(tmp_path / "model")
    real = images(photos)
    by_itself = stock(real).sample
    ours = ImageTokenizer.load(tmp_path / "model")
    assert len(ours.pack(real).unique()) > 4
    # By itself it decodes h + (code - h), which rounds the code.
    torch.testing.assert_close(ours.reconstruct(real), by_itself, atol=1e-5, rtol=0)
    check(tmp_path / "model", photos, by_itself, capsys)


def test_small_pictures_are_enlarged_and_labelled(tmp_path):
    real, fake = tiny.images(2), -tiny.images(2)
    write_pairs(tmp_path / "pairs.png", [(real, fake)])
    with Image.open(tmp_path / "pairs.png") as written:
        levels = np.asarray(written)
    shown = levels[8 : 8 + 256 : 16, 8 : 8 + 256 : 16]
    assert (shown == np.asarray(picture(real[0]))).all()
    label = levels[8 + 256 :, 8 : 8 + 256]
    assert label.min() < 128 < label.max()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_it_computes_in_the_precision_that_it_says(precision, photos, tmp_path, capsys):
    made = contract.tokenizer(OURS["fsq"])
    made.save(tmp_path / "model")

    def levels(name: str) -> np.ndarray:
        how: Any = {"count": COUNT, "out": tmp_path / f"{name}.png", "precision": name}
        written = reconstruct(Reconstruct(str(tmp_path / "model"), Folder(photos), **how))
        assert f"in {name} on cpu" in capsys.readouterr().out
        with Image.open(written) as pairs:
            return np.asarray(pairs, dtype=int)

    exact, rounded = levels("fp32"), levels(precision)
    assert 0 < abs(exact - rounded)[:264].mean() < 4, "but for rounding the same"


class Dimmed(torch.nn.Module):
    """What becomes darker, the more of green is in it."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images - 0.2 * (images[:, 1:2].mean((2, 3), keepdim=True) + 1)


def greens(levels: list[int]) -> list[dict[str, Any]]:
    """Batches of three pictures each, as green as that."""
    made = torch.full((len(levels), 3, 8, 8), -0.2)
    made[:, 1] = torch.tensor(levels)[:, None, None] / 100 - 0.2
    names = [f"{level} <b>.png" for level in levels]
    return [{"image": a, "name": names[i : i + 3]}
            for i, a in zip(range(0, len(levels), 3), made.split(3), strict=True)]  # fmt: skip


def ranked(page: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in page.with_suffix(".jsonl").read_text().splitlines()]


def test_the_worst_are_ranked_and_shown(tmp_path):
    levels = [5, 90, 20, 70, 40, 60, 10, 80]
    page = tmp_path / "new/worst.html"
    said = rank(Dimmed(), in_order(greens(levels)), None, 3, page, "by what")
    places = ranked(page)
    expected = [f"{level} <b>.png" for level in sorted(levels, reverse=True)]
    assert [each["picture"] for each in places] == expected
    assert [each["rank"] for each in places] == list(range(1, 9))
    values = [each["psnr_db"] for each in places]
    assert values == sorted(values)
    (batch,) = greens([90])
    assert values[0] == pytest.approx(
        psnr(Dimmed()(batch["image"]), batch["image"]).item(), abs=1e-4
    )
    assert said.startswith(f"PSNR {np.mean(values):.2f} dB over 8 pictures: the worst has "
                           f"{values[0]:.2f} dB")  # fmt: skip
    written = page.read_text()
    assert re.findall(r"<strong>(\d)\. ([\d.]+) dB</strong> (\d+) &lt;b&gt;", written) == [
        (str(i + 1), f"{value:.2f}", level)
        for i, (value, level) in enumerate(zip(values[:3], ("90", "80", "70"), strict=True))
    ]
    sources = re.findall(r'src="data:image/png;base64,([^"]+)"', written)
    assert len(sources) == 9 and written.count('src="') == 9
    original, decoded, apart = (decoded_levels(source) for source in sources[:3])
    assert (abs(original - decoded).clip(0, 63) * 4 == apart).all() and apart.max() > 0


def decoded_levels(source: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(source))) as image:
        return np.asarray(image, dtype=int)


def test_of_many_only_the_worst_are_held():
    worst = Worst(4)
    chance = np.random.default_rng(0)
    values = chance.permutation(200) / 2
    blank = torch.zeros(3, 1, 1, dtype=torch.uint8)
    for value in values.tolist():
        if worst.wants(value):
            worst.add(Rebuilt(str(value), value, blank, blank))
        assert len(worst._heap) <= 4
    assert [each.psnr for each in worst.ranked()] == [0.0, 0.5, 1.0, 1.5]


def test_what_stands_in_a_broken_pictures_place_counts_once(photos, tmp_path, recwarn, monkeypatch):
    folder = tmp_path / "some"
    shutil.copytree(photos, folder)
    (folder / "1.png").write_bytes(b"no picture")
    contract.tokenizer(OURS["fsq"]).save(tmp_path / "model")
    page = tmp_path / "worst.html"
    how: Any = {"worst": 2, "out": page, "precision": "fp32", "device": "cpu"}
    monkeypatch.setattr("calotype.commands.reconstruct.EACH", 2)  # it stands over a batch's end
    assert reconstruct(Reconstruct(str(tmp_path / "model"), Folder(folder), **how)) == page
    names = sorted(Path(each["picture"]).name for each in ranked(page))
    assert names == ["0.png", "2.png", "3.png"]
    assert page.read_text().count("<figure") == 2


def test_so_many_of_a_stream_are_ranked_and_no_more(photos, tmp_path, monkeypatch):
    contract.tokenizer(OURS["fsq"]).save(tmp_path / "model")
    page = tmp_path / "worst.html"

    def ranking(data: Any, count: int | None) -> list[str]:
        how: Any = {"worst": 9, "out": page, "count": count, "device": "cpu"}
        reconstruct(Reconstruct(str(tmp_path / "model"), data, **how))
        return sorted(each["picture"] for each in ranked(page))

    assert len(ranking(Folder(photos), None)) == COUNT
    assert len(ranking(Folder(photos), 3)) == 3
    drawn = ranking(Scenes(size=16, count=5), None)
    assert drawn == [f"picture {i}" for i in range(5)], "what is drawn has no name"
    pictures = Folder(photos).build()
    stream = Stream(Whole(lambda: iter(pictures.records)), pictures.reader, local=True)
    monkeypatch.setattr(Folder, "build", lambda self: stream)
    first = ranking(Folder(photos), 3)
    assert [Path(name).name for name in first] == ["0.png", "1.png", "2.png"]
    assert len(ranking(Folder(photos), None)) == COUNT


@pytest.mark.parametrize(
    ("how", "said"),
    [({"worst": 3, "out": Path("a.png")}, "--out is a.png: name a page, such as worst.html"),
     ({"out": Path("a.html")}, "--out is a.html: name a picture, such as pairs.png"),
     ({"worst": 0}, "--worst is 0: it must be at least 1")],
)  # fmt: skip
def test_what_cannot_be_written_is_told_before_the_work(how, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        reconstruct(Reconstruct("no/such/model", **how))
