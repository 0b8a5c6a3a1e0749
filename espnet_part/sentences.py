"""Which rows of several languages' test sets say the same, and which of them are looked at."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_part.datadir import Row


@dataclass(frozen=True)
class Chosen:
    """Rows to look at.

    Attributes:
        rows: By language, then by sentence.
        sentences: What each row says; equal in two languages where the rows are parallel.
        pairing: How parallel rows were found: ``ids``, ``file``, or None where none are.
    """

    rows: list[Row]
    sentences: list[str]
    pairing: str | None

    @property
    def languages(self) -> list[str]:
        """Of each row."""
        return [row.src for row in self.rows]

    @property
    def shared(self) -> list[str]:
        """Sentences that more than one language has."""
        counts = Counter(self.sentences)
        return sorted(s for s, n in counts.items() if n > 1) if self.pairing else []


def sentence_of(row: Row) -> str:
    """What an id says of the sentence: the id without its speaker and without its language.

    `de-m1-test-00003-asr` of the speaker `de-m1` and `fr-f2-test-00003-asr` of `fr-f2` both give
    `test-00003-asr`.
    """
    rest = row.utt_id.removeprefix(row.speaker) if row.speaker else row.utt_id
    return "-".join(piece for piece in re.split(r"[-_]+", rest) if piece and piece != row.src)


def read_pairs(path: str | Path) -> dict[str, str]:
    """Reads lines of `utterance id <tab> sentence id`.

    Raises:
        ValueError: The file is missing, a line has other than two columns, or an id comes twice.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"--pairs {path}: no such file; expected lines <utt id> TAB <sentence id>")
    pairs: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        columns = line.rstrip("\r").split("\t")
        if len(columns) != 2 or not all(column.strip() for column in columns):
            raise ValueError(
                f"{path}:{number}: found {line!r}, expected <utt id> TAB <sentence id>"
            )
        utt_id, sentence = (column.strip() for column in columns)
        if utt_id in pairs:
            raise ValueError(f"{path}:{number}: id {utt_id} comes a second time; remove one line")
        pairs[utt_id] = sentence
    return pairs


def choose(
    by_language: Mapping[str, Sequence[Row]], most: int, pairs: Mapping[str, str] | None = None
) -> Chosen:
    """Takes at most `most` rows of each language, sentences that most languages share first.

    Without `pairs` the ids decide (`sentence_of`), provided that they name a sentence at most once
    in each language, and that two languages share at least two of them; else no rows are parallel.
    With several readings of a sentence, the first one is taken.

    Args:
        by_language: Language -> its asr rows.
        most: Rows per language.
        pairs: Utterance id -> sentence id; rows that it does not name say something of their own.

    Raises:
        ValueError: `pairs` names none of the rows.
    """
    names: dict[str, list[str]] = {}
    for language, rows in by_language.items():
        if pairs is None:
            names[language] = [sentence_of(row) for row in rows]
        else:
            names[language] = [pairs.get(r.utt_id, f"{language} {r.utt_id}") for r in rows]
    if pairs is not None:
        known = [row.utt_id for rows in by_language.values() for row in rows]
        if not any(utt_id in pairs for utt_id in known):
            raise ValueError(
                f"--pairs: names none of the {len(known)} rows; expected their ids, such as "
                f"{known[0] if known else '-'}"
            )
    counts = Counter(name for own in names.values() for name in set(own))
    shared = sum(count > 1 for count in counts.values()) > 1
    if pairs is None:
        shared = shared and all(len(set(own)) == len(own) for own in names.values())
    chosen, sentences = [], []
    for language in sorted(by_language):
        rows = list(by_language[language])
        if shared:
            first = {name: i for i, name in reversed(list(enumerate(names[language])))}
            order = sorted(first, key=lambda name: (-counts[name], name))[:most]
            taken = sorted((first[name], name) for name in order)
        else:
            few = min(most, len(rows))
            places = [i * len(rows) // few for i in range(few)]
            taken = [(i, f"{language} {rows[i].utt_id}") for i in places]
        chosen += [rows[i] for i, _ in taken]
        sentences += [name for _, name in taken]
    pairing = ("ids" if pairs is None else "file") if shared else None
    return Chosen(chosen, sentences, pairing)
