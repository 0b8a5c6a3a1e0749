"""Markdown tables of an experiment's rows: `RESULTS.md` and what the report prints."""

from collections.abc import Iterable, Sequence
from statistics import mean
from typing import Any

from espnet_part.results import REFERENCES

Row = dict[str, Any]

# Heading, metrics that share a table.
GROUPS = (
    ("Recognition: WER, CER for zh ja ko yue (%, lower is better)", ("wer", "cer")),
    ("Translation: BLEU (higher is better)", ("bleu",)),
    ("Translation: chrF (higher is better)", ("chrf",)),
)
CHECKS = ("empty_rate", "loop_rate", "wrong_lang_rate", "refusal_rate")


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a Markdown table that is aligned as plain text too; numbers stand to the right."""
    rows = [list(row) for row in rows]
    widths = [max(len(row[i]) for row in [list(header), *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        others = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return "| " + " | ".join([first, *others]) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(header), "| " + " | ".join(rule) + " |", *map(line, rows)])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _cell(rows: Iterable[Row]) -> float | None:
    """The value of a cell: the mean over seeds, None where nothing was scored."""
    values = [row["value"] for row in rows]
    return mean(values) if values else None


def _interval(rows: Sequence[Row]) -> str:
    if len(rows) != 1 or not rows[0].get("ci95"):
        return "-"
    low, high = rows[0]["ci95"]
    return f"{low:.1f}-{high:.1f}"


def variants(row: Row) -> dict[str, Row]:
    """Return a row's other ways to count the same thing, such as `wer_basic`, by name."""
    prefix = f"{row['metric']}_"
    return {k: v for k, v in row.items() if k.startswith(prefix) and isinstance(v, dict)}


