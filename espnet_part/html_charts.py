"""Bars of the page, as places in per cent; `report_page/` draws them as SVG.

Per cent, not pixels: a chart is as wide as the screen, and its letters keep their size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from espnet_part.html_tables import Cell, System, by_test_set, number, set_cell
from espnet_part.pictures import families
from espnet_part.pictures_scores import MOST_ERRORS
from espnet_part.pictures_scores import PANELS as METRICS
from espnet_part.pictures_style import phase_colors
from espnet_part.results import CASCADE, ENCODER_CTC, FLOOR
from espnet_part.tables import Row, is_reference, reference_names


@dataclass(frozen=True)
class Bar:
    """One phase's score; `width`, `low`, `high` in per cent of the chart's width."""

    phase: str
    color: str
    text: str
    interval: str
    width: float
    low: float | None
    high: float | None
    beyond: bool  # it goes on where the chart ends


@dataclass(frozen=True)
class BarGroup:
    """The bars of one test set, and where reference systems stand."""

    head: Cell
    bars: list[Bar]
    marks: list[tuple[str, float, str]]  # class of the line, place, what it says


@dataclass(frozen=True)
class BarChart:
    """Bars of one family of test sets and one kind of score."""

    caption: str
    groups: list[BarGroup]
    phases: dict[str, str]  # phase -> colour
    references: dict[str, str]  # reference system -> class of its line


def bar_charts(rows: Sequence[Row], system: System) -> list[BarChart]:
    """Draw a system's scores: a chart for each family of test sets and kind of score."""
    charts = []
    colors = phase_colors(system.phases)
    for family, content in families(rows).items():
        for metrics, heading in METRICS.items():
            own = [row for row in system.rows(content) if row["metric"] in metrics]
            if not own:
                continue
            sets = by_test_set(own)
            marks = [
                row
                for row in content
                if is_reference(row) and row["metric"] in metrics and row["test_set"] in sets
            ]
            # The floor may lie far away from everything: it does not decide the scale.
            scale = [r["value"] for r in (*own, *marks) if r["curriculum"] != FLOOR]
            scale += [row["ci95"][1] for row in own if row.get("ci95")]
            top = 1.02 * max(1.0, min(max(scale), MOST_ERRORS))
            groups = [
                _group(
                    family, same, [m for m in marks if m["test_set"] == name], system, colors, top
                )
                for name, same in sets.items()
            ]
            caption = " ".join(heading.split())
            caption = f"{family or 'Test sets'}. {caption}"
            phases = {p: colors[p] for p in system.phases if any(r["phase"] == p for r in own)}
            drawn = {kind for group in groups for kind, _, _ in group.marks}
            shown = {n: kind for n in reference_names(marks) if (kind := _mark(n)) in drawn}
            charts.append(BarChart(caption, groups, phases, shown))
    return charts


def _group(
    family: str,
    same: Sequence[Row],
    marks: Sequence[Row],
    system: System,
    colors: Mapping[str, str],
    top: float,
) -> BarGroup:
    bars = []
    for phase in system.phases:
        cell = [row for row in same if row["phase"] == phase]
        if not cell:
            continue
        value, interval = mean(row["value"] for row in cell), None
        if len(cell) == 1:
            interval = cell[0].get("ci95")
        low, high = (_place(end, top) for end in interval) if interval else (None, None)
        texts = number(cell)
        bars.append(
            Bar(
                phase,
                colors[phase],
                texts.text,
                texts.note,
                _place(value, top),
                low,
                high,
                value > top,
            )
        )
    means = {
        name: mean(row["value"] for row in marks if row["curriculum"] == name)
        for name in reference_names(marks)
    }
    shown = [(_mark(n), _place(v, top), f"{n} {v:.2f}") for n, v in means.items() if v <= top]
    return BarGroup(set_cell(same, family), bars, shown)


def _mark(reference: str) -> str:
    """The class of a reference system's line: the floor is dotted everywhere, and so on."""
    return {FLOOR: "floor", ENCODER_CTC: "encoder", CASCADE: "encoder"}.get(reference, "other")


def _place(value: float, top: float) -> float:
    return round(100 * min(max(value, 0.0), top) / top, 2)
