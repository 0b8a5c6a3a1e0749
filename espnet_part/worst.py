"""The worst utterances of a test set: chosen by their errors, aligned, with others' answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from espnet_part import scoring
from espnet_part.datadir import iter_rows
from espnet_part.html_errors import Counts, read_counts
from espnet_part.html_tables import System, by_test_set
from espnet_part.hypotheses import check_all
from espnet_part.normalize import CER_LANGUAGES
from espnet_part.pairs import Pair, pair_texts, read_text
from espnet_part.row import Row as Example
from espnet_part.tables import Row

_RIGHT_TO_LEFT = ("ar",)


@dataclass(frozen=True)
class Utterance:
    """One utterance and what became of it.

    Attributes:
        example: Its row of the data folder.
        hyp: What the system said.
        verdict: How wrong it is, in words.
        flags: Names of the checks that it fails, such as `loop`.
        ops: Alignment: (C, S, D or I; reference token or None; hypothesis token or None).
        others: Name of another phase or curriculum -> what it said.
    """

    example: Example
    hyp: str
    verdict: str
    flags: list[str]
    ops: list[tuple[str, str | None, str | None]]
    others: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class WorstOfSet:
    """The worst utterances of one test set, the worst first."""

    test_set: str
    task: str
    src: str
    tgt: str
    by: str  # what decided
    n_utts: int
    n_wrong: int
    chars: bool  # whether the alignment is of characters
    utterances: list[Utterance]

    @property
    def direction(self) -> str:
        """Direction of the target's script, as HTML names it."""
        return "rtl" if self.tgt in _RIGHT_TO_LEFT else "ltr"


def find_worst(
    exp: Path, dumpdir: Path, system: System, rows: Sequence[Row], others: Sequence[Path], n: int
) -> list[WorstOfSet]:
    """Find the worst utterances of every test set that a system's last phase decoded.

    Recognition goes by the number of errors, then by their share; translation by chrF of the
    sentence. A sentence comes once, whoever reads it; what is right does not come at all. A test
    set whose files are gone, or do not fit, is left out.

    Args:
        exp: the experiment's folder.
        dumpdir: holds `raw/<test_set>`.
        system: whose.
        rows: of results.json.
        others: decode folders whose answers stand beside the system's own.
        n: how many of each test set.
    """
    decode = exp / system.curriculum / f"phase{system.phases[-1]}" / system.decode
    found = []
    for name in by_test_set(system.rows(rows, system.phases[-1])):
        data = dumpdir / "raw" / name
        if not (data / "utt2task").is_file() or not (decode / name / "text").is_file():
            continue
        answers = {_label(exp, folder): _texts(folder / name / "text") for folder in others}
        try:
            found.append(_worst_of_set(data, decode / name, answers, n))
        except ValueError:  # text and data do not fit: scoring has said so
            continue
    return found


def _worst_of_set(
    data: Path, folder: Path, answers: Mapping[str, Mapping[str, str]], n: int
) -> WorstOfSet:
    examples = {example.utt_id: example for example in iter_rows(data)}
    refs = {utt_id: example.target for utt_id, example in examples.items()}
    text = folder / "text"
    pairs = pair_texts(refs, read_text(text), allow_missing=True, where=str(text))
    first = next(iter(examples.values()))
    if first.task == "asr":
        by, ranked = "number of errors", _by_errors(pairs, examples, folder)
    else:
        by, ranked = "chrF of the sentence", _by_chrf(pairs)
    worst = _distinct(ranked, n)
    utterances = [
        Utterance(
            examples[pair.utt_id],
            pair.hyp,
            verdict,
            _flags(pair, first.tgt),
            ops,
            {who: said[pair.utt_id] for who, said in answers.items() if pair.utt_id in said},
        )
        for (pair, verdict), ops in zip(worst, _align(worst, first.tgt), strict=True)
    ]
    return WorstOfSet(
        data.name,
        first.task,
        first.src,
        first.tgt,
        by,
        len(pairs),
        len(ranked),
        first.tgt in CER_LANGUAGES,
        utterances,
    )


def _by_errors(
    pairs: Sequence[Pair], examples: dict[str, Example], folder: Path
) -> list[tuple[Pair, str]]:
    counted: dict[str, Counts] = dict(read_counts(folder))
    ranked = []
    for pair in pairs:
        speaker = examples[pair.utt_id].speaker or pair.utt_id
        counts = counted.get(f"({speaker}-{pair.utt_id})")
        if counts is None or not any(counts[1:]):
            continue
        errors, tokens = sum(counts[1:]), max(sum(counts[:3]), 1)
        subs, dels, ins = counts[1:]
        words = f"{errors} error{'s' * (errors > 1)} in {tokens}: {subs} S, {dels} D, {ins} I"
        ranked.append(((-errors, -errors / tokens), pair, words))
    return [(pair, words) for _, pair, words in sorted(ranked, key=lambda item: item[0])]


def _by_chrf(pairs: Sequence[Pair]) -> list[tuple[Pair, str]]:
    from sacrebleu.metrics import CHRF

    metric, ranked = CHRF(), []
    for pair in pairs:
        if pair.ref.strip() and pair.hyp.strip() != pair.ref.strip():
            ranked.append((metric.sentence_score(pair.hyp.strip(), [pair.ref.strip()]).score, pair))
    ranked.sort(key=lambda item: item[0])
    return [(pair, f"chrF {score:.1f}") for score, pair in ranked]


def _distinct(ranked: Sequence[tuple[Pair, str]], n: int) -> list[tuple[Pair, str]]:
    """The first n of them whose references differ."""
    chosen: dict[str, tuple[Pair, str]] = {}
    for pair, verdict in ranked:
        chosen.setdefault(" ".join(pair.ref.casefold().split()), (pair, verdict))
        if len(chosen) == n:
            break
    return list(chosen.values())


def _align(
    worst: Sequence[tuple[Pair, str]], lang: str
) -> list[list[tuple[str, str | None, str | None]]]:
    """Alignments as error rates count them; empty where nothing of the reference remains."""
    try:
        scores = scoring.score_asr([pair for pair, _ in worst], lang, samples=0)
    except ValueError:  # no utterance, or none with a reference that the normalizer leaves
        return [[] for _ in worst]
    ops = {alignment.pair.utt_id: alignment.ops for alignment in scores.alignments}
    return [ops.get(pair.utt_id, []) for pair, _ in worst]


def _flags(pair: Pair, lang: str) -> list[str]:
    checks = check_all([(pair.ref, pair.hyp)], lang)
    return [name.removesuffix("_rate").replace("_", " ") for name, (bad,) in checks.items() if bad]


def _label(exp: Path, folder: Path) -> str:
    curriculum, phase, _ = folder.relative_to(exp).parts
    return f"{curriculum}/{phase}"


def _texts(path: Path) -> dict[str, str]:
    return read_text(path) if path.is_file() else {}
