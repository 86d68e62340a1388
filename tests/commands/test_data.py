"""What would be trained on is counted right, shown on one page, and what is wrong is said."""

import json
import re
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image, ImageCms

from calotype import cli
from calotype.commands.data import Data, show_data
from calotype.data import Filtered, Folder, Parquet, Scenes, WebDataset
from calotype.pages.data import Bars


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CALOTYPE_CACHE", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "1000")
    return tmp_path


def photograph(size: tuple[int, int], seed: int = 0) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC)


def photos(folder: Path) -> Path:
    """Eleven pictures, two of them broken, one a copy of another; and a file of another kind."""
    folder.mkdir()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    turned = Image.Exif()
    turned[0x0112] = 6
    photograph((40, 30)).save(folder / "a.png")
    photograph((80, 60)).save(folder / "a copy.png")
    photograph((60, 30), 90).save(folder / "b.jpg", exif=turned)
    photograph((30, 60), 180).convert("L").save(folder / "c.png")
    photograph((32, 32), 270).convert("RGBA").save(folder / "d.png")
    Image.new("RGB", (32, 32), "red").save(folder / "e.png", icc_profile=profile)
    Image.new("RGB", (32, 32), "blue").save(folder / "f.png")
    frames = [Image.new("RGB", (8, 20), colour) for colour in ("black", "green")]
    frames[0].save(folder / "g.gif", save_all=True, append_images=frames[1:])
    Image.new("CMYK", (90, 30)).save(folder / "h.jpg")
    (folder / "torn.png").write_bytes((folder / "a.png").read_bytes()[:90])
    (folder / "text.png").write_text("no picture")
    (folder / "film.mp4").touch()
    words = {"a": "a <slope>", "b": "turn left " * 30, "d": "", "e": "one red"}
    rows = [{"file_name": file.name, "caption": words.get(file.stem, "grey")}
            for file in sorted(folder.iterdir()) if file.suffix != ".mp4"]  # fmt: skip
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def said(output: str) -> dict[str, str]:
    """The rows of the table, by their first words."""
    rows = (re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in output.splitlines())
    return {row[0]: row[1] for row in rows if len(row) == 2}


def test_a_folder_is_counted_right_and_what_is_wrong_is_named(here, capsys):
    cli.main(["data", str(photos(here / "photos")), "--size", "30"])
    output = capsys.readouterr().out
    found = said(output)
    assert found["pictures"] == "11; all were looked at, all decoded"
    broken = found["cannot be read"]
    assert broken.startswith("2: ") and "torn.png" in broken and "text.png (none of the" in broken
    assert found["passed over"] == "1 files .mp4, no pictures that can be read here"
    assert found["formats"] == "PNG 6, JPEG 2, GIF 1"
    assert found["modes"].split(", ")[0] == "RGB 5"
    assert {"L 1", "RGBA 1", "P 1", "CMYK 1"} == {*found["modes"].split(", ")[1:]}
    assert found["turned by EXIF"] == "1" and found["transparent"].startswith("1, composited")
    assert found["animated"].startswith("1,") and found["colour profiles"].startswith(
        "none 8, sRGB"
    )
    assert re.match(r"from 8x20 \(.*g.gif\) to 80x60 \(.*a copy.png\)", found["sizes"])
    assert found["smaller than 30"] == "1"
    assert found["width / height"] == "from 0.40 to 3.00"
    assert found["square crop"].endswith("more than 30 % of 4")
    assert found["captions"] == "10 of 11 have one, 4 different ones"
    assert found["words"] == "from 1 to 60 a caption, half at most 1"
    assert found["look alike"] == "1 of 11 decoded are like an earlier one"
    told = [line for line in output.splitlines() if line.startswith("! ")]
    for warning in ("cannot be read: 2", "files of other kinds", "--data.least-side 30",
                    "less than 70 %: 4", "--data.duplicates", "without a caption: 1",
                    "than 50 words", "transform.flip:none", "11 pictures are few"):  # fmt: skip
        assert any(warning in line for line in told), warning
    assert output.splitlines()[-1] == "page: data-photos.html"


def test_the_page_is_one_file_with_pictures_and_names_nothing_outside(here):
    options = Data(photos(here / "photos"), size=30, shown=4)
    page = show_data(options).read_text()
    shown = re.findall(r'<img alt="" title="([^"]*)" src="data:image/(png|jpeg);base64,', page)
    # A pair that looks alike, and four from all over.
    assert [Path(name).name for name, _ in shown[:2]] == ["a copy.png", "a.png"] and len(shown) == 6
    assert (
        not re.search(r"(src|href)=.?(?!\"data:)", page.replace('src="data:', ""))
        and "://" not in page
    )
    assert "a &lt;slope&gt;" in page and "<slope>" not in page
    assert "2 that cannot be read" in page and "torn.png: " in page
    assert [*here.glob("data-*")] == [here / "data-photos.html"]
    assert not list((here / "photos").glob("*.safetensors"))


def test_a_sample_is_from_all_over_and_says_so(here, capsys, monkeypatch):
    folder = here / "many"
    folder.mkdir()
    for i in range(30):
        photograph((10 + i, 10)).save(folder / f"{i:02}.png")
    monkeypatch.setattr("calotype.commands.data.HEADERS", 10)
    show_data(Data(folder, count=2, shown=9))
    some = said(capsys.readouterr().out)
    assert some["pictures"] == "30; 20 from all over were looked at, 2 of these decoded"
    assert "28.png" in some["sizes"] or some["width / height"] == "from 1.00 to 3.80"
    show_data(Data(folder, count=2, all=True))
    assert said(capsys.readouterr().out)["pictures"] == "30; all were looked at, all decoded"


