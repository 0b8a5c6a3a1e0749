"""Capital letters for the tiny encoders' CTC transcripts, whose units are in small letters.

An LLM reads "straße" as other tokens than "Straße". Without this a cascade would be judged by its
spelling more than by what the encoder heard.
"""

from collections import Counter
from collections.abc import Iterable

from espnet_part.datadir import Row


class Truecaser:
    """Writes each word as training transcripts of its language mostly do.

    Args:
        rows: Of training; those of asr count. Where two forms are as frequent, the first one stays.
    """

    def __init__(self, rows: Iterable[Row]):
        counts: dict[tuple[str, str], Counter[str]] = {}
        for row in rows:
            if row.task == "asr":
                for word in row.target.split():
                    counts.setdefault((row.src, word.lower()), Counter())[word] += 1
        self._forms = {key: found.most_common(1)[0][0] for key, found in counts.items()}

    def restore(self, text: str, language: str) -> str:
        """A text with its words' usual capitals; unknown words stay as they are."""
        return " ".join(self._forms.get((language, word), word) for word in text.split())
