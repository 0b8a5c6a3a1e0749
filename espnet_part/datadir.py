"""Data folders in Kaldi style (docs/data.md): reading and writing, one row at a time.

Every file of a folder is sorted by id in the order of the bytes (LC_ALL=C), so that reading is a
merge join: one line of each file is in memory, whatever the size of the folder.
Nothing found in a data file is ever executed.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from espnet_part.audio import is_pipe, pipe_error
from espnet_part.prompt import LANGUAGES, SPEECH_TASKS, TASKS
from espnet_part.sortedfile import SortedLookup, iter_pairs

COMMON_FILES = ("text", "utt2task", "utt2lang", "utt2tgt")
SPEECH_FILES = (*COMMON_FILES, "wav.scp", "utt2spk", "segments", "transcript")
TEXT_FILES = (*COMMON_FILES, "source")
ALL_FILES = tuple(dict.fromkeys(SPEECH_FILES + TEXT_FILES))
# Removed first and put back last by a writer: a folder without it is half-written, never mixed.
ANCHOR = "utt2task"
# Whatever a reader might take for a column or line end, and NUL; U+3000 and the like are text.
_BREAKS = re.compile(r"[\x00-\x20\x7f\x85\u2028\u2029]+")


@dataclass(frozen=True)
class Row:
    """One example.

    Attributes:
        utt_id: Unique over tasks, e.g. `clip7-st-de`.
        task: One of prompt.TASKS.
        src: Language code of the source.
        tgt: Language code of the target; for asr the same as `src`.
        target: Text that the model shall say.
        path: Audio file; None for text rows.
        start_sec: Start of the segment in the file; None without `segments`.
        end_sec: End of it; None without `segments`, or for "to the end of the file".
        source: Source text of text rows, transcript of st rows where there is one.
        speaker: From utt2spk; None for text rows.
    """

    utt_id: str
    task: str
    src: str
    tgt: str
    target: str
    path: str | None = None
    start_sec: float | None = None
    end_sec: float | None = None
    source: str | None = None
    speaker: str | None = None


def normalize_text(text: str) -> str:
    """Text on one line: each run of spaces, tabs, newlines, control characters becomes a space."""
    return _BREAKS.sub(" ", text).strip(" ")


def is_speech_folder(folder: str | Path) -> bool:
    """Whether a data folder holds speech (wav.scp) or text (source).

    Raises:
        ValueError: The folder is missing, or holds neither or both.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such data folder; stage 1 makes it")
    speech, text = ((folder / name).exists() for name in ("wav.scp", "source"))
    if speech == text:
        found = "both wav.scp and source" if speech else "neither wav.scp nor source"
        raise ValueError(
            f"{folder}: found {found}, expected one of them: a data folder holds speech or text"
        )
    return speech


def count_rows(folder: str | Path) -> int:
    """Number of lines of utt2task, without parsing: for progress and time left."""
    is_speech_folder(folder)  # a missing folder is told before a missing file
    rows = 0
    with _need(Path(folder), ANCHOR).open("rb") as file:
        while block := file.read(1 << 20):
            rows += block.count(b"\n")
    return rows


def iter_rows(folder: str | Path, allow_pipes: bool = False) -> Iterator[Row]:
    """Reads a data folder row by row, in the order of the ids.

    Args:
        folder: Speech (wav.scp text utt2spk utt2task utt2lang utt2tgt [segments] [transcript]) or
            text (source text utt2task utt2lang utt2tgt).
        allow_pipes: Gives commands in wav.scp as `Row.path` instead of refusing them; only
            formatting asks for this.

    Raises:
        ValueError: A file is missing, unsorted, or not UTF-8, ids differ between files, a task or
            language is unknown or does not fit, or wav.scp holds a pipe.
    """
    folder = Path(folder)
    speech = is_speech_folder(folder)
    has_segments = speech and (folder / "segments").exists()
    names = [*COMMON_FILES, *(("utt2spk",) if speech else ("source",))]
    if speech:
        names.append("segments" if has_segments else "wav.scp")
    transcripts = _Optional(folder / "transcript") if speech else None
    recordings = SortedLookup(folder / "wav.scp") if has_segments else None

    for utt_id, values in _join(folder, names):
        target, task, src, tgt, last_but_one, *last = values
        where = f"{folder}: id {utt_id}"
        _check_row(where, task, src, tgt, speech)
        target = normalize_text(target)
        if not speech:
            yield Row(utt_id, task, src, tgt, target, source=normalize_text(last_but_one))
            continue
        path, start_sec, end_sec = last[0], None, None
        if recordings is not None:
            recording, start_sec, end_sec = _parse_segment(where, last[0])
            path = recordings.get(recording)
            if path is None:
                raise ValueError(
                    f"{where}: segments names the recording {recording!r}, which wav.scp does not "
                    "hold; add it there or remove the row"
                )
        if not path:
            raise ValueError(f"{where}: wav.scp names no file; expected `<id> <path>`")
        if is_pipe(path) and not allow_pipes:
            raise pipe_error(f"{folder / 'wav.scp'}: id {utt_id}")
        source = transcripts.get(utt_id) if transcripts else None
        source = normalize_text(source) if source is not None else None
        yield Row(
            utt_id, task, src, tgt, target, path, start_sec, end_sec, source, last_but_one or None
        )
    if transcripts:
        transcripts.finish()


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


def make_staging(folder: Path) -> Path:
    """An empty folder inside `folder` for files to be published; what a killed run left goes."""
    staging = folder / ".staging"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    return staging


