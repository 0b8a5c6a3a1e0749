"""Several sets from one pass over a table that takes long to read."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from corpus import Bad

from espnet_part.datadir import Row

_PIECE_ROWS = 1000


class OnePass:
    """Gives the rows of several sets; the table is read for the first of them that asks.

    The rows of the set that asks go straight through; those of the sets after it wait on disk until
    they are asked for. So the largest set should come first.

    Args:
        read: Reads the table: pairs of a set's name and a row of it.
        names: Sets, in the order in which they are going to ask.
        folder: Where waiting rows lie, in files that vanish with this process.
    """

    def __init__(
        self,
        read: Callable[[], Iterable[tuple[str, Row | Bad]]],
        names: Sequence[str],
        folder: Path,
    ):
        self._read, self._names, self._folder = read, list(names), folder
        self._waiting: dict[str, _Spool] = {}
        self._problem: ValueError | None = None

    def rows(self, name: str) -> Iterator[Row | Bad]:
        """The rows of one set, in the order of the table.

        Raises:
            ValueError: The table is bad; told to every set, but found only once.
        """
        if self._problem is not None:
            raise self._problem
        if name in self._waiting:
            yield from self._waiting.pop(name).take()
            return
        later = self._names[self._names.index(name) + 1 :]
        spools = {other: _Spool(self._folder) for other in later}
        try:
            for owner, row in self._read():
                if owner == name:
                    yield row
                elif owner in spools:
                    spools[owner].add(row)
        except ValueError as err:
            self._problem = err
            raise
        self._waiting = spools


class _Spool:
    """Rows on disk."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._piece: list[Row | Bad] = []

    def add(self, row: Row | Bad) -> None:
        self._piece.append(row)
        if len(self._piece) >= _PIECE_ROWS:
            self._flush()

    def _flush(self) -> None:
        pickle.dump(self._piece, self._file, pickle.HIGHEST_PROTOCOL)
        self._piece = []

    def take(self) -> Iterator[Row | Bad]:
        """All rows, once."""
        self._flush()
        with self._file as file:
            end = file.tell()
            file.seek(0)
            while file.tell() < end:  # written above, by this process: safe to unpickle
                yield from pickle.load(file)
