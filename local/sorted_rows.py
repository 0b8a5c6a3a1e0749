"""Sorting rows that do not fit into memory: sorted runs on disk, merged."""

from __future__ import annotations

import dataclasses
import heapq
import operator
import pickle
import shutil
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

from espnet_part.datadir import Row
from espnet_part.rowpass import blocks

RUN_ROWS = 50_000  # held in memory at a time, some 60 MB
MERGED_RUNS = 32  # so many are merged at a time: each is an open file and a piece in memory
_PIECE_ROWS = 500
# Plain tuples are pickled twice as fast as objects.
_values = operator.attrgetter(*(field.name for field in dataclasses.fields(Row)))


def sort_rows(
    rows: Iterable[tuple[Row, int]], folder: Path, run_rows: int = RUN_ROWS
) -> Generator[tuple[Row, int], None, None]:
    """Yields rows in the order of their ids (bytes); of equal ids the one read first comes first.

    Args:
        rows: (row, its samples).
        folder: Sorted runs lie there while it lasts, where one run does not hold all.
        run_rows: Rows in memory at a time.
    """
    staging = folder / ".sorting"
    shutil.rmtree(staging, ignore_errors=True)  # what a killed run left
    runs = _Runs(staging)
    try:
        for block in blocks(rows, run_rows):
            block.sort(key=_key)
            if len(block) < run_rows and runs.empty:  # all of it
                yield from block
                return
            runs.add(block)
            del block  # while it is there, the next one doubles the memory
        yield from runs.merged()
    finally:
        shutil.rmtree(staging, ignore_errors=True)


class _Runs:
    """Sorted runs on disk. `MERGED_RUNS` of one size become one of the next: few files are open."""

    def __init__(self, staging: Path):
        self._staging = staging
        self._levels: list[list[Path]] = []
        self._made = 0

    @property
    def empty(self) -> bool:
        return not self._made

    def add(self, rows: Iterable[tuple[Row, int]], level: int = 0) -> None:
        """Writes one run, and merges where enough of one size are there."""
        self._staging.mkdir(parents=True, exist_ok=True)
        path = self._staging / str(self._made)
        self._made += 1
        with path.open("wb") as file:
            for piece in blocks(rows, _PIECE_ROWS):
                values = [(*_values(row), samples) for row, samples in piece]
                pickle.dump(values, file, pickle.HIGHEST_PROTOCOL)
        if level == len(self._levels):
            self._levels.append([])
        runs = self._levels[level]
        runs.append(path)
        if len(runs) == MERGED_RUNS:
            self.add(_merge(runs), level + 1)
            for path in runs:
                path.unlink()
            runs.clear()

    def merged(self) -> Iterator[tuple[Row, int]]:
        """All rows. Big runs were read before small ones, which keeps equal ids in their order."""
        return _merge([path for runs in reversed(self._levels) for path in runs])


def _merge(runs: list[Path]) -> Iterator[tuple[Row, int]]:
    return heapq.merge(*map(_read_run, runs), key=_key)


def _read_run(path: Path) -> Iterator[tuple[Row, int]]:
    with path.open("rb") as file:  # written above, by this process: safe to unpickle
        while True:
            try:
                values = pickle.load(file)
            except EOFError:
                return
            for *fields, samples in values:
                yield Row(*fields), samples


def _key(item: tuple[Row, int]) -> bytes:
    return item[0].utt_id.encode()
