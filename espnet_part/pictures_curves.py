"""The learning curves of all phases of a curriculum, one after the other, in one figure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from espnet_part.pictures_style import BAND, BLUE, DARK, VERMILION, style

# Key of the history -> label of its panel.
PANELS = {
    "loss": "loss\n(nats per token)",
    "acc": "accuracy\n(of target tokens)",
    "listen": "listening: loss with\nthe wrong audio,\nminus with the right",
    "transport": "transport cost,\nspeech to transcript\n(per row)",
}
SPLITS = {"train": ("train", BLUE), "valid": ("dev", VERMILION)}
_NARROW = 0.04  # of the width: room for a phase's name


def read_curves(folder: Path, phases: Sequence[str]) -> dict[str, list[dict]]:
    """Reads images/curves.json of each phase that has one with any point in it.

    Args:
        folder: The curriculum's, `exp/<tag>/<curriculum>`.
        phases: Their names, in order.

    Raises:
        ValueError: A file that is no list of points.
    """
    curves = {}
    for phase in phases:
        path = folder / f"phase{phase}" / "images" / "curves.json"
        if not path.is_file():
            continue
        try:
            history = json.loads(path.read_text(encoding="utf-8"))
            points = [point for point in history if point["step"] > 0 and point["split"] in SPLITS]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}: expected a list of points with step and split") from error
        if points:
            curves[phase] = points
    return curves


def draw_curves(curves: Mapping[str, Sequence[Mapping]], title: str = "") -> Figure:
    """Draws loss, accuracy, listening and transport over the optimizer steps of all phases.

    A phase starts where the one before it ended. Lines break there: phases differ in what they
    train on.

    Args:
        curves: Phase -> points, as `draw_curves` of progress.py writes them; not empty.
        title: Line above.
    """
    panels = {
        key: label
        for key, label in PANELS.items()
        if any(_finite(point, key) for points in curves.values() for point in points)
    }
    borders = [0]
    for points in curves.values():
        borders.append(borders[-1] + max(point["step"] for point in points))
    with style():
        figure = Figure(figsize=(9, 0.9 + 1.9 * max(1, len(panels))), layout="constrained")
        grid = figure.subplots(max(1, len(panels)), 1, sharex=True, squeeze=False)
        axes: list[Axes] = list(grid[:, 0])
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        for panel, (key, label) in zip(axes, panels.items(), strict=False):
            panel.set_ylabel(label)
            _bands(panel, borders)
            for start, points in zip(borders, curves.values(), strict=False):
                _lines(panel, key, start, points)
            every = [point for points in curves.values() for point in points]
            _scale(panel, key, [point[key] for point in every if _finite(point, key)])
        _name_phases(axes[0], list(curves), borders)
        _legend(axes[0])
        axes[-1].set_xlim(0, borders[-1])
        axes[-1].set_xlabel("optimizer steps, all phases")
        axes[-1].xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes[-1].xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        figure.align_ylabels(axes)
    return figure


def _finite(point: Mapping, key: str) -> bool:
    value = point.get(key)
    return value is not None and math.isfinite(value)


def _lines(panel: Axes, key: str, start: int, points: Sequence[Mapping]) -> None:
    for split, (name, color) in SPLITS.items():
        own = [p for p in points if p["split"] == split and _finite(p, key)]
        if own:
            # Validations are few, and may be a single one: they are marked. Training's are not.
            marker = "o" if split == "valid" or len(own) == 1 else ""
            x, y = [start + p["step"] for p in own], [p[key] for p in own]
            panel.plot(x, y, label=name, color=color, marker=marker, ms=4, lw=1.5, clip_on=False)


def _scale(panel: Axes, key: str, values: Sequence[float]) -> None:
    panel.grid(axis="y", color="#dddddd", lw=0.6)
    panel.set_axisbelow(True)
    panel.margins(y=0.08)
    if key == "acc":
        panel.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    elif key == "loss" and min(values) > 0 and max(values) > 10 * min(values):
        panel.set_yscale("log")  # or a first phase from random weights flattens all others
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    elif key == "listen":
        panel.axhline(0, color=DARK, lw=0.8)  # at and below it the model does not listen


def _bands(panel: Axes, borders: Sequence[int]) -> None:
    for i, (start, end) in enumerate(zip(borders, borders[1:], strict=False)):
        if i % 2:
            panel.axvspan(start, end, color=BAND, lw=0, zorder=0)
        if i:
            panel.axvline(start, color="#999999", lw=0.8, zorder=1)


def _name_phases(panel: Axes, phases: Sequence[str], borders: Sequence[int]) -> None:
    """Names above the first panel; those of very short phases turn, so that they do not meet."""
    for i, phase in enumerate(phases):
        share = (borders[i + 1] - borders[i]) / borders[-1]
        text = f"phase {phase}" if share > 2.5 * _NARROW else phase
        panel.annotate(
            text,
            ((borders[i] + borders[i + 1]) / 2, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            va="bottom",
            rotation=0 if share > _NARROW / 2 else 90,
            color=DARK,
        )


def _legend(panel: Axes) -> None:
    handles, labels = panel.get_legend_handles_labels()
    by_name = dict(zip(labels, handles, strict=True))
    if by_name:
        panel.legend([*by_name.values()], [*by_name], loc="upper right", ncols=2, framealpha=0.8)
