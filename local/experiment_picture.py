"""The picture of an experiment: each system's score with its interval, and every seed's."""

from __future__ import annotations

from collections.abc import Mapping

from experiment_scores import Estimate
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from espnet_part.pictures_style import BLACK, BLUE, DARK, style

_GREY = "#777777"
_LINES = ("-", (0, (4, 2)), (0, (1, 1)), (0, (5, 1, 1, 1)))


def draw_experiment(
    title: str,
    panels: Mapping[str, Mapping[str, Estimate]],
    references: Mapping[str, Mapping[str, float]],
) -> Figure:
    """Draws a panel per score: systems below each other, references as upright lines.

    Args:
        title: Line above.
        panels: Score -> system -> estimate.
        references: Score -> reference system -> value.
    """
    systems = list(next(iter(panels.values())))
    with style():
        height = 1.3 + 0.42 * len(systems) + 0.2 * max(len(r) for r in references.values())
        figure = Figure(figsize=(4.6 * len(panels), height), layout="constrained")
        axes_of = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (name, estimates) in zip(axes_of, panels.items(), strict=True):
            for row, system in enumerate(systems):
                e = estimates[system]
                y = len(systems) - 1 - row
                axes.plot(e.ci95, [y, y], color=BLUE, linewidth=2.5, solid_capstyle="butt")
                axes.plot(e.value, y, "o", color=BLUE, markersize=8)
                axes.plot(e.by_seed, [y - 0.22] * len(e.by_seed), "|", color=DARK, markersize=7)
                axes.annotate(
                    f"{e.value:.1f}", (e.value, y), xytext=(0, 7), textcoords="offset points",
                    ha="center", color=BLACK, fontsize=9,
                )  # fmt: skip
            for (label, value), line in zip(references[name].items(), _LINES, strict=False):
                axes.axvline(value, color=_GREY, linestyle=line, linewidth=1.2, label=label)
            axes.set_yticks(range(len(systems)), reversed(systems))
            axes.set_ylim(-0.6, len(systems) - 0.4)
            better = "lower" if name.startswith("error") else "higher"
            axes.set_xlabel(f"{name} ({better} is better)")
            axes.grid(axis="x", color="#e5e5e5", linewidth=0.7)
            axes.set_axisbelow(True)
            if references[name]:
                # Inches, not a share of the axes, which are low where there are few systems.
                below = axes.transAxes + ScaledTranslation(0, -0.5, figure.dpi_scale_trans)
                axes.legend(
                    loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=below, fontsize=8
                )
        figure.suptitle(
            f"{title}\nline: 95 % interval over sentences and seeds; ticks: single seeds",
            x=0.01, ha="left", fontsize=10,
        )  # fmt: skip
    return figure
