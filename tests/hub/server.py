"""The Hugging Face Hub in a thread, on the loopback alone: what its client asks of it, kept in
memory, and what goes wrong on the way.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN, READER, USER = "hf_the_secret_of_the_tests", "hf_reads_alone", "somebody"
OTHERS = "an-organisation"
LFS = (".safetensors", ".png")
"""Endings of what goes to large files' storage."""
PIPELINE_TAGS = {"text-to-image", "unconditional-image-generation", "image-to-image"}
LICENCES = {"apache-2.0", "mit", "cc-by-4.0", "openrail", "unknown", "other"}
"""Of each some that the Hub knows."""
DATASET = re.compile(r"^(?:[\w-]+/)?[\w.-]+$")


@dataclass(frozen=True)
class Blob:
    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        """As git has it; of a large file, of what points to it."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\n"
        held = pointer.encode() if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(held) + held).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid

    def entry(self, path: str) -> dict[str, Any]:
        large = {"oid": self.sha256, "size": len(self.content), "pointerSize": 130}
        found = {"type": "file", "path": path, "size": len(self.content), "oid": self.oid}
        return found | ({"lfs": large} if self.lfs else {})


Files = dict[str, Blob]


@dataclass
class Repository:
    private: bool
    branches: dict[str, list[Files]] = field(default_factory=lambda: {"main": [{}]})
    messages: list[str] = field(default_factory=list)

    def at(self, revision: str) -> tuple[str, Files] | None:
        """A commit's name and files."""
        for branch, commits in self.branches.items():
            for files in reversed(commits):
                if revision in (branch, name := commit_name(files)):
                    return name, files
        return None


def commit_name(files: Files) -> str:
    said = "".join(f"{path} {blob.oid}\n" for path, blob in sorted(files.items()))
    return hashlib.sha1(said.encode()).hexdigest()


@dataclass
class Fault:
    """What goes wrong with the next requests whose method and path match."""

    where: str
    status: int = 500
    """0: the connection is cut."""
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    skip: int = 0
    """Requests that go well before."""


