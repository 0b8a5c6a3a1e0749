"""Stage 4: drops the rows that training cannot use, counting and listing them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from espnet_part.audio import SAMPLE_RATE, AudioError
from espnet_part.datadir import ALL_FILES, Row, count_rows, iter_rows, write_datadir
from espnet_part.leakage import HeldOut
from espnet_part.publish import fingerprint, make_once
from espnet_part.rowpass import Progress, Skipped, blocks, read_headers, row_samples

LISTING = "skipped.tsv"


@dataclass(frozen=True)
class Limits:
    """What a row must keep to.

    Attributes:
        min_sec: Shortest audio in seconds.
        max_sec: Longest audio in seconds.
        max_chars: Longest source or target text in characters; None: any.
    """

    min_sec: float
    max_sec: float
    max_chars: int | None = None

    def __post_init__(self):
        if not 0 <= self.min_sec < self.max_sec:
            raise ValueError(
                f"limits: found {self.min_sec} to {self.max_sec} s, expected 0 <= min < max"
            )
        if self.max_chars is not None and self.max_chars < 1:
            raise ValueError(f"limits: found max_chars {self.max_chars}, expected 1 or more")


def filter_datadir(
    data_dir: str | Path,
    out: str | Path,
    limits: Limits,
    jobs: int = 1,
    held_out: HeldOut | None = None,
) -> dict:
    """Copies a data folder without the rows that break a limit, have bad audio, or lack text.

    Args:
        data_dir: Data folder, for training or validation: a test set stays whole.
        out: Another folder; `skipped.tsv` in it lists id, reason and detail of every dropped row.
        limits: See `Limits`.
        jobs: Threads that read audio headers.
        held_out: Rows of test sets, which are dropped.

    Returns:
        {"rows": rows read, "kept": rows written, "skipped": {reason: rows}}.

    Raises:
        ValueError: The data folder is bad, `out` is the same folder, or no row is left.
    """
    data_dir, out = Path(data_dir), Path(out)
    check_other_folder(data_dir, out)
    held_out = held_out or HeldOut()
    job = {
        "command": "filter",
        "data_dir": str(data_dir),
        "files": fingerprint(data_dir, ALL_FILES),
        "limits": [limits.min_sec, limits.max_sec, limits.max_chars],
        "test_sets": held_out.fingerprint(),
    }
    return make_once(out, job, ALL_FILES, lambda: _filter(data_dir, out, limits, jobs, held_out))


def _filter(data_dir: Path, out: Path, limits: Limits, jobs: int, held_out: HeldOut) -> dict:
    total = count_rows(data_dir)
    with listing(out) as file, contextlib.ExitStack() as stack:
        skipped = Skipped(str(data_dir), file)
        pool = stack.enter_context(ThreadPoolExecutor(max(1, jobs)))
        progress = stack.enter_context(Progress(f"filter {data_dir}", total))
        rows = _good_rows(data_dir, limits, held_out, pool, skipped, progress)
        kept = write_kept(out, rows, skipped)
    return {"rows": progress.done, "kept": kept, "skipped": skipped.counts}


def check_other_folder(data_dir: Path, out: Path) -> None:
    """Raises ValueError if `out` is `data_dir`: the input is never changed."""
    if data_dir.resolve() == out.resolve():
        raise ValueError(f"{out}: --out is --data_dir; expected another folder")


@contextlib.contextmanager
def listing(out: Path):
    """A file for skipped rows that becomes `skipped.tsv` in `out` at the end, whatever happens."""
    out.mkdir(parents=True, exist_ok=True)
    temporary = out / (LISTING + ".tmp")
    try:
        # What is listed may be there because it is no UTF-8.
        with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            yield file
    finally:
        os.replace(temporary, out / LISTING)


def write_kept(out: Path, rows: Iterator[Row], skipped: Skipped) -> int:
    """`write_datadir`, but where no row is left, the reasons why are told.

    Raises:
        ValueError: As `write_datadir`, every row was skipped, or there was none.
    """
    first = next(rows, None)
    if first is None:
        if not skipped.counts:
            raise ValueError(
                f"{out}: found no rows: the table, file or folder that it is made from is empty, "
                "expected one with rows; fetch it or make it again"
            )
        raise ValueError(f"{out}: no row is left: skipped {skipped.summary()}; see {out / LISTING}")

    def all_rows() -> Iterator[Row]:
        yield first
        yield from rows

    return write_datadir(out, all_rows())


def _good_rows(
    data_dir: Path,
    limits: Limits,
    held_out: HeldOut,
    pool: ThreadPoolExecutor,
    skipped: Skipped,
    progress: Progress,
) -> Iterator[Row]:
    for block in blocks(iter_rows(data_dir)):
        headers = read_headers(block, pool)
        for row in block:
            try:
                problem = _problem(row, row_samples(row, headers), limits) or held_out.problem(row)
            except AudioError as err:
                problem = err.reason, str(err)
            if problem is None:
                yield row
            else:
                skipped.add(row.utt_id, *problem)
        progress.add(len(block))


def _problem(row: Row, samples: int, limits: Limits) -> tuple[str, str] | None:
    """Reason and detail of why a row is dropped; None: it stays."""
    if not row.target:
        return "empty text", "no target text"
    if row.path is None and not row.source:
        return "empty source", "no source text"
    seconds = samples / SAMPLE_RATE
    if row.path is not None and seconds < limits.min_sec:
        return f"shorter than {limits.min_sec:g} s", f"{seconds:.3f} s"
    if row.path is not None and seconds > limits.max_sec:
        return f"longer than {limits.max_sec:g} s", f"{seconds:.3f} s"
    chars = max(len(row.target), len(row.source or ""))
    if limits.max_chars is not None and chars > limits.max_chars:
        return f"over {limits.max_chars} characters", f"{chars} characters"
    return None
