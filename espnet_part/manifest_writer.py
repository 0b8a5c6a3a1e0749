"""Making a manifest from a data folder: audio headers and token counts, block by block."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from espnet_part.audio import SAMPLE_RATE, AudioError
from espnet_part.batching import row_cost
from espnet_part.datadir import ALL_FILES, Row, count_rows, iter_rows
from espnet_part.manifest import FILES, FORMAT, INDEX_DTYPE, row_to_json
from espnet_part.prompt import LANGUAGES, TASKS
from espnet_part.publish import fingerprint, lock_folder, make_staging, publish
from espnet_part.rowpass import Progress, Skipped, blocks, read_headers, row_samples

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
    made_from = _made_from(data_dir, tokenizer)
    if (meta := _unchanged(out, made_from)) is not None:
        return meta
    with lock_folder(out):
        if (meta := _unchanged(out, made_from)) is not None:  # by a run that was waited for
            return meta
        staging = make_staging(out)
        try:
            meta = _write(data_dir, staging, tokenizer, max(1, jobs))
            meta["made_from"] = made_from
            with (staging / "meta.json").open("w", encoding="utf-8") as file:
                json.dump(meta, file, indent=1, ensure_ascii=False)
            publish(staging, out, "meta.json", FILES)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return meta


def _write(data_dir: Path, staging: Path, tokenizer, jobs: int) -> dict:
    skipped = Skipped(str(data_dir))
    totals: dict[str, dict[str, float]] = {}
    count = offset = 0
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(jobs))
        index_file = stack.enter_context((staging / "index.npy").open("wb"))
        rows_file = stack.enter_context((staging / "rows.jsonl").open("wb"))
        progress = stack.enter_context(Progress(f"manifest of {data_dir}", count_rows(data_dir)))
        header_size = _write_npy_header(index_file, 0)
        for block in blocks(iter_rows(data_dir)):
            kept, samples = _usable(block, pool, skipped)
            if kept:
                lines = [row_to_json(row) for row in kept]
                index = _index(kept, samples, lines, offset, tokenizer)
                rows_file.writelines(lines)
                index_file.write(index.tobytes())
                _add_totals(totals, index)
                offset += sum(map(len, lines))
                count += len(kept)
            progress.add(len(block))
        index_file.seek(0)
        assert _write_npy_header(index_file, count) == header_size, "the npy header has grown"
    if skipped.counts:
        log.warning("%s: skipped %s (of %d)", data_dir, skipped.summary(), progress.done)
    if not count:
        raise ValueError(
            f"{data_dir}: none of its {progress.done} rows is usable; skipped {skipped.summary()}; "
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


def _usable(
    block: list[Row], pool: ThreadPoolExecutor, skipped: Skipped
) -> tuple[list[Row], list[int]]:
    """The rows with good audio or none, and their samples."""
    headers = read_headers(block, pool)
    kept, samples = [], []
    for row in block:
        try:
            samples.append(row_samples(row, headers))
            kept.append(row)
        except AudioError as err:
            skipped.add(row.utt_id, err.reason, str(err))
    return kept, samples


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
        # As the prompter does: "</s>" in a transcript is text.
        ids = tokenizer(unique, add_special_tokens=False, split_special_tokens=True).input_ids
        counts.update(zip(unique, map(len, ids), strict=True))
    return np.array([counts[text] for text in texts], np.uint32)


def _add_totals(totals: dict[str, dict[str, float]], index: np.ndarray) -> None:
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


def _made_from(data_dir: Path, tokenizer) -> dict:
    # The vocabulary too: a tokenizer that is trained anew keeps the name of its folder.
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()))
    return {
        "data_dir": str(data_dir),
        "files": fingerprint(data_dir, ALL_FILES),
        "tokenizer": str(tokenizer.name_or_path),
        "vocabulary": hashlib.sha256(vocabulary.encode()).hexdigest()[:16],
    }


def _unchanged(out: Path, made_from: dict) -> dict | None:
    """The meta of `out` if it is complete and was made from the same input."""
    try:
        with (out / "meta.json").open(encoding="utf-8") as file:
            meta = json.load(file)
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    same = meta.get("made_from") == made_from and meta.get("format") == FORMAT
    if not (same and all((out / name).exists() for name in FILES)):
        return None
    log.info("%s: up to date, %d rows", out, meta["rows"])
    return meta
