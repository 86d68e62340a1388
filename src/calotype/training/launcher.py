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
DONE_IN_FSDP = {
    "FSDP_AUTO_WRAP_POLICY": (("transformer_based_wrap",), "launch without it: blocks of networks "
                              "are gathered together"),
    "FSDP_SHARDING_STRATEGY": (("full_shard", "1"), "launch with FULL_SHARD, and "
                               "--fsdp_reshard_after_forward false to gather once a step"),
    "FSDP_RESHARD_AFTER_FORWARD": (("true", "1", "yes", "y", "on", "t", "false", "0", "no", "n",
                                    "off", "f"), "launch with true or false"),
    "FSDP_STATE_DICT_TYPE": (("sharded_state_dict", "3"), "launch with SHARDED_STATE_DICT: each "
                             "process writes its share, and a run ends in a whole model"),
    "FSDP_BACKWARD_PREFETCH": (("backward_pre", "1"), "launch with BACKWARD_PRE, or without it"),
    "FSDP_FORWARD_PREFETCH": (("false", "0", "no"), "launch with --fsdp_forward_prefetch false"),
    "FSDP_USE_ORIG_PARAMS": (("true", "1", "yes"), "launch with --fsdp_use_orig_params true"),
    "FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD": (("false", "0", "no"), "launch with "
                                              "--fsdp_activation_checkpointing_offload false"),
}  # fmt: skip
"""By Accelerate's variable: which values ask for what calotype does, and the mend of others. Of
what is not here nothing depends: FSDP_SYNC_MODULE_STATES (all begin with the main process's
weights), FSDP_MIN_NUM_PARAMS (of another policy)."""
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
    _check_computation()


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
    for name, (done, mend) in DONE_IN_FSDP.items():
        value = os.environ.get(name, "").strip()
        # A flag that was not given arrives as Python writes None.
        if value.lower() not in (*done, "", "none"):
            raise ValueError(
                f"the launcher asks for {name.lower()} {value}, which calotype does not do: {mend}"
            )
    if not accelerate.utils.is_torch_version(">=", TORCH):
        raise ValueError(
            f"the launcher asks for FSDP, for which calotype needs torch {TORCH} or later: update "
            "torch, or launch without --use_fsdp"
        )
    # Each process reads its own weights, and the main one's count: what it saves is no need here.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"


def _check_computation() -> None:
    dynamo = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "").strip() or "no"
    if dynamo.lower() != "no":
        raise ValueError(
            f"the launcher asks for torch.compile by dynamo_backend {dynamo}: launch with "
            "--dynamo_backend no, and give --run.compile"
        )
    parts = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "").strip() or "1"
    if parts != "1":
        raise ValueError(
            f"the launcher asks for gradient_accumulation_steps {parts}: launch without it "
            "(ACCELERATE_GRADIENT_ACCUMULATION_STEPS), and give --run.micro-batch"
        )
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no") or "no"
    if precision != "no":
        raise ValueError(
            f"the launcher asks for mixed precision {precision}: launch with --mixed_precision no, "
            f"and give --run.precision {precision} (of other verbs --precision)"
        )


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "y", "on", "t")
