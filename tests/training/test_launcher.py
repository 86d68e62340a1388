"""What a launcher asks for and would not get is refused."""

import os

import pytest

from calotype.training import Run
from calotype.training.distributed import processes
from calotype.training.start import started


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("ACCELERATE_USE_FSDP", "true", "asks for FSDP version 1, .* --fsdp_version 2"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "asks for DeepSpeed"),
        ("ACCELERATE_USE_MEGATRON_LM", "1", "asks for Megatron-LM"),
        ("ACCELERATE_MIXED_PRECISION", "fp16", "give --run.precision fp16"),
    ],
)
def test_bug_what_was_asked_of_the_launcher_was_ignored(name, value, line, monkeypatch):
    """FSDP trained and then saved half of the numbers; the others did nothing at all."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=line):
        processes()


@pytest.mark.parametrize("value", ["no", ""])
def test_what_launchers_say_by_default_is_no_mistake(value, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", value)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    assert processes().num_processes == 1


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("FSDP_VERSION", "1", "asks for FSDP version 1"),
        ("FSDP_OFFLOAD_PARAMS", "true", "--fsdp_offload_params false"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "give --gradient-checkpointing"),
        ("FSDP_TRANSFORMER_CLS_TO_WRAP", "Block", "asks for fsdp_transformer_cls_to_wrap Block"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "asks for parallelism_config"),
    ],
)
def test_what_fsdp_is_asked_for_besides_is_refused(name, value, line, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=line):
        processes()


@pytest.mark.parametrize(
    ("changes", "line"),
    [({"precision": "fp16"}, "choose bf16 or fp32"), ({"compile": True}, "--run.no-compile")],
)
def test_runs_that_fsdp_does_not_do_are_refused_before_their_folder(
    changes, line, monkeypatch, tmp_path
):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    run = Run(tmp_path / "run", **changes)
    with pytest.raises(ValueError, match=line), started(run, None, dict, ""):
        pass
    assert not run.out.exists()


def test_fsdp_wants_a_torch_that_writes_its_parts(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setattr("calotype.training.launcher.TORCH", "99")
    with pytest.raises(ValueError, match="needs torch 99 or later"):
        processes()


def test_every_process_reads_its_own_weights_under_fsdp(monkeypatch):
    """transformers would leave those of all but the first empty."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    processes()
    assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"
