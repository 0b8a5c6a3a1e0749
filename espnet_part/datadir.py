"""Data folders in Kaldi style (README.md has their files): reading and writing, one row at a time.

Every file of a folder is sorted by id in the order of the bytes (LC_ALL=C), so that reading is a
merge join: one line of each file is in memory, whatever the size of the folder.
Nothing found in a data file is ever executed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from espnet_part.audio import is_pipe, pipe_error
from espnet_part.datadir_writer import ALL_FILES, ANCHOR, COMMON_FILES, write_datadir
from espnet_part.row import Row, check_row, normalize_text
from espnet_part.sortedfile import SortedLookup, iter_pairs

__all__ = [
    "ALL_FILES",
    "Row",
    "count_rows",
    "is_speech_folder",
    "iter_rows",
    "normalize_text",
    "write_datadir",
]


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
        check_row(where, task, src, tgt, speech)
        target = normalize_text(target)
        if not speech:
            yield Row(utt_id, task, src, tgt, target, source=normalize_text(last_but_one))
            continue
        path, start_sec, end_sec = last[0], None, None
        if recordings is not None:
            recording, start_sec, end_sec = _parse_segment(where, last[0])
            found = recordings.get(recording)
            if found is None:
                raise ValueError(
                    f"{where}: segments names the recording {recording!r}, which wav.scp does not "
                    "hold; add it there or remove the row"
                )
            path = found
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
        here = [pair for pair in pairs if pair is not None]
        if not here:
            return
        if len(here) < len(files) or any(pair[0] != here[0][0] for pair in here):
            for file in files:  # a file out of order looks like a missing id: it is told instead
                for _ in file:
                    pass
            raise ValueError(_mismatch(folder, names, pairs))
        yield here[0][0], [pair[1] for pair in here]


def _mismatch(folder: Path, names: list[str], pairs: list[tuple[str, str] | None]) -> str:
    # The smallest id is the one that the other files lack.
    utt_id = min((pair[0] for pair in pairs if pair), key=str.encode)
    holds = [pair is not None and pair[0] == utt_id for pair in pairs]
    having = " ".join(name for name, has in zip(names, holds, strict=True) if has)
    lacking = " ".join(name for name, has in zip(names, holds, strict=True) if not has)
    return (
        f"{folder}: id {utt_id!r} is in {having} but not in {lacking}; "
        "expected the same ids in each of these files; add the line or remove the id"
    )


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
