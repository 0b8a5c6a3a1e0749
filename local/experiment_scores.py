"""Scores of several seeds, and how sure they are: means over test sets, resampled.

An interval covers which sentences the test has: they are drawn anew, the same ones in all test sets
that say the same, and in all systems and seeds. And it covers which random numbers training had:
the seeds' spread, by Student's t, as three seeds say little about it (drawing seeds anew would
give an interval that covers the truth three times in four). Systems are compared on the same draws.

Shapes: N sentences, K statistics, S resamples, E seeds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from espnet_part.pairs import pair_texts, read_text
from espnet_part.report import TestSet, read_test_set
from espnet_part.scoring import score
from espnet_part.significance import Statistics

SAMPLES = 1000
DRAWS = 100  # of the seeds' error, for each draw of sentences
MAIN = ("wer", "cer", "bleu")


@dataclass(frozen=True)
class SetScores:
    """One decoded test set: statistics by sentence, in the order of `sentences`."""

    test_set: TestSet
    sentences: tuple[str, ...]
    stats: Statistics

    def values(self, weights_SN: np.ndarray) -> np.ndarray:
        """Scores (S,) of resamples: error in per cent, or BLEU."""
        return self.stats.score(weights_SN @ self.stats.values_NK)


def read_scores(folder: Path, data: Path, sentence: str) -> SetScores:
    """Scores what was decoded of one test set.

    Args:
        folder: `<arm>/phase<N>/<decode>/<test_set>`.
        data: Its references, a data folder.
        sentence: Pattern whose group names the sentence in an utterance id; "" takes the whole id.

    Raises:
        ValueError: Hypotheses or references missing, or an id that the pattern does not match.
    """
    if not (folder / "text").exists():
        raise ValueError(f"{folder / 'text'} is missing; stage 12 makes it")
    test_set = read_test_set(data)
    pairs = pair_texts(test_set.texts, read_text(folder / "text"), speakers=test_set.speakers)
    scores = score(pairs, test_set.task, test_set.src, test_set.tgt, 0)
    main = next(m.metric for m in scores.measures if m.metric in MAIN)
    stats = scores.stats[main]
    named = [sentence_of(pair.utt_id, sentence) for pair in scores.pairs]
    order = sorted(range(len(named)), key=lambda i: (named[i], scores.pairs[i].utt_id))
    return SetScores(
        test_set, tuple(named[i] for i in order), Statistics(stats.values_NK[order], stats.score)
    )


def sentence_of(utt_id: str, pattern: str) -> str:
    """What names the sentence of an utterance.

    Raises:
        ValueError: The pattern does not match.
    """
    if not pattern:
        return utt_id
    found = re.search(pattern, utt_id)
    if found is None:
        raise ValueError(
            f"utterance id {utt_id!r}: the pattern {pattern!r} (sentence) does not match"
        )
    return found.group(1)


class Resampling:
    """Draws of sentences, and of the seeds' error, the same for all systems.

    Args:
        seeds: How many there are.
        samples: Resamples.
        seed: Of the drawing.
    """

    def __init__(self, seeds: int, samples: int = SAMPLES, seed: int = 0):
        self.samples = samples
        self._seed = seed
        self._weights: dict[tuple[str, ...], np.ndarray] = {}
        rng = np.random.default_rng([seed, 1 << 20])
        # Of a mean over seeds, in units of its standard error; one seed does not tell it.
        self._error_SD = rng.standard_t(max(1, seeds - 1), size=(samples, DRAWS)) * (seeds > 1)

    def weights(self, sentences: tuple[str, ...]) -> np.ndarray:
        """How often each sentence comes (1 + S, N), in the first row once each.

        Test sets of the same sentences share their draws.
        """
        if sentences not in self._weights:
            n = len(sentences)
            rng = np.random.default_rng([self._seed, len(self._weights)])
            draws = [np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(self.samples)]
            self._weights[sentences] = np.stack([np.ones(n), *draws])
        return self._weights[sentences]

    def mean_values(self, sets: Sequence[SetScores]) -> np.ndarray:
        """Mean score over test sets, of all sentences and of each resample: (1 + S,)."""
        return np.mean([one.values(self.weights(one.sentences)) for one in sets], axis=0)

    def over_seeds(self, values_ES: np.ndarray) -> Estimate:
        """The mean over seeds of `mean_values`' rows (E, 1 + S), and its interval."""
        n = len(values_ES)
        error = np.std(values_ES[:, 0], ddof=1) / np.sqrt(n) if n > 1 else 0.0
        drawn_SD = values_ES[:, 1:].mean(0)[:, None] + error * self._error_SD
        low, high = np.percentile(drawn_SD, [2.5, 97.5])
        by_seed = tuple(float(v) for v in values_ES[:, 0])
        return Estimate(float(np.mean(by_seed)), (float(low), float(high)), by_seed)


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, and what each seed has."""

    value: float
    ci95: tuple[float, float]
    by_seed: tuple[float, ...]

    def verdict(self, wanted: int) -> str:
        """Whether a difference has the wanted sign (+1, -1): shown, not shown or opposite.

        It is shown where the interval keeps to that side of zero and all seeds are on it.
        """
        for sign, word in ((wanted, "shown"), (-wanted, "opposite")):
            near = min(sign * self.ci95[0], sign * self.ci95[1])
            if near > 0 and all(sign * value > 0 for value in self.by_seed):
                return word
        return "not shown"


def in_group(test_set: TestSet, group: str, ill_resourced: Sequence[str]) -> bool:
    """Whether a test set counts for error, bleu, bleu_ill or bleu_other."""
    if group == "error":
        return test_set.task == "asr"
    if test_set.task == "asr":
        return False
    return group == "bleu" or (group == "bleu_ill") == (test_set.tgt in ill_resourced)


def group_values(
    scores: Mapping[str, Sequence[SetScores]],
    resampling: Resampling,
    groups: Sequence[str],
    ill_resourced: Sequence[str],
) -> dict[str, np.ndarray]:
    """Per group what `mean_values` gives for each seed: (E, 1 + S); empty groups are left out.

    Args:
        scores: Seed -> its test sets.
        resampling: The draws.
        groups: Of `in_group`.
        ill_resourced: Target languages of bleu_ill.
    """
    found = {}
    for group in groups:
        rows = []
        for sets in scores.values():
            own = [one for one in sets if in_group(one.test_set, group, ill_resourced)]
            if own:
                rows.append(resampling.mean_values(own))
        if rows:
            found[group] = np.stack(rows)
    return found