def publish(staging: Path, folder: Path, anchor: str, owned: Iterable[str]) -> None:
    """Moves the files of `staging` into `folder` so that a kill never leaves old and new mixed.

    Args:
        staging: Folder with the new files, on the same file system.
        folder: Where they go.
        anchor: Name of the file without which readers refuse the folder: it goes first, comes last.
        owned: Names that belong to the set: those in `folder` and not in `staging` are removed.
    """
    (folder / anchor).unlink(missing_ok=True)
    for name in owned:
        if not (staging / name).exists():
            (folder / name).unlink(missing_ok=True)
    names = sorted(entry.name for entry in staging.iterdir())
    for name in sorted(names, key=lambda name: name == anchor):
        os.replace(staging / name, folder / name)


def _need(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.exists():
        raise ValueError(
            f"{path}: no such file; expected in every data folder of this kind "
            "(a run killed while writing leaves it out: run that stage again)"
        )
    return path


def _join(folder: Path, names: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Rows of several sorted files that must hold the same ids."""
    files = [iter_pairs(_need(folder, name)) for name in names]
    while True:
        pairs = [next(file, None) for file in files]
        ids = [pair[0] if pair else None for pair in pairs]
        if ids.count(ids[0]) != len(ids):
            # The smallest id is the one that the other files lack.
            at = min((i for i, found in enumerate(ids) if found), key=lambda i: ids[i].encode())
            lacking = [name for name, found in zip(names, ids, strict=True) if found != ids[at]]
            raise ValueError(
                f"{folder}: id {ids[at]!r} is in {names[at]} but not in {' '.join(lacking)}; "
                "expected the same ids in each of these files; add the line or remove the id"
            )
        if ids[0] is None:
            return
        yield ids[0], [pair[1] for pair in pairs]


class _Optional:
    """A sorted file that holds some of the ids, read in step with the join."""

    def __init__(self, path: Path):
        self._path = path
        self._pairs = iter_pairs(path) if path.exists() else iter(())
        self._next = next(self._pairs, None)

    def get(self, utt_id: str) -> str | None:
        if self._next is None or self._next[0] != utt_id:
            if self._next is not None and self._next[0].encode() < utt_id.encode():
                self.finish()
            return None
        value = self._next[1]
        self._next = next(self._pairs, None)
        return value

    def finish(self) -> None:
        if self._next is not None:
            raise ValueError(
                f"{self._path}: id {self._next[0]!r} is not in the other files of the folder; "
                "remove the line or add the row"
            )


def _check_row(where: str, task: str, src: str, tgt: str, speech: bool) -> None:
    if task not in TASKS:
        raise ValueError(f"{where}: unknown task {task!r} in utt2task; expected {' '.join(TASKS)}")
    if (task in SPEECH_TASKS) != speech:
        kind, wanted = ("speech", "asr or st") if speech else ("text", "mt or instruct")
        raise ValueError(
            f"{where}: task {task!r} in a {kind} folder; expected {wanted} there; "
            "keep speech and text in folders of their own"
        )
    for name, code in (("utt2lang", src), ("utt2tgt", tgt)):
        if code not in LANGUAGES:
            raise ValueError(
                f"{where}: unknown language {code!r} in {name}; expected {' '.join(LANGUAGES)}"
            )
    if task == "asr" and src != tgt:
        raise ValueError(
            f"{where}: asr from {src!r} to {tgt!r}; expected the same language in utt2lang and "
            "utt2tgt (another language is task st)"
        )


def _parse_segment(where: str, value: str) -> tuple[str, float, float | None]:
    fields = value.split()
    try:
        recording, start, end = fields
        start_sec, end_sec = float(start), float(end)
    except ValueError:
        raise ValueError(
            f"{where}: found {value!r} in segments, expected `<recording> <start> <end>` in seconds"
        ) from None
    # Kaldi's way of saying "to the end".
    return recording, start_sec, None if end_sec == -1 else end_sec


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
        for row in _chain(first, rows):
            where = f"{folder}: row {row.utt_id!r}"
            last = _check_id(where, row.utt_id, last)
            if (row.path is not None) != speech:
                raise ValueError(
                    f"{where}: speech and text rows in one folder; write them into two folders"
                )
            _check_row(where, row.task, row.src, row.tgt, speech)
            line = {"text": normalize_text(row.target), "utt2task": row.task}
            line |= {"utt2lang": row.src, "utt2tgt": row.tgt}
            if speech:
                has_segments |= row.start_sec is not None or row.end_sec is not None
                end = -1 if row.end_sec is None else row.end_sec
                if _BREAKS.sub(" ", row.path).strip(" ") != row.path:
                    raise ValueError(
                        f"{where}: path {row.path!r}: expected one without tabs, newlines, double "
                        "spaces or spaces at its ends; rename the file"
                    )
                line["wav.scp"] = row.path
                line["utt2spk"] = row.speaker or row.utt_id
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


def _chain(first: Row, rows: Iterator[Row]) -> Iterator[Row]:
    yield first
    yield from rows


def _check_id(where: str, utt_id: str, last: bytes) -> bytes:
    if not utt_id or utt_id.split() != [utt_id] or _BREAKS.search(utt_id):
        raise ValueError(f"{where}: expected an id without white space or control characters")
    key = utt_id.encode()
    if key <= last:
        problem = "repeats" if key == last else f"comes after {last.decode()!r}"
        raise ValueError(
            f"{where}: the id {problem}; expected rising ids in byte order (LC_ALL=C): "
            "make ids unique, sort the rows, or pass a list, which is sorted here"
        )
    return key
