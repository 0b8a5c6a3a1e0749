"""Finding rows of test sets among those to train on.

Corpora share recordings: CoVoST 2 tests on clips of Common Voice that other releases of Common
Voice train on; parallel text on the web holds published test sets. Such a row is found by what it
is, not by where it lies: a clip by its name and the words said, a pair of texts by both of them
(unless both are short: everybody says "Thank you.").
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from espnet_part.datadir import ALL_FILES, Row, iter_rows
from espnet_part.publish import fingerprint
from espnet_part.row import letters

# "Thank you." and its translation are in every corpus: a pair is a test set's from this length on.
PAIR_LETTERS = 20
# What ids put around the name of a clip: a copy of another speed, task and target language.
_ID = re.compile(r"(?:sp[0-9.]+-)?(.+?)(?:-asr|-st(?:-[a-z]+)?)?")


class HeldOut:
    """What must not be trained on: some 100 bytes for each clip and each pair of the test sets.

    Args:
        folders: Data folders of the test sets; read when the first row is asked about.
    """

    def __init__(self, folders: Iterable[str | Path] = ()):
        self._folders = [Path(folder) for folder in folders]
        self._keys: set[bytes] | None = None

    def fingerprint(self) -> dict[str, dict]:
        """What the answers hang on: another one means other test sets."""
        return {str(folder): fingerprint(folder, ALL_FILES) for folder in self._folders}

    def problem(self, row: Row) -> tuple[str, str] | None:
        """Reason and detail if a row is in a test set, else None."""
        if self._keys is None:
            rows = (row for f in self._folders for row in iter_rows(f, allow_pipes=True))
            self._keys = {key for row in rows for _, key in _keys(row)}
        for what, key in _keys(row):
            if key in self._keys:
                found = Path(row.path).name if row.path is not None else row.source
                return f"{what} of a test set", f"{found}: a test set holds it as well"
        return None


def _keys(row: Row) -> Iterator[tuple[str, bytes]]:
    """What a row is known by; both directions of a pair of texts are the same pair."""
    if row.path is not None:
        # Without a transcript, the file is all that a clip is known by.
        span = f"{row.start_sec or 0:.2f}"
        yield "clip", _digest("file", os.path.abspath(row.path), span)
    said = row.target if row.task == "asr" else row.source
    if row.path is not None and said:
        # Written anew by stage 2 or 3, a clip has another file, but its id.
        found = _ID.fullmatch(row.utt_id)
        names = {Path(row.path).stem, found[1] if found else row.utt_id}
        # Times are rounded in tables: both tenths beside one are its.
        tenths = {""}
        if row.start_sec:
            tenths = {str(side(10 * row.start_sec)) for side in (math.floor, math.ceil)}
        for name in sorted(names):
            for tenth in sorted(tenths):
                yield "clip", _digest("clip", name, tenth, row.src, letters(said))
    if row.task in ("st", "mt") and row.source:
        texts = sorted(map(letters, (row.source, row.target)))
        if max(map(len, texts)) >= PAIR_LETTERS:
            yield "pair of texts", _digest("pair", *texts)


def _digest(*parts: str) -> bytes:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest()
