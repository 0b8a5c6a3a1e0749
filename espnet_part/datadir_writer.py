"""Writing data folders."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from espnet_part.publish import make_staging, publish
from espnet_part.row import BREAKS, Row, check_row, normalize_text

COMMON_FILES = ("text", "utt2task", "utt2lang", "utt2tgt")
SPEECH_FILES = (*COMMON_FILES, "wav.scp", "utt2spk", "segments", "transcript")
TEXT_FILES = (*COMMON_FILES, "source")
ALL_FILES = tuple(dict.fromkeys(SPEECH_FILES + TEXT_FILES))
# Removed first and put back last by a writer: a folder without it is half-written, never mixed.
ANCHOR = "utt2task"


def write_datadir(folder: str | Path, rows: Iterable[Row]) -> int:
    """Writes a data folder; what is there already is replaced as a whole or not at all.

    A folder with segments gets one wav.scp line per row (id = row id), which Kaldi allows and which
    keeps every file in the order of the rows.

    Args:
        folder: Made if missing. Files other than those of a data folder are left alone.
        rows: A list or tuple may have any order. An iterator is written as it comes, in bounded
            memory, so its ids must rise (byte order).

    Returns:
        The number of rows.

    Raises:
        ValueError: No rows, an id that repeats, is out of order or holds white space, an unknown
            task or language, speech and text rows mixed, a speech row without audio.
    """
    folder = Path(folder)
    if isinstance(rows, list | tuple):
        rows = sorted(rows, key=lambda row: row.utt_id.encode())
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        raise ValueError(f"{folder}: no rows to write; see what dropped them")
    speech = first.path is not None
    folder.mkdir(parents=True, exist_ok=True)
    staging = make_staging(folder)
    try:
        count, has_segments, has_transcript = _write_files(folder, staging, first, rows, speech)
        if not has_segments:
            (staging / "segments").unlink(missing_ok=True)
        if not has_transcript:
            (staging / "transcript").unlink(missing_ok=True)
        publish(staging, folder, ANCHOR, ALL_FILES)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return count


def _write_files(
    folder: Path, staging: Path, first: Row, rows: Iterator[Row], speech: bool
) -> tuple[int, bool, bool]:
    """Writes all files into `staging`; returns rows, any segment, any transcript."""
    has_segments = has_transcript = False
    names = SPEECH_FILES if speech else TEXT_FILES
    files = {
        name: (staging / name).open("w", encoding="utf-8", newline="\n", buffering=1 << 18)
        for name in names
    }
    last, count = b"", 0
    try:
        for row in itertools.chain([first], rows):
            where = f"{folder}: row {row.utt_id!r}"
            last = _check_id(where, row.utt_id, last)
            if (row.path is not None) != speech:
                raise ValueError(
                    f"{where}: speech and text rows in one folder; write them into two folders"
                )
            check_row(where, row.task, row.src, row.tgt, speech)
            line = {"text": normalize_text(row.target), "utt2task": row.task}
            line |= {"utt2lang": row.src, "utt2tgt": row.tgt}
            if row.path is not None:
                has_segments |= row.start_sec is not None or row.end_sec is not None
                end = -1 if row.end_sec is None else row.end_sec
                if BREAKS.sub(" ", row.path).strip(" ") != row.path:
                    raise ValueError(
                        f"{where}: path {row.path!r}: expected one without tabs, newlines, double "
                        "spaces or spaces at its ends; rename the file"
                    )
                line["wav.scp"] = row.path
                line["utt2spk"] = BREAKS.sub("_", (row.speaker or "").strip()) or row.utt_id
                line["segments"] = f"{row.utt_id} {float(row.start_sec or 0)!r} {end!r}"
                if row.source is not None:
                    has_transcript = True
                    line["transcript"] = normalize_text(row.source)
            else:
                line["source"] = normalize_text(row.source or "")
            for name, value in line.items():
                files[name].write(f"{row.utt_id} {value}\n" if value else f"{row.utt_id}\n")
            count += 1
    finally:
        for file in files.values():
            file.close()
    return count, has_segments, has_transcript


def _check_id(where: str, utt_id: str, last: bytes) -> bytes:
    if not utt_id or utt_id.split() != [utt_id] or BREAKS.search(utt_id):
        raise ValueError(f"{where}: expected an id without white space or control characters")
    key = utt_id.encode()
    if key <= last:
        problem = "repeats" if key == last else f"comes after {last.decode()!r}"
        raise ValueError(
            f"{where}: the id {problem}; expected rising ids in byte order (LC_ALL=C): "
            "make ids unique, sort the rows, or pass a list, which is sorted here"
        )
    return key
