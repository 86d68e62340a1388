"""How captions lie in a folder: read where it is clear, refused by name where it is not."""

import json
import unicodedata
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calotype.data import Folder
from calotype.data.folders.folder import FolderRecords
from calotype.data.reading.formats import SUFFIXES

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def write(root: Path, *names: str, **texts: str) -> Path:
    """Files that are empty, and by their names with `__` for a dot and `_S_` for a slash, texts."""
    for name in (*names, *texts):
        file = root / name.replace("__", ".").replace("_S_", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(texts.get(name, ""))
    return root


def read(root: Path, **options) -> dict[str, str]:
    """Captions by the pictures' names."""
    records = Folder(root, **options).build().records
    assert isinstance(records, FolderRecords)
    found = {str(r.file.relative_to(root)): r.caption for r in records}  # type: ignore[union-attr]
    assert list(records.captions()) == list(found.values())
    return found


def refused(root: Path, **options) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        Folder(root, **options).build()
    said = str(caught.value)
    assert "\n" not in said and str(root) in said
    return said


@pytest.mark.parametrize(
    "name", ["1.txt", "1.TXT", "1.caption", "1.Caption", "1.jpg.txt", "1.jpg.caption"]
)
def test_bug_texts_of_other_names_were_not_read(tmp_path: Path, name: str) -> None:
    write(tmp_path, "deep/1.jpg")
    (tmp_path / "deep" / name).write_text("a cat\n")
    assert read(tmp_path) == {"deep/1.jpg": "a cat"}


@pytest.mark.parametrize(
    ("pictures", "text"),
    [
        ("images/a/1.jpg", "captions/a/1.txt"), ("images/1.jpg", "captions/1.txt"),
        ("1.jpg", "captions/1.txt"), ("train/images/1.jpg", "train/Texts/1.caption"),
        ("dogs/1.jpg", "captions/dogs/1.jpg.txt"), ("x/1.jpg", "x/captions/1.txt"),
    ],
)  # fmt: skip
def test_bug_captions_in_a_folder_beside_were_the_caption_images(
    tmp_path: Path, pictures: str, text: str
) -> None:
    write(tmp_path, pictures, text)
    (tmp_path / text).write_text("a cat")
    assert read(tmp_path) == {pictures: "a cat"}


def test_a_folder_of_captions_that_may_be_of_two_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a/1.jpg", "b/1.jpg", captions_S_1__txt="whose")
    said = refused(tmp_path)
    assert "captions may hold the captions of" in said and "a or of" in said and "b:" in said


def rows(*names: str) -> list[dict[str, str]]:
    return [{"file_name": name, "text": f"of {Path(name).name}"} for name in names]


@pytest.mark.parametrize("name", ["metadata.parquet", "Metadata.PARQUET", "metadata1000.parquet"])
def test_metadata_in_parquet(tmp_path: Path, name: str) -> None:
    write(tmp_path, "1.jpg", "a/2.jpg")
    pq.write_table(pa.Table.from_pylist(rows("a/2.jpg", "1.jpg")), tmp_path / name)
    assert read(tmp_path) == {"1.jpg": "of 1.jpg", "a/2.jpg": "of 2.jpg"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata1000.jsonl", '{"file_name": "1.jpg", "text": "of 1.jpg"}\n'),
        ("metadata.JSONL", '{"file_name": "1.jpg", "text": "of 1.jpg"}\n'),
        ("metadata.tsv", 'file_name\ttext\n1.jpg\t"of 1.jpg"\n'),
        ("metadata_train.csv", 'text,file_name\n"of 1.jpg",1.jpg\n'),
    ],
)
def test_metadata_by_other_names(tmp_path: Path, name: str, text: str) -> None:
    write(tmp_path, "1.jpg")
    (tmp_path / name).write_text(text)
    assert read(tmp_path) == {"1.jpg": "of 1.jpg"}
    (tmp_path / "metadata2.jsonl").write_text(text)
    assert "metadata2.jsonl" in (said := refused(tmp_path)) and "--data.path" in said


@pytest.mark.parametrize(
    "row",
    [{"file_name": 3, "text": ""}, {"file_name": "1.jpg", "text": {"en": "a"}}, {"text": "x"}],
)
def test_a_row_in_parquet_is_refused_by_its_number(tmp_path: Path, row: dict) -> None:
    write(tmp_path, "1.jpg")
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "metadata.parquet")
    assert "metadata.parquet row 1: " in refused(tmp_path)
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1 cut")
    assert "metadata.parquet: broken parquet" in refused(tmp_path)


