"""Pictures in tars, as WebDataset keeps them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from warnings import warn

import numpy as np

from calotype.data.archives.kept import looked_through
from calotype.data.archives.parts import SUFFIXES, InTars, StreamedTars, TarsOnDisk, check_packed
from calotype.data.archives.tars import Endings, Index
from calotype.data.pictures import Pictures
from calotype.data.reading.captions import Uncaptioned
from calotype.data.reading.paths import files_of
from calotype.data.reading.records import OnError, Reader
from calotype.data.streams import Parts, Stream
from calotype.data.tabular.origin import Origin, identity_of, is_local
from calotype.data.tabular.tables import check_stream
from calotype.lazy import datasets


@dataclass(frozen=True)
class WebDataset:
    """Pictures and captions in tar files of `<key>.jpg`, `<key>.txt`. The key is the path up to the
    first dot of the file's name; endings may be in upper case.

    Raises:
        ValueError: `shuffle_buffer` or `lanes` < 1.
    """

    path: str | Path
    """A tar file, a pattern of files, a folder of them, or a URL; `{00000..00007}` and `{a,b}` in
    it stand for each of these. Compressed tars are read, too."""
    image_keys: tuple[str, ...] = ("jpg", "jpeg", "png", "webp")
    """Endings of pictures; of several with one key, the first is taken."""
    caption_key: str | None = "txt"
    """Ending of captions: "txt", "cls", or "json" with `json_field`; None: there are none."""
    json_field: str = "caption"
    """Field of the caption where captions are in JSON."""
    streaming: bool = True
    """Read the tars in stretches, instead of at random, which compressed tars are not."""
    shuffle_buffer: int = 1000
    """Undecoded pictures among which a stream is shuffled, by all ranks and workers together; in
    memory if the tars are compressed or at a URL."""
    on_error: OnError = "skip"
    """What becomes of a broken picture: the next good one takes its place, or reading stops."""
    lanes: int = 96
    """Places of a stream that are read at once, of which each rank and worker has its own; of
    compressed tars, or of URLs, no more than there are."""
    uncaptioned: Uncaptioned = "empty"
    """What becomes of pictures without a caption where others have one: they are refused, when the
    tars are looked through or else when they are met; passed over; or their caption is empty."""

    def __post_init__(self) -> None:
        check_stream(self.shuffle_buffer, self.lanes)

    def build(self) -> Pictures | Stream:
        """Look through the tars that are on disk and not compressed; open the others when they are
        read. Without streaming, those that are not on disk are downloaded.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a file cannot be read, or no file in them has one of the keys.
        """
        name, files = f"webdataset {self.path}", files_of(self.path, *SUFFIXES)
        endings = Endings(
            tuple(key.lower() for key in self.image_keys),
            self.caption_key.lower() if self.caption_key else None,
            self.json_field, self.uncaptioned,
        )  # fmt: skip
        reader = Reader(self.on_error, name)
        if not (self.streaming or is_local(files)):
            with Origin(name, "tar files").reading():
                files: list[str] = datasets.DownloadManager().download(files)  # type: ignore[assignment]
        if is_local(files) and not any(map(check_packed, files)):
            tars = looked_through(files, endings)
            _tell(tars, endings, reader)
            if self.streaming:
                return self._stream(TarsOnDisk(tars, endings), reader, files)
            ends = np.cumsum([len(tar) for tar in tars])
            return Pictures(InTars(tars, endings, ends), reader, identity_of(files))
        if not self.streaming:
            raise ValueError(
                f"{name}: tars that are compressed are read as streams alone: pass "
                "--data.streaming True, or unpack them"
            )
        return self._stream(StreamedTars(files, endings, reader), reader, files)

    def _stream(self, source: Parts, reader: Reader, files: Sequence[str]) -> Stream:
        return Stream(source, reader, lanes=self.lanes, buffer=self.shuffle_buffer,
                      local=is_local(files), identity=identity_of(files))  # fmt: skip


def _tell(tars: Sequence[Index], endings: Endings, reader: Reader) -> None:
    """Tell once of samples without a picture and of pictures without a caption.

    Raises:
        ValueError: no sample has either, or these are refused.
    """
    there: dict[str, int] = {}
    for tar in tars:
        for ending, count in tar.endings.items():
            there[ending] = there.get(ending, 0) + count
    if not sum(map(len, tars)):
        every = [said for tar in tars for said in tar.bare]
        if endings.skips and not there.keys().isdisjoint(endings.images):
            raise ValueError(
                f"{reader.source}: no picture in it has a caption, and such are passed over; "
                f"{every[0]}; choose --data.uncaptioned empty"
            )
        raise ValueError(_none_of(reader.source, endings.images, there))
    if endings.caption and endings.caption not in there:
        raise ValueError(_none_of(reader.source, (endings.caption,), there))
    if bare := [said for tar in tars for said in tar.bare]:
        reader.skipped.update((said, said) for said in bare)
        warn(f"{reader.source}: {len(bare)} samples passed over; {bare[0]}", stacklevel=2)
    if endings.caption:
        _tell_uncaptioned(tars, endings, reader.source)


def _tell_uncaptioned(tars: Sequence[Index], endings: Endings, source: str) -> None:
    without = [(tar, int(i)) for tar in tars for i in np.flatnonzero(tar.places[:, 3] < 0)]
    if not without:
        return
    tar, sample = without[0]
    endings.texts(None, tar.name(sample))  # refuses it, if that is asked for
    warn(
        f"{source}: {len(without)} of {sum(map(len, tars))} pictures have no {endings.what}, "
        f"and so the caption ''; the first is {tar.name(sample)}", stacklevel=2
    )  # fmt: skip


def _none_of(source: str, endings: Iterable[str], there: Iterable[str]) -> str:
    has = f"it has .{', .'.join(sorted(there))}" if there else "there is nothing in it"
    return f"{source}: no .{' or .'.join(endings)} in it; {has}"
