"""Stages 2 and 3: data folders whose audio stays in place, or is written as 16 kHz mono."""

from __future__ import annotations

import contextlib
import heapq
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from espnet_part.clipstore import Clip, ClipStore, open_store
from espnet_part.datadir import ALL_FILES, Row, count_rows, is_speech_folder, iter_rows
from espnet_part.filtering import check_other_folder, listing, write_kept
from espnet_part.publish import fingerprint, make_once, make_staging, publish
from espnet_part.rowpass import Progress, Skipped, blocks

FORMATS = ("flac", "wav")
_BLOCK_ROWS = 1024


def format_datadir(
    data_dir: str | Path,
    out: str | Path,
    audio_format: str | None = None,
    jobs: int = 1,
    allow_pipes: bool = False,
) -> dict:
    """Checks a data folder and copies it; with `audio_format`, its audio is written anew as well.

    Args:
        data_dir: Data folder.
        out: Another folder.
        audio_format: "flac" or "wav": decode every clip, segments cut out, to `out`/audio. None:
            leave the audio in place.
        jobs: Threads that decode.
        allow_pipes: RUN the commands that wav.scp holds ("... |"), with all rights of the user.

    Returns:
        {"rows": rows read, "kept": rows written, "skipped": {reason: rows}}.

    Raises:
        ValueError: The data folder is bad, or no row has good audio.
    """
    data_dir, out = Path(data_dir), Path(out)
    check_other_folder(data_dir, out)
    if audio_format is None and allow_pipes:
        raise ValueError(
            "--allow_pipes has no effect without --audio_format: what a pipe gives must be written "
            f"to a file; give one of {' '.join(FORMATS)}"
        )
    if audio_format is None or not is_speech_folder(data_dir):
        return _copy(data_dir, out)
    job = {"command": "format", "audio_format": audio_format, "allow_pipes": allow_pipes}
    return _write_anew(data_dir, out, job, [1.0], audio_format, jobs, allow_pipes)


def perturb_datadir(
    data_dir: str | Path,
    out: str | Path,
    factors: list[float],
    audio_format: str = "flac",
    jobs: int = 1,
) -> dict:
    """Writes a data folder that holds another and speed-perturbed copies of it.

    Args:
        data_dir: Data folder. One of text is copied as it is.
        out: Another folder; the copies' audio goes to `out`/audio, the rest stays in place.
        factors: Speeds of the copies, e.g. [0.9, 1.1]; ids and speakers of a copy start with
            "sp0.9-". 1.0 stands for the originals, which are there in any case.
        audio_format: "flac" or "wav".
        jobs: Threads that decode.

    Returns:
        As `format_datadir`; "rows" counts each row once per copy.

    Raises:
        ValueError: The data folder is bad, or a factor is not between 0.5 and 2.
    """
    data_dir, out = Path(data_dir), Path(out)
    check_other_folder(data_dir, out)
    for factor in factors:
        if not 0.5 <= factor <= 2:
            raise ValueError(f"--factors: found {factor:g}, expected speeds from 0.5 to 2")
    if not is_speech_folder(data_dir):
        return _copy(data_dir, out)
    speeds = sorted({1.0, *factors})
    job = {"command": "speed", "audio_format": audio_format, "speeds": speeds}
    return _write_anew(data_dir, out, job, speeds, audio_format, jobs, False, keep_original=True)


def _copy(data_dir: Path, out: Path) -> dict:
    """Copies the text files after reading them all, so that what is wrong is told here."""
    job = {
        "command": "copy",
        "data_dir": str(data_dir),
        "files": fingerprint(data_dir, ALL_FILES),
    }
    return make_once(out, job, ALL_FILES, lambda: _copy_files(data_dir, out))


def _copy_files(data_dir: Path, out: Path) -> dict:
    with Progress(f"format {data_dir}", count_rows(data_dir)) as progress:
        for block in blocks(iter_rows(data_dir)):
            progress.add(len(block))
    if not progress.done:
        raise ValueError(f"{data_dir}: found no rows; run the stage that makes it again")
    staging = make_staging(out)
    try:
        for name in ALL_FILES:
            if (data_dir / name).exists():
                shutil.copyfile(data_dir / name, staging / name)
        publish(staging, out, "utt2task", ALL_FILES)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return {"rows": progress.done, "kept": progress.done, "skipped": {}}


def _write_anew(
    data_dir: Path,
    out: Path,
    job: dict,
    speeds: list[float],
    audio_format: str,
    jobs: int,
    allow_pipes: bool,
    keep_original: bool = False,
) -> dict:
    if audio_format not in FORMATS:
        raise ValueError(f"--audio_format: found {audio_format!r}, expected one of {FORMATS}")
    job |= {"data_dir": str(data_dir), "files": fingerprint(data_dir, ALL_FILES)}
    return make_once(
        out,
        job,
        ALL_FILES,
        lambda: _write_files(
            data_dir, out, job["command"], speeds, audio_format, jobs, allow_pipes, keep_original
        ),
    )


def _write_files(
    data_dir: Path,
    out: Path,
    command: str,
    speeds: list[float],
    audio_format: str,
    jobs: int,
    allow_pipes: bool,
    keep_original: bool,
) -> dict:
    total = count_rows(data_dir) * len(speeds)
    with listing(out) as file, contextlib.ExitStack() as stack:
        skipped = Skipped(str(data_dir), file)
        pool = stack.enter_context(ThreadPoolExecutor(max(1, jobs)))
        progress = stack.enter_context(Progress(f"{command} {data_dir}", total))
        store = stack.enter_context(open_store(out / "audio", audio_format))
        copies = []
        for speed in speeds:
            rows = iter_rows(data_dir, allow_pipes)
            if speed == 1.0 and keep_original:
                copies.append(_counted(rows, progress))
            else:
                copies.append(_written_rows(rows, store, speed, pool, skipped, progress))
        # Each copy rises by id, and a prefix keeps it so: merging them keeps memory bounded.
        merged = heapq.merge(*copies, key=lambda row: row.utt_id.encode())
        kept = write_kept(out, merged, skipped)
    return {"rows": progress.done, "kept": kept, "skipped": skipped.counts}


def _counted(rows: Iterator[Row], progress: Progress) -> Iterator[Row]:
    for row in rows:
        progress.add(1)
        yield row


def _written_rows(
    rows: Iterator[Row],
    store: ClipStore,
    speed: float,
    pool: ThreadPoolExecutor,
    skipped: Skipped,
    progress: Progress,
) -> Iterator[Row]:
    """Rows whose audio is in the store; those with bad audio are skipped."""
    prefix = "" if speed == 1.0 else f"sp{speed:g}-"
    for block in blocks(rows, _BLOCK_ROWS):
        clips = {clip: store.path(clip, speed) for clip in dict.fromkeys(map(_clip, block))}
        errors = store.make(clips, speed, pool)
        for row in block:
            utt_id, err = prefix + row.utt_id, errors.get(_clip(row))
            if err is not None:
                skipped.add(utt_id, err.reason, str(err))
                continue
            yield replace(
                row,
                utt_id=utt_id,
                path=str(clips[_clip(row)]),
                start_sec=None,
                end_sec=None,
                speaker=row.speaker and prefix + row.speaker,
            )
        progress.add(len(block))


def _clip(row: Row) -> Clip:
    assert row.path is not None, "a speech folder has speech rows only"
    return row.path, row.start_sec, row.end_sec
