"""Test sets for an LLM alone: what it is to translate or answer, read from data folders.

A speech folder of st rows becomes a set for text translation: the right transcript in place of the
audio, which is never read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from espnet_part.datadir import Row, iter_rows

TRANSLATION = ("st", "mt")


@dataclass(frozen=True)
class TextSet:
    """Rows of one task; of translation one language pair.

    Attributes:
        name: The folder's.
        task: st (its transcripts are translated), mt or instruct.
        src: Source language; of instructions in several languages all, with spaces.
        tgt: Language of the answers; likewise.
        rows: Those with a target; all have a source.
    """

    name: str
    task: str
    src: str
    tgt: str
    rows: tuple[Row, ...]

    @property
    def is_translation(self) -> bool:
        """Whether BLEU is of this set."""
        return self.task in TRANSLATION


def read_text_set(folder: str | Path) -> TextSet:
    """Reads a data folder.

    Raises:
        ValueError: Asr rows, several tasks or language pairs, a row without a text to start from,
            or no row with a target.
    """
    folder = Path(folder)
    rows = list(iter_rows(folder))
    tasks = sorted({row.task for row in rows})
    if "asr" in tasks:
        raise ValueError(
            f"{folder}: found asr rows, which hold nothing to translate or answer; expected an st "
            "folder with `transcript`, or a text folder of mt or instruct rows"
        )
    if len(tasks) > 1:
        raise ValueError(f"{folder}: a test set has one task, found {' '.join(tasks)}")
    pairs = sorted({(row.src, row.tgt) for row in rows})
    if tasks and tasks[0] in TRANSLATION and len(pairs) > 1:
        found = ", ".join(f"{src} to {tgt}" for src, tgt in pairs)
        raise ValueError(
            f"{folder}: a test set has one language pair, found {found}; "
            "split it with local/split_set.py"
        )
    lacking = [row.utt_id for row in rows if not row.source]
    if lacking:
        file = "transcript" if tasks[0] == "st" else "source"
        raise ValueError(
            f"{folder}: {len(lacking)} of {len(rows)} rows have no line in `{file}`, or an empty "
            f"one, such as {lacking[0]}; it is what the LLM gets to read"
        )
    kept = tuple(row for row in rows if row.target)
    if not kept:
        raise ValueError(f"{folder}: found {len(rows)} rows, none with a target to score against")
    src, tgt = (" ".join(sorted({getattr(row, key) for row in kept})) for key in ("src", "tgt"))
    return TextSet(folder.name, tasks[0], src, tgt, kept)
