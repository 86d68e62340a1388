"""What a launcher asks of a run by its environment, and calotype would not do: it is refused."""

import os

from calotype.lazy import accelerate

NOT_HERE = {
    "ACCELERATE_USE_DEEPSPEED": ("DeepSpeed", "launch without --use_deepspeed"),
    "ACCELERATE_USE_MEGATRON_LM": ("Megatron-LM", "launch without --use_megatron_lm"),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("parallelism_config", "launch without it"),
}  # fmt: skip
"""By Accelerate's variable: what it asks for, and the mend."""
NOT_IN_FSDP = {
    "FSDP_OFFLOAD_PARAMS": ("weights on the CPU", "launch with --fsdp_offload_params false"),
    "FSDP_ACTIVATION_CHECKPOINTING": (
        "activation checkpointing", "launch with --fsdp_activation_checkpointing false, and give "
        "--gradient-checkpointing where a recipe has it",
    ),
}  # fmt: skip
"""The same of FSDP."""
CHOSEN_HERE = ("FSDP_TRANSFORMER_CLS_TO_WRAP", "FSDP_IGNORED_MODULES")
"""Of FSDP what calotype chooses itself."""
TORCH = "2.9"
"""From which on torch writes checkpoints in parts without pickling."""


def check_launcher() -> None:
    """See that nothing is asked for that would be ignored, or whose weights would be saved in part.

    Raises:
        ValueError: something is.
    """
    asked = {**NOT_HERE, **(NOT_IN_FSDP if asks_for_shares() else {})}
    for name, (what, mend) in asked.items():
        if _is_on(name):
            raise ValueError(f"the launcher asks for {what}, which calotype does not do: {mend}")
    if asks_for_shares():
        _check_fsdp()
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no") or "no"
    if precision != "no":
        raise ValueError(
            f"the launcher asks for mixed precision {precision}: launch with --mixed_precision no, "
            f"and give --run.precision {precision} (of other verbs --precision)"
        )


def asks_for_shares() -> bool:
    """Whether each process is to hold a share of the weights: by FSDP."""
    return _is_on("ACCELERATE_USE_FSDP")


def check_shares(precision: str, compiled: bool) -> None:
    """See that a run can be trained by FSDP, if that is asked for.

    Raises:
        ValueError: it cannot.
    """
    if asks_for_shares() and precision == "fp16":
        raise ValueError(
            "run.precision is fp16, whose losses are scaled, which calotype does not do under "
            "FSDP: choose bf16 or fp32, or launch without --use_fsdp"
        )
    if asks_for_shares() and compiled:
        raise ValueError(
            "run.compile compiles whole networks, which FSDP gathers block by block: choose "
            "--run.no-compile, or launch without --use_fsdp"
        )


def _check_fsdp() -> None:
    if (version := os.environ.get("FSDP_VERSION", "1")) != "2":
        raise ValueError(
            f"the launcher asks for FSDP version {version}, which calotype does not do: launch "
            "with --fsdp_version 2 (examples/cluster/fsdp.yaml)"
        )
    for name in CHOSEN_HERE:
        if chosen := os.environ.get(name):
            raise ValueError(
                f"the launcher asks for {name.lower()} {chosen}, and calotype itself chooses what "
                "is gathered together: launch without it"
            )
    if not accelerate.utils.is_torch_version(">=", TORCH):
        raise ValueError(
            f"the launcher asks for FSDP, for which calotype needs torch {TORCH} or later: update "
            "torch, or launch without --use_fsdp"
        )
    # Each process reads its own weights, and the main one's count: what it saves is no need here.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "y", "on", "t")