@dataclass
class State:
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    """Requests, as `PUT /lfs/...`."""
    sent: int = 0
    """Bytes of large files that came in whole."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, request: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if re.search(fault.where, request) and fault.times:
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None


def card_errors(content: str) -> list[str]:
    """What the Hub's validation says of a card's front matter."""
    match = re.match(r"\s*---\r?\n([\S\s]*?)\r?\n---\s*(\r?\n|$)", content)
    try:
        data = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError as error:
        return [str(error)]
    if not isinstance(data, dict):
        return ["metadata is no mapping"]
    wrong = []
    if (licence := data.get("license")) is not None and licence not in LICENCES:
        wrong.append(f'"license" must be one of {sorted(LICENCES)}')
    if licence == "other" and not isinstance(data.get("license_name"), str):
        wrong.append('"license_name" is required where "license" is other')
    if (tag := data.get("pipeline_tag")) is not None and tag not in PIPELINE_TAGS:
        wrong.append(f'"pipeline_tag" must be one of {sorted(PIPELINE_TAGS)}')
    for name in ("library_name", "license_name", "license_link"):
        if name in data and not isinstance(data[name], str):
            wrong.append(f'"{name}" must be a string')
    for name in ("tags", "datasets"):
        values = data.get(name, [])
        if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
            wrong.append(f'"{name}" must be a list of strings')
    return wrong + [each for model in data.get("model-index", []) for each in _of_model(model)]


def _of_model(model: Any) -> Iterator[str]:
    if not isinstance(model.get("name"), str) or not isinstance(model.get("results"), list):
        yield '"model-index" wants a name and results'
        return
    for result in model["results"]:
        if not isinstance(result.get("task", {}).get("type"), str):
            yield '"task.type" is required'
        dataset = result.get("dataset", {})
        if not isinstance(dataset.get("name"), str):
            yield '"dataset.name" is required'
        if not DATASET.match(str(dataset.get("type", " "))):
            yield f'"dataset.type" fails to match the required pattern: {DATASET.pattern}'
        for metric in result.get("metrics", [{}]):
            if not isinstance(metric.get("type"), str) or "value" not in metric:
                yield '"metrics" want a type and a value'


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: State

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.handle_one()

    def do_GET(self) -> None:
        self.handle_one()

    def do_POST(self) -> None:
        self.handle_one()

    def do_PUT(self) -> None:
        self.handle_one()

    def handle_one(self) -> None:
        path = unquote(urlsplit(self.path).path)
        request = f"{self.command} {path}"
        self.state.asked.append(request)
        fault = self.state.fault(request)
        if fault and fault.status == 0:
            # In the middle of what is sent.
            self.rfile.read(min(100, int(self.headers.get("Content-Length", 0))))
            self.close_connection = True
            self.connection.close()
            return
        length = self.headers.get("Content-Length")
        body = self.rfile.read(int(length)) if length else self._chunks()
        if fault:
            self.answer({"error": "injected"}, fault.status, fault.headers)
            return
        for method, pattern, work in ROUTES:
            if method == self.command and (match := re.fullmatch(pattern, path)):
                work(self, body, *match.groups())
                return
        self.answer({"error": f"no route {request}"}, 404)

    def _chunks(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return b""
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def answer(
        self, value: Any, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:  # fmt: skip
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        said = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        for name, text in {**said, **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    @property
    def token(self) -> str | None:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

    def may(self, name: str, write: bool = False) -> Repository | None:
        """A repository, if whoever asks may see it, or write to it; else the answer is given."""
        found = self.state.repositories.get(name)
        if found is None or (found.private and self.token not in (TOKEN, READER)):
            refused = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
            self.answer({"error": "Repository not found"}, 404 if self.token else 401, refused)
            return None
        if write and self.token != TOKEN:
            self.answer({"error": "no right to write"}, 403 if self.token else 401)
            return None
        return found

    # What is asked

    def root(self, body: bytes) -> None:
        self.answer({})

    def whoami(self, body: bytes) -> None:
        if self.token not in (TOKEN, READER):
            refused = {"X-Error-Message": "Invalid credentials in Authorization header"}
            self.answer({"error": "Invalid credentials"}, 401, refused)
            return
        role = "read" if self.token == READER else "write"
        self.answer({"type": "user", "name": USER, "orgs": [{"name": OTHERS}],
                     "auth": {"accessToken": {"role": role}}})  # fmt: skip

    def validate(self, body: bytes) -> None:
        wrong = card_errors(json.loads(body)["content"])
        said = {"errors": [{"message": each} for each in wrong], "warnings": []}
        self.answer(said, 400 if wrong else 200)

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        if self.token != TOKEN:
            self.answer({"error": "no right to make one"}, 403 if self.token else 401)
            return
        name = f"{asked.get('organization') or USER}/{asked['name']}"
        url = {"url": f"http://{self.headers['Host']}/{name}", "name": name}
        if name in self.state.repositories:
            self.answer({"error": "You already created this model repo", **url}, 409)
            return
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.state.repositories[name] = Repository(private)
        self.answer(url)

    def branch(self, body: bytes, name: str, branch: str) -> None:
        if (found := self.may(name, write=True)) is None:
            return
        if branch in found.branches:
            self.answer({"error": "Reference already exists"}, 409)
            return
        found.branches[branch] = [found.branches["main"][-1]]
        self.answer({})

    def info(self, body: bytes, name: str, revision: str = "main") -> None:
        if (found := self.may(name)) is None:
            return
        if (at := found.at(revision)) is None:
            self.answer({"error": "no such revision"}, 404, {"X-Error-Code": "RevisionNotFound"})
            return
        sha, files = at
        self.answer({"id": name, "sha": sha, "private": found.private, "tags": ["diffusers"],
                     "siblings": [{"rfilename": path} for path in files]})  # fmt: skip

    def tree(self, body: bytes, name: str, revision: str, under: str | None = None) -> None:
        if (found := self.may(name)) is None or (at := found.at(revision)) is None:
            return
        folder = (under or "").strip("/")
        inside = {path: blob for path, blob in at[1].items() if path.startswith(folder)}
        self.answer([blob.entry(path) for path, blob in inside.items()])

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        if (found := self.may(name, write=True)) is None:
            return
        if (at := found.at(revision)) is None:
            self.answer({"error": "no such revision"}, 404, {"X-Error-Code": "RevisionNotFound"})
            return

        def told(path: str) -> dict[str, Any]:
            there, large = at[1].get(path), path.endswith(LFS)
            return {"path": path, "uploadMode": "lfs" if large else "regular",
                    "shouldIgnore": False, "oid": there.etag if there else None}  # fmt: skip

        self.answer({"files": [told(each["path"]) for each in json.loads(body)["files"]]})

    def batch(self, body: bytes, name: str) -> None:
        if self.may(name, write=True) is None:
            return
        objects = json.loads(body)["objects"]
        for each in objects:
            if each["oid"] not in self.state.large:
                href = f"http://{self.headers['Host']}/lfs/{each['oid']}"
                each["actions"] = {"upload": {"href": href},
                                   "verify": {"href": f"{href}/verify"}}  # fmt: skip
        self.answer({"transfer": "basic", "objects": objects})

    def store(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            self.answer({"error": "content is not what was announced"}, 400)
            return
        with self.state.lock:
            self.state.large[oid] = body
            self.state.sent += len(body)
        self.answer({})

    def verify(self, body: bytes, oid: str) -> None:
        whole = len(self.state.large.get(oid, b"")) == json.loads(body)["size"]
        self.answer({}, 200 if whole else 400)

    def commit(self, body: bytes, name: str, revision: str) -> None:
        if (found := self.may(name, write=True)) is None:
            return
        files = dict(found.branches[revision][-1])
        for line in body.splitlines():
            said = json.loads(line)
            kind, value = said["key"], said["value"]
            if kind == "header":
                found.messages.append(value["summary"])
            elif kind == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif kind == "lfsFile":
                if value["oid"] not in self.state.large:
                    self.answer({"error": "a large file is missing"}, 400)
                    return
                files[value["path"]] = Blob(self.state.large[value["oid"]], True)
        found.branches[revision].append(files)
        url = f"http://{self.headers['Host']}/{name}/commit/{commit_name(files)}"
        self.answer({"commitUrl": url, "commitOid": commit_name(files)})

    def resolve(self, body: bytes, name: str, revision: str, path: str) -> None:
        if (found := self.may(name)) is None:
            return
        if (at := found.at(revision)) is None or path not in at[1]:
            code = "EntryNotFound" if at else "RevisionNotFound"
            told = {"X-Error-Code": code} | ({"X-Repo-Commit": at[0]} if at else {})
            self.answer({"error": "not there"}, 404, told)
            return
        blob = at[1][path]
        told = {"X-Repo-Commit": at[0], "ETag": f'"{blob.etag}"',
                "X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.content)),
                "Content-Type": "application/octet-stream"}  # fmt: skip
        self.answer(blob.content, headers=told)


NAME = r"([^/]+/[^/]+)"
ROUTES = (
    ("HEAD", "/?", Handler.root),
    ("GET", "/api/whoami-v2", Handler.whoami),
    ("POST", "/api/validate-yaml", Handler.validate),
    ("POST", "/api/repos/create", Handler.create),
    ("POST", f"/api/models/{NAME}/branch/(.+)", Handler.branch),
    ("GET", f"/api/models/{NAME}", Handler.info),
    ("GET", f"/api/models/{NAME}/revision/(.+)", Handler.info),
    ("GET", f"/api/models/{NAME}/tree/([^/]+)(/.*)?", Handler.tree),
    ("POST", f"/api/models/{NAME}/preupload/(.+)", Handler.preupload),
    ("POST", f"/{NAME}[.]git/info/lfs/objects/batch", Handler.batch),
    ("PUT", "/lfs/([0-9a-f]+)", Handler.store),
    ("POST", "/lfs/([0-9a-f]+)/verify", Handler.verify),
    ("POST", f"/api/models/{NAME}/commit/(.+)", Handler.commit),
    ("HEAD", f"/{NAME}/resolve/([^/]+)/(.+)", Handler.resolve),
    ("GET", f"/{NAME}/resolve/([^/]+)/(.+)", Handler.resolve),
)


@contextmanager
def serving() -> Iterator[tuple[str, State]]:
    """The address of a Hub that is up while this is entered, and what it holds."""
    state = State()
    handler = type("OfThisHub", (Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
