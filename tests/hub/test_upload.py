"""What is sent to a Hub arrives whole, or one line says what to do, and doing it sends the rest."""

import json
from pathlib import Path

import huggingface_hub
import pytest

from calotype import mistakes
from calotype.training.upload import Destination, check_name, check_token, told, upload
from hub.server import OTHERS, READER, TOKEN, USER, Fault, State

REPO, AGAIN = f"{USER}/a-tokenizer", "run `calotype push` again"
CARD = "---\nlicense: mit\n---\n# A card\n"


@pytest.fixture
def folder(tmp_path) -> Path:
    root = tmp_path / "model"
    (root / "vae").mkdir(parents=True)
    (root / "README.md").write_text(CARD)
    (root / "config.json").write_text(json.dumps({"a": 1}))
    for i, name in enumerate(("one", "vae/two", "vae/three")):
        (root / f"{name}.safetensors").write_bytes(bytes([i]) * 5000)
    (root / ".calotype").write_text("ours")
    return root


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes()
            for file in folder.rglob("*") if file.is_file() and file.name[0] != "."}  # fmt: skip


def there(hub: State, revision: str = "main") -> dict[str, bytes]:
    found = hub.repositories[REPO].at(revision)
    assert found is not None
    return {path: blob.content for path, blob in found[1].items()}


def test_a_folder_arrives_whole(hub, folder):
    address = upload(folder, Destination(REPO, message="the first"), AGAIN)
    assert address == f"{huggingface_hub.constants.ENDPOINT}/{REPO}"
    assert there(hub) == files_of(folder) and hub.repositories[REPO].messages == ["the first"]


def test_sent_again_nothing_is(hub, folder):
    """And what is new alone, where some is."""
    upload(folder, Destination(REPO), AGAIN)
    sent = hub.sent
    upload(folder, Destination(REPO), AGAIN)
    assert hub.sent == sent == 15_000 and len(hub.repositories[REPO].messages) == 1
    (folder / "one.safetensors").write_bytes(b"x" * 700)
    upload(folder, Destination(REPO), AGAIN)
    assert hub.sent == sent + 700 and there(hub) == files_of(folder)


def test_a_branch(hub, folder):
    address = upload(folder, Destination(REPO, "v2"), AGAIN)
    assert address.endswith("/tree/v2") and there(hub) == {}
    assert there(hub, "v2") == files_of(folder)
    upload(folder, Destination(REPO, "v2"), AGAIN)  # that it is there is no mistake


def test_private_is_private(hub, folder):
    upload(folder, Destination(REPO, private=True), AGAIN)
    assert hub.repositories[REPO].private
    upload(folder, Destination(REPO, private=True), AGAIN)


def test_what_is_private_does_not_go_where_all_see_it(hub, folder):
    """The client itself takes an open repository that is there without a word."""
    upload(folder, Destination(REPO), AGAIN)
    (folder / "secret.json").write_text("{}")
    with pytest.raises(ValueError, match="is there and open to all: choose a new name"):
        upload(folder, Destination(REPO, private=True), AGAIN)
    assert "secret.json" not in there(hub)


