"""How the pictures of an experiment look: colours, text sizes, and how they are written."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

# Okabe and Ito's colours: told apart by colour-blind eyes.
BLUE, ORANGE, GREEN, SKY = "#0072b2", "#e69f00", "#009e73", "#56b4e9"
VERMILION, PURPLE, YELLOW, BLACK = "#d55e00", "#cc79a7", "#f0e442", "#000000"
FROZEN, BAND, DARK = "#d9d9d9", "#f3f3f3", "#444444"

# The same phase has the same colour in every curriculum.
_PHASES = {"0": PURPLE, "1": SKY, "2a": ORANGE, "2b": GREEN, "3": BLUE}
_OTHERS = (VERMILION, YELLOW, BLACK)

_SETTINGS: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so that the texts fit everywhere
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.dpi": 120,
    "savefig.dpi": 120,
    "svg.fonttype": "path",  # texts as outlines, and in comments
    "svg.hashsalt": "espnet_part",  # ids that are random otherwise
}


@contextmanager
def style() -> Iterator[None]:
    """Drawing inside it looks the same, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def phase_colors(phases: Sequence[str]) -> dict[str, str]:
    """Phase -> colour; phases beyond the method's own share what colours are left."""
    unknown = [phase for phase in phases if phase not in _PHASES]
    spare = [*_OTHERS, *(color for name, color in _PHASES.items() if name not in phases)]
    return _PHASES | {name: spare[i % len(spare)] for i, name in enumerate(unknown)}


def save(figure: Figure, path: str | Path) -> Path:
    """Writes a figure as png or svg, by its name, whole or not at all; the same bytes each time."""
    path = Path(path)
    kind = path.suffix.removeprefix(".")
    if kind not in ("png", "svg"):
        raise ValueError(f"{path}: found the ending {path.suffix!r}, expected .png or .svg")
    # No date and no version inside: the same figure, the same file.
    metadata = {"Creator": "espnet_part", "Date": None} if kind == "svg" else {"Software": None}
    content = io.BytesIO()
    with style():
        figure.savefig(content, format=kind, metadata=metadata, facecolor="white")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content.getvalue())
    temporary.replace(path)
    return path
