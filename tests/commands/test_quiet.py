"""What is warned of on a terminal is a line, without the source that warns."""

import logging
import warnings

import pytest

from calotype.commands import quiet
from calotype.commands.quiet import ignore_warnings


def shown(filename: str) -> str:
    return warnings.formatwarning(UserWarning("look\n  here"), UserWarning, filename, 3, "code()")


def test_ours_are_told_in_a_line_and_others_as_they_are(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    with warnings.catch_warnings():
        ignore_warnings()
        assert shown(str(quiet.PACKAGE / "commands/export.py")) == "calotype: look here\n"
        assert "/elsewhere/data.py:3: UserWarning" in shown("/elsewhere/data.py")


@pytest.mark.parametrize(("name", "said"), quiet.SAFE.items())
def test_only_what_is_of_no_use_is_left_out(name, said, monkeypatch):
    quiet.quiet()
    logger, heard = logging.getLogger(name), []
    monkeypatch.setattr(logger, "callHandlers", lambda record: heard.append(record.msg))
    logger.warning(f"{said} CLIPTextModel")
    logger.warning("this is another")
    assert heard == ["this is another"]
