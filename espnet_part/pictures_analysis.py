"""Figures of a look inside, layer by layer: a line per phase, a column per curriculum.

Colors are Okabe and Ito's, and every line has a marker of its own too: figures read in gray and by
color-blind eyes. The background is white, also on a dark screen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from espnet_part.pictures_style import BAND, DARK, phase_colors, style

GRAY = "#777777"
MARKERS = ("X", "o", "s", "^", "D", "v", "P", "*")
PART_NAMES = {"encoder": "encoder layer", "adapter": "adapter", "llm": "LLM layer"}
# Quantity -> label of its axis.
PANELS = {
    "separation": "distance, ratio:\nbetween languages\n/ within a language",
    "parallel_ratio": "distance, ratio:\ntranslations\n/ other sentences",
    "mrr": "retrieval:\nmean reciprocal\nrank (at most 1)",
    "cka": "similarity to the\nphase before\n(linear CKA, at most 1)",
    "moved": "movement in the\nphase (% of the\nweights' norm)",
}


def draw_places(
    rows: Sequence[Mapping],
    places: Sequence[str],
    keys: Sequence[str],
    title: str = "",
    label: Callable[[Mapping], str] = lambda row: str(row["phase"]),
    marks: Mapping[str, Mapping[str, float]] | None = None,
) -> Figure | None:
    """Draws quantities over the places of a model, a line per phase.

    Args:
        rows: With ``curriculum``, ``place`` and the keys; a ``<key>_ci95`` of a
            curriculum's last phase becomes a band.
        places: In order, ``encoder.0``, ``adapter``, ``llm.1`` ...
        keys: A panel below the other for each; those without any value are left out.
        title: Line above.
        label: What line a row belongs to; "a → b" has the colour of b.
        marks: Key -> name of a line across -> its height.

    Returns:
        The figure; None where there is nothing to draw.
    """
    keys = [key for key in keys if any(row.get(key) is not None for row in rows)]
    if not keys:
        return None
    curricula = list(dict.fromkeys(row["curriculum"] for row in rows))
    lines = list(dict.fromkeys(label(row) for row in rows))
    with style():
        figure, grid = make_grid(len(keys), curricula, 1.2 + 0.215 * len(places), title)
        for i, key in enumerate(keys):
            for j, curriculum in enumerate(curricula):
                axes = grid[i][j]
                own = [r for r in rows if r["curriculum"] == curriculum and r.get(key) is not None]
                own = [row for row in own if row["place"] in places]
                _bands(axes, places, last=i == len(keys) - 1)
                for name, height in ((marks or {}).get(key) or {}).items():
                    axes.axhline(height, color=DARK, lw=1, ls=_dash(name), zorder=1)
                last = label(own[-1]) if own else None  # bands of all phases would be one blur
                for line in lines:
                    mine = [row for row in own if label(row) == line]
                    _line(axes, mine, places, key, line, lines, band=line == last)
            _scale(grid[i][0], key)
        seen = {name for key in keys for name in (marks or {}).get(key) or {}}
        _legend(figure, lines, sorted(seen))
    return figure


def make_grid(n_rows: int, curricula: Sequence[str], wide: float, title: str):
    """A figure with a column per curriculum, `wide` inches each, and its axes by row and column."""
    width = max(5.0, 0.9 + len(curricula) * wide)
    figure = Figure(figsize=(width, 1.1 + 2.15 * n_rows), layout="constrained")
    grid = figure.subplots(n_rows, len(curricula), sharey="row", sharex="col", squeeze=False)
    for axes, curriculum in zip(grid[0], curricula, strict=True):
        axes.set_title(curriculum)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.align_ylabels(list(grid[:, 0]))
    return figure, grid


def _bands(axes: Axes, places: Sequence[str], last: bool) -> None:
    """Parts as bands; numbers of layers below, names of parts below these."""
    parts = [place.partition(".")[0] for place in places]
    for part in dict.fromkeys(parts):
        start, end = parts.index(part) - 0.5, parts.index(part) + parts.count(part) - 0.5
        if part == "adapter":
            axes.axvspan(start, end, color=BAND, lw=0, zorder=0)
        if last:
            axes.annotate(
                PART_NAMES[part],
                ((start + end) / 2, 0),
                xycoords=("data", "axes fraction"),
                xytext=(0, -20),
                textcoords="offset points",
                ha="center",
                va="top",
            )
    step = 1 if len(places) <= 24 else 4
    numbers = [place.partition(".")[2] for place in places]
    shown = [i for i, n in enumerate(numbers) if n and int(n) % step == 0]
    axes.set_xticks(shown, [numbers[i] for i in shown])
    axes.set_xlim(-0.5, len(places) - 0.5)
    axes.grid(axis="y", color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)
    if last:  # room for the names of the parts
        axes.set_xlabel(" ")


def _line(axes: Axes, rows: Sequence[Mapping], places, key: str, line, lines, band: bool) -> None:
    """One phase's line, broken where the part of the model changes, with its band if wanted."""
    color, marker = _look(line, lines)
    by_place = {row["place"]: row for row in rows}
    factor = 100 if key == "moved" else 1
    for part in PART_NAMES:
        own = [i for i, place in enumerate(places) if place.partition(".")[0] == part]
        own = [i for i in own if places[i] in by_place]
        y = [factor * by_place[places[i]][key] for i in own]
        size = 7 if part == "adapter" else 5  # no line leads the eye to a lone marker
        axes.plot(own, y, color=color, marker=marker, ms=size, lw=1.4, mec="white", mew=0.5)
        bands = [by_place[places[i]].get(f"{key}_ci95") for i in own]
        if own and all(bands) and band:
            low, high = zip(*bands, strict=True)
            axes.fill_between(own, low, high, color=color, alpha=0.15, lw=0, zorder=2)


def _look(line: str, lines: Sequence[str]) -> tuple[str, str]:
    phases = [name.split(" ")[-1] for name in lines]
    phase = line.split(" ")[-1]
    color = GRAY if phase == "start" else phase_colors([p for p in phases if p != "start"])[phase]
    order = [name for name in lines if name != "start"]
    return color, MARKERS[0 if line == "start" else 1 + order.index(line) % (len(MARKERS) - 1)]


def _scale(axes: Axes, key: str) -> None:
    axes.set_ylabel(PANELS[key])
    if key == "mrr":
        axes.margins(y=0.15)
        axes.set_ylim(bottom=0)
    elif key == "moved":
        log_axis(axes)
    else:
        axes.margins(y=0.1)


def log_axis(axes: Axes) -> None:
    """Makes y logarithmic, with plain numbers at 1, 2 and 5."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _dash(name: str) -> str:
    return "--" if name == "clip length alone" else ":"


def _legend(figure: Figure, lines: Sequence[str], marks: Sequence[str]) -> None:
    handles = []
    for line in lines:
        color, marker = _look(line, lines)
        name = line if line == "start" or "→" in line else f"phase {line}"
        handles.append(Line2D([], [], color=color, marker=marker, ms=5, lw=1.4, label=name))
    for name in marks:
        handles.append(Line2D([], [], color=DARK, lw=1, ls=_dash(name), label=name))
    columns = max(2, int(figure.get_size_inches()[0] / 1.6))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(columns, len(handles)))