def test_a_metadata_file_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug: it "does not exist". Names are relative to it, absolute, or begin with the home."""
    write(tmp_path, "set/1.jpg", "other/2.jpg", "home/3.jpg", "4.jpg", "set/unnamed.jpg")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    named = rows("1.jpg", "../other/2.jpg", "~/3.jpg", str(tmp_path / "4.jpg"))
    table = tmp_path / "set/chosen.jsonl"
    table.write_text("\n".join(map(json.dumps, named)))
    records = Folder(table).build().records
    assert sorted(record.caption for record in records) == [f"of {i}.jpg" for i in range(1, 5)]
    assert all(record.file.is_file() for record in records)  # type: ignore[union-attr]
    assert "expected a folder, or a metadata file" in refused(tmp_path / "4.jpg")


def test_pictures_outside_a_metadatas_folder_are_told(tmp_path: Path) -> None:
    """Bug: a sub-folder's metadata hid the pictures outside it."""
    write(tmp_path, "1.jpg", "set/2.jpg", "set/3.jpg", "z/4.jpg")
    (tmp_path / "set/metadata.jsonl").write_text(json.dumps(rows("2.jpg")[0]))
    said = refused(tmp_path)
    assert "3 of 4 pictures have no caption, the first " in said and "1.jpg; --data.unc" in said
    with pytest.warns(UserWarning, match=r"3 pictures without a caption passed over.*1\.jpg"):
        assert read(tmp_path, uncaptioned="skip") == {"set/2.jpg": "of 2.jpg"}
    with pytest.warns(UserWarning, match=r"3 pictures without a caption read without"):
        assert len(read(tmp_path, uncaptioned="empty")) == 4


def test_one_missing_text_is_told(tmp_path: Path) -> None:
    """Bug: it refused a whole folder, and there was no choice."""
    write(tmp_path, "1.jpg", "2.jpg", "3.jpg", a__txt="", **{"1__txt": "one", "3__txt": "three"})
    assert "1 of 3 pictures have no caption, the first " in refused(tmp_path)
    with pytest.warns(UserWarning) as told:
        assert read(tmp_path, uncaptioned="skip") == {"1.jpg": "one", "3.jpg": "three"}
    assert "1 picture without a caption passed over" in str(told[0].message)
    assert "1 texts belong to no picture, the first a.txt" in str(told[1].message)
    with pytest.warns(UserWarning) as told:
        assert read(tmp_path, uncaptioned="empty")["2.jpg"] == ""
    assert "1 picture without a caption read without" in str(told[0].message)


def test_pictures_of_other_formats_are_counted_and_named_once(tmp_path: Path) -> None:
    write(tmp_path, "1.jpg", "a/1.psd", "2.PSD", "notes.md")
    with pytest.warns(
        UserWarning, match=r"passed over: 2 \.psd \(2\.PSD, \.\.\.\): export them"
    ) as told:
        records = Folder(tmp_path).build().records
    assert len(told) == len(records) == 1
    assert isinstance(records, FolderRecords)
    passed = [(str(tmp_path / name), ".psd is not read") for name in ("2.PSD", "a/1.psd")]
    assert sorted(records.passed_over()) == passed


@pytest.mark.parametrize(
    "name",
    ["captions.json", "a/1.json", "labels.csv", "prompts.txt", "annotations/1.txt", "a/1.xml"],
)
def test_folders_are_no_captions_where_others_seem_to_be(tmp_path: Path, name: str) -> None:
    """Bug: what was not understood as captions turned folders' names into captions."""
    write(tmp_path, "a/1.jpg", "b/2.jpg", "README.txt", "LICENSE.md", "a/notes.xlsx")
    assert read(tmp_path) == {"a/1.jpg": "a", "b/2.jpg": "b"}
    write(tmp_path, name)
    said = refused(tmp_path)
    assert f"1 files seem to hold captions, the first {tmp_path / name}" in said
    assert "expected metadata.jsonl" in said and "--data.captions folders or none" in said
    assert read(tmp_path, captions="folders") == {"a/1.jpg": "a", "b/2.jpg": "b"}
    assert read(tmp_path, captions="none") == {"a/1.jpg": "", "b/2.jpg": ""}


def test_parts_of_a_set_are_no_classes(tmp_path: Path) -> None:
    write(tmp_path, "train/1.jpg")
    assert read(tmp_path) == {"train/1.jpg": ""}
    write(tmp_path, "val/2.jpg")
    said = refused(tmp_path)
    assert "holds train and val, parts of a set" in said and f"--data.path {tmp_path}/train" in said
    write(tmp_path, "car/3.jpg")
    assert read(tmp_path) == {"car/3.jpg": "car", "train/1.jpg": "train", "val/2.jpg": "val"}


def test_metadata_may_name_the_parts_of_a_set(tmp_path: Path) -> None:
    write(tmp_path, "train/1.jpg", "val/2.jpg")
    (tmp_path / "metadata.csv").write_text("file_name,text\ntrain/1.jpg,one\nval/2.jpg,two\n")
    assert read(tmp_path) == {"train/1.jpg": "one", "val/2.jpg": "two"}


def test_names_that_tell_nothing_are_no_classes(tmp_path: Path) -> None:
    write(tmp_path / "tiny", "n01/images/1.jpg", "n02/images/2.jpg")
    assert list(read(tmp_path / "tiny").values()) == ["n01", "n02"]
    assert read(write(tmp_path / "plain", "images/1.jpg")) == {"images/1.jpg": ""}
    assert list(read(tmp_path / "plain", captions="folders").values()) == ["images"]