PASSING = {
    "500 in the middle": Fault("PUT /lfs", 500, skip=1),
    "503 at a batch": Fault("POST .*/batch", 503, times=2),
    "429 in the middle": Fault("PUT /lfs", 429, headers={"Retry-After": "2"}),
    "a cut connection": Fault("PUT /lfs", 0, skip=1),
    "500 at the asking": Fault("POST .*/preupload", 500),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_waited_for(hub, folder, name):
    hub.faults.append(PASSING[name])
    upload(folder, Destination(REPO), AGAIN)
    assert there(hub) == files_of(folder) and not PASSING[name].times


LASTING = {
    "401": (Fault("POST .*/preupload", 401), "does not know the token"),
    "403": (Fault("POST .*/create|GET .*/a-tok", 403, times=9), "may not write to"),
    "403 at a batch": (Fault("POST .*/batch", 403), r"may not write to .*injected"),
    "409": (Fault("POST .*/commit", 409), "changed by somebody else at the same time"),
    "429": (Fault("POST .*/create", 429, headers={"Retry-After": "300"}), "to wait 300 seconds"),
    "429 to the end": (Fault("PUT /lfs", 429, 99, {"Retry-After": "7"}, 1), "to wait 7 seconds"),
    "500 to the end": (Fault("PUT /lfs", 500, 99, skip=2), "the Hub failed"),
    "500 at the commit": (Fault("POST .*/commit", 500), "the Hub failed"),
    "cut to the end": (Fault("PUT /lfs", 0, 99, skip=1), "the connection to http.* failed"),
    "cut at the commit": (Fault("POST .*/commit", 0), "the connection to http.* failed"),
}


@pytest.mark.parametrize("name", LASTING)
def test_what_lasts_is_one_line_and_done_again_sends_the_rest(hub, folder, name):
    fault, answer = LASTING[name]
    hub.faults.append(fault)
    with pytest.raises(OSError, match=answer) as caught:
        upload(folder, Destination(REPO), AGAIN)
    said = str(caught.value)
    assert mistakes.is_told(caught.value) and "\n" not in said and said.endswith(AGAIN)
    assert TOKEN not in said
    before, sent = len(hub.asked), hub.sent
    hub.faults.clear()
    upload(folder, Destination(REPO), AGAIN)
    assert there(hub) == files_of(folder) and hub.sent == 15_000
    puts = sum(request.startswith("PUT") for request in hub.asked[before:])
    assert puts == (15_000 - sent) // 5000  # those that had not arrived


def test_a_card_that_the_hub_does_not_take_is_one_line(hub, folder):
    (folder / "README.md").write_text("---\nlicense: my-own\n---\n")
    with pytest.raises(ValueError, match=r"does not take the card: .*license") as caught:
        upload(folder, Destination(REPO), AGAIN)
    assert "\n" not in str(caught.value) and there(hub) == {}


def test_whoever_stops_it_is_told_how_it_goes_on(hub, folder, monkeypatch, capsys):
    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", stopped)
    with pytest.raises(KeyboardInterrupt):
        upload(folder, Destination(REPO), AGAIN)
    assert AGAIN in capsys.readouterr().err


def test_a_token_is_good_before_work_begins(hub, monkeypatch):
    for repo in (REPO, f"{OTHERS}/x"):
        check_token(repo, AGAIN)
    with pytest.raises(ValueError, match=rf"stranger/x is stranger's.* of {USER}: .* or {OTHERS}"):
        check_token("stranger/x", AGAIN)
    with pytest.raises(ValueError, match="is for reading"):
        check_token(REPO, AGAIN, READER)
    with pytest.raises(OSError, match="does not know the token") as caught:
        check_token(REPO, AGAIN, "hf_nobody_s")
    assert "hf_nobody_s" not in str(caught.value)


def test_nobody_is_logged_in(hub, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(OSError, match="nobody is logged in to the Hub: run `hf auth login`"):
        check_token(REPO, AGAIN)


def test_a_token_that_libraries_quote_is_not_shown(hub):
    """Of one that no header can hold the client's library says which it is."""
    broken = "hf_secret\x00thing"
    with pytest.raises(OSError) as caught:
        check_token(REPO, AGAIN, broken)
    error = caught.value
    assert broken not in str(error) and error.__cause__ is None and error.__suppress_context__
    assert "hf_secret" not in str(error)


def test_a_token_in_words_of_nobody_knows_whom_is_not_shown(hub):
    for error in (RuntimeError(f"could not use {TOKEN}"), OSError("header Bearer hf_x")):
        with pytest.raises(OSError, match="the token is none") as caught, told(REPO, AGAIN):
            raise error
        assert TOKEN not in str(caught.value) and caught.value.__suppress_context__


def test_no_network_is_one_line(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(OSError, match=r"http://127\.0\.0\.1:9 does not answer"):
        check_token(REPO, AGAIN)


@pytest.mark.parametrize("name", ["a/b/c", "a b/c", "a/.b", "", "a/b--c"])
def test_names_that_are_none_are_refused(name):
    with pytest.raises(ValueError, match="names no repository: write user/name"):
        check_name(name)


def test_a_name_says_whose_it_is():
    with pytest.raises(ValueError, match="does not say whose"):
        check_name("alone")
    check_name("alone", owned=False)
    check_name("user/name")
