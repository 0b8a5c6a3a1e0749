"""Bootstrap over utterances: intervals of one system's score, and tests of two systems' difference.

Both take additive statistics, a row per utterance, and a function from their sums to scores, so
that one code serves error rates, BLEU, chrF and shares of utterances.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

BOOTSTRAP_SAMPLES = 1000
BOOTSTRAP_SEED = 12345

# Maps summed statistics (samples, K) to scores (samples,).
ScoreFunction = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Statistics:
    """What a number is made of: additive statistics of N utterances, and what scores their sum."""

    values_NK: np.ndarray
    score: ScoreFunction


@dataclass(frozen=True)
class Difference:
    """System B minus system A on the same utterances.

    `better` is the share of resamples in which B beats A (Bisani and Ney's probability of
    improvement), `p_value` that of the two-sided test of "there is no difference".
    """

    delta: float
    ci95: list[float]
    better: float
    p_value: float
    n_units: int


def per_cent(sums: np.ndarray) -> np.ndarray:
    """Map sums (S, 2) of (events, trials) to per cent; a resample without trials counts as 0."""
    return 100.0 * sums[:, 0] / np.maximum(sums[:, 1], 1e-9)


def _resampled_sums(stats_NK: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Sum N rows drawn with replacement, `samples` times; returns (samples, K)."""
    n_units = len(stats_NK)
    rng = np.random.default_rng(seed)
    sums = np.empty((samples, stats_NK.shape[1]))
    for i in range(samples):
        counts = np.bincount(rng.integers(n_units, size=n_units), minlength=n_units)
        sums[i] = counts @ stats_NK
    return sums


def bootstrap(
    stats_NK: np.ndarray,
    score: ScoreFunction,
    samples: int = BOOTSTRAP_SAMPLES,
    seed: int = BOOTSTRAP_SEED,
) -> list[float] | None:
    """Percentile bootstrap over utterances: the 95 % interval of a score.

    Args:
        stats_NK: additive statistics of N utterances.
        score: maps summed statistics (samples, K) to scores (samples,).
        samples: number of resamples; 0 gives None.
        seed: of the resampling; the same for every system, so their intervals are comparable.

    Returns:
        [low, high], or None below two utterances, where there is no spread to estimate.
    """
    if len(stats_NK) < 2 or samples < 1:
        return None
    low, high = np.percentile(score(_resampled_sums(stats_NK, samples, seed)), [2.5, 97.5])
    return [float(low), float(high)]


def sum_groups(stats_NK: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """Add up the rows of each group, such as a speaker's utterances; returns (groups, K)."""
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.zeros((index.max() + 1, stats_NK.shape[1]))
    np.add.at(sums, index, stats_NK)
    return sums


def paired_bootstrap(
    stats_a_NK: np.ndarray,
    stats_b_NK: np.ndarray,
    score: ScoreFunction,
    lower_is_better: bool,
    samples: int = BOOTSTRAP_SAMPLES,
    seed: int = BOOTSTRAP_SEED,
) -> Difference:
    """Compare two systems on the same resamples (Bisani and Ney, ICASSP 2004).

    Both systems are scored on each draw of utterances, so that what makes an utterance hard for
    both cancels out; the interval of the difference is far narrower than the two intervals of
    the scores suggest.

    Args:
        stats_a_NK: additive statistics of system A; a row is what is drawn: an utterance, or a
            speaker's sum (`sum_groups`) where utterances of one speaker are alike.
        stats_b_NK: those of system B on the same rows.
        score: maps summed statistics (samples, K) to scores (samples,).
        lower_is_better: whether a lower score is the better one.
        samples: number of resamples.
        seed: of the resampling.

    Returns:
        The difference B - A; its p-value is twice the share of resamples in which the difference
        is zero or has the other sign, at most 1.

    Raises:
        ValueError: if there are fewer than two rows, or no resamples.
    """
    assert stats_a_NK.shape == stats_b_NK.shape, "two systems, one set of utterances"
    n_units, n_stats = stats_a_NK.shape
    if n_units < 2:
        raise ValueError(
            f"A paired test draws utterances or speakers anew: found {n_units}, expected 2 or more"
        )
    if samples < 1:
        raise ValueError(f"A paired test needs resamples: found {samples}, expected 1 or more")
    both = np.concatenate([stats_a_NK, stats_b_NK], axis=1)

    def differences(sums: np.ndarray) -> np.ndarray:
        return score(sums[:, n_stats:]) - score(sums[:, :n_stats])

    delta = float(differences(both.sum(0, keepdims=True))[0])
    deltas = differences(_resampled_sums(both, samples, seed))
    low, high = np.percentile(deltas, [2.5, 97.5])
    # The draw that was observed counts as one more, so that p is never 0.
    tail = min((deltas <= 0).sum(), (deltas >= 0).sum())
    return Difference(
        delta=delta,
        ci95=[float(low), float(high)],
        better=float(np.mean(deltas < 0 if lower_is_better else deltas > 0)),
        p_value=min(1.0, 2.0 * (1 + int(tail)) / (samples + 1)),
        n_units=n_units,
    )
