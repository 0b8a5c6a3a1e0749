"""Finding rows of test sets among those to train on.

Corpora share recordings: CoVoST 2 tests on clips of Common Voice that other releases of Common
Voice train on; parallel text on the web holds published test sets. Such a row is found by what it
is, not by its path: a clip by its file name and the words said, a pair of texts by both of them
(unless both are short: everybody says "Thank you.").
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from espnet_part.datadir import Row, iter_rows

# "Thank you." and its translation are in every corpus: a pair is a test set's from this length on.
PAIR_LETTERS = 20


class HeldOut:
    """What must not be trained on: 8 bytes for each clip and each pair of texts of the test sets.

    Args:
        folders: Data folders of the test sets.
    """

    def __init__(self, folders: Iterable[str | Path]):
        self._keys: set[bytes] = set()
        for folder in folders:
            for row in iter_rows(folder, allow_pipes=True):
                self._keys.update(_keys(row).values())

    def problem(self, row: Row) -> tuple[str, str] | None:
        """Reason and detail if a row is in a test set, else None."""
        for what, key in _keys(row).items():
            if key in self._keys:
                found = Path(row.path).name if row.path is not None else row.source
                return f"{what} of a test set", f"{found}: a test set holds it as well"
        return None


def _keys(row: Row) -> dict[str, bytes]:
    """What a row is known by; both directions of a pair of texts are the same pair."""
    keys = {}
    said = row.target if row.task == "asr" else row.source
    if row.path is not None and said:
        start = "" if row.start_sec is None else f"{row.start_sec:.1f}"
        keys["clip"] = _digest("clip", Path(row.path).stem, start, _letters(said))
    if row.task in ("st", "mt") and row.source:
        texts = sorted(map(_letters, (row.source, row.target)))
        if max(map(len, texts)) >= PAIR_LETTERS:
            keys["pair of texts"] = _digest("pair", *texts)
    return keys


def _letters(text: str) -> str:
    """Letters and digits alone: releases differ in case, punctuation and spaces."""
    return "".join(char for char in text.casefold() if char.isalnum())


def _digest(*parts: str) -> bytes:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest()
