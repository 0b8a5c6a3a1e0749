"""All experiments of a call on one page: scores of the arms, every claim's verdict, one picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from experiment_report import NAMES, exposure_columns, interval, seeds_of
from experiment_results import REFERENCES, WANTED, Difference, Results
from matplotlib.figure import Figure

from espnet_part.pictures_style import BAND, BLUE, GREEN, VERMILION, save, style
from espnet_part.tables import markdown

# Verdict -> color, marker, whether it is filled: it can be told without the color.
MARKS = {
    "shown": (GREEN, "o", True),
    "not shown": (BLUE, "o", False),
    "opposite": (VERMILION, "D", True),
}


def write_summary(run, results: Mapping[str, Results]) -> Path:
    """Writes summary.md with its picture, and returns its place.

    Args:
        run: The `Run` of the experiments.
        results: Experiment -> its results.
    """
    place = run.out / "summary.md"
    place.write_text(words(run, results) + "\n", encoding="utf-8")
    figure = draw_summary(f"scale {run.scale_name}", results)
    for ending in ("svg", "png"):
        save(figure, run.out / f"summary.{ending}")
    return place


def words(run, results: Mapping[str, Results]) -> str:
    """The page in Markdown."""
    exposures = {arm: of for found in results.values() for arm, of in found.exposures.items()}
    header, cells = exposure_columns(exposures)
    rows = {}
    for found in results.values():
        for system, of in found.systems.items():  # not all experiments ask for all scores
            own = rows.setdefault(system, ["", "", *cells.get(system, [""] * len(header))])
            for column, group in enumerate(("error", "bleu")):
                own[column] = interval(of[group]) if group in of else own[column]
    for found in results.values():
        for system, of in found.references.items():
            values = [f"{of[g]:.2f}" if g in of else "" for g in ("error", "bleu")]
            own = rows.setdefault(REFERENCES[system], ["", "", *[""] * len(header)])
            own[:2] = [new or old for new, old in zip(values, own[:2], strict=True)]
    claims = [
        [name, f"{d.better} - {d.than}", NAMES[d.by], interval(d.estimate, "+"),
         seeds_of(d.estimate, "+"), d.verdict]
        for name, found in results.items() for d in found.differences
    ]  # fmt: skip
    columns = ["experiment", "difference", "score", "value [95 %]", "by seed", "claim"]
    return "\n\n".join(
        [
            f"# Experiments, scale {run.scale_name}",
            f"{run.scale.corpora}, model {run.scale.model}, seeds "
            f"{' '.join(map(str, run.scale.seeds))}. What the columns are: the experiments' pages.",
            markdown(
                ["system", "error % [95 %]", "BLEU [95 %]", *header],
                [[system, *own] for system, own in rows.items()],
            ),
            markdown(columns, claims),
            "![Every claim's difference with its interval](summary.png)",
        ]
    )


def draw_summary(title: str, results: Mapping[str, Results]) -> Figure:
    """Draws a panel for errors and one for BLEU: each difference with interval and verdict."""
    panels: dict[str, list[tuple[str, Difference]]] = {"error": [], "bleu": []}
    for name, found in results.items():
        for d in found.differences:
            panels["error" if d.by == "error" else "bleu"].append((name, d))
    panels = {name: rows for name, rows in panels.items() if rows}
    with style():
        height = 1.5 + 0.3 * max(len(rows) for rows in panels.values())
        figure = Figure(figsize=(7.2 * len(panels), height), layout="constrained")
        axes_of = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (panel, rows) in zip(axes_of, panels.items(), strict=True):
            for y, (_, d) in enumerate(reversed(rows)):
                color, marker, filled = MARKS[d.verdict]
                axes.plot(d.estimate.ci95, [y, y], color=color, linewidth=2.2)
                axes.plot(
                    d.estimate.value, y, marker, color=color, markersize=7, linestyle="none",
                    markerfacecolor=color if filled else "white",
                )  # fmt: skip
            labels = [
                f"{name}: {d.better} $-$ {d.than}"
                + ("" if d.by in ("error", "bleu") else f" ({NAMES[d.by].partition(', ')[2]})")
                for name, d in reversed(rows)
            ]
            axes.set_yticks(range(len(rows)), labels, fontsize=8)
            axes.set_ylim(-0.7, len(rows) - 0.3)
            axes.axvline(0, color="#777777", linewidth=1)
            low, high = axes.get_xlim()
            side = (low, 0) if WANTED[panel] < 0 else (0, high)
            axes.axvspan(*side, color=BAND, zorder=0)
            axes.set_xlim(low, high)
            unit = "error, points" if panel == "error" else "BLEU"
            axes.set_xlabel(f"difference in {unit} (gray: the side that the claim is on)")
        for verdict, (color, marker, filled) in MARKS.items():
            axes_of[0].plot(
                [], [], marker, color=color, label=verdict, linestyle="none",
                markerfacecolor=color if filled else "white",
            )  # fmt: skip
        figure.legend(loc="outside lower center", ncols=len(MARKS), fontsize=9)
        figure.suptitle(f"{title}: what each claim's two systems differ by, 95 % intervals",
                        x=0.01, ha="left", fontsize=10)  # fmt: skip
    return figure
