"""The paper's tables on the page, with an experiment's last phases below its systems."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from statistics import mean

from espnet_part.html_tables import Cell, System, Table, names_of, number
from espnet_part.paper import Column, PaperCell, PaperTable, with_means
from espnet_part.tables import Row


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
    own = []
    names = names_of(systems)
    for system in systems:
        phase = system.phases[-1]
        content = [r for r in system.rows(rows, phase) if r["metric"] in paper.metrics]
        if any(row["test_set"] in paper.test_sets for row in content):
            label = Cell(f"{names[system]}/phase{phase}", f"this experiment, {tag}", scope="row")
            own.append([label, *_own_cells(paper.columns, content)])
    groups = [lines, own] if own else [lines]
    return Table(f"{paper.name}. {paper.title}", head, groups, paper.notes), bool(own)


def _paper_cell(cell: PaperCell, column: Column) -> Cell:
    digits = 2 if column.mean_of else 1
    text = "–" if cell.value is None else f"{cell.value:.{digits}f}"
    kinds = ["none"] if cell.value is None else []
    kinds += ["mean"] if column.mean_of else []
    return Cell(text + ("?" if cell.uncertain else ""), kind=" ".join(kinds))


def _own_cells(columns: Sequence[Column], content: Sequence[Row]) -> list[Cell]:
    sets: dict[str | None, list[Row]] = {}
    for row in content:
        sets.setdefault(row["test_set"], []).append(row)
    found = {
        place: PaperCell(mean(row["value"] for row in sets[column.test_set]))
        for place, column in enumerate(columns)
        if column.test_set in sets
    }
    means = with_means(columns, found)
    return [
        _paper_cell(cell, column) if column.mean_of else number(sets.get(column.test_set, []))
        for cell, column in zip(means, columns, strict=True)
    ]
