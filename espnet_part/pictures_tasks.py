"""Figures of a look inside, phase by phase: gradients of the tasks, a row of panels per part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from espnet_part.pictures_analysis import GRAY, log_axis, make_grid
from espnet_part.pictures_style import BLUE, DARK, GREEN, PURPLE, VERMILION, style
from espnet_part.trainable import PARTS

TASKS = {"asr": (BLUE, "o"), "st": (VERMILION, "s"), "mt": (GREEN, "^"), "instruct": (PURPLE, "D")}
# Quantity -> label of its axis.
LABELS = {
    "norm": "gradient norm (nats per token, per unit of weight)",
    "cosine": "cosine of two tasks' gradients (-1 to 1)",
}


def draw_by_phase(
    rows: Sequence[Mapping],
    key: str,
    label: Callable[[Mapping], str],
    title: str = "",
) -> Figure | None:
    """Draws a quantity per part over the moments of each curriculum, a marker per task.

    Args:
        rows: With ``curriculum``, ``phase``, ``part`` and the key; where ``trained`` is false, the
            marker is hollow.
        key: One of LABELS.
        label: Which task, or two, a row is of.
        title: Line above.

    Returns:
        The figure; None where there is nothing to draw.
    """
    rows = [row for row in rows if row.get(key)]
    if not rows:
        return None
    curricula = list(dict.fromkeys(row["curriculum"] for row in rows))
    parts = [part for part in PARTS if any(row["part"] == part for row in rows)]
    names = sorted(dict.fromkeys(label(row) for row in rows), key=_task_order)
    with style():
        figure, grid = make_grid(len(parts), curricula, 3.0, title)
        for i, part in enumerate(parts):
            for j, curriculum in enumerate(curricula):
                own = [row for row in rows if row["curriculum"] == curriculum]
                phases = list(dict.fromkeys(row["phase"] for row in own))
                own = [{**row, "name": label(row)} for row in own if row["part"] == part]
                _by_phase(grid[i][j], own, key, names, phases)
                if i == len(parts) - 1:
                    grid[i][j].set_xlabel("after phase")
            part_name = "LLM" if part == "llm" else part
            grid[i][0].set_ylabel(part_name)
            if key == "norm":
                log_axis(grid[i][0])
            else:
                most = max(abs(row[key]) for row in rows)
                grid[i][0].set_ylim(-1.15 * most, 1.15 * most)
        figure.supylabel(LABELS[key], fontsize=10)
        _task_legend(figure, names, any(row.get("trained") is False for row in rows))
    return figure


def _by_phase(axes: Axes, rows: Sequence[Mapping], key: str, names, phases) -> None:
    """A panel of `draw_by_phase`: markers of one part, side by side at each phase."""
    if key == "cosine":
        axes.axhline(0, color=DARK, lw=1, ls=":", zorder=1)
    for k, name in enumerate(names):
        shift = 0.5 * (k - (len(names) - 1) / 2) / max(len(names), 2)
        color, marker = _task_look(name)
        own = [row for row in rows if row["name"] == name]
        x = [phases.index(row["phase"]) + shift for row in own]
        axes.plot(x, [row[key] for row in own], color=color, lw=0.8, alpha=0.6)
        for at, row in zip(x, own, strict=True):
            face = color if row.get("trained", True) else "white"
            axes.plot(at, row[key], marker, color=color, mfc=face, ms=6.5, zorder=3)
    axes.set_xticks(range(len(phases)), phases)
    axes.set_xlim(-0.6, len(phases) - 0.4)
    axes.grid(axis="y", color="#dddddd", lw=0.6)


def _task_order(name: str) -> list[int]:
    return [list(TASKS).index(task) if task in TASKS else len(TASKS) for task in name.split(" · ")]


def _task_look(name: str) -> tuple[str, str]:
    """Of a task; a pair looks like its second task, but for the pair without asr."""
    tasks = name.split(" · ")
    if len(tasks) == 2 and "asr" not in tasks:
        return PURPLE, "D"
    return TASKS.get(tasks[-1], (GRAY, "P"))


def _task_legend(figure: Figure, names: Sequence[str], hollow: bool) -> None:
    handles = []
    for name in names:
        color, marker = _task_look(name)
        handles.append(Line2D([], [], color=color, marker=marker, ms=6.5, lw=0.8, label=name))
    if hollow:
        name = "not trained on in that phase"
        handles.append(
            Line2D([], [], ls="", marker="o", ms=6.5, label=name, mfc="white", color=DARK)
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
