"""Bars of a curriculum's scores: error rates by language, BLEU by direction, a bar per phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from espnet_part.pictures_style import (
    BLACK,
    DARK,
    PURPLE,
    VERMILION,
    phase_colors,
    style,
)
from espnet_part.prompt import LANGUAGES
from espnet_part.results import CASCADE, ENCODER_CTC, FLOOR, LLM_TEXT
from espnet_part.tables import Row, is_reference, reference_names

# Metrics of a panel -> its title.
PANELS = {
    ("wer", "cer"): "Recognition: error rate (%),\nlower is better",
    ("bleu",): "Translation: BLEU,\nhigher is better",
}
# Reference system -> colour, line.
_MARKS: dict[str, tuple[str, str | tuple]] = {
    FLOOR: ("#777777", (0, (2, 1))),
    ENCODER_CTC: (BLACK, "-"),
    CASCADE: (BLACK, "-"),  # of translation, where encoder_ctc is of recognition
    LLM_TEXT: (PURPLE, "-"),
}
MOST_ERRORS = 150.0  # per cent; a model that loops has more, and would flatten the others
_ONE_LINE = 9  # groups that fit side by side
_BARS = 0.8  # of a group's width
_LANGUAGES = [*LANGUAGES]


def draw_scores(
    rows: Sequence[Row], curriculum: str, decode: str, phases: Sequence[str], title: str = ""
) -> Figure | None:
    """Draws the scores of one curriculum, decoding and family of test sets.

    Args:
        rows: Of results.json, the reference systems' among them.
        curriculum: Whose phases become bars.
        decode: Of which decoding.
        phases: In order; those without a score are left out.
        title: Line above.

    Returns:
        The figure; None where there is nothing to draw.
    """
    systems = {
        (curriculum, phase): [
            row
            for row in rows
            if (row["curriculum"], row["decode"], row["phase"]) == (curriculum, decode, phase)
        ]
        for phase in phases
    }
    panels = {}
    for metrics, heading in PANELS.items():
        own = {
            phase: scored
            for (_, phase), content in systems.items()
            if (scored := [row for row in content if row["metric"] in metrics])
        }
        if own:
            sets = {row["test_set"] for content in own.values() for row in content}
            marks = [r for r in rows if is_reference(r) and r["test_set"] in sets]
            panels[heading] = (own, [r for r in marks if r["metric"] in metrics])
    if not panels:
        return None
    shown = [p for p in phases if any(p in own for own, _ in panels.values())]
    names = reference_names(row for _, marks in panels.values() for row in marks)
    counts = [len(_groups(own)) for own, _ in panels.values()]
    with style():
        figure, grid = _figure(counts, len(shown))
        for axes, (heading, (own, marks)) in zip(grid, panels.items(), strict=True):
            # Above one another there is room for the title in one line.
            axes.set_title(heading if _side_by_side(counts) else heading.replace("\n", " "))
            _panel(axes, own, marks, shown, max(counts))
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        _legend(figure, shown, names)
    return figure


def _side_by_side(counts: Sequence[int]) -> bool:
    return len(counts) > 1 and sum(counts) <= _ONE_LINE


def _figure(counts: Sequence[int], n_phases: int) -> tuple[Figure, list[Axes]]:
    """Panels side by side where they are small, else one below the other."""
    wide = _side_by_side(counts)
    ratios = [float(max(count, 2.5)) for count in counts]
    groups = sum(ratios) if wide else max(ratios)
    width = min(14.0, max(6.5, 1.3 + groups * max(0.62, 0.17 * (n_phases + 1))))
    height = 3.9 if wide or len(counts) == 1 else 6.6
    figure = Figure(figsize=(width, height), layout="constrained")
    if wide:
        grid = figure.subplots(1, len(counts), width_ratios=ratios, squeeze=False)
    else:
        grid = figure.subplots(len(counts), 1, squeeze=False)
    return figure, list(grid.flat)


def _groups(own: Mapping[str, Sequence[Row]]) -> dict[str, Row]:
    """Test set -> one of its rows, by languages as the method lists them."""

    def order(row: Row) -> tuple:
        places = [
            _LANGUAGES.index(row[key]) if row[key] in _LANGUAGES else len(_LANGUAGES)
            for key in ("src", "tgt")
        ]
        return (*places, row["test_set"])

    rows = [row for content in own.values() for row in content]
    return {row["test_set"]: row for row in sorted(rows, key=order)}


def _tick(row: Row, conforms: bool) -> str:
    """What stands below a group of bars."""
    if not conforms:
        return row["test_set"]
    if row["metric"] == "bleu":
        return f"{row['src']}→{row['tgt']}"
    return f"{row['src']}\n{row['metric'].upper()}"


def _panel(
    axes: Axes,
    own: Mapping[str, Sequence[Row]],
    marks: Sequence[Row],
    phases: Sequence[str],
    most_groups: int,
) -> None:
    groups = _groups(own)
    colors = phase_colors(phases)
    wide = _BARS / len(phases)
    values = [row["value"] for content in (*own.values(), marks) for row in content]
    bleu = next(iter(groups.values()))["metric"] == "bleu"
    top = max(values) if bleu else min(max(values), MOST_ERRORS)
    top = 1.12 * max(top, 1.0)
    last = [phase for phase in phases if phase in own][-1]
    for x, test_set in enumerate(groups):
        for i, phase in enumerate(phases):
            cell = [row for row in own.get(phase, []) if row["test_set"] == test_set]
            if cell:
                at = x - _BARS / 2 + (i + 0.5) * wide
                high = _bar(axes, at, wide, cell, colors[phase], f"phase {phase}")
                value = mean(row["value"] for row in cell)
                if value > top:
                    _number_inside(axes, at, top, value)
                elif phase == last:
                    lines = sorted(r["value"] for r in marks if r["test_set"] == test_set)
                    for line in lines:  # above a mark that would strike it through
                        if high < line + 0.01 * top < high + 0.08 * top:
                            high = line + 0.01 * top
                    _number(axes, at, high, value, colors[phase])
        for name in reference_names(marks):
            cell = [r for r in marks if (r["curriculum"], r["test_set"]) == (name, test_set)]
            if cell:
                value = mean(row["value"] for row in cell)
                color, line = _mark(name)
                ends = [x - _BARS / 2 - 0.04, x + _BARS / 2 + 0.04]
                axes.plot(ends, [value, value], color=color, ls=line, lw=1.8, label=name, zorder=4)
    several = len({row["test_set"] for row in groups.values()})
    conforms = several == len({(row["src"], row["tgt"]) for row in groups.values()})
    labels = [_tick(row, conforms) for row in groups.values()]
    # Turned where they would meet.
    turned = max(map(len, labels)) > (16 if len(labels) < 6 else 8) or len(labels) > 15
    axes.set_xticks(range(len(labels)), labels, rotation=40 if turned else 0)
    if turned:
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    # A lone group is not to be a barn door: its bars stay about as wide as the other panel's.
    room = max(len(groups), 2.5, most_groups / 1.6 if most_groups > _ONE_LINE else 0)
    middle = (len(groups) - 1) / 2
    axes.set_xlim(middle - room / 2, middle + room / 2)
    axes.set_ylim(0, top)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y", color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)


def _bar(axes: Axes, x: float, wide: float, cell: Sequence[Row], color: str, label: str) -> float:
    """Draws the mean over seeds, the interval where there is one seed; returns how high it goes."""
    value = mean(row["value"] for row in cell)
    axes.bar(x, value, 0.92 * wide, color=color, label=label)
    interval = cell[0].get("ci95") if len(cell) == 1 else None
    if not interval:
        return value
    axes.vlines(x, interval[0], interval[1], color=DARK, lw=1.1, zorder=3)
    return max(value, interval[1])


def _number(axes: Axes, x: float, y: float, value: float, color: str) -> None:
    text = f"{value:.0f}" if value >= 99.95 else f"{value:.1f}"
    axes.annotate(
        text,
        (x, y),
        xytext=(0, 2),
        textcoords="offset points",
        ha="center",
        color=tuple(0.6 * part for part in to_rgb(color)),  # its bar's, dark enough to read
        fontsize=9,
        zorder=5,
        path_effects=[withStroke(linewidth=2, foreground="white")],
    )


def _number_inside(axes: Axes, x: float, top: float, value: float) -> None:
    """The value of a bar that goes beyond the panel."""
    axes.annotate(
        f"{value:.0f}",
        (x, top),
        xytext=(0, -3),
        textcoords="offset points",
        ha="center",
        va="top",
        rotation=90,
        fontsize=9,
        zorder=5,
        path_effects=[withStroke(linewidth=2, foreground="white")],
    )


def _mark(name: str) -> tuple[str, str | tuple]:
    return _MARKS.get(name, (VERMILION, (0, (4, 1, 1, 1))))


def _legend(figure: Figure, phases: Sequence[str], names: Sequence[str]) -> None:
    colors = phase_colors(phases)
    handles: list[Patch | Line2D] = [Patch(color=colors[p], label=f"phase {p}") for p in phases]
    for name in names:
        color, line = _mark(name)
        handles.append(Line2D([], [], color=color, ls=line, lw=1.8, label=name))
    handles.append(Line2D([], [], color=DARK, marker="|", ms=9, ls="", label="95 % interval"))
    columns = int(figure.get_size_inches()[0] / 1.5)
    lines = -(-len(handles) // columns)
    figure.legend(handles=handles, loc="outside lower center", ncols=-(-len(handles) // lines))