def test_names_are_compared_by_their_normal_form(tmp_path: Path) -> None:
    classes = write(tmp_path / "classes", f"{NFC}/1.jpg", f"{NFD}/2.jpg")
    assert list(read(classes).values()) == [NFC, NFC]
    texts = write(tmp_path / "texts", f"{NFC}.jpg", **{f"{NFD}__txt": "coffee"})
    assert read(texts) == {f"{NFC}.jpg": "coffee"}
    described = write(tmp_path / "described", f"{NFD}/{NFC}.jpg")
    (described / "metadata.jsonl").write_text(json.dumps(rows(f"{NFC}/{NFD}.jpg")[0]))
    assert list(read(described)) == [f"{NFD}/{NFC}.jpg"]


def test_two_names_that_look_the_same_are_told_apart_or_refused(tmp_path: Path) -> None:
    both = write(tmp_path / "both", f"{NFC}.jpg", f"{NFD}.jpg",
                 **{f"{NFC}__txt": "one", f"{NFD}__txt": "two"})  # fmt: skip
    assert read(both) == {f"{NFC}.jpg": "one", f"{NFD}.jpg": "two"}
    angstroms = "\u212b.jpg", "\u00c5.jpg", "A\u030a.jpg"
    unclear = write(tmp_path / "unclear", *angstroms[:2])
    (unclear / "metadata.jsonl").write_text(json.dumps(rows(angstroms[2])[0]))
    assert "look the same" in refused(unclear)


def test_two_texts_of_a_picture_are_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path, "1.jpg", "1.txt", "1.caption")
    assert "1.jpg has two captions" in (said := refused(tmp_path)) and "1.caption" in said


def test_bytes_in_names_that_are_no_utf8(tmp_path: Path) -> None:
    name = b"caf\xe9"
    (tmp_path / "flat").mkdir()
    Path(str(tmp_path / "flat"), name.decode("utf-8", "surrogateescape") + ".jpg").touch()
    (record,) = Folder(tmp_path / "flat").build().records
    assert record.name.endswith(r"caf\xe9.jpg") and record.file.is_file()  # type: ignore[union-attr]
    (tmp_path / "classes" / name.decode("utf-8", "surrogateescape")).mkdir(parents=True)
    (next((tmp_path / "classes").iterdir()) / "1.jpg").touch()
    assert "has half a character" in refused(tmp_path / "classes")


FOLDERS = ("", "a", "b", "images", "captions", "train", "val", NFC, NFD, "a/images")
STEMS = ("1", "2", NFC, NFD)
ENDINGS = (".png", ".JPG", ".txt", ".caption", ".TXT", ".jpg.txt", ".json", ".md", ".psd")
FILES = st.tuples(*map(st.sampled_from, (FOLDERS, STEMS, ENDINGS)))


@settings(max_examples=150, deadline=None, database=None)
@given(
    st.sets(FILES, min_size=1, max_size=8),
    st.sampled_from(["", "a", "train"]) | st.none(),
    st.sampled_from(["refuse", "skip", "empty"]),
    st.sampled_from(["found", "found", "metadata", "texts", "folders", "none"]),
)
def test_what_is_listed_is_read_or_skipped_or_refused(
    files: set, table: str | None, uncaptioned, captions
) -> None:
    """Nothing is lost, nothing is read twice, and no caption is one that nobody wrote."""
    with TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root, wrote = Path(scratch), set[str]()
        for folder, stem, ending in files:
            file = write(root, f"{folder}/{stem}{ending}".lstrip("/")) / folder / (stem + ending)
            if ending.lower().endswith((".txt", ".caption")):
                wrote.add(f"text {len(wrote)}")
                file.write_text(f"text {len(wrote) - 1}")
        pictures = {f for f in root.rglob("*") if f.suffix.lower() in SUFFIXES}
        if table is not None:
            inside = [
                str(f.relative_to(root / table)) for f in pictures if root / table in f.parents
            ]
            write(root, f"{table}/metadata.jsonl".lstrip("/"))
            some = rows(*sorted(inside)[::2])
            (root / table / "metadata.jsonl").write_text("\n".join(map(json.dumps, some)))
            wrote |= {row["text"] for row in some}
        try:
            records = Folder(root, captions=captions, uncaptioned=uncaptioned).build().records
        except (ValueError, FileNotFoundError) as error:
            assert str(root) in str(error) and "\n" not in str(error)
            return
        assert isinstance(records, FolderRecords)
        listed = [record.file for record in records]
        passed = [Path(name) for name, reason in records.passed_over() if reason == "no caption"]
        assert sorted([*listed, *passed]) == sorted(pictures)
        assert not passed or uncaptioned == "skip"
        labels = {part for f in pictures for part in f.relative_to(root).parent.parts}
        if wrote and captions == "found":
            labels = set()
        labels = {unicodedata.normalize("NFC", label) for label in labels}
        assert {record.caption for record in records} <= wrote | labels | {""}
