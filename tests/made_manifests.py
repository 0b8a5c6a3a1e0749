"""Manifests of made rows: numbers without audio, for the tests of the batch plan."""

import hashlib
import json
from collections import Counter

import numpy as np

from espnet_part.batching import BatchPlan, row_cost
from espnet_part.manifest import FORMAT, INDEX_DTYPE, Manifest
from espnet_part.prompt import LANGUAGES, TASKS

CODES = list(LANGUAGES)


def make_manifest(folder, rows) -> Manifest:
    """Writes a manifest; rows are (task, src, tgt, samples, n_source, n_target)."""
    folder.mkdir(parents=True)
    index = np.zeros(len(rows), INDEX_DTYPE)
    lines, totals, offset = [], {}, 0
    for i, (task, src, tgt, samples, n_source, n_target) in enumerate(rows):
        fields = {"utt_id": f"{folder.name}{i}", "task": task, "src": src, "tgt": tgt}
        line = json.dumps({**fields, "target": "a"}) + "\n"
        codes = TASKS.index(task), CODES.index(src), CODES.index(tgt)
        index[i] = (offset, samples, n_source, n_target, *codes)
        offset += len(line)
        lines.append(line)
        total = totals.setdefault(f"{task} {src} {tgt}", Counter())
        total["rows"] += 1
        total["hours"] += samples / 16000 / 3600
        total["target_tokens"] += n_target
        total["source_tokens"] += n_source
        total["cost"] += float(row_cost(samples, n_source, n_target))
    np.save(folder / "index.npy", index)
    (folder / "rows.jsonl").write_text("".join(lines))
    write_meta(folder, len(rows), totals)
    return Manifest.open(folder)


def write_meta(folder, rows, totals) -> None:
    """Writes meta.json; totals by "task src tgt", in any order."""
    meta = {"format": FORMAT, "rows": rows, "tasks": list(TASKS), "languages": CODES}
    meta |= {"tokenizer": "none", "totals": dict(sorted(totals.items())), "skipped": {}}
    (folder / "meta.json").write_text(json.dumps(meta))


def made_rows(counts, seed=0) -> list[tuple]:
    """Rows of {(task, src, tgt): count}, shuffled; those of asr and st have 0.5 to 15 s."""
    rng = np.random.default_rng(seed)
    rows = []
    for (task, src, tgt), count in counts.items():
        for _ in range(count):
            seconds = rng.uniform(0.5, 15) if task in ("asr", "st") else 0
            n_source, n_target = map(int, rng.integers(3, 60, 2))
            rows.append((task, src, tgt, int(16000 * seconds), n_source, n_target))
    return [rows[i] for i in rng.permutation(len(rows))]


def plan_digest(plan: BatchPlan, steps: int) -> str:
    """A number for the rows of the first `steps` steps, in order."""
    rows = json.dumps([plan.rows(step) for step in range(steps)])
    return hashlib.sha256(rows.encode()).hexdigest()[:16]
