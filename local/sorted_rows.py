"""Sorting rows that do not fit into memory."""

from __future__ import annotations

import heapq
import pickle
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from espnet_part.datadir import Row
from espnet_part.rowpass import blocks

RUN_ROWS = 200_000  # held in memory at a time, some 200 MB
_PIECE_ROWS = 1000


def sort_rows(
    rows: Iterable[tuple[Row, int]], folder: Path, run_rows: int = RUN_ROWS
) -> Iterator[tuple[Row, int]]:
    """Yields rows in the order of their ids (bytes); of equal ids the one read first comes first.

    Args:
        rows: (row, its samples).
        folder: Sorted runs lie there while it lasts, where one run does not hold all.
        run_rows: Rows in memory at a time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / ".sorting"  # a killed run's leftover goes
    shutil.rmtree(staging, ignore_errors=True)
    runs: list[Path] = []
    try:
        rest: list[tuple[Row, int]] = []
        for block in blocks(rows, run_rows):
            block.sort(key=_key)
            if len(block) < run_rows and not runs:
                rest = block
                break
            staging.mkdir(exist_ok=True)
            runs.append(_write_run(block, staging))
        if runs:
            yield from heapq.merge(*map(_read_run, runs), key=_key)
        else:
            yield from rest
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _key(item: tuple[Row, int]) -> bytes:
    return item[0].utt_id.encode()


def _write_run(block: list[tuple[Row, int]], staging: Path) -> Path:
    with tempfile.NamedTemporaryFile(dir=staging, delete=False) as file:
        for start in range(0, len(block), _PIECE_ROWS):
            pickle.dump(block[start : start + _PIECE_ROWS], file, pickle.HIGHEST_PROTOCOL)
    return Path(file.name)


def _read_run(path: Path) -> Iterator[tuple[Row, int]]:
    with path.open("rb") as file:  # written above, by this process: safe to unpickle
        while True:
            try:
                yield from pickle.load(file)
            except EOFError:
                return
