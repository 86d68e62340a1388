import errno
import itertools
import re
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import tiny
from calotype import cli
from calotype.commands.train_tokenizer import train_tokenizer
from calotype.data import (
    BrokenImage,
    CenterCrop,
    Flip,
    Folder,
    Loader,
    Pictures,
    Reader,
    Record,
    Stream,
    Transform,
    Whole,
    once,
)
from calotype.data.reading import remote
from calotype.data.reading.remote import Patience, check, contents, tried
from calotype.mistakes import is_told
from calotype.recipes.tokenizer import TokenizerRecipe
from calotype.training.checkpoint import complete

ERRNOS = [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ETIMEDOUT, errno.EINTR]


def png(value: int = 0) -> bytes:
    file = BytesIO()
    Image.new("RGB", (4, 4), (value, value, value)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What would have been slept."""
    slept: list[float] = []
    monkeypatch.setattr(remote, "PATIENCE", Patience(sleep=slept.append))
    return slept


class Failing:
    """Raises so many errors and then answers."""

    def __init__(self, error: Exception, times: int) -> None:
        self.error, self.times = error, times

    def __call__(self, *arguments: Any) -> bytes:
        self.times -= 1
        if self.times >= 0:
            raise self.error
        return png()


@pytest.mark.parametrize(
    "error",
    [*(OSError(number, "x") for number in ERRNOS), MemoryError(), TimeoutError(),
     ConnectionResetError(), np._core._exceptions._ArrayMemoryError((9,), np.dtype("u1"))],
    ids=repr,
)  # fmt: skip
def test_bug_a_passing_fault_was_a_broken_picture(
    error: Exception, pauses: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: the neighbour was put in the picture's place."""
    monkeypatch.setattr(Path, "read_bytes", Failing(error, 3))
    record = Record(tmp_path / "a.png", "a.png", "")
    assert record.decode()["image"].size == (4, 4)
    assert pauses == [0.5, 2, 8]
    monkeypatch.setattr(Path, "read_bytes", Failing(error, 99))
    dataset = Pictures([record] * 3, Reader("skip", "some"))
    for read in (lambda: dataset[0], lambda: next(once(dataset, 2))):
        with pytest.raises(OSError, match=r"^a\.png cannot be read, tried 5 times: .") as fault:
            read()
        assert is_told(fault.value) and "\n" not in str(fault.value)
    assert not dataset.reader.skipped


@pytest.mark.parametrize("error", [FileNotFoundError(2, "gone"), PermissionError(13, "forbidden")])
def test_what_stays_is_not_tried_again(error: OSError, pauses: list[float]) -> None:
    with pytest.raises(type(error), match=r"^a\.png cannot be read: (gone|forbidden)"):
        tried(Failing(error, 1), "a.png")
    assert not pauses


@pytest.mark.parametrize("error", [BrokenImage("broken"), KeyError("x"), ValueError("y")])
def test_what_is_no_fault_of_reading_passes_through(error: Exception, pauses: list[float]) -> None:
    with pytest.raises(type(error)) as raised:
        tried(Failing(error, 1), "a.png")
    assert raised.value is error and not pauses


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_was_removed_stops_by_its_name(tmp_path: Path, workers: int) -> None:
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    dataset = Folder(tmp_path).build()
    (tmp_path / "2.png").unlink()
    for make in (lambda: once(dataset, 2, workers=workers),
                 lambda: Loader(dataset, 2, seed=0, workers=workers).batches()):  # fmt: skip
        with pytest.raises(FileNotFoundError, match=r"2\.png cannot be read: No such file") as gone:
            for _ in make():
                pass
        assert is_told(gone.value)
    assert not dataset.reader.skipped


def test_a_fault_stops_a_run_at_a_whole_checkpoint_and_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(8):
        noise = np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(noise).save(photos / f"{i}.png")

    def recipe(name: str) -> TokenizerRecipe:
        return tiny.tokenizer_recipe(
            tmp_path, data=Folder(photos), transform=Transform(CenterCrop(16), Flip()), measure=8,
            run=tiny.run(tmp_path / name, steps=5, save_every=2, batch_size=2, resume=True),
        )  # fmt: skip

    def train(name: str) -> None:
        command = SimpleNamespace(run=lambda *_: train_tokenizer(recipe(name)))
        monkeypatch.setitem(cli.COMMANDS, "train-tokenizer", command)
        cli.main(["train-tokenizer"])

    train("whole")
    read = Path.read_bytes
    with monkeypatch.context() as broken:
        reads = itertools.count()

        def fail(path: Path) -> bytes:
            if path.parent == photos and next(reads) > 8:
                raise OSError(errno.EIO, "Input/output error")
            return read(path)

        broken.setattr(Path, "read_bytes", fail)
        with pytest.raises(SystemExit) as stop:
            train("stopped")
    line, note = capsys.readouterr().err.strip().splitlines()[-2:]
    assert stop.value.code == 2
    assert re.search(r"calotype: .*/\d\.png cannot be read, tried 5 times: Input/output", line)
    assert re.search("newest checkpoint is of step 2: the same command goes on", note)
    assert [folder.name for folder in complete(tmp_path / "stopped/checkpoints")] == ["step-2"]
    train("stopped")
    for name in ("model-0", "optimizer-0", "ema"):
        one, other = (tiny.load_step(tmp_path / run, 5, name) for run in ("whole", "stopped"))
        assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


class Server:
    """Answers each path by what is told of it."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.answers: dict[str, Callable[[int], tuple[int, bytes, int]]] = {}
        served = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                served.asked[path] += 1
                answer = served.answers.get(path)
                status, body, length = answer(served.asked[path]) if answer else (404, b"", 0)
                self.send_response(status)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)
                if len(body) < length:
                    self.close_connection = True

            do_HEAD = do_GET  # noqa: N815 (as its base calls it)

            def log_message(self, *arguments: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def says(self, path: str, *answers: tuple[int, bytes, int]) -> str:
        """One answer after another, the last for ever; the URL."""
        self.asked.pop(path, None)
        self.answers[path] = lambda number: answers[min(number, len(answers)) - 1]
        return self.url + path


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    pytest.importorskip("aiohttp")
    served = Server()
    yield served
    served.http.shutdown()
    served.http.server_close()


def whole(body: bytes, status: int = 200) -> tuple[int, bytes, int]:
    return status, body, len(body)


BUSY, CUT = (500, b"", 0), (200, png()[:20], len(png()))


@pytest.mark.parametrize("first", [BUSY, (503, b"", 0), (429, b"", 0), CUT], ids=str)
def test_a_server_that_fails_is_asked_again(
    server: Server, pauses: list[float], first: tuple[int, bytes, int]
) -> None:
    url = server.says("/a.png", first, first, whole(png(7)))
    example = Record(url, url, "").decode()
    assert example["image"].getpixel((0, 0)) == (7, 7, 7) and pauses == [0.5, 2]
    url = server.says("/b.png", first)
    with pytest.raises(OSError, match=r"/b\.png cannot be read, tried 5 times") as fault:
        Record(url, url, "").decode()
    assert is_told(fault.value) and server.asked["/b.png"] == 5


def test_a_server_that_says_nothing_is_asked_again(
    server: Server, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "SILENCE", 0.2)
    woken = threading.Event()

    def answer(number: int) -> tuple[int, bytes, int]:
        if number < 2:
            woken.wait(5)
        return whole(png(9))

    server.answers["/slow.png"] = answer
    url = f"{server.url}/slow.png"
    assert Record(url, url, "").decode()["image"].getpixel((0, 0)) == (9, 9, 9)
    woken.set()
    assert pauses == [0.5]


def test_a_server_that_forbids_is_not_asked_again(server: Server, pauses: list[float]) -> None:
    url = server.says("/private.png", (403, b"", 0))
    with pytest.raises(OSError, match=r"private\.png cannot be read: 403"):
        Record(url, url, "").decode()
    assert not pauses


@pytest.mark.parametrize("status", [404, 410])
@pytest.mark.parametrize("workers", [0, 2])
def test_one_picture_that_is_not_there_obeys_the_policy(
    server: Server, pauses: list[float], status: int, workers: int
) -> None:
    urls = [server.says(f"/{i}.png", whole(png(i))) for i in range(3)]
    urls[1] = server.says("/gone.png", (status, b"", 0))
    records = [Record(url, url, str(i)) for i, url in enumerate(urls)]
    dataset = Pictures(records, Reader("skip", "some"))
    with pytest.warns(UserWarning, match=r"gone\.png: there is none"):
        batches = list(once(dataset, 4, workers=workers))
    assert [batch["caption"] for batch in batches] == [["0", "2"]] and not pauses
    assert list(dataset.reader.skipped) == [urls[1]]
    with pytest.raises(BrokenImage, match=r"gone\.png: there is none"):
        list(once(Pictures(records, Reader("stop", "some")), 4, workers=workers))


def test_a_bucket(server: Server, pauses: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    s3fs = pytest.importorskip("s3fs")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    for name, value in {"AWS_ENDPOINT_URL": server.url, "AWS_ACCESS_KEY_ID": "a",
                        "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "x",
                        "AWS_MAX_ATTEMPTS": "1"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    server.says("/bucket/a.png", BUSY, whole(png(5)))
    assert Record("s3://bucket/a.png", "a", "").decode()["image"].getpixel((0, 0)) == (5, 5, 5)
    with pytest.raises(BrokenImage, match=r"s3://bucket/gone\.png: there is none"):
        contents("s3://bucket/gone.png")
    fsspec.filesystem("s3").clear_instance_cache()


def test_urls_without_a_library_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(protocol: str) -> type:
        raise ImportError(f"Please install {protocol}fs")

    with pytest.raises(ValueError, match=r"nosuch://x: no such protocol, nosuch"):
        check("nosuch://x")
    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(ImportError, match=r'run pip install "calotype\[remote\]"') as error:
        Record("s3://bucket/a.png", "a", "").decode()
    assert is_told(error.value)
    with pytest.raises(ImportError, match="Please install gsfs"):
        check("gs://bucket/a.png")


KINDS = st.lists(st.sampled_from(["good", "broken", "gone"]), min_size=1, max_size=9)


@pytest.mark.parametrize("kind", ["folder", "records", "stream", "urls"])
@given(KINDS, st.integers(1, 4))
@settings(max_examples=15, deadline=None, suppress_health_check=[*HealthCheck])
def test_what_is_listed_is_read_or_skipped_and_nothing_twice(
    kind: str, server: Server, tmp_path_factory: pytest.TempPathFactory, kinds: list[str], size: int
) -> None:
    """One pass. What is gone is broken on a server; a file that went since it was listed stops."""
    root = tmp_path_factory.mktemp("pictures")
    contents = {"good": png(), "broken": png()[:30], "gone": png()}
    names = [str(root / f"{i}.png") for i in range(len(kinds))]
    for name, what in zip(names, kinds, strict=True):
        Path(name).write_bytes(contents[what])
    if kind == "folder":
        dataset = Folder(root).build()
    elif kind == "urls":
        answers = [(404, b"", 0) if what == "gone" else whole(contents[what]) for what in kinds]
        names = [server.says(f"/{i}.png", answer) for i, answer in enumerate(answers)]
        dataset = Pictures([Record(url, url, "") for url in names], Reader("skip", "urls"))
    else:
        files = [Path(name) if kind == "records" else contents[what]
                 for name, what in zip(names, kinds, strict=True)]  # fmt: skip
        records = [Record(file, name, "") for file, name in zip(files, names, strict=True)]
        made = Stream(Whole(lambda: iter(records)), Reader("skip", "stream"))
        dataset = made if kind == "stream" else Pictures(records, Reader("skip", "records"))
    gone = [name for name, what in zip(names, kinds, strict=True) if what == "gone"]
    refused = kind in ("folder", "records") and bool(gone)
    for name in gone if refused else ():
        Path(name).unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read: list[str] = []
        try:
            for batch in once(dataset, size):
                read += batch["name"]
                assert [names[row] for row in batch["row"]] == batch["name"]
        except FileNotFoundError as error:
            assert refused and str(error).startswith(gone[0])
            return
        except ValueError as error:
            assert not read and "can be read" in str(error)
    skipped = [*dataset.reader.skipped]
    good = {"good"} if kind != "stream" else {"good", "gone"}
    assert not refused and read == [n for n, k in zip(names, kinds, strict=True) if k in good]
    assert sorted(read + skipped) == sorted(names)
