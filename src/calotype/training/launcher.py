"""What a launcher asks of a run by its environment, and calotype would not do: it is refused."""

import os

NOT_HERE = {
    "ACCELERATE_USE_DEEPSPEED": ("DeepSpeed", "launch without --use_deepspeed"),
    "ACCELERATE_USE_MEGATRON_LM": ("Megatron-LM", "launch without --use_megatron_lm"),
    "ACCELERATE_USE_FSDP": ("FSDP", "launch without --use_fsdp: each process holds the whole model "
                            "and its gradients are averaged (DDP)"),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("parallelism_config", "launch without it"),
}  # fmt: skip
"""By Accelerate's variable: what it asks for, and the mend."""


def check_launcher() -> None:
    """See that nothing is asked for that would be ignored, or whose weights would be saved in part.

    Raises:
        ValueError: something is.
    """
    for name, (what, mend) in NOT_HERE.items():
        if _is_on(os.environ.get(name, "")):
            raise ValueError(f"the launcher asks for {what}, which calotype does not do: {mend}")
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no") or "no"
    if precision != "no":
        raise ValueError(
            f"the launcher asks for mixed precision {precision}: launch with --mixed_precision no, "
            f"and give --run.precision {precision} (of other verbs --precision)"
        )


def _is_on(value: str) -> bool:
    return value.strip().lower() in ("1", "true", "yes", "y", "on", "t")
