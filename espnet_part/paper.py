"""The tables of the PART paper (`paper_tables.yaml`), for the page to set an experiment beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

FILE = Path(__file__).with_name("paper_tables.yaml")


@dataclass(frozen=True)
class PaperCell:
    """A number of the paper: None for a dash; `uncertain` where the scan leaves doubt."""

    value: float | None
    uncertain: bool = False


@dataclass(frozen=True)
class Column:
    """A column: `test_set` is ours of the same name, None where there is none to compare.

    A column of means has no test set; `mean_of` lists the places of the columns that it averages.
    `n_utts` is how many utterances the test set was published with, None where that is not known.
    """

    group: str
    label: str
    test_set: str | None
    mean_of: tuple[int, ...] = ()
    n_utts: int | None = None


@dataclass(frozen=True)
class PaperSystem:
    """A row of the paper: `cells` has one cell for each column, those of means included."""

    name: str
    size: str
    cells: tuple[PaperCell, ...]


@dataclass(frozen=True)
class PaperTable:
    """One table of the paper."""

    name: str
    title: str
    metrics: tuple[str, ...]
    columns: tuple[Column, ...]
    systems: tuple[PaperSystem, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def test_sets(self) -> set[str]:
        """Names of the test sets that a row of an experiment can be given for."""
        return {column.test_set for column in self.columns if column.test_set}


def parse_cell(text: str) -> PaperCell:
    """Read a cell: `4.2`, `-` where the paper has none, either with `?` where it is uncertain.

    Raises:
        ValueError: if it is something else.
    """
    number = text.removesuffix("?")
    try:
        return PaperCell(None if number == "-" else float(number), number != text)
    except ValueError:
        raise ValueError(f"{FILE.name}: found cell {text!r}, expected 4.2, -, 4.2? or -?") from None


def with_means(columns: Sequence[Column], cells: dict[int, PaperCell]) -> tuple[PaperCell, ...]:
    """Fill in what a row lacks: means over complete groups, dashes elsewhere.

    Args:
        columns: of the table.
        cells: by the column's place.
    """
    full = []
    for place, column in enumerate(columns):
        parts = [cells.get(i, PaperCell(None)) for i in column.mean_of]
        values = [part.value for part in parts if part.value is not None]
        if place in cells:
            full.append(cells[place])
        elif parts and len(values) == len(parts):
            full.append(PaperCell(mean(values), any(part.uncertain for part in parts)))
        else:
            full.append(PaperCell(None))
    return tuple(full)


def _columns(table: dict[str, Any]) -> list[Column]:
    columns: list[Column] = []
    for group in table["groups"]:
        start = len(columns)
        for label, content in group["columns"].items():
            test_set, n_utts = content if isinstance(content, list) else (content, None)
            columns.append(Column(group["label"], label, test_set, n_utts=n_utts))
        if group.get("mean"):
            columns.append(Column(group["label"], "mean", None, tuple(range(start, len(columns)))))
    if "mean_of_all" in table:
        columns.append(Column("", table["mean_of_all"], None, tuple(range(len(columns)))))
    return columns


def _system(columns: Sequence[Column], where: str, system: dict[str, Any]) -> PaperSystem:
    places = [i for i, column in enumerate(columns) if not column.mean_of]
    given = [parse_cell(text) for text in system.get("cells", "").split()]
    if given and len(given) != len(places):
        raise ValueError(f"{where}: found {len(given)} cells, expected {len(places)}")
    cells = dict(zip(places, given, strict=False))
    for place, column in enumerate(columns):
        if column.mean_of and column.group in system.get("means", {}):
            cells[place] = PaperCell(system["means"][column.group])
    return PaperSystem(system["name"], str(system.get("size", "")), with_means(columns, cells))


def load_paper(path: Path = FILE) -> tuple[str, list[PaperTable]]:
    """Read the paper's tables.

    Returns:
        What they were taken from, and the tables.

    Raises:
        ValueError: if a cell is malformed, or a row has not one for each column.
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    tables = []
    for table in content["tables"]:
        columns = _columns(table)
        systems = [
            _system(columns, f"{path.name}, {table['name']}, {system['name']}", system)
            for system in table["systems"]
        ]
        tables.append(
            PaperTable(
                table["name"],
                table["title"],
                tuple(table["metrics"]),
                tuple(columns),
                tuple(systems),
                tuple(table["notes"]),
            )
        )
    return content["source"], tables
