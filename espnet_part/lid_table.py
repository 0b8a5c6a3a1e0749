"""What it costs a model that its prompt names no language, or a wrong one, as tables.

Decodings that differ in the language of the prompt alone belong together by name: `<decode>`,
`<decode>_lid_none` and `<decode>_lid_wrong`. Rows say which is which under `lid`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean

from espnet_part.prompt import LIDS, TASKS
from espnet_part.scoring import Scores
from espnet_part.significance import BOOTSTRAP_SAMPLES, paired_bootstrap
from espnet_part.tables import Row, is_reference, markdown

MAIN_METRICS = ("wer", "cer", "bleu")
CHECK = "wrong_lang_rate"
DELTA = "lid_delta"  # key of a row: what the function of the same name returns


@dataclass(frozen=True)
class LidTable:
    """One curriculum and way of decoding: test sets by the language of the prompt.

    Attributes:
        title: Says which.
        header: Of the columns.
        rows: Cells as text: test sets, then a mean for each task of several sets.
    """

    title: str
    header: list[str]
    rows: list[list[str]]


def lid_of(row: Row) -> str:
    """Which language a row's prompts named: right, none or wrong."""
    return row.get("lid") or "right"


def same_decode(decode: str, lid: str) -> str:
    """Name of the decoding with the right language that one with another belongs to."""
    return decode if lid == "right" else re.sub(rf"_lid_?{lid}(?=_|$)", "", decode)


def lid_delta(right: Scores, other: Scores, samples: int = BOOTSTRAP_SAMPLES) -> dict:
    """How the error rate or BLEU changes with the language in the prompt.

    Args:
        right: With the right language.
        other: Of the same test set, with none or a wrong one.
        samples: Resamples of the paired bootstrap; 0: no interval.

    Returns:
        ``delta``, other - right, and its 95 % interval ``ci95``: None for a single utterance.
    """
    main, moved = right.measures[0], other.measures[0]
    a, b = right.stats[main.metric], other.stats[main.metric]
    if main.n_utts < 2 or samples < 1:
        return {"delta": moved.value - main.value, "ci95": None}
    lower = main.metric != "bleu"
    found = paired_bootstrap(a.values_NK, b.values_NK, a.score, lower, samples)
    return {"delta": found.delta, "ci95": found.ci95}


def main_rows(rows: Iterable[Row]) -> list[Row]:
    """The rows without those of a language that is not named, or wrong, where a right one is too.

    They have tables of their own; elsewhere they would stand as systems beside the others.
    """
    rows = list(rows)
    right = {(row["curriculum"], row["decode"]) for row in rows if lid_of(row) == "right"}
    return [
        row
        for row in rows
        if lid_of(row) == "right"
        or (row["curriculum"], same_decode(row["decode"] or "", lid_of(row))) not in right
    ]


def lid_tables(rows: Iterable[Row]) -> list[LidTable]:
    """Tables of all decodings that were done with several languages in the prompt.

    Each is of the last phase that was. Of several seeds the mean is shown.

    Args:
        rows: Of results.json.
    """
    by_decode: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if not is_reference(row) and row["metric"] in (*MAIN_METRICS, CHECK):
            decode = same_decode(row["decode"] or "", lid_of(row))
            by_decode.setdefault((row["curriculum"], decode), []).append(row)
    tables = []
    for (curriculum, decode), own in by_decode.items():
        lids: dict[str, set[str]] = {}
        for row in own:
            lids.setdefault(row["phase"], set()).add(lid_of(row))
        several = [phase for phase, found in lids.items() if len(found) > 1 and "right" in found]
        if several:
            last = max(several)
            title = f"{curriculum}, {decode}, phase {last}: language named in the prompt"
            content = [row for row in own if row["phase"] == last]
            shown = [lid for lid in LIDS if lid in lids[last]]
            tables.append(LidTable(title, _header(shown), _body(content, shown)))
    return tables


def lid_table(rows: Iterable[Row]) -> str | None:
    """The same as Markdown; None where no decoding was done with another language than the right.

    Args:
        rows: Of results.json.
    """
    tables = lid_tables(rows)
    if not tables:
        return None
    parts = [f"## {table.title}\n\n{markdown(table.header, table.rows)}" for table in tables]
    notes = "wer, cer: lower is better; bleu: higher. In brackets: 95 % interval of the difference."
    return "\n\n".join([*parts, notes])


def _header(lids: Sequence[str]) -> list[str]:
    values = ["right"]
    for lid in lids[1:]:
        values += [lid, f"{lid} - right"]
    return ["test set", "metric", *values, *(f"{lid}: wrong lang %" for lid in lids)]


def _body(rows: Sequence[Row], lids: Sequence[str]) -> list[list[str]]:
    compared = {row["test_set"] for row in rows if lid_of(row) != "right"}
    body = []
    for task in TASKS:
        own = [row for row in rows if row["task"] == task and row["test_set"] in compared]
        test_sets = list(dict.fromkeys(row["test_set"] for row in own))
        lines = [_Line(name, [row for row in own if row["test_set"] == name]) for name in test_sets]
        body += [line.cells(lids) for line in lines]
        if len(lines) > 1:
            body.append(_mean_cells(task, lines, lids))
    return body


class _Line:
    """One test set: a value and a rate per language of the prompt, the means over seeds."""

    def __init__(self, name: str, rows: Sequence[Row]):
        self.name = name
        main = [row for row in rows if row["metric"] != CHECK]
        self.metric = main[0]["metric"] if main else "-"
        self.value = {lid: _mean(r["value"] for r in _of(main, lid)) for lid in LIDS}
        checks = [row for row in rows if row["metric"] == CHECK]
        self.rate = {lid: _mean(r["value"] for r in _of(checks, lid)) for lid in LIDS}
        deltas = {lid: [r[DELTA] for r in _of(main, lid) if DELTA in r] for lid in LIDS}
        # Intervals of several seeds do not make one.
        self.ci95 = {lid: d[0]["ci95"] if len(d) == 1 else None for lid, d in deltas.items()}

    def cells(self, lids: Sequence[str]) -> list[str]:
        right = self.value["right"]
        cells = [self.name, self.metric, _number(right)]
        for lid in lids[1:]:
            cells += [_number(self.value[lid]), _difference(self.value[lid], right, self.ci95[lid])]
        return [*cells, *(_number(self.rate[lid]) for lid in lids)]


def _mean_cells(task: str, lines: Sequence[_Line], lids: Sequence[str]) -> list[str]:
    """Means over test sets; "-" unless all of them have a value."""
    value = {lid: _whole_mean([line.value[lid] for line in lines]) for lid in lids}
    rate = [_number(_whole_mean([line.rate[lid] for line in lines])) for lid in lids]
    metrics = "/".join(m for m in MAIN_METRICS if m in {line.metric for line in lines})
    cells = [f"mean of {task}", metrics, _number(value["right"])]
    for lid in lids[1:]:
        cells += [_number(value[lid]), _difference(value[lid], value["right"], None)]
    return [*cells, *rate]


def _of(rows: Sequence[Row], lid: str) -> list[Row]:
    return [row for row in rows if lid_of(row) == lid]


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return mean(values) if values else None


def _whole_mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known and len(known) == len(values) else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _difference(value: float | None, right: float | None, ci95: Sequence[float] | None) -> str:
    if value is None or right is None:
        return "-"
    interval = f" [{ci95[0]:+.2f}, {ci95[1]:+.2f}]" if ci95 else ""
    return f"{value - right:+.2f}{interval}"
