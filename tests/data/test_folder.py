import json
import os
from pathlib import Path

import pytest
from PIL import Image

from calotype.data import BrokenImage, Folder, Pictures, Reader
from calotype.data.cache.provenance import stamp_of_record


def picture(file: Path, colour: str = "red") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), colour).save(file)
    return file


def captions(folder: Folder) -> list[str]:
    dataset = folder.build()
    return [dataset[i]["caption"] for i in range(len(dataset))]


def test_sub_folders_are_classes(tmp_path: Path) -> None:
    for name in ("cat/1.png", "dog/1.JPG", "dog/2.webp", ".cache/1.png", "dog/._2.png"):
        picture(tmp_path / name)
    (tmp_path / "README.md").write_text("no picture")
    assert captions(Folder(tmp_path)) == ["cat", "dog", "dog"]
    assert captions(Folder(str(tmp_path), "a photo of a {name}"))[0] == "a photo of a cat"


def test_a_flat_folder_has_no_captions(tmp_path: Path) -> None:
    picture(tmp_path / "b.png", "blue")
    picture(tmp_path / "a.png")
    dataset = Folder(tmp_path).build()
    assert captions(Folder(tmp_path)) == ["", ""]
    assert [dataset[i]["image"].getpixel((0, 0)) for i in (0, -1)] == [(255, 0, 0), (0, 0, 255)]
    with pytest.raises(IndexError, match="picture 2 of 2"):
        dataset[2]


def test_texts_beside_pictures(tmp_path: Path) -> None:
    for name in ("one", "sub/two"):
        picture(tmp_path / f"{name}.png").with_suffix(".txt").write_text(f"caption {name}\n")
    assert captions(Folder(tmp_path)) == ["caption one", "caption sub/two"]


@pytest.mark.parametrize("column", ["caption", "text"])
def test_metadata_jsonl(tmp_path: Path, column: str) -> None:
    for name in ("a.png", "deep/b.png"):
        picture(tmp_path / name)
    rows = [
        {"file_name": "a.png", column: ["first", "second"]},
        {"file_name": "deep/b.png", column: None},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    assert captions(Folder(tmp_path)) == ["first", ""]
    assert Folder(tmp_path).build().records[0].captions == ("first", "second")


def test_metadata_csv(tmp_path: Path) -> None:
    picture(tmp_path / "train/a.png")
    (tmp_path / "train/metadata.csv").write_text(
        '\ufefffile_name,caption\na.png,"red, square"\n', "utf-8"
    )
    assert captions(Folder(tmp_path)) == ["red, square"]


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ('{"file_name": "gone.png", "caption": ""}', FileNotFoundError, "no file .*gone.png"),
        ('{"file_name": "a.png", "label": 1}', ValueError, "text, has file_name, label"),
        ('{"caption": "x"}', ValueError, "line 2: needs file_name"),
        ('{"file_name": null, "text": "x"}', ValueError, "line 2: file_name is null, not a name"),
        ('{"file_name": 3, "text": "x"}', ValueError, "line 2: file_name is 3, not a name"),
        ("{file_name}", ValueError, "line 2: not JSON"),
        ("[]", ValueError, "line 2: not a JSON object"),
    ],
)  # fmt: skip
def test_metadata_errors_name_the_line(
    tmp_path: Path, line: str, error: type, message: str
) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "caption": "x"}\n' + line)
    with pytest.raises(error, match=message) as caught:
        Folder(tmp_path).build()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.png,red, square", r'line 3: needs 2 values.*put one with a comma in "double quotes"'),
        ("a.png", "line 3: needs 2 values"),
        ('a.png,"red', "line 3: not CSV .*end of data"),
        ('a.png,"red" square', "line 3: not CSV .*expected after"),
    ],
)
def test_bug_csv_rows_of_another_length_were_cut(tmp_path: Path, row: str, message: str) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text(f"file_name,caption\na.png,red\n{row}\n")
    with pytest.raises(ValueError, match=rf"metadata\.csv {message}") as caught:
        Folder(tmp_path).build()
    assert "\n" not in str(caught.value)


