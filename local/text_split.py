"""From rows of text to the sets `train` and `dev`, with nothing in train that must not be there."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from corpus import Bad, CorpusSet

from espnet_part.datadir import Row
from espnet_part.row import letters

SPLITS = ("train", "dev")
DEV_EVERY = 50  # every 50th row of a part goes to dev ...
DEV_ROWS = 500  # ... until it has so many of that part


@dataclass(frozen=True)
class Part:
    """Rows that share a language pair or a file; each part has its own share of dev.

    Attributes:
        name: What the rows hang on besides the files, such as the direction.
        sources: Files that they come from.
        read: Gives (number, row) in the order of the files; the number decides who is in dev.
        total: Gives about how many rows there are; None: not known.
    """

    name: str
    sources: Sequence[Path]
    read: Callable[[], Iterable[tuple[int, Row | Bad]]]
    total: Callable[[], int] | None = None


@dataclass(frozen=True)
class Splitter:
    """Makes the sets out of parts.

    Dev is the same on every machine: rows whose number is a multiple of `DEV_EVERY`. A text of dev
    is in no row of train, whatever the part; compared are letters and digits, without case.

    Attributes:
        parts: What to split.
        exclude: Text files, a text a line; a row that has one of them is in neither set.
        answers: Whether rows are questions and answers: then a question of dev is in no row of
            train, but short answers to different questions, such as "Yes.", may be equal.
    """

    parts: Sequence[Part]
    exclude: Sequence[Path] = ()
    answers: bool = False

    def sets(self, splits: Sequence[str]) -> list[CorpusSet]:
        """The wanted ones of `SPLITS`."""
        sources = [*(path for part in self.parts for path in part.sources), *self.exclude]
        settings = {
            "parts": [part.name for part in self.parts],
            "exclude": list(map(str, self.exclude)),
        }
        read = {"train": self._train, "dev": self._dev}
        totals = [part.total for part in self.parts if part.total is not None]
        known = len(totals) == len(self.parts)
        total = {"train": (lambda: sum(each() for each in totals)) if known else None, "dev": None}
        return [CorpusSet(split, sources, read[split], total[split], settings) for split in splits]

    def _train(self) -> Iterator[Row | Bad]:
        excluded = self._excluded
        dev: set[str] = set()  # both: at most DEV_ROWS of each part
        dev_texts: set[str] = set()
        for held in self._dev():
            dev.add(held.utt_id)
            dev_texts.update(self._texts(held))
        for part in self.parts:
            for _, row in part.read():
                if isinstance(row, Bad):
                    yield row
                elif row.utt_id in dev:
                    continue
                elif not excluded.isdisjoint(_both_texts(row)):
                    yield Bad(row.utt_id, "excluded text", "--exclude names a file that holds it")
                elif not dev_texts.isdisjoint(self._texts(row)):
                    yield Bad(row.utt_id, "text of dev", "dev holds the same text")
                else:
                    yield row

    def _dev(self) -> Iterator[Row]:
        excluded = self._excluded
        for part in self.parts:
            good = (
                row
                for number, row in part.read()
                if number % DEV_EVERY == 0
                and isinstance(row, Row)
                and all(_both_texts(row))
                and excluded.isdisjoint(_both_texts(row))
            )
            yield from itertools.islice(good, DEV_ROWS)

    def _texts(self, row: Row) -> list[str]:
        """What must not be in both sets."""
        return [text for text in _both_texts(row)[: 1 if self.answers else 2] if text]

    @cached_property
    def _excluded(self) -> set[str]:
        texts: set[str] = set()
        for path in self.exclude:
            with path.open("rb") as file:
                texts.update(letters(line.decode(errors="replace")) for line in file)
        return texts - {""}


def _both_texts(row: Row) -> list[str]:
    return [letters(row.source or ""), letters(row.target)]


def add_exclude(parser: argparse.ArgumentParser) -> None:
    """Adds the option --exclude."""
    parser.add_argument(
        "--exclude",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="text files, a sentence a line, e.g. of FLORES: rows with one of them are left out",
    )
