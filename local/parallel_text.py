"""Parallel text in files that are aligned by line, as mt rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from corpus import DIRECTIONS, Bad, CorpusSet, count_lines
from text_split import Part

from espnet_part.datadir import Row
from espnet_part.prompt import LANGUAGES

MAX_CHARS = 2000  # of a line: some 20 sentences; beyond that it is a page or rubbish
NAMES = [f"{src}-{tgt}" for src, tgt in DIRECTIONS]


@dataclass(frozen=True)
class Pair:
    """Two files with the same number of lines, each line the translation of the other's.

    Attributes:
        name: Starts the ids; unique among what goes into one data folder.
        src: Our code of the source's language.
        tgt: Our code of the target's language.
        source: Text file.
        target: Text file.
    """

    name: str
    src: str
    tgt: str
    source: Path
    target: Path

    def flip(self) -> Pair:
        """The other direction."""
        return replace(self, src=self.tgt, tgt=self.src, source=self.target, target=self.source)

    def part(self) -> Part:
        """What a `Splitter` takes."""
        files = [self.source, self.target]
        return Part(
            f"{self.name} {self.src}-{self.tgt}",
            files,
            lambda: self.rows(filtered=True),
            lambda: count_lines(self.source),
        )

    def test_set(self, corpus: str, lines: int) -> CorpusSet:
        """A test set of all its lines, in their order; `lines` were published."""
        return CorpusSet(
            f"{corpus}_mt_{self.src}_{self.tgt}",
            [self.source, self.target],
            lambda: (row for _, row in self.rows(filtered=False)),
            lambda: count_lines(self.source),
            expected=lines,
        )

    def rows(self, filtered: bool) -> Iterator[tuple[int, Row | Bad]]:
        """Yields line numbers, from 1, and what is there; blank lines are rows without text.

        Args:
            filtered: Whether lines are bad that are no use for training: too long, or copies of
                each other. Equal pairs of lines stay: finding them takes memory without bound.

        Raises:
            ValueError: A file is missing, or the two differ in their number of lines.
        """
        self._check()
        with self.source.open("rb") as source_file, self.target.open("rb") as target_file:
            # In bytes, lines end at \n only: text may hold U+2028 or \x85.
            for number, lines in enumerate(zip(source_file, target_file, strict=True), 1):
                utt_id = f"{self.name}-{number:09d}-mt-{self.src}-{self.tgt}"
                try:
                    source, target = (line.decode("utf-8-sig").strip() for line in lines)
                except UnicodeDecodeError as error:
                    yield number, Bad(utt_id, "not UTF-8", str(error))
                    continue
                problem = _problem(source, target) if filtered else None
                if problem:
                    yield number, Bad(utt_id, *problem)
                else:
                    yield number, Row(utt_id, "mt", self.src, self.tgt, target, source=source)

    def _check(self) -> None:
        source, target = _count(self.source), _count(self.target)
        if source != target:
            raise ValueError(
                f"{self.source}: found {source:,} lines, but {target:,} in {self.target.name}; "
                "expected as many: is one of them cut off, or of another version?"
            )


def _problem(source: str, target: str) -> tuple[str, str] | None:
    """Reason and detail of why a line is no use for training."""
    longest = max(len(source), len(target))
    if longest > MAX_CHARS:
        return f"over {MAX_CHARS} characters", f"{longest:,} characters"
    if source and source.casefold() == target.casefold():
        return "copy of the source", "source and target are the same"
    return None


def _count(path: Path) -> int:
    """Lines of a file."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    return count_lines(path)


def aligned_pairs(name: str, files: dict[str, Path]) -> list[Pair]:
    """All pairs of some files that are aligned with each other, {language: file}."""
    return [
        Pair(name, src, tgt, files[src], files[tgt]) for src in files for tgt in files if src < tgt
    ]


def choose_pairs(found: Sequence[Pair], wanted: Sequence[str] | None, where: str) -> list[Pair]:
    """Turns pairs into the wanted directions; a pair may serve both.

    Args:
        found: Pairs, in either direction.
        wanted: What --langs says, such as `de-en`: any two of our languages. None: those of the
            paper's thirteen that are there; the others are printed.
        where: Where they were looked for and what to do, for messages.

    Raises:
        ValueError: A direction is not one, or a wanted one is not there, or none is.
    """
    pairs: list[Pair] = []
    missing = []
    for name in dict.fromkeys(NAMES if wanted is None else wanted):
        src, _, tgt = name.partition("-")
        if src not in LANGUAGES or tgt not in LANGUAGES or src == tgt:
            raise ValueError(
                f"--langs: found {name!r}, expected directions such as de-en, between two of "
                f"{' '.join(LANGUAGES)}"
            )
        there = [p if p.src == src else p.flip() for p in found if {p.src, p.tgt} == {src, tgt}]
        pairs += there
        if not there:
            missing.append(name)
    if not pairs or (missing and wanted is not None):
        raise ValueError(f"found no text for {' '.join(missing)} in {where}")
    if missing:
        print(f"Left out, not there: {' '.join(missing)}", flush=True)
    return pairs
