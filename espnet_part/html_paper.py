"""The paper's tables on the page, with an experiment's last phases below its systems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from statistics import mean

from espnet_part.html_tables import Cell, System, Table, names_of, number
from espnet_part.paper import Column, PaperCell, PaperTable, with_means
from espnet_part.tables import Row

IN_PART = "†"  # beside a number of other utterances than the published test set has


def paper_table(
    paper: PaperTable, rows: Sequence[Row], systems: Sequence[System], tag: str
) -> tuple[Table, bool]:
    """Set an experiment's last phases below the systems of a table of the paper.

    Returns:
        The table, and whether it holds a row of the experiment.
    """
    spans = [(name, len([*same])) for name, same in groupby(c.group for c in paper.columns)]
    head = [
        [Cell("system", scope="col", lines=2)]
        + [Cell(name, scope="colgroup", span=width) for name, width in spans],
        [Cell(c.label, scope="col", kind="mean" if c.mean_of else "") for c in paper.columns],
    ]
    lines = [
        [Cell(system.name, system.size, scope="row")]
        + [_paper_cell(*pair) for pair in zip(system.cells, paper.columns, strict=True)]
        for system in paper.systems
    ]
    own: list[list[Cell]] = []
    shown: list[Row] = []
    names = names_of(systems)
    for system in systems:
        phase = system.phases[-1]
        content = [r for r in system.rows(rows, phase) if r["metric"] in paper.metrics]
        if any(row["test_set"] in paper.test_sets for row in content):
            label = Cell(f"{names[system]}/phase{phase}", f"this experiment, {tag}", scope="row")
            own.append([label, *_own_cells(paper.columns, content)])
            shown += content
    groups = [lines, own] if own else [lines]
    notes = [*_count_notes(paper.columns, shown), *paper.notes]
    return Table(f"{paper.name}. {paper.title}", head, groups, notes), bool(own)


def _paper_cell(cell: PaperCell, column: Column) -> Cell:
    digits = 2 if column.mean_of else 1
    text = "–" if cell.value is None else f"{cell.value:.{digits}f}"
    kinds = ["none"] if cell.value is None else []
    kinds += ["mean"] if column.mean_of else []
    return Cell(text + ("?" if cell.uncertain else ""), kind=" ".join(kinds))


def _own_cells(columns: Sequence[Column], content: Sequence[Row]) -> list[Cell]:
    sets = {column.test_set: _rows_of(column, content) for column in columns}
    found = {
        place: PaperCell(mean(row["value"] for row in sets[column.test_set]))
        for place, column in enumerate(columns)
        if sets[column.test_set]
    }
    means = with_means(columns, found)
    cells = [
        _paper_cell(cell, column) if column.mean_of else number(sets[column.test_set])
        for cell, column in zip(means, columns, strict=True)
    ]
    for place, column in enumerate(columns):
        parts = [columns[i] for i in column.mean_of] or [column]
        if means[place].value is not None and any(_in_part(c, sets[c.test_set]) for c in parts):
            cells[place] = replace(cells[place], text=cells[place].text + IN_PART)
    return cells


def _rows_of(column: Column, rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if column.test_set and row["test_set"] == column.test_set]


def _in_part(column: Column, rows: Sequence[Row]) -> bool:
    """Whether rows of a column are of other utterances than the test set was published with.

    Utterances without a reference are no number's; they do not make a set incomplete.
    """
    counts = [row["n_utts"] + (row.get("n_empty_refs") or 0) for row in rows if row["n_utts"]]
    return column.n_utts is not None and any(count != column.n_utts for count in counts)


def _count_notes(columns: Sequence[Column], rows: Sequence[Row]) -> list[str]:
    """Say how many utterances of each test set an experiment's rows are of."""
    groups, in_part = [], False
    for name, same in groupby(columns, key=lambda column: column.group):
        told = []
        for column in same:
            own = _rows_of(column, rows)
            counts = sorted({row["n_utts"] for row in own if row["n_utts"]})
            if counts:
                text = " or ".join(f"{count:,}" for count in counts)
                if _in_part(column, own):
                    in_part = True
                    text += f" (published: {column.n_utts:,})"
                told.append(f"{column.label.rstrip('?')} {text}")
        if told:
            groups.append(f"{name} {', '.join(told)}")
    notes = [f"Utterances scored: {'; '.join(groups)}."] if groups else []
    return notes + ([f"{IN_PART}: not the whole published test set."] if in_part else [])
