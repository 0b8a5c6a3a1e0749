"""Rows of `results.json`: building, checking, merging and saving them."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet_part.scoring import Scores

KEYS = (
    "curriculum",
    "phase",
    "decode",
    "test_set",
    "task",
    "src",
    "tgt",
    "metric",
    "value",
    "ci95",
    "n_utts",
    "n_ref_tokens",
    "seed",
    "checkpoint",
    "signature",
)
METRICS = (
    "wer",
    "cer",
    "bleu",
    "chrf",
    "loop_rate",
    "empty_rate",
    "wrong_lang_rate",
    "refusal_rate",
)
_IDENTITY = ("curriculum", "phase", "decode", "test_set", "metric", "seed")
FLOOR = "floor"
ENCODER_CTC = "encoder_ctc"
CASCADE = "cascade"  # the LLM's translation of the encoder's own transcript
LLM_TEXT = "llm_text"  # the LLM's translation of the right transcript
# What is known before PART trains, from the worst to the best, as reports show it.
REFERENCES = (FLOOR, ENCODER_CTC, CASCADE, LLM_TEXT)


@dataclass(frozen=True)
class System:
    """What was scored: the place of a hypothesis file in an experiment."""

    curriculum: str | None = None
    phase: str | None = None
    decode: str | None = None
    seed: int | None = None
    checkpoint: str | None = None
    lid: str | None = None


def make_rows(
    scores: Scores, system: System, test_set: str | None, task: str, src: str, tgt: str
) -> list[dict[str, Any]]:
    """Return one row per measure, in the schema of `results.json`.

    Beyond the fixed keys a row holds `n_empty_refs` (left out), `lid` where decoding says how it
    named the language, variants of the number (`bleu_ja-mecab`, `cer_folded`), and at an error
    rate its parts (`sub_rate`, `del_rate`, `ins_rate`).
    """
    rows = []
    for measure in scores.measures:
        row = {
            "curriculum": system.curriculum,
            "phase": system.phase,
            "decode": system.decode,
            "test_set": test_set,
            "task": task,
            "src": src,
            "tgt": tgt,
            "metric": measure.metric,
            "value": measure.value,
            "ci95": measure.ci95,
            "n_utts": measure.n_utts,
            "n_ref_tokens": measure.n_ref_tokens,
            "seed": system.seed,
            "checkpoint": system.checkpoint,
            "signature": measure.signature,
            "n_empty_refs": scores.n_empty_refs,
        }
        if system.lid is not None:
            row["lid"] = system.lid
        rows.append({**row, **measure.also})
    return rows


def load_rows(path: str | Path, curriculum: str | None = None) -> list[dict[str, Any]]:
    """Read rows from a results.json or from a plain list of them.

    Args:
        path: the file.
        curriculum: fills the key where a row lacks it, as reference systems' files may.

    Returns:
        The rows, with every fixed key present.

    Raises:
        ValueError: if the file is missing, no JSON, or a row lacks test_set, metric or value.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"No such results file: {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    rows = content.get("results") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise ValueError(f'{path}: expected a list of rows or {{"results": [...]}}')
    result = []
    for number, row in enumerate(rows):
        lacking = [key for key in ("test_set", "metric", "value") if key not in row]
        if lacking or row["metric"] not in METRICS:
            found = f"lacks {', '.join(lacking)}" if lacking else f"has metric {row['metric']!r}"
            raise ValueError(f"{path}: row {number} {found}; metrics are {', '.join(METRICS)}")
        row = {**dict.fromkeys(KEYS), **row}
        if row["curriculum"] is None:
            row["curriculum"] = curriculum
        result.append(row)
    return result


def merge_rows(
    old: Iterable[dict[str, Any]], new: Iterable[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Add new rows to old ones, in a fixed order, so that files can be compared.

    Rows of the same curriculum, phase, decode, test set, metric and seed are the same number: the
    new one replaces the old one.
    """
    merged = {tuple(row[key] for key in _IDENTITY): row for row in (*old, *new)}

    def order(row: dict[str, Any]) -> tuple:
        known = row["curriculum"] in REFERENCES
        first = REFERENCES.index(row["curriculum"]) if known else len(REFERENCES)
        names = ("curriculum", "phase", "decode", "test_set")
        seed = -1 if row["seed"] is None else row["seed"]
        return (first, *(str(row[key] or "") for key in names), METRICS.index(row["metric"]), seed)

    return sorted(merged.values(), key=order)


def save_rows(
    path: str | Path,
    rows: Sequence[dict[str, Any]],
    paired: Sequence[dict[str, Any]] | None = None,
) -> None:
    """Write `{"results": [...]}`, a row per line, whole or not at all.

    Args:
        path: the file.
        rows: of results.
        paired: comparisons of two systems, under a key of their own.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)

    def listed(key: str, items: Sequence[dict[str, Any]]) -> str:
        lines = ",\n".join(json.dumps(row, ensure_ascii=False, allow_nan=False) for row in items)
        return f'"{key}": [\n{lines}\n]'

    parts = [listed("results", rows)]
    if paired is not None:
        parts.append(listed("paired", paired))
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("{" + ",\n".join(parts) + "}\n", encoding="utf-8")
    os.replace(temporary, path)