def signatures(rows: Iterable[Row]) -> dict[str, list[str]]:
    """Names of the measures by the signature they were made with, variants among them."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for name, one in {row["metric"]: row, **variants(row)}.items():
            names = found.setdefault(str(one["signature"]), [])
            if name not in names:
                names.append(name)
    return found


def _unique(values: Iterable) -> list:
    return list(dict.fromkeys(values))


def is_reference(row: Row) -> bool:
    """Say whether a row belongs to no phase: the floor, or a system made elsewhere."""
    return row["phase"] is None or row["curriculum"] in REFERENCES


def reference_names(rows: Iterable[Row]) -> list[str]:
    """Names of the reference systems, the floor first, those made elsewhere last."""
    names = {row["curriculum"] for row in rows if is_reference(row)}
    known = [name for name in REFERENCES if name in names]
    return known + sorted(names - {*known}, key=str)


def _system_table(rows: Sequence[Row], curriculum: str, decode: str) -> str:
    """Test sets by reference systems and phases; rows are of one group of metrics."""
    own = [row for row in rows if (row["curriculum"], row["decode"]) == (curriculum, decode)]
    test_sets, phases = _unique(row["test_set"] for row in own), _unique(r["phase"] for r in own)
    references = [row for row in rows if is_reference(row) and row["test_set"] in test_sets]
    columns = [
        *(
            (name, [r for r in references if r["curriculum"] == name])
            for name in reference_names(rows)
        ),
        *((f"phase {phase}", [r for r in own if r["phase"] == phase]) for phase in phases),
    ]
    columns = [(name, content) for name, content in columns if content]
    values = {
        (test_set, name): _cell(row for row in content if row["test_set"] == test_set)
        for test_set in test_sets
        for name, content in columns
    }
    body = []
    for test_set in test_sets:
        cells = [[row for row in content if row["test_set"] == test_set] for _, content in columns]
        numbers = [_number(values[test_set, name]) for name, _ in columns]
        body.append([test_set, *numbers, _interval(cells[-1])])
        for name in _unique(name for row in own for name in variants(row)):
            others = [[v[name] for v in map(variants, cell) if name in v] for cell in cells]
            if others[-1]:
                numbers = [_number(_cell(cell)) for cell in others]
                body.append([f"- {name}", *numbers, _interval(others[-1])])
    if len(test_sets) > 1:
        means = []
        for name, _ in columns:
            scored = [v for test_set in test_sets if (v := values[test_set, name]) is not None]
            means.append(_number(mean(scored) if len(scored) == len(test_sets) else None))
        body.append(["mean", *means, ""])
    return markdown(["test set", *(name for name, _ in columns), "95 % CI of last"], body)


def _last_phase(rows: Sequence[Row], curriculum: str, decode: str) -> list[Row]:
    own = [row for row in rows if (row["curriculum"], row["decode"]) == (curriculum, decode)]
    last = max(row["phase"] for row in own)
    return [row for row in own if row["phase"] == last]


def checks_table(rows: Sequence[Row]) -> str:
    """Test sets by the rates of what goes wrong, in per cent of utterances."""
    body = []
    for test_set in _unique(row["test_set"] for row in rows):
        own = [row for row in rows if row["test_set"] == test_set]
        rates = [_number(_cell(r for r in own if r["metric"] == metric)) for metric in CHECKS]
        body.append([test_set, *rates, str(own[0]["n_utts"]), str(own[0]["n_ref_tokens"])])
    names = [metric.removesuffix("_rate").replace("_", " ") for metric in CHECKS]
    return markdown(["test set", *(f"{name} %" for name in names), "utts", "ref tokens"], body)


def _comparison(rows: Sequence[Row], systems: Sequence[tuple[str, str]]) -> str:
    """Curricula by the mean of each group over the test sets that all of them decoded."""
    finals = {system: _last_phase(rows, *system) for system in systems}
    shared = set.intersection(*({row["test_set"] for row in own} for own in finals.values()))
    body = []
    for (curriculum, decode), own in finals.items():
        cells = []
        for _, metrics in GROUPS:
            cells.append(
                _number(_cell(r for r in own if r["metric"] in metrics and r["test_set"] in shared))
            )
        body.append([f"{curriculum}, {decode}", own[0]["phase"], *cells])
    return markdown(["curriculum, decode", "phase", "WER/CER", "BLEU", "chrF"], body)


def _averaged_seeds(rows: Iterable[Row]) -> list[str]:
    """The seeds behind values that stand for several runs: curricula may have one each, or none."""
    cells: dict[tuple, list] = {}
    for row in rows:
        key = [row[name] for name in ("curriculum", "decode", "phase", "test_set", "metric")]
        cells.setdefault(tuple(key), []).append(row["seed"])
    seeds = _unique(seed for found in cells.values() if len(found) > 1 for seed in found)
    return ["unknown" if seed is None else str(seed) for seed in seeds]


def experiment_tables(rows: Sequence[Row]) -> str:
    """Tables of a whole experiment.

    Per curriculum and decoding, and per metric: test sets by floor, other reference systems and
    phases. Then the checks of the last phase, and where there are several curricula their means.

    Args:
        rows: of `results.json`, in its order.

    Returns:
        Markdown, without a final newline.
    """
    trained = [row for row in rows if not is_reference(row)]
    systems = _unique((row["curriculum"], row["decode"]) for row in trained)
    parts = []
    for curriculum, decode in systems:
        parts.append(f"## {curriculum}, {decode}")
        for heading, metrics in GROUPS:
            group = [row for row in rows if row["metric"] in metrics]
            if any((row["curriculum"], row["decode"]) == (curriculum, decode) for row in group):
                parts += [f"### {heading}", _system_table(group, curriculum, decode)]
        last = _last_phase(trained, curriculum, decode)
        parts += [f"### Checks of phase {last[0]['phase']}", checks_table(last)]
    if len(systems) > 1:
        parts += ["## Last phases compared, mean over shared test sets"]
        parts.append(_comparison(trained, systems))
    if seeds := _averaged_seeds(trained):
        parts.append(f"Values are means over the seeds {', '.join(seeds)}.")
    parts.append(
        "\n".join(f"- {', '.join(names)}: `{s}`" for s, names in signatures(trained).items())
    )
    return "\n\n".join(part for part in parts if part)
