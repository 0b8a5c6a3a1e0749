"""Rows of a corpus on their way to a folder: those that can be used, each id once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from espnet_part.audio import AudioError
from espnet_part.datadir import Row
from espnet_part.row import BREAKS, normalize_text
from espnet_part.rowpass import Progress, Skipped, blocks, read_headers, row_samples


@dataclass(frozen=True)
class Bad:
    """A row that the corpus's own tables show to be unusable.

    Attributes:
        utt_id: Of the row, or what comes nearest to an id, such as `test.tsv:17`.
        reason: A few words to count by, without names or numbers.
        detail: What was found.
    """

    utt_id: str
    reason: str
    detail: str


def checked_rows(
    found: Iterable[Row | Bad], pool: ThreadPoolExecutor, skipped: Skipped, progress: Progress
) -> Iterator[tuple[Row, int]]:
    """Rows that can be used, with their samples at 16 kHz."""
    for block in blocks(found):
        headers = read_headers([row for row in block if isinstance(row, Row)], pool)
        for row in block:
            if isinstance(row, Bad):
                skipped.add(row.utt_id, row.reason, row.detail)
            elif (problem := _problem(row)) is not None:
                skipped.add(row.utt_id, *problem)
            else:
                try:
                    yield row, row_samples(row, headers)
                except AudioError as err:
                    skipped.add(row.utt_id, err.reason, str(err))
        progress.add(len(block))


def _problem(row: Row) -> tuple[str, str] | None:
    """Reason and detail of why a row cannot be written, whatever its audio; None: it can."""
    try:
        fields = (row.utt_id, row.target, row.source, row.path, row.speaker)
        "".join(field for field in fields if field is not None).encode()
    except UnicodeEncodeError:  # half a surrogate pair, or a file name that is not UTF-8
        return "not Unicode", "id, text, path or speaker holds what UTF-8 cannot say"
    if row.utt_id.split() != [row.utt_id] or BREAKS.search(row.utt_id):
        return "bad id", "expected an id without white space"
    if not normalize_text(row.target).strip():
        return "empty text", "no target text"
    if row.path is None and not normalize_text(row.source or "").strip():
        return "empty source", "no source text"
    if row.path is not None and normalize_text(row.path) != row.path:
        return "white space in path", f"{row.path!r}: tabs, double spaces, or spaces at its ends"
    return None


def unique_rows(rows: Iterable[tuple[Row, int]], skipped: Skipped) -> Iterator[tuple[Row, int]]:
    """Sorted rows without those whose id was there already; the first one read stays."""
    last = None
    for row, samples in rows:
        if row.utt_id == last:
            skipped.add(row.utt_id, "id twice", "an earlier row has this id")
        else:
            last = row.utt_id
            yield row, samples
