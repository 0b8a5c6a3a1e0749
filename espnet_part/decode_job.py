"""Decodes whole data folders: what stage 12 runs. Every id that comes in goes out.

Shapes: T = samples at 16 kHz.
"""

import time
import zlib
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from espnet_part.audio import SAMPLE_RATE, AudioError, audio_samples, load_audio
from espnet_part.datadir import Row, iter_rows
from espnet_part.decode_output import Outcome, Progress, log_batch, seconds_of
from espnet_part.decoding import Request, decode, plan_batches
from espnet_part.inference import Speech2Text
from espnet_part.prompt import LANGUAGES

# Batches whose audio is loaded while one is decoded.
BATCHES_AHEAD = 2


def read_keys(key_file: str | Path) -> list[str]:
    """Ids in the first column of a file; empty lines are left out.

    Raises:
        ValueError: If the file is missing or an id comes twice.
    """
    path = Path(key_file)
    if not path.is_file():
        raise ValueError(f"{path}: no such key file")
    keys = [line.split()[0] for line in path.open(encoding="utf-8") if line.strip()]
    double = next((key for key, count in Counter(keys).items() if count > 1), None)
    if double is not None:
        raise ValueError(f"{path}: id {double} comes more than once; remove the others")
    return keys


def select_rows(data_dir: str | Path, key_file: str | Path | None) -> dict[str, Row]:
    """Reads the rows of a data folder that a key file names, or all of them.

    Args:
        data_dir: A data folder.
        key_file: Lines that begin with an id, e.g. a part of wav.scp; None takes all.

    Returns:
        Id -> row, in the order of the key file.

    Raises:
        ValueError: If the folder is faulty or lacks an id of the key file.
    """
    if key_file is None:
        return {row.utt_id: row for row in iter_rows(data_dir)}
    keys = read_keys(key_file)
    wanted = set(keys)
    rows = {row.utt_id: row for row in iter_rows(data_dir) if row.utt_id in wanted}
    missing = next((key for key in keys if key not in rows), None)
    if missing is not None:
        raise ValueError(f"{key_file}: id {missing} is not in {data_dir}; make the key file again")
    return {key: rows[key] for key in keys}


def lid_of(row: Row, lid: str) -> str:
    """The language to name in a row's prompt.

    Args:
        row: The row.
        lid: ``right``, ``none``, or ``wrong``: any language but the source's, so maybe the target's
            or one that is never spoken; the same one for an id each time. Published figures
            depend on which.

    Returns:
        What `Prompter.prompt` takes: ``right``, ``none`` or a code.
    """
    if lid != "wrong":
        return lid
    others = [code for code in LANGUAGES if code != row.src]
    return others[zlib.crc32(row.utt_id.encode()) % len(others)]


def _samples(row: Row) -> int | AudioError:
    """Length by the header, or what is wrong with the file."""
    try:
        return audio_samples(row.path, row.start_sec, row.end_sec) if row.path else 0
    except AudioError as error:
        return error


def _request(s2t: Speech2Text, row: Row, lid: str) -> Request | AudioError:
    """Loads a row's audio."""
    try:
        speech_T = None
        if row.path:
            speech_T = load_audio(row.path, row.start_sec, row.end_sec)
            s2t.check_speech(speech_T, row.path)
    except AudioError as error:
        return error
    source_text = row.source if speech_T is None else None
    lid = lid_of(row, lid)
    return Request(row.task, row.src, row.tgt, speech_T, source_text, lid, row.tgt)


def _loaded_batches(
    s2t: Speech2Text, batches: list[list[Row]], lid: str, pool: ThreadPoolExecutor
) -> Iterator[list[tuple[Row, Request | AudioError]]]:
    """Yields batches with their audio, loading some ahead."""
    queue: deque[list[tuple[Row, Future]]] = deque()
    for batch in batches:
        queue.append([(row, pool.submit(_request, s2t, row, lid)) for row in batch])
        if len(queue) > BATCHES_AHEAD:
            yield [(row, future.result()) for row, future in queue.popleft()]
    while queue:
        yield [(row, future.result()) for row, future in queue.popleft()]


def decode_rows(
    s2t: Speech2Text, rows: dict[str, Row], name: str, lid: str = "right", num_workers: int = 2
) -> Outcome:
    """Decodes rows in batches of like length while threads load the next ones.

    Args:
        s2t: Model and options.
        rows: Id -> row.
        name: What to call them in the progress lines.
        lid: One of `prompt.LIDS`.
        num_workers: Threads that read audio.

    Returns:
        An answer or a failure for each id.
    """
    outcome = Outcome(dict.fromkeys(rows))
    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        readable: list[Row] = []
        seconds: list[float] = []
        for row, found in zip(rows.values(), pool.map(_samples, rows.values()), strict=True):
            if isinstance(found, AudioError):
                outcome.fail(row.utt_id, found)
            else:
                readable.append(row)
                seconds.append(found / SAMPLE_RATE)
        plan = plan_batches(seconds, s2t.options.batch_size, s2t.options.batch_sec)
        batches = [[readable[i] for i in batch] for batch in plan]
        progress = Progress(name, len(rows), len(outcome.failed), sum(seconds))
        for batch in _loaded_batches(s2t, batches, lid, pool):
            good = []
            for row, request in batch:
                if isinstance(request, AudioError):
                    outcome.fail(row.utt_id, request)
                else:
                    good.append((row, request))
            start = time.time()
            answers = decode(s2t.model, [request for _, request in good], s2t.options)
            end = time.time()
            log_batch(good, answers, start, end)
            for (row, request), answer in zip(good, answers, strict=True):
                outcome.decoded[row.utt_id] = answer
                outcome.audio_sec += seconds_of(request)
                outcome.cut_off += answer.cut_off
            outcome.decode_sec += end - start
            progress.step(len(batch), outcome)
    return outcome
