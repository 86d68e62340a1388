"""Text reaches nobody unchecked: it is what was meant, or is refused by file and line."""

import codecs
import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calotype.data.reading.captions import caption_of, captions_of, lines_of, normal, read_text

QUICK = settings(max_examples=100, deadline=None, database=None)
WHOLE = st.text(st.characters(exclude_categories=("Cs", "Cc")))


class NAType:
    """What pandas writes for nothing; its truth is asked of no one."""

    def __bool__(self) -> bool:
        raise TypeError("boolean value of NA is ambiguous")


@pytest.mark.parametrize(
    ("value", "captions"),
    [
        (None, ()), (float("nan"), ()), (np.float32("nan"), ()), (NAType(), ()), ([], ()),
        ("", ("",)), ("nan", ("nan",)), (7, ("7",)), (7.0, ("7",)), (np.int64(7), ("7",)),
        (2.5, ("2.5",)), (b"caf\xc3\xa9", ("café",)), (codecs.BOM_UTF8 + b"cat", ("cat",)),
        (["a", None, b"b"], ("a", "b")), (("a", "b"), ("a", "b")),
        (np.array(["a", "b"]), ("a", "b")), ("\ud83d\ude00", ("😀",)),
        ("a\0 cat\x07", ("a cat",)), ("don\x92t", ("don’t",)),
        ("two\r\n\tlines", ("two\r\n\tlines",)),
    ],
)  # fmt: skip
def test_values_become_what_they_mean(value: Any, captions: tuple[str, ...]) -> None:
    assert captions_of(value, "x") == captions
    assert caption_of(value, "x") == (captions[0] if captions else "")


@pytest.mark.parametrize(
    "value",
    [{"a": 1}, {}, True, float("inf"), [1, 2], [["a"]], [{"a": 1}], object(), np.zeros(3),
     "cut \ud83d", "\ude00 first", ["whole", "\udc80"]],
)  # fmt: skip
def test_what_is_no_text_is_refused_by_its_place(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^photos/metadata\.jsonl line 3: the caption ") as caught:
        captions_of(value, "photos/metadata.jsonl line 3")
    str(caught.value).encode()  # it can be shown


def test_bytes_in_another_encoding_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^row 3: not UTF-8; save it in that encoding"):
        caption_of("café".encode("latin-1"), "row 3")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.binary() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)


@QUICK
@given(ANYTHING | st.text(st.characters(categories=("Cs", "Cc", "L")), max_size=4))
def test_whatever_comes_is_text_that_can_be_encoded_or_a_line(value: Any) -> None:
    try:
        found = captions_of(value, "here")
    except ValueError as error:
        assert str(error).startswith(("here: ", "here line ")) and str(error).isprintable()
        return
    for text in found:
        assert "\0" not in text and text.encode().decode() == text
        assert not (isinstance(value, float) and text == "nan")


@QUICK
@given(WHOLE)
def test_whole_text_stays_as_it_is(text: str) -> None:
    assert caption_of(text, "x") == text == caption_of(text.encode("utf-8"), "x").lstrip(
        "\ufeff"
    ) or (text.startswith("\ufeff"))
    assert caption_of(json.loads(json.dumps(text)), "x") == text


@QUICK
@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_names_that_look_the_same_are_the_same(name: str) -> None:
    forms = {normal(unicodedata.normalize(form, name)) for form in ("NFC", "NFD")}
    assert forms == {normal(name)}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_texts_are_read_by_the_mark_they_begin_with(tmp_path: Path, encoding: str) -> None:
    file, text = tmp_path / "a.txt", "eine Möwe\n😀\nschläft"
    file.write_bytes(text.encode(encoding))
    assert read_text(file) == text
    assert list(lines_of(file)) == ["eine Möwe\n", "😀\n", "schläft"]


def test_a_text_in_no_such_encoding_is_refused_by_its_line(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    for data, said in ((b"one\ncaf\xe9", "line 2: not UTF-8; save it"),
                       (codecs.BOM_UTF16_LE + "a\n".encode("utf-16-le") + b"\x00\xd8",
                        "line 2: not UTF-16; its first bytes say UTF-16")):  # fmt: skip
        file.write_bytes(data)
        for read in (read_text, lambda file: list(lines_of(file))):
            with pytest.raises(ValueError, match=rf"a\.txt {said}"):
                read(file)
