"""Learning curves of the page, as places in per cent; `report_page/` draws them as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from espnet_part.pictures_curves import PANELS, SPLITS

MOST_POINTS = 300  # of a line: more than a screen can show
_LOG_RANGE = 10  # a loss that falls by more is drawn on a logarithmic scale


@dataclass(frozen=True)
class Line:
    """One line of a panel: its points as an SVG path in a box of 100 x 100."""

    name: str
    path: str
    dots: str


@dataclass(frozen=True)
class Panel:
    """One quantity over the steps of all phases."""

    label: str
    lines: list[Line]
    ticks: list[tuple[float, str]]  # place from the top in per cent, text
    zero: float | None  # place of a line to stay above
    last: str  # value at the end, of dev where there is one


@dataclass(frozen=True)
class CurveChart:
    """Panels that share their steps; bands are phases: name, start and width in per cent."""

    panels: list[Panel]
    bands: list[tuple[str, float, float]]
    steps: int


def curve_chart(curves: Mapping[str, Sequence[Mapping]]) -> CurveChart | None:
    """Draw the learning curves of all phases, one after the other.

    Args:
        curves: phase -> points, as `read_curves` gives them.

    Returns:
        The chart; None without any point.
    """
    ends = [0]
    for points in curves.values():
        ends.append(ends[-1] + max(point["step"] for point in points))
    total, panels = ends[-1], []
    for key, label in PANELS.items():
        values = [p[key] for points in curves.values() for p in points if _finite(p, key)]
        if not values:
            continue
        scale = _Scale(values, key)
        lines = [
            _line(name, key, split, ends, curves, scale) for split, (name, _) in SPLITS.items()
        ]
        zero = scale.place(0) if key == "listen" else None
        dev = [
            p[key]
            for points in curves.values()
            for p in points
            if p["split"] == "valid" and _finite(p, key)
        ]
        last = f"{(dev or values)[-1]:.3g}"
        shown = [line for line in lines if line.path]
        panels.append(Panel(" ".join(label.split()), shown, scale.ticks, zero, last))
    if not panels:
        return None
    bands = [
        (phase, round(100 * start / total, 2), round(100 * (end - start) / total, 2))
        for phase, start, end in zip(curves, ends, ends[1:], strict=False)
    ]
    return CurveChart(panels, bands, total)


def _line(
    name: str,
    key: str,
    split: str,
    starts: Sequence[int],
    curves: Mapping[str, Sequence[Mapping]],
    scale: _Scale,
) -> Line:
    """One line, broken where phases meet; validations, and lone points, get dots."""
    path, dots = "", ""
    for start, points in zip(starts, curves.values(), strict=False):
        own = [p for p in points if p["split"] == split and _finite(p, key)]
        step = max(1, -(-len(own) // MOST_POINTS))
        own = own[-1::-step][::-1]  # the last one is always among them
        places = [
            f"{100 * (start + p['step']) / starts[-1]:.2f} {scale.place(p[key]):.2f}" for p in own
        ]
        path += "M" + "L".join(places) if places else ""
        if split == "valid" or len(places) == 1:
            dots += "".join(f"M{place}h0" for place in places)
    return Line(name, path, dots)


def _finite(point: Mapping, key: str) -> bool:
    value = point.get(key)
    return value is not None and math.isfinite(value)


class _Scale:
    """From values to places, 0 at the top and 100 at the bottom, with round ticks."""

    def __init__(self, values: Sequence[float], key: str):
        low, high = min(values), max(values)
        self.log = key == "loss" and low > 0 and high > _LOG_RANGE * low
        if self.log:
            self.low, self.high = math.log10(low), math.log10(high)
            decades = range(math.floor(self.low), math.ceil(self.high) + 1)
            marks = [n * 10.0**d for d in decades for n in (1, 2, 5)]
            marks = marks if self.high - self.low < 2.5 else marks[::3]
        else:
            self.low = min(low, 0.0) if key == "listen" else low
            self.high = high if high > self.low else self.low + 1
            step = _round_step((self.high - self.low) / 4)
            first = math.ceil(self.low / step)
            marks = [step * i for i in range(first, math.floor(self.high / step) + 1)]
        room = 0.05 * (self.high - self.low)
        self.low, self.high = self.low - room, self.high + room
        text = "{:.0%}" if key == "acc" and max(values) - min(values) > 0.05 else "{:g}"
        self.ticks = [
            (round(place, 2), text.format(round(mark, 10)))
            for mark in marks
            if 0 <= (place := self.place(mark)) <= 100
        ]

    def place(self, value: float) -> float:
        value = math.log10(value) if self.log else value
        return 100 * (self.high - value) / (self.high - self.low)


def _round_step(step: float) -> float:
    """The next of 1, 2, 5, 10, 20, ... (or tenths of them)."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= step * 0.999)
