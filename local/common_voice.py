"""What Common Voice and the corpora made from it share: names of clips, speakers, sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from corpus import Bad
from tsv import read_tsv

from espnet_part.row import letters

# A client_id is a SHA-512: of its 128 hexadecimal digits 16 are kept. Two of the 0.2 million
# speakers of ten languages then share a name with a probability of about 1e-9.
SPEAKER_DIGITS = 16
_CLIP = re.compile(r"([\w-]+)\.mp3")


def clip_name(path: str) -> str | None:
    """`common_voice_de_17298952` of `common_voice_de_17298952.mp3`; None where it is no clip."""
    found = _CLIP.fullmatch(path)
    return found[1] if found else None


def speaker_name(client_id: str, clip: str) -> str:
    """A short name of the speaker; the clip's where the table names no speaker."""
    return client_id[:SPEAKER_DIGITS] or clip


def bad_clip(path: str, where: Path) -> Bad:
    """A row whose path is not the name of a clip."""
    return Bad(
        f"{where.name}:{path!r}",
        "not the name of a clip",
        f"{where}: found the path {path!r}, expected <clip>.mp3",
    )


def unwrap(sentence: str) -> str:
    """A sentence without the quotation marks and doubled ones that an import put around all of it.

    `"Say ""hello""."` becomes `Say "hello".`; `"One," he said, "two."` stays.
    """
    text = sentence.strip()
    inner = text[1:-1]
    if len(text) > 1 and text[0] == text[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"').strip()
    return text


class HeldOut:
    """Clips, speakers and sentences of some tables, which must not be trained on."""

    def __init__(self, tables: list[Path]):
        self._clips: set[str] = set()
        self._speakers: set[str] = set()
        self._sentences: set[str] = set()
        for client_id, path, sentence in _whole_rows(tables):
            self._clips.add(path)
            self._speakers.add(client_id[:SPEAKER_DIGITS])
            self._sentences.add(letters(sentence))
        # What nobody is named in, or has no letters, tells nothing.
        self._speakers.discard("")
        self._sentences.discard("")

    def problem(self, client_id: str, path: str, sentence: str) -> str | None:
        """Which of the three is held out; None if none is."""
        if path in self._clips:
            return "clip of dev or test"
        if client_id[:SPEAKER_DIGITS] in self._speakers:
            return "speaker of dev or test"
        if letters(sentence) in self._sentences:
            return "sentence of dev or test"
        return None


def _whole_rows(tables: list[Path]) -> Iterator[tuple[str, ...]]:
    for table in tables:
        for row in read_tsv(table, ("client_id", "path", "sentence")):
            if not isinstance(row, Bad):
                yield row
