"""What a launcher asks for and would not get is refused."""

import os

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

from calotype.training import Run
from calotype.training.distributed import processes
from calotype.training.launcher import check_launcher
from calotype.training.start import started


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("ACCELERATE_USE_FSDP", "true", "asks for FSDP version 1, .* --fsdp_version 2"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "asks for DeepSpeed"),
        ("ACCELERATE_USE_MEGATRON_LM", "1", "asks for Megatron-LM"),
        ("ACCELERATE_MIXED_PRECISION", "fp16", "give --run.precision fp16"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "dynamo_backend INDUCTOR: .*--run.compile"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "steps 4: .*--run.micro-batch"),
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
        ("FSDP_AUTO_WRAP_POLICY", "SIZE_BASED_WRAP", "fsdp_auto_wrap_policy SIZE_BASED_WRAP"),
        ("FSDP_AUTO_WRAP_POLICY", "NO_WRAP", "fsdp_auto_wrap_policy NO_WRAP"),
        ("FSDP_SHARDING_STRATEGY", "HYBRID_SHARD", "launch with FULL_SHARD"),
        ("FSDP_RESHARD_AFTER_FORWARD", "shard_grad_op", "launch with true or false"),
        ("FSDP_STATE_DICT_TYPE", "FULL_STATE_DICT", "launch with SHARDED_STATE_DICT"),
        ("FSDP_BACKWARD_PREFETCH", "BACKWARD_POST", "launch with BACKWARD_PRE"),
        ("FSDP_BACKWARD_PREFETCH", "NO_PREFETCH", "launch with BACKWARD_PRE"),
        ("FSDP_FORWARD_PREFETCH", "true", "--fsdp_forward_prefetch false"),
        ("FSDP_USE_ORIG_PARAMS", "false", "--fsdp_use_orig_params true"),
        ("FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD", "true", "_checkpointing_offload false"),
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
    "flags",
    ["", "--fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP --fsdp_backward_prefetch BACKWARD_PRE "
     "--fsdp_state_dict_type SHARDED_STATE_DICT --fsdp_reshard_after_forward false "
     "--fsdp_sync_module_states true --fsdp_min_num_params 7 --dynamo_backend no"],
)  # fmt: skip
def test_what_means_what_is_done_passes(flags, monkeypatch):
    """Flags, and what `accelerate launch` says of those that are not given."""
    said = f"--use_fsdp --fsdp_version 2 --mixed_precision no {flags} script.py".split()
    given, *_ = _validate_launch_command(launch_command_parser().parse_args(said))
    for name, value in prepare_multi_gpu_env(given).items():
        if name.startswith(("FSDP_", "ACCELERATE_")):
            monkeypatch.setenv(name, value)
    check_launcher()


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
