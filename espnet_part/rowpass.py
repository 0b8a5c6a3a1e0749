"""What every pass over many rows needs: blocks, audio headers, skipped rows, progress."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TextIO, TypeVar

from espnet_part.audio import AudioError, AudioHeader, read_header
from espnet_part.datadir import Row
from espnet_part.row import BREAKS

BLOCK_ROWS = 4096
T = TypeVar("T")
log = logging.getLogger(__name__)


def blocks(rows: Iterable[T], size: int = BLOCK_ROWS) -> Iterator[list[T]]:
    """Cuts an iterator into lists of at most `size` rows."""
    rows = iter(rows)
    while block := list(itertools.islice(rows, size)):
        yield block


def read_headers(rows: list[Row], pool: ThreadPoolExecutor) -> dict[str, AudioHeader | AudioError]:
    """Header, or what is wrong with it, of each different audio file of some rows."""
    paths = list(dict.fromkeys(row.path for row in rows if row.path is not None))
    return dict(zip(paths, pool.map(_header_or_error, paths), strict=True))


def _header_or_error(path: str) -> AudioHeader | AudioError:
    try:
        return read_header(path)
    except AudioError as err:
        return err


def row_samples(row: Row, headers: dict[str, AudioHeader | AudioError]) -> int:
    """Samples of a row at 16 kHz, 0 for a text row.

    Raises:
        AudioError: The file or the segment is bad.
    """
    if row.path is None:
        return 0
    header = headers[row.path]
    if isinstance(header, AudioError):
        raise header
    return header.samples(row.start_sec, row.end_sec)


class Skipped:
    """Counts skipped rows by reason, logs the first few of each, lists all in a file if given one.

    Attributes:
        counts: Rows by reason.
    """

    def __init__(self, where: str, listing: TextIO | None = None, shown: int = 3):
        self.counts: dict[str, int] = {}
        self._where, self._listing, self._shown = where, listing, shown

    def add(self, utt_id: str, reason: str, detail: str) -> None:
        """Counts one row."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        if self.counts[reason] <= self._shown:
            log.warning("%s: skipped %s: %s", self._where, utt_id, detail)
        if self._listing is not None:
            fields = (BREAKS.sub(" ", field) for field in (utt_id, reason, detail))
            self._listing.write("\t".join(fields) + "\n")

    def summary(self) -> str:
        """E.g. `3 rows: 2 missing file, 1 no samples`."""
        each = ", ".join(f"{n:,} {reason}" for reason, n in sorted(self.counts.items()))
        return f"{sum(self.counts.values()):,} rows: {each}" if each else "no rows"


class Progress:
    """Logs rows done, rate and time left, at most every `every_sec` seconds.

    Args:
        what: Is done.
        total: Rows, or about how many; None where nobody knows, then no time left is told.
        every_sec: See above.

    Attributes:
        done: Rows so far.
    """

    def __init__(self, what: str, total: int | None, every_sec: float = 20.0):
        self.done = 0
        self._what, self._total, self._every = what, total, every_sec
        self._start = self._last = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None
    ) -> None:
        if kind is None:
            self._show(time.monotonic())

    def add(self, rows: int) -> None:
        """Tells that so many rows more are done."""
        self.done += rows
        now = time.monotonic()
        if now - self._last >= self._every:
            self._last = now
            self._show(now)

    def _show(self, now: float) -> None:
        rate = self.done / max(now - self._start, 1e-9)
        if self._total is None:
            log.info("%s: %d rows, %.0f rows/s", self._what, self.done, rate)
            return
        total = max(self._total, self.done)  # what is told beforehand may be a guess
        left = (total - self.done) / max(rate, 1e-9)
        percent = 100 * self.done / max(total, 1)
        log.info(
            "%s: %d of %d rows (%.0f %%), %.0f rows/s, %.0f s left",
            *(self._what, self.done, total, percent, rate, left),
        )
