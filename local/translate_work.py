"""Translating one part of a data folder's transcripts, each different text once.

Memory: about 150 bytes per different (text, target) of the part that is not translated yet, and the
texts of one block. The rows are streamed, twice: to count, and to translate.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from translate_log import WorkLog, check_settings, list_logs, log_path, read_lines, work_key
from translator_models import Translation, Translator

from espnet_part.datadir import Row, iter_rows
from espnet_part.hypotheses import is_empty
from espnet_part.progress import duration
from espnet_part.publish import lock

BLOCK_TEXTS = 8192  # sorted by length among each other
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """What is translated.

    Attributes:
        data_dir: data folder with asr rows.
        out: folder of the st rows.
        targets: language codes to translate into.
        settings: what the translations depend on; a log is bound to them.
    """

    data_dir: Path
    out: Path
    targets: tuple[str, ...]
    settings: dict


def iter_work(data_dir: Path, targets: tuple[str, ...]) -> Iterator[tuple[Row, list[str]]]:
    """All rows of a data folder, each with the languages to translate it into.

    A row that is not asr has none; nothing is translated into its own language.
    """
    for row in iter_rows(data_dir):
        wanted = targets if row.task == "asr" else ()
        yield row, [tgt for tgt in targets if tgt in wanted and tgt != row.src]


def is_mine(key: bytes, part: int, parts: int) -> bool:
    """Whether a text belongs to part `part` (from 1) of `parts`."""
    return int.from_bytes(key[:8], "little") % parts == part - 1


def translate_part(
    work: Work,
    part: int,
    parts: int,
    load: Callable[[], Translator],
    batch_tokens: int,
    every_sec: float = 20.0,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Translate what has not been translated yet of one part, into its log.

    Args:
        work: what to translate.
        part: which part, from 1.
        parts: of how many.
        load: loads the model; not called where nothing is left to do.
        batch_tokens: source tokens of a batch, padding and beams included.
        every_sec: seconds between lines of progress.
        check: called before each batch; raises to stop.

    Raises:
        ValueError: another process works on the part, other settings, a damaged log.
    """
    path = log_path(work.out, part, parts)
    with lock(path, f"part {part} of {parts}") as file:
        logs = list_logs(work.out)
        for other in logs:
            check_settings(other, work.settings)
        work_log = WorkLog(file, path, work.settings)
        todo = {
            key
            for row, targets in iter_work(work.data_dir, work.targets)
            for key in (work_key(row.src, tgt, row.target) for tgt in targets)
            if is_mine(key, part, parts) and not is_empty(row.target)
        }
        total, finished = len(todo), False
        for other in logs:
            # The other parts of the same number of parts hold none of this one's.
            if other == path or not other.name.endswith(f"-of-{parts}.jsonl"):
                for _, line in read_lines(other):
                    todo.discard(bytes.fromhex(line.get("key", "")))
                    finished |= other == path and "done" in line
        meter = Meter(path.with_suffix(".progress"), total, total - len(todo), every_sec)
        if todo:
            translator = load()
            for (src, tgt), texts in _blocks(work, todo):
                for batch in _translate(translator, texts, src, tgt, batch_tokens, check):
                    work_log.add(batch)
                    meter.add(len(batch))
        if not finished:
            work_log.finish(total)
        meter.close()


def _blocks(
    work: Work, todo: set[bytes]
) -> Iterator[tuple[tuple[str, str], list[tuple[bytes, str]]]]:
    """Texts to translate, by direction, each text once; empties `todo`."""
    block: dict[tuple[str, str], list[tuple[bytes, str]]] = {}
    size = 0
    for row, targets in iter_work(work.data_dir, work.targets):
        for tgt in targets:
            key = work_key(row.src, tgt, row.target)
            if key in todo:
                todo.remove(key)
                block.setdefault((row.src, tgt), []).append((key, row.target))
                size += 1
        if size >= BLOCK_TEXTS:
            yield from block.items()
            block, size = {}, 0
    yield from block.items()


def _translate(
    translator: Translator,
    texts: list[tuple[bytes, str]],
    src: str,
    tgt: str,
    batch_tokens: int,
    check: Callable[[], None],
) -> Iterator[list[tuple[bytes, str, Translation | None]]]:
    """Translate texts of one direction in batches of like lengths, the longest first."""
    ids = translator.encode([text for _, text in texts], src, tgt)
    fitting = [i for i, row in enumerate(ids) if translator.fits(row)]
    if len(fitting) < len(ids):
        unfit = set(range(len(ids))).difference(fitting)
        yield [(*texts[i], None) for i in sorted(unfit)]
    fitting.sort(key=lambda i: -len(ids[i]))
    most = batch_tokens // translator.asking.num_beams
    while fitting:
        rows = max(1, most // len(ids[fitting[0]]))
        batch, fitting = fitting[:rows], fitting[rows:]
        check()
        found = _generate(translator, [ids[i] for i in batch], src, tgt)
        yield [(*texts[i], result) for i, result in zip(batch, found, strict=True)]


def _generate(
    translator: Translator, ids: list[list[int]], src: str, tgt: str
) -> list[Translation]:
    """Translate a batch; one that does not fit into memory in halves."""
    try:
        return translator.generate(ids, src, tgt)
    except torch.cuda.OutOfMemoryError as error:
        if len(ids) == 1:
            raise ValueError(
                f"a text of {len(ids[0])} tokens does not fit into the GPU's memory beside the "
                "model; take fewer --num_beams, a smaller --model or a larger GPU"
            ) from error
    # Behind the except clause, so that the error's traceback holds no tensors any more.
    torch.cuda.empty_cache()
    log.warning("a batch of %d texts was too large for the GPU: halved", len(ids))
    half = len(ids) // 2
    return [
        *_generate(translator, ids[:half], src, tgt),
        *_generate(translator, ids[half:], src, tgt),
    ]


class Meter:
    """Tells how far a part is: in the log, and in a file for the process that started this one.

    Args:
        path: the file.
        total: texts of the part.
        done: of these, what was translated before.
        every_sec: seconds between two tellings.
    """

    def __init__(self, path: Path, total: int, done: int, every_sec: float):
        self._path, self._total, self._done, self._every = path, total, done, every_sec
        self._first, self._start = done, time.monotonic()
        self._last = self._start
        self._tell()

    def add(self, texts: int) -> None:
        """Tell that so many texts more are done."""
        self._done += texts
        if time.monotonic() - self._last >= self._every:
            self._tell()

    def close(self) -> None:
        """Tell where it ended."""
        self._tell()

    def _tell(self) -> None:
        self._last = time.monotonic()
        passed = self._last - self._start
        log.info(describe_progress(self._done, self._total, self._done - self._first, passed))
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"done": self._done, "total": self._total}))
        os.replace(temporary, self._path)


def describe_progress(done: int, total: int, now: int, seconds: float) -> str:
    """E.g. `1,200 of 4,000 texts (30 %), 40 texts/s, 1m10s left`.

    Args:
        done: texts translated, in this run or before.
        total: texts.
        now: texts translated in this run.
        seconds: since it began.
    """
    shown = f"{done:,} of {total:,} texts ({100 * done / max(total, 1):.0f} %)"
    if not now or not seconds:
        return shown
    left = duration((total - done) * seconds / now)
    return f"{shown}, {now / seconds:,.1f} texts/s, {left} left"
