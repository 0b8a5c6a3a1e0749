"""Tables of the page: what they are made of, and those of an experiment's own numbers.

Everything here is plain data; `report_page/` lays it out and escapes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import mean

from espnet_part.lid_table import lid_tables
from espnet_part.pictures import families
from espnet_part.prompt import LANGUAGES
from espnet_part.tables import GROUPS, Row, is_reference, reference_names, variants

_LANGUAGES = [*LANGUAGES]


@dataclass(frozen=True)
class Cell:
    """A table cell: what it says, a smaller second line, and what kind of cell it is."""

    text: str = ""
    note: str = ""
    kind: str = ""  # class names of the style sheet
    scope: str = ""  # of a header cell: col, colgroup, row, rowgroup
    span: int = 1
    lines: int = 1
    title: str = ""  # shown where one points at it


@dataclass(frozen=True)
class Table:
    """A table: head lines, then groups of lines; all lines are as wide."""

    caption: str
    head: list[list[Cell]]
    groups: list[list[list[Cell]]]
    notes: Sequence[str] = field(default=())


@dataclass(frozen=True)
class System:
    """One curriculum and one way to decode it."""

    curriculum: str
    decode: str
    lid: str | None
    phases: tuple[str, ...]

    def rows(self, rows: Iterable[Row], phase: str | None = None) -> list[Row]:
        """Rows of this system, of one phase where it is named."""
        return [
            row
            for row in rows
            if (row["curriculum"], row["decode"]) == (self.curriculum, self.decode)
            and phase in (None, row["phase"])
        ]


def find_systems(rows: Iterable[Row], known: dict[str, list[str]]) -> list[System]:
    """List what was trained, the one that the page shows in full first.

    That is the method's own curriculum where there is one, decoded greedily, with the right
    language in the prompt.

    Args:
        rows: of results.json.
        known: curriculum -> its phases in order.
    """
    found: dict[tuple[str, str], tuple[str | None, list[str]]] = {}
    for row in rows:
        if is_reference(row):
            continue
        _, phases = found.setdefault((row["curriculum"], row["decode"]), (row.get("lid"), []))
        if row["phase"] not in phases:
            phases.append(row["phase"])
    systems = []
    for (curriculum, decode), (lid, phases) in found.items():
        order = known.get(curriculum, [])
        phases = [*(p for p in order if p in phases), *(p for p in phases if p not in order)]
        systems.append(System(curriculum, decode, lid, tuple(phases)))

    def rank(system: System) -> tuple:
        plain = system.lid in (None, "right")
        return (not plain, system.curriculum != "part", "greedy" not in system.decode)

    return sorted(systems, key=rank)


def names_of(systems: Sequence[System]) -> dict[System, str]:
    """What systems are called: the curriculum, and the decoding where that does not tell them."""
    lone = len({system.decode for system in systems}) == 1
    return {s: s.curriculum if lone else f"{s.curriculum}, {s.decode}" for s in systems}


def number(rows: Sequence[Row], kind: str = "") -> Cell:
    """The cell of some rows that differ in their seed only: the mean, and how sure it is.

    Below stands the bootstrap's interval; of several seeds their range, `6.1–6.8 of 3`.
    """
    if not rows:
        return Cell("–", kind=f"none {kind}".strip())
    values = [row["value"] for row in rows]
    text = f"{mean(values):.2f}"
    if len(values) > 1:
        note = f"{min(values):.1f}–{max(values):.1f} of {len(values)}"
    else:
        interval = rows[0].get("ci95")
        note = f"{interval[0]:.1f}–{interval[1]:.1f}" if interval else ""
    return Cell(text, note, kind)


def set_order(row: Row) -> tuple:
    """Sorts test sets: recognition first, then by languages as the method lists them."""
    places = [
        _LANGUAGES.index(row[key]) if row[key] in _LANGUAGES else len(_LANGUAGES)
        for key in ("src", "tgt")
    ]
    return (row["task"] != "asr", *places, row["test_set"])


def by_test_set(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows of each test set, in the order of their languages."""
    out: dict[str, list[Row]] = {}
    for row in sorted(rows, key=set_order):
        out.setdefault(row["test_set"], []).append(row)
    return out


