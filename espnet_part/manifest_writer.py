"""Making a manifest from a data folder: audio headers and token counts, block by block."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import shutil
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from espnet_part.audio import SAMPLE_RATE, AudioError, AudioHeader, read_header
from espnet_part.datadir import ALL_FILES, Row, count_rows, iter_rows, make_staging, publish
from espnet_part.manifest import FILES, FORMAT, INDEX_DTYPE, row_to_json
from espnet_part.prompt import LANGUAGES, TASKS

BLOCK_ROWS = 4096
_TASK_ID = {name: i for i, name in enumerate(TASKS)}
_LANGUAGE_ID = {name: i for i, name in enumerate(LANGUAGES)}
_LANGUAGES = tuple(LANGUAGES)
log = logging.getLogger(__name__)


def write_manifest(data_dir: str | Path, out: str | Path, tokenizer, jobs: int = 1) -> dict:
    """Makes the manifest of a data folder, or leaves it if nothing has changed.

    Args:
        data_dir: Data folder, see `datadir.iter_rows`.
        out: Folder of the manifest.
        tokenizer: transformers tokenizer of the LLM.
        jobs: Threads that read audio headers.

    Returns:
        The content of meta.json.

    Raises:
        ValueError: The data folder is bad, or none of its rows is usable.
    """
    data_dir, out = Path(data_dir), Path(out)
    fingerprint = _fingerprint(data_dir, tokenizer)
    if (meta := _unchanged(out, fingerprint)) is not None:
        log.info("%s: up to date, %d rows", out, meta["rows"])
        return meta
    out.mkdir(parents=True, exist_ok=True)
    staging = make_staging(out)
    try:
        meta = _write(data_dir, staging, tokenizer, max(1, jobs))
        meta["fingerprint"] = fingerprint
        with (staging / "meta.json").open("w", encoding="utf-8") as file:
            json.dump(meta, file, indent=1, ensure_ascii=False)
        publish(staging, out, "meta.json", FILES)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return meta


class Skipped:
    """Counts skipped rows by reason and logs the first few of each."""

    def __init__(self, where: str, shown: int = 3):
        self.counts: dict[str, int] = {}
        self._where, self._shown = where, shown

    def add(self, utt_id: str, err: AudioError) -> None:
        """Counts one row."""
        self.counts[err.reason] = self.counts.get(err.reason, 0) + 1
        if self.counts[err.reason] <= self._shown:
            log.warning("%s: skipped %s: %s", self._where, utt_id, err)

    def summary(self) -> str:
        """E.g. `3 rows: 2 missing file, 1 no samples`."""
        each = ", ".join(f"{n} {reason}" for reason, n in sorted(self.counts.items()))
        return f"{sum(self.counts.values())} rows: {each}"


class Progress:
    """Logs rows done, rate and time left, at most every `every_sec` seconds."""

    def __init__(self, what: str, total: int, every_sec: float = 20.0):
        self._what, self._total, self._every = what, total, every_sec
        self._start = self._last = time.monotonic()

    def show(self, done: int) -> None:
        """Tells how far it is."""
        now = time.monotonic()
        if now - self._last < self._every:
            return
        self._last = now
        rate = done / (now - self._start)
        left = (self._total - done) / max(rate, 1e-9)
        percent = 100 * done / max(self._total, 1)
        log.info(
            "%s: %d of %d rows (%.0f %%), %.0f rows/s, %.0f s left",
            *(self._what, done, self._total, percent, rate, left),
        )


def blocks(rows: Iterable[Row], size: int = BLOCK_ROWS) -> Iterator[list[Row]]:
    """Cuts an iterator into lists of at most `size` rows."""
    rows = iter(rows)
    while block := list(itertools.islice(rows, size)):
        yield block


def headers_of(rows: list[Row], pool: ThreadPoolExecutor) -> dict[str, AudioHeader | AudioError]:
    """Header, or what is wrong with it, of each different audio file of some rows."""
    paths = list(dict.fromkeys(row.path for row in rows if row.path is not None))
    return dict(zip(paths, pool.map(_header_or_error, paths, chunksize=64), strict=True))


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


def _write(data_dir: Path, staging: Path, tokenizer, jobs: int) -> dict:
    skipped = Skipped(str(data_dir))
    progress = Progress(f"manifest of {data_dir}", count_rows(data_dir))
    totals: dict[str, dict[str, float]] = {}
    count = done = offset = 0
    with (
        ThreadPoolExecutor(jobs) as pool,
        (staging / "index.npy").open("wb") as index_file,
        (staging / "rows.jsonl").open("wb") as rows_file,
    ):
        header_size = _write_npy_header(index_file, 0)
        for block in blocks(iter_rows(data_dir)):
            done += len(block)
            headers = headers_of(block, pool)
            kept, samples = [], []
            for row in block:
                try:
                    samples.append(row_samples(row, headers))
                    kept.append(row)
                except AudioError as err:
                    skipped.add(row.utt_id, err)
            if kept:
                lines = [row_to_json(row) for row in kept]
                index = _index(kept, samples, lines, offset, tokenizer)
                rows_file.writelines(lines)
                index_file.write(index.tobytes())
                _add_totals(totals, index)
                offset += sum(map(len, lines))
                count += len(kept)
            progress.show(done)
        index_file.seek(0)
        assert _write_npy_header(index_file, count) == header_size, "the npy header has grown"
    if skipped.counts:
        log.warning("%s: skipped %s (of %d)", data_dir, skipped.summary(), done)
    if not count:
        raise ValueError(
            f"{data_dir}: none of its {done} rows is usable; skipped {skipped.summary()}; "
            "the warnings above name some of them"
        )
    return {
        "format": FORMAT,
        "rows": count,
        "tasks": list(TASKS),
        "languages": list(LANGUAGES),
        "tokenizer": str(tokenizer.name_or_path),
        "data_dir": str(data_dir),
        "totals": dict(sorted(totals.items())),
        "skipped": dict(sorted(skipped.counts.items())),
    }


def _write_npy_header(file, rows: int) -> int:
    """Writes the header of a (rows,) array; numpy pads it, so that `rows` can grow in place."""
    header = {"descr": INDEX_DTYPE.descr, "fortran_order": False, "shape": (rows,)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.tell()


def _index(
    rows: list[Row], samples: list[int], lines: list[bytes], offset: int, tokenizer
) -> np.ndarray:
    index = np.zeros(len(rows), INDEX_DTYPE)
    index["offset"] = offset + np.cumsum([0] + [len(line) for line in lines[:-1]])
    index["samples"] = samples
    index["n_source"] = _token_counts([row.source or "" for row in rows], tokenizer)
    index["n_target"] = _token_counts([row.target for row in rows], tokenizer)
    index["task"] = [_TASK_ID[row.task] for row in rows]
    index["src"] = [_LANGUAGE_ID[row.src] for row in rows]
    index["tgt"] = [_LANGUAGE_ID[row.tgt] for row in rows]
    return index


def _token_counts(texts: list[str], tokenizer) -> np.ndarray:
    """Tokens of each text; every different text is tokenized once."""
    unique = [text for text in dict.fromkeys(texts) if text]
    counts = {"": 0}
    if unique:
        ids = tokenizer(unique, add_special_tokens=False).input_ids
        counts.update(zip(unique, map(len, ids), strict=True))
    return np.array([counts[text] for text in texts], np.uint32)


def _add_totals(totals: dict[str, dict[str, float]], index: np.ndarray) -> None:
    from espnet_part.batching import row_cost

    cost = row_cost(index["samples"], index["n_source"], index["n_target"])
    key = (index["task"].astype(int) << 16) | (index["src"].astype(int) << 8) | index["tgt"]
    for value in np.unique(key):
        here = index[key == value]
        name = f"{TASKS[value >> 16]} {_LANGUAGES[value >> 8 & 255]} {_LANGUAGES[value & 255]}"
        total = totals.setdefault(
            name, {"rows": 0, "hours": 0.0, "target_tokens": 0, "source_tokens": 0, "cost": 0.0}
        )
        total["rows"] += len(here)
        total["hours"] += float(here["samples"].sum(dtype=np.int64)) / SAMPLE_RATE / 3600
        total["target_tokens"] += int(here["n_target"].sum(dtype=np.int64))
        total["source_tokens"] += int(here["n_source"].sum(dtype=np.int64))
        total["cost"] += float(cost[key == value].sum())


def files_fingerprint(data_dir: Path) -> dict[str, list[int]]:
    """Size and modification time (ns) of each file of a data folder."""
    stats = {}
    for name in ALL_FILES:
        if (data_dir / name).exists():
            stat = (data_dir / name).stat()
            stats[name] = [stat.st_size, stat.st_mtime_ns]
    return stats


def _fingerprint(data_dir: Path, tokenizer) -> dict:
    # The vocabulary too: a tokenizer that is trained anew keeps the name of its folder.
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()))
    return {
        "data_dir": str(data_dir),
        "files": files_fingerprint(data_dir),
        "tokenizer": str(tokenizer.name_or_path),
        "vocabulary": hashlib.sha256(vocabulary.encode()).hexdigest()[:16],
    }


def _unchanged(out: Path, fingerprint: dict) -> dict | None:
    """The meta of `out` if it is complete and was made from the same input."""
    try:
        with (out / "meta.json").open(encoding="utf-8") as file:
            meta = json.load(file)
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    same = meta.get("fingerprint") == fingerprint and meta.get("format") == FORMAT
    return meta if same and all((out / name).exists() for name in FILES) else None