def encoded(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_tables_streams_scenes_and_filters_are_looked_at_alike(here, capsys):
    images = [encoded(photograph((12 + i, 12), 40 * i)) for i in range(5)]
    table = {"image": images, "caption": ["owl", "owl", "owl", "owl", "barn"]}
    pyarrow.parquet.write_table(pyarrow.table(table), "birds.parquet")
    cli.main(["data", "birds.parquet", "--shown", "0"])
    found = said(capsys.readouterr().out)
    assert found["pictures"].startswith("5; all") and found["frequent captions"] == "owl 4, barn 1"
    stream = Parquet("birds.parquet", streaming=True)
    show_data(Data(data=stream, count=3))
    found = said(capsys.readouterr().out)
    assert found["pictures"] == "a stream, of which the first 3 were decoded"
    show_data(Data(data=Filtered(Parquet("birds.parquet"), greatest_ratio=1.2)))
    output = capsys.readouterr().out
    assert "3 of 5 pictures are left" in output and "removed: 2, longer than 1.2:1" in output
    show_data(Data(data=Scenes(size=16, count=6)))
    assert said(capsys.readouterr().out)["sizes"] == "all of 16x16"
    assert Path("data-birds.parquet.html").exists() and Path("data-scenes.html").exists()


def test_what_is_passed_over_is_counted_once_with_its_own_mend(here, capsys, monkeypatch):
    """Metadata of any name are read; a picture without a caption needs no other format; what
    stands behind ~ is looked at, too."""
    monkeypatch.setenv("HOME", str(here))
    folder = here / "some"
    folder.mkdir()
    for name in ("a", "b", "c"):
        photograph((9, 9)).save(folder / f"{name}.png")
    rows = [{"file_name": f"{name}.png", "caption": name} for name in "ab"]
    (folder / "metadata1000.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "film.mp4").touch()
    with pytest.warns(UserWarning, match="without a caption passed over"):
        show_data(Data(data=Folder("~/some", captions="metadata", uncaptioned="skip")))
    output = capsys.readouterr().out
    assert "jsonl" not in output and "1 files .mp4, no pictures" in output
    assert f"1, no caption ({folder}/c.png)" in output
    assert "! pictures without a caption are passed over: give them captions" in output
    (folder / "layers.psd").touch()
    with pytest.warns(UserWarning, match="passed over: 1 .psd"):
        show_data(Data(data=Folder(folder, captions="none")))
    output = capsys.readouterr().out
    assert output.count("1, .psd is not read") == 1 and "files .psd, no" not in output
    assert "! files .psd are passed over: export them as PNG" in output


@pytest.mark.parametrize("streaming", [True, False])
def test_samples_of_a_tar_that_are_passed_over_are_shown(streaming, here, capsys):
    members = {"a.png": encoded(photograph((9, 9))), "a.txt": b"a", "b.txt": b"alone"}
    with tarfile.open("some.tar", "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, BytesIO(data))
    with pytest.warns(UserWarning, match="1 samples passed over"):
        show_data(Data(data=WebDataset("some.tar", streaming=streaming)))
    output = capsys.readouterr().out
    assert "1 samples (no picture in sample some.tar:b; it has .txt)" in output
    assert "! samples are passed over: give each a picture and a caption" in output
    assert "to JPEG or PNG" not in output


@pytest.mark.parametrize(
    ("name", "source"),
    [("a.tgz", WebDataset), ("A.TAR.GZ", WebDataset), ("{0..3}.tar", WebDataset),
     ("a.parquet", Parquet), ("metadata.parquet", Folder), ("metadata.jsonl", Folder),
     ("photos", Folder)],
)  # fmt: skip
def test_a_path_is_of_the_kind_that_its_name_says(name, source, here):
    assert Data(here / name).source == source(here / name)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nowhere"], "no folder nowhere"),
        (["torn"], "folder torn: none of 1 pictures can be read; torn/1.png: none of the formats"),
        (["torn", "--count", "0"], "--count is 0: it must be at least 1"),
        (["torn", "--out", "page.png"], "--out is page.png: name a page, such as data.html"),
        (["torn", "data:folder", "--data.path", "x"], "torn and data: say by one of them"),
    ],
)
def test_mistakes_are_answered_in_one_line(arguments, line, here, capsys):
    (here / "torn").mkdir()
    (here / "torn/1.png").write_bytes(b"torn")
    with pytest.raises(SystemExit) as stop:
        cli.main(["data", *arguments])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2 and error.startswith("calotype: ") and line in error
    assert not list(here.glob("*.html"))


def test_a_stream_has_no_all(here):
    pyarrow.parquet.write_table(pyarrow.table({"image": [b""], "caption": ["x"]}), "a.parquet")
    with pytest.raises(ValueError, match="--all: a stream may have no end"):
        show_data(Data(data=Parquet("a.parquet", streaming=True), all=True))


def test_bars_count_every_value():
    few, many = Bars.of("few", [1, 1, 3]), Bars.of("many", [float(i) for i in range(100)])
    assert [*zip(few.ranges, few.counts, strict=True)] == [("1", 2), ("3", 1)]
    assert sum(many.counts) == 100 and len(many.ranges) == len(many.counts)
    assert few.rows[0] == ("1", 2, "100.0")
