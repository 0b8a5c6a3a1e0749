"""The phase diagram: which part of the model trains when, and on what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from espnet_part.pictures_style import BLUE, DARK, FROZEN, ORANGE, PURPLE, SKY, YELLOW, style

PARTS = ("encoder", "adapter", "llm")
# Blocks that stand for a part's layers. Their number is not the model's.
BLOCKS = {"encoder": 9, "adapter": 3, "llm": 9}
LAST = 3  # of them, for `last:N`
# Task -> colour, and what it is.
TASKS = {
    "asr": (SKY, "asr: speech to its text"),
    "st": (ORANGE, "st: speech to another language"),
    "mt": (YELLOW, "mt: text to another language"),
    "instruct": (PURPLE, "instruct: instructions in text"),
}
_CELL, _LEFT, _ROW = 2.0, 1.15, 0.95  # inches: width of a phase, of the row names, height of a row
_GAP = 0.14  # between phases
_ENTRY = 2.75  # width of an entry of the legend

Phase = Mapping[str, Any]


def draw_phases(phases: Sequence[Phase], title: str = "") -> Figure:
    """Draws phases as columns, the parts and the data as rows.

    Args:
        phases: Merged settings in order: `phase`, `trainable`, `tasks`, `llm_tasks` as in
            config.yaml, other keys ignored; not empty.
        title: Line above.

    Raises:
        ValueError: Settings without phase, trainable or tasks.
    """
    for settings in phases:
        lacking = [key for key in ("phase", "trainable", "tasks") if not settings.get(key)]
        if lacking:
            raise ValueError(f"settings of phase {settings.get('phase')}: no {', '.join(lacking)}")
    tasks = [task for task in TASKS if any(task in settings["tasks"] for settings in phases)]
    top = 0.78 + (0.35 if title else 0)
    width = _LEFT + len(phases) * _CELL + 0.1
    per_line = int(width / _ENTRY)
    legend_lines = -(-len(tasks) // per_line)
    height = top + len(PARTS) * _ROW + 0.62 + 0.28 * legend_lines + 0.05
    with style():
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, width), ylim=(height, 0))  # inches, from the top
        axes.axis("off")
        if title:
            axes.text(0.12, 0.26, title, fontsize=12, weight="bold", va="center")
        _header(axes, phases, top)
        for i, part in enumerate(PARTS):
            y = top + i * _ROW
            axes.text(0.12, y + 0.27, _name(part), fontsize=12, va="center")
            for column, settings in enumerate(phases):
                selector = settings["trainable"].get(part) or "none"
                label = _label(part, selector, settings)
                _part(axes, part, _LEFT + column * _CELL, y, selector, label)
        y = top + len(PARTS) * _ROW
        axes.plot([0.12, width - 0.12], [y, y], color=FROZEN, lw=1)
        axes.text(0.12, y + 0.31, "data", fontsize=12, va="center")
        for column, settings in enumerate(phases):
            _data(axes, _LEFT + column * _CELL, y + 0.12, settings["tasks"])
        _legend(axes, tasks, per_line, y + 0.78)
    return figure


def _name(part: str) -> str:
    return "LLM" if part == "llm" else part


def _kind(tasks: Sequence[str]) -> str:
    """What the paper's order goes by: data of one language, or across languages."""
    if all(task == "asr" for task in tasks):
        return "within each language"
    if "asr" in tasks or "st" in tasks:
        return "across languages"
    return "text alone"


def _header(axes: Axes, phases: Sequence[Phase], top: float) -> None:
    column = 0
    for kind, group in groupby(_kind(settings["tasks"]) for settings in phases):
        size = len(list(group))
        left = _LEFT + column * _CELL
        right = left + size * _CELL - _GAP
        axes.text((left + right) / 2, top - 0.6, kind, ha="center", va="center", fontsize=11)
        axes.plot([left, right], [top - 0.44, top - 0.44], color=DARK, lw=1.2)
        column += size
    for i, settings in enumerate(phases):
        x = _LEFT + i * _CELL + (_CELL - _GAP) / 2
        text = f"phase {settings['phase']}"
        axes.text(x, top - 0.22, text, ha="center", va="center", fontsize=12, weight="bold")


def _label(part: str, selector: str | Sequence[str], settings: Phase) -> str:
    if selector == "none":
        return "frozen"
    if not isinstance(selector, str):
        text = "chosen tensors"
    elif selector.startswith("last:"):
        text = f"last {selector.removeprefix('last:')} layers train"
    else:
        text = {"all": "trains", "lora": "LoRA trains"}.get(selector, selector)
    rows = settings.get("llm_tasks") or "all"
    if part == "llm" and rows != "all":
        text += " on " + ", ".join([rows] if isinstance(rows, str) else rows)
    return text


def _part(axes: Axes, part: str, x: float, y: float, selector: Any, label: str) -> None:
    """One part in one phase: its layers side by side, in the order of computation."""
    n, room, high = BLOCKS[part], _CELL - _GAP, 0.42
    wide = room / max(BLOCKS.values())  # a layer is as wide in every part
    left = x + (room - n * wide) / 2
    whole = selector == "all"
    trained = n if whole else LAST if str(selector).startswith("last:") else 0
    for i in range(n):
        color = BLUE if i >= n - trained else FROZEN
        box = (left + i * wide + 0.02, y + 0.06)
        axes.add_patch(Rectangle(box, wide - 0.04, high, facecolor=color, lw=0))
        # Something within each layer, beside its frozen weights.
        if selector != "none" and not trained:
            axes.add_patch(Rectangle(box, wide - 0.04, high / 4, facecolor=BLUE, lw=0))
    color = DARK if selector != "none" else "#666666"
    axes.text(x + room / 2, y + 0.63, label, ha="center", va="center", fontsize=10.5, color=color)


def _chip(axes: Axes, x: float, y: float, width: float, color: str) -> None:
    style = "round,pad=0,rounding_size=0.07"
    axes.add_patch(FancyBboxPatch((x, y), width, 0.34, boxstyle=style, facecolor=color, lw=0))


def _data(axes: Axes, x: float, y: float, tasks: Sequence[str]) -> None:
    room = _CELL - _GAP
    width = min(0.6, room / len(tasks))
    left = x + (room - width * len(tasks)) / 2
    ordered = [task for task in TASKS if task in tasks]
    for i, task in enumerate(ordered):
        _chip(axes, left + i * width + 0.025, y, width - 0.05, TASKS[task][0])
        size = 10.5 if len(task) < 5 else 7
        center = left + (i + 0.5) * width
        axes.text(center, y + 0.17, task, ha="center", va="center_baseline", fontsize=size)


def _legend(axes: Axes, tasks: Sequence[str], per_line: int, y: float) -> None:
    for i, task in enumerate(tasks):
        x, line = 0.12 + (i % per_line) * _ENTRY, y + 0.28 * (i // per_line)
        axes.add_patch(Rectangle((x, line - 0.06), 0.14, 0.14, facecolor=TASKS[task][0], lw=0))
        axes.text(x + 0.22, line + 0.01, TASKS[task][1], va="center", fontsize=9.5, color=DARK)