def test_csv_values_may_be_empty_and_have_quotes_and_lines(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    rows = 'file_name,caption\r\na.png,\r\na.png,"a ""red""\nsquare"\r\n'
    (tmp_path / "metadata.csv").write_bytes(rows.encode())
    assert captions(Folder(tmp_path)) == ["", 'a "red"\nsquare']


@pytest.mark.parametrize("name", ["a.txt", "metadata.csv", "metadata.jsonl"])
def test_what_is_not_utf8_is_named(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / name).write_bytes("\ncafé".encode("latin-1"))
    with pytest.raises(ValueError, match=rf"{name} line 2: not UTF-8; save it"):
        Folder(tmp_path).build()


def test_a_byte_order_mark_is_no_part_of_a_caption(tmp_path: Path) -> None:
    picture(tmp_path / "a.png").with_suffix(".txt").write_text("a cat\n", "utf-8-sig")
    assert captions(Folder(tmp_path)) == ["a cat"]


def test_linked_folders_are_read_and_loops_end(tmp_path: Path) -> None:
    """Bug: the pictures of a linked class were silently missing before Python 3.13."""
    picture(tmp_path / "elsewhere/1.png")
    picture(tmp_path / "images/dog/1.png")
    (tmp_path / "images/cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images/dog/again").symlink_to(tmp_path / "images")
    (tmp_path / "elsewhere/self").symlink_to(".")
    (tmp_path / "images/dog/2.png").symlink_to(tmp_path / "elsewhere/1.png")
    assert captions(Folder(tmp_path / "images")) == ["cat", "dog", "dog"]


@pytest.mark.parametrize(
    ("name", "text"), [("metadata.jsonl", "\n"), ("metadata.csv", "file_name,caption\n")]
)
def test_metadata_without_rows_say_what_was_expected(tmp_path: Path, name: str, text: str) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / name).write_text(text)
    with pytest.raises(FileNotFoundError, match=r"no images in .*: its metadata .*expected rows"):
        Folder(tmp_path).build()


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no images in .*: expected pictures, alone"):
        Folder(tmp_path).build()
    with pytest.raises(FileNotFoundError, match=r"no folder .*gone"):
        Folder(tmp_path / "gone").build()


def test_mixed_layouts_are_named(tmp_path: Path) -> None:
    picture(tmp_path / "a.png").with_suffix(".txt").write_text("a text")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a row"}')
    with pytest.raises(ValueError, match=r"metadata\.jsonl and texts beside pictures; keep one"):
        Folder(tmp_path).build()
    assert captions(Folder(tmp_path, captions="metadata")) == ["a row"]
    assert captions(Folder(tmp_path, captions="texts")) == ["a text"]
    assert captions(Folder(tmp_path, captions="none")) == [""]


def broken_folder(root: Path, names: str) -> None:
    """Make pictures of these names; those in upper case are broken."""
    for name in names:
        file = picture(root / f"{name}.png", "red" if name == "a" else "blue")
        if name.isupper():
            file.write_bytes(b"\x89PNG broken")


def test_the_next_good_picture_takes_a_broken_ones_place(tmp_path: Path) -> None:
    broken_folder(tmp_path, "aBCdE")
    dataset = Folder(tmp_path).build()
    order = sorted(range(5), key=lambda i: dataset.records[i].name)
    assert order == list(range(5)) and dataset.records[0].name.endswith("B.png")
    with pytest.warns(UserWarning) as warned:
        colours = [dataset[i]["image"].getpixel((0, 0)) for i in range(5)]
        again = [dataset[i]["image"].getpixel((0, 0)) for i in range(5)]
    red, blue = (255, 0, 0), (0, 0, 255)
    assert colours == again == [red, red, red, red, blue]  # B C E a d
    assert [str(w.message).split(":")[0] for w in warned] == [
        f"skipped ({n} so far)" for n in (1, 2, 3)
    ]
    assert "B.png" in str(warned[0].message)


def test_stop_stops_at_a_broken_picture(tmp_path: Path) -> None:
    broken_folder(tmp_path, "Ab")
    with pytest.raises(BrokenImage, match=r"A\.png"):
        Folder(tmp_path, on_error="stop").build()[0]


@pytest.mark.filterwarnings("ignore:skipped")
def test_nothing_but_broken_pictures_is_one_error(tmp_path: Path) -> None:
    broken_folder(tmp_path, "ABC")
    with pytest.raises(ValueError, match=r"folder .*: none of 3 pictures in a row can be read; .*"):
        Folder(tmp_path).build()[1]


def test_a_source_without_a_picture_says_so() -> None:
    with pytest.raises(ValueError, match="folder x: no pictures in it; expected one or more"):
        Pictures([], Reader("skip", "folder x"))


def test_bug_each_picture_was_looked_up_before_it_was_read(tmp_path: Path, monkeypatch) -> None:
    """On a disk that is far that is a round trip for each sample of a run, which needs no stamp;
    whoever keeps something of a picture has it all the same.
    """
    for name in "ab":
        picture(tmp_path / f"{name}.png")
    dataset, asked, stat = Folder(tmp_path).build(), list[str](), os.stat

    def told(path, *how, **options):
        asked.append(str(path))
        return stat(path, *how, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", told)
        records = [dataset.records[i] for i in range(2)]
    assert not [path for path in asked if path.endswith(".png")]
    before = [stamp_of_record(record) for record in records]
    os.utime(tmp_path / "a.png", ns=(1, 1))
    after = [stamp_of_record(record) for record in records]
    assert all(before) and before[0] != after[0] and before[1] == after[1]
