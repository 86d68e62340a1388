"""Pictures are read by no more processes than there are cores for them."""

import pytest

import tiny
from calotype.commands import readers as module
from calotype.commands.readers import cores, readers
from calotype.data.reading.records import Reader
from calotype.data.streams import Stream, Whole


@pytest.mark.parametrize(("asked", "read"), [(0, 0), (2, 2), (4, 2)])
def test_there_is_a_core_for_each(asked, read, monkeypatch, capsys):
    monkeypatch.setattr(module, "cores", lambda: 2)
    assert readers(asked, tiny.SCENES.build()) == read
    said = "workers: 2 of the 4 asked for read" if read < asked else ""
    assert capsys.readouterr().err.startswith(said) and cores() >= 1


def test_what_waits_for_the_network_needs_none(monkeypatch):
    monkeypatch.setattr(module, "cores", lambda: 2)
    for local, read in ((True, 2), (False, 4)):
        stream = Stream(Whole(lambda: iter(())), Reader("stop", "here"), local=local)
        assert readers(4, stream) == read
