"""What goes wrong, by test set: kinds of errors, and the rates of what should not be said."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_part.html_tables import Cell, System, by_test_set, set_cell
from espnet_part.pictures import families
from espnet_part.tables import CHECKS, Row

_SCORES = re.compile(r"^Scores: \(#C #S #D #I\) (\d+) (\d+) (\d+) (\d+)$", re.MULTILINE)
_KINDS = ("sub_rate", "del_rate", "ins_rate")

Counts = tuple[int, int, int, int]


@dataclass(frozen=True)
class ErrorLine:
    """One test set: bars, of the kinds of errors in per cent of the widest, and numbers.

    `numbers` are substitutions, deletions and insertions in per cent of the reference's tokens,
    the utterances with an error, then the rates of hypotheses.py, in per cent of utterances; None
    where translation has no such number.
    """

    head: Cell
    bars: list[tuple[float, float]]  # start, width
    numbers: list[float | None]


def read_counts(folder: Path) -> Iterator[tuple[str, Counts]]:
    """Read what `trn.write_asr` wrote of each utterance.

    Args:
        folder: a test set's decode folder.

    Yields:
        Its label in ref.trn, `(<speaker>-<utt_id>)`, and its correct, substituted, deleted and
        inserted tokens. Nothing where no error rate was counted.
    """
    for path in folder.glob("score_[wc]er/result.txt"):
        # As bytes, split at "\n" alone: a text may hold other ends of a line.
        found = _SCORES.findall(path.read_bytes().decode("utf-8"))
        lines = path.with_name("ref.trn").read_bytes().decode("utf-8").split("\n")[:-1]
        for line, counts in zip(lines, found, strict=True):
            hits, subs, dels, ins = map(int, counts)
            yield line.rsplit("\t", 1)[1], (hits, subs, dels, ins)


def error_groups(
    exp: Path, system: System, rows: Sequence[Row]
) -> list[tuple[str, list[ErrorLine]]]:
    """Sum up what goes wrong in a system's last phase.

    Args:
        exp: the experiment's folder.
        system: whose.
        rows: of results.json.

    Returns:
        Families of test sets and their lines.
    """
    phase = system.phases[-1]
    own = system.rows(rows, phase)
    most = max((sum(row.get(kind) or 0.0 for kind in _KINDS) for row in own), default=0.0)
    groups = []
    for family, content in families(own).items():
        lines = []
        for name, same in by_test_set(content).items():
            folder = exp / system.curriculum / f"phase{phase}" / system.decode / name
            rates = {row["metric"]: row["value"] for row in same}
            kinds = next((r for r in same if r["metric"] in ("wer", "cer")), {})
            shares = [kinds.get(kind) for kind in _KINDS]
            numbers = [*shares, _wrong(folder), *(rates.get(check) for check in CHECKS)]
            lines.append(ErrorLine(set_cell(same, family), _bars(shares, most), numbers))
        groups.append((family or "test sets", lines))
    return groups


def _wrong(folder: Path) -> float | None:
    """Utterances with an error, in per cent."""
    counts = [any(counts[1:]) for _, counts in read_counts(folder)]
    return 100 * sum(counts) / len(counts) if counts else None


def _bars(shares: Sequence[float | None], most: float) -> list[tuple[float, float]]:
    bars: list[tuple[float, float]] = []
    for share in shares:
        if share is not None and most > 0:
            start = sum(bars[-1]) if bars else 0.0
            bars.append((round(start, 2), round(100 * share / most, 2)))
    return bars