def set_cell(same: Sequence[Row], family: str) -> Cell:
    """The head of a test set's line: its languages, since its family stands above; then what it is.

    Args:
        same: its rows, the one that is spoken of first.
        family: what its name begins with; "" where the name does not tell its languages.
    """
    row = same[0]
    codes = [row["src"]] if row["task"] == "asr" else [row["src"], row["tgt"]]
    names = " to ".join(LANGUAGES.get(code, str(code)) for code in codes)
    note = f"{names}, {row['metric'].upper()}" if not row["metric"].endswith("_rate") else names
    note += f", {row['n_utts']} utts" if row.get("n_utts") else ""
    label = " → ".join(map(str, codes)) if family else row["test_set"]
    return Cell(label, note, scope="row", title=row["test_set"])


def own_tables(rows: Sequence[Row], systems: Sequence[System]) -> list[Table]:
    """A table for each kind of metric: test sets by references, curricula and phases."""
    names, tables = names_of(systems), []
    for heading, metrics in GROUPS:
        group = [row for row in rows if row["metric"] in metrics]
        scored = [system for system in systems if system.rows(group)]
        if not scored:
            continue
        sets = {row["test_set"] for system in scored for row in system.rows(group)}
        group = [row for row in group if row["test_set"] in sets]
        references = reference_names(group)
        columns = [
            *([r for r in group if is_reference(r) and r["curriculum"] == n] for n in references),
            *(system.rows(group, phase) for system in scored for phase in system.phases),
        ]
        head = [
            [
                Cell("test set", scope="col", lines=2),
                *(Cell(name, scope="col", lines=2) for name in references),
                *(Cell(names[s], scope="colgroup", span=len(s.phases)) for s in scored),
            ],
            [Cell(f"phase {p}", scope="col") for system in scored for p in system.phases],
        ]
        last = [
            len(references) + sum(len(s.phases) for s in scored[: i + 1]) - 1
            for i in range(len(scored))
        ]
        groups = [
            _family_lines(family, content, columns, last)
            for family, content in families(group).items()
        ]
        tables.append(Table(heading, head, groups))
    return tables


def _family_lines(
    family: str, content: Sequence[Row], columns: Sequence[Sequence[Row]], last: Sequence[int]
) -> list[list[Cell]]:
    """Lines of one family of test sets: its name, each set, its variants, the mean."""
    kinds = ["last" if i in last else "" for i in range(len(columns))]
    lines = [[Cell(family or "test sets", scope="rowgroup", span=len(columns) + 1)]]
    means: list[list[float | None]] = [[] for _ in columns]
    test_sets = by_test_set(content)
    for name, same in test_sets.items():
        cells = [[row for row in column if row["test_set"] == name] for column in columns]
        # A floor made elsewhere may not say how many utterances it has.
        told = sorted(same, key=lambda row: not row.get("n_utts"))
        lines.append([set_cell(told, family)])
        lines[-1] += [number(cell, kind) for cell, kind in zip(cells, kinds, strict=True)]
        for values, cell in zip(means, cells, strict=True):
            values.append(mean(row["value"] for row in cell) if cell else None)
        for variant in dict.fromkeys(v for cell in cells for row in cell for v in variants(row)):
            others = [[v[variant] for v in map(variants, c) if variant in v] for c in cells]
            lines.append(
                [Cell(variant, scope="row", kind="variant", title="counted in another way")]
            )
            lines[-1] += [number(c, f"variant {k}") for c, k in zip(others, kinds, strict=True)]
    if len(test_sets) > 1:
        lines.append([Cell(f"mean of {len(test_sets)}", scope="row", kind="mean")])
        for values, kind in zip(means, kinds, strict=True):
            known = [value for value in values if value is not None]
            text = f"{mean(known):.2f}" if len(known) == len(values) else "–"
            lines[-1].append(Cell(text, kind=f"mean {kind}".strip()))
    return lines


def prompt_tables(rows: Sequence[Row]) -> list[Table]:
    """The tables of `lid_table.py`: what another language in the prompt costs, or none."""
    return [
        Table(
            table.title,
            [[Cell(name, scope="col") for name in table.header]],
            [[[Cell(r[0], scope="row"), *(Cell(text) for text in r[1:])] for r in table.rows]],
            ["In brackets: the 95 % interval of the difference."],
        )
        for table in lid_tables(rows)
    ]
