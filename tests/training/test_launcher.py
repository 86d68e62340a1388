"""What a launcher asks for and would not get is refused."""

import pytest

from calotype.training.distributed import processes


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        (
            "ACCELERATE_USE_FSDP",
            "true",
            "asks for FSDP, which calotype does not do: launch without",
        ),
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
