"""history.jsonl: a line for each start, whole at any time, with what only the machine knows."""

import json
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import tiny
from calotype.training import AdamW, Batch, Interrupted, Losses, Objective, energy, fit, log
from calotype.training.history import HISTORY, MOST_WARNINGS, History, read


class Noisy(Objective):
    """Minimise w; says what it is told to, and is not finite at some steps."""

    def __init__(self, bad: tuple[int, ...] = ()) -> None:
        super().__init__(AdamW(0.1))
        self.w, self.bad = torch.nn.Parameter(torch.zeros(1)), bad

    def forward(self, batch: Batch, step: int) -> Losses:
        return {"height": self.w.sum() * (float("nan") if step in self.bad else 1.0)}

    def warning(self) -> str:
        return "codes are dying"


def train(run, watch=None, bad: tuple[int, ...] = ()) -> None:
    rows = tiny.Repeating({"x": torch.zeros(2, 1)}, run.batch_size)
    fit([Noisy(bad)], rows, run, watch)


def test_each_start_adds_a_line_and_says_what_came_of_it(tmp_path):
    run = tiny.run(tmp_path, steps=4, sample_every=2, save_every=2)
    train(run, bad=(1,))
    train(tiny.run(tmp_path, steps=6, sample_every=2, resume=True))
    first, second = read(tmp_path)
    assert (first["first"], first["last"]) == (0, 4)
    assert (second["first"], second["last"]) == (4, 6)
    assert first["warnings"] == [
        [1, "height not finite; step skipped (1 so far)"],
        [2, "codes are dying"], [4, "codes are dying"],
    ]  # fmt: skip
    assert (first["skipped"], second["skipped"]) == (1, 0)
    assert first.keys() == second.keys() == {
        "began", "device", "processes", "precision", "versions", "first", "last", "seconds",
        "images_per_second", "warnings", "skipped", "energy_joules",
    }  # fmt: skip
    assert first["precision"] == "fp32" and first["processes"] == 1
    assert first["versions"]["torch"] == str(torch.__version__)
    assert first["began"].endswith("+00:00") and first["seconds"] > 0
    assert second["images_per_second"] > 0


def test_what_begins_anew_has_no_past(tmp_path):
    """A run that was killed before it saved anything begins again at its first step."""
    train(tiny.run(tmp_path))
    train(tiny.run(tmp_path))
    assert len(read(tmp_path)) == 1


def test_it_is_written_while_training_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "SHOWN_EVERY", 0.0)
    seen: list[tuple[int, bool]] = []
    train(tiny.run(tmp_path, steps=3),
          lambda at_once: seen.append((read(tmp_path)[-1]["last"], at_once)))  # fmt: skip
    assert seen == [(0, True), (1, False), (2, False), (3, False), (3, True)]


def test_a_run_that_is_stopped_says_how_far_it_came(tmp_path):
    class Stopping(Noisy):
        def forward(self, batch: Batch, step: int) -> Losses:
            if step == 2:
                signal.raise_signal(signal.SIGTERM)
            return super().forward(batch, step)

    with pytest.raises(Interrupted):
        fit([Stopping()], tiny.Repeating({"x": torch.zeros(2, 1)}, 4), tiny.run(tmp_path, steps=9))
    (line,) = read(tmp_path)
    assert line["last"] == 3


def test_a_mishap_of_who_watches_ends_no_run(tmp_path, monkeypatch, capfd):
    """And is told once."""
    monkeypatch.setattr(log, "SHOWN_EVERY", 0.0)

    def watch(at_once: bool) -> None:
        raise OSError("no room")

    train(tiny.run(tmp_path, steps=3), watch)
    assert capfd.readouterr().err.count("could not be written: OSError('no room')") == 1
    assert (tmp_path / "checkpoints/step-3").exists()


def test_of_very_many_warnings_the_last_are_kept(tmp_path):
    history = History(tmp_path, "fp32", 0)
    for step in range(MOST_WARNINGS + 5):
        history.warn(step, "again")
    history.write(200, 0.0)
    kept = read(tmp_path)[0]["warnings"]
    assert len(kept) == MOST_WARNINGS and kept[-1] == [MOST_WARNINGS + 4, "again"]


def counters(root: Path, *values: int) -> None:
    for i, value in enumerate(values):
        folder = root / f"intel-rapl:{i}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "name").write_text(f"package-{i}\n")
        (folder / "max_energy_range_uj").write_text("9999999\n")
        (folder / "energy_uj").write_text(f"{value}\n")


def test_energy_is_that_of_all_packages_though_their_counters_turn_over(tmp_path, monkeypatch):
    counters(tmp_path, 1_000_000, 9_000_000)
    for name, said in (("intel-rapl:0:0", "core"), ("intel-rapl:9", "psys")):  # parts, and all
        counters(tmp_path / "other", 5)
        (tmp_path / "other/intel-rapl:0").rename(tmp_path / name)
        (tmp_path / name / "name").write_text(said)
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    history = History(tmp_path, "fp32", 0)
    counters(tmp_path, 3_000_000, 1_000_000)
    history.write(1, 0.0)
    assert read(tmp_path)[0]["energy_joules"] == pytest.approx(2.0 + 2.0, abs=1e-3)


def test_energy_that_cannot_be_read_is_not_guessed(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "nothing")
    History(tmp_path, "fp32", 0).write(1, 0.0)
    assert json.loads((tmp_path / HISTORY).read_text())["energy_joules"] is None


class Driver:
    """NVML as it answers a program: two cards that count millijoules."""

    def __init__(self) -> None:
        self.drawn = {b"GPU-one": 5_000, b"GPU-two": 7_000}
        self.names = list(self.drawn)

    def nvmlInit_v2(self) -> int:  # noqa: N802 (the driver's name)
        return 0

    def nvmlDeviceGetHandleByUUID(self, name: bytes, handle) -> int:  # noqa: N802
        handle._obj.value = self.names.index(name) + 1
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle, value) -> int:  # noqa: N802
        value._obj.value = self.drawn[self.names[handle.value - 1]]
        return 0


def test_energy_of_gpus_is_what_their_driver_counts(monkeypatch):
    driver = Driver()
    monkeypatch.setattr(energy.ctypes, "CDLL", lambda name: driver)
    monkeypatch.setattr("torch.cuda.get_device_properties",
                        lambda index: SimpleNamespace(uuid=("one", "two")[index]))  # fmt: skip
    monkeypatch.setattr(energy, "own_device", lambda: torch.device("cuda", 1))
    meter = energy.meter()
    assert meter
    driver.drawn[b"GPU-one"] += 1_000
    driver.drawn[b"GPU-two"] += 2_500
    assert meter.joules() == 2.5, "the card of this run alone"
    monkeypatch.setattr(Driver, "nvmlDeviceGetTotalEnergyConsumption", lambda *a: 3)
    assert energy.meter() is None, "a card that does not count it"
