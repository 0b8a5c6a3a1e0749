"""How clips lie in a representation: distances by language, retrieval of sentences, CKA.

Pure numpy, in double precision. Vectors are means over time, one per clip. Hidden states share a
large common direction, so that raw cosines of any two clips are close to 1 and tell little; all
measures here work on vectors whose mean is taken off first (`center`: the mean over languages, each
counting the same; `center_languages`: each language's own mean).

Shapes: N clips, S sentences, D width.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np


def center(vectors_ND, language_N) -> np.ndarray:
    """Vectors (N, D) less the mean of the languages' means, so that no language counts more."""
    vectors_ND = np.asarray(vectors_ND, dtype=np.float64)
    language_N = np.asarray(language_N)
    means = [vectors_ND[language_N == code].mean(0) for code in np.unique(language_N)]
    return vectors_ND - np.mean(means, axis=0)


def center_languages(vectors_ND, language_N) -> np.ndarray:
    """Vectors (N, D) less the mean of their language: what is left tells sentences apart."""
    vectors_ND = np.array(vectors_ND, dtype=np.float64)
    language_N = np.asarray(language_N)
    for code in np.unique(language_N):
        vectors_ND[language_N == code] -= vectors_ND[language_N == code].mean(0)
    return vectors_ND


def cosine(a_ND, b_MD) -> np.ndarray:
    """Cosine similarities (N, M); 0 where a vector is 0."""
    return _unit(a_ND) @ _unit(b_MD).T


def distances(vectors_ND, language_N, sentence_N) -> dict[str, float | None]:
    """Mean cosine distances (0 to 2) between clips, by what the two clips share.

    Languages, and pairs of languages, count the same, however many clips they have.

    Args:
        vectors_ND: One per clip; centered here.
        language_N: Codes.
        sentence_N: What is said; clips with the same one are parallel.

    Returns:
        ``within``: same language, other sentence; ``between``: other language, other sentence;
        ``separation``: between / within, 1 where languages are not told apart; ``parallel``: other
        language, same sentence; ``parallel_ratio``: parallel / between, both with each language's
        own mean taken off, 1 where a translation is no closer than any other sentence. None where
        there is no such pair of clips, or all clips are the same vector.
    """
    language_N, sentence_N = np.asarray(language_N), np.asarray(sentence_N)
    same_language = language_N[:, None] == language_N
    same_sentence = sentence_N[:, None] == sentence_N
    centered = center(vectors_ND, language_N)
    distance = 1 - cosine(centered, centered)
    within = _mean_by_pair(distance, language_N, same_language & ~same_sentence)
    between = _mean_by_pair(distance, language_N, ~same_language & ~same_sentence)
    parallel = _mean_by_pair(distance, language_N, ~same_language & same_sentence)
    own = center_languages(vectors_ND, language_N)
    own_distance = 1 - cosine(own, own)
    own_between = _mean_by_pair(own_distance, language_N, ~same_language & ~same_sentence)
    own_parallel = _mean_by_pair(own_distance, language_N, ~same_language & same_sentence)
    return {
        "within": within,
        "between": between,
        "separation": _ratio(between, within),
        "parallel": parallel,
        "parallel_ratio": _ratio(own_parallel, own_between),
    }


def reciprocal_ranks(scores_NN) -> np.ndarray:
    """1 / rank of the right key of each query (N,); keys of the same score share a middle rank.

    Args:
        scores_NN: Of query i and key j, higher is nearer; key i is the right one of query i.
    """
    scores_NN = np.asarray(scores_NN, dtype=np.float64)
    right_N1 = np.diagonal(scores_NN)[:, None]
    above_N = (scores_NN > right_N1).sum(1)
    ties_N = (scores_NN == right_N1).sum(1) - 1
    return 1 / (1 + above_N + ties_N / 2)


def chance_reciprocal_rank(count: int) -> float:
    """What guessing reaches among so many keys: (1 + 1/2 + ... + 1/count) / count."""
    return float((1 / np.arange(1, count + 1)).sum() / count)


def retrieval(vectors_ND, language_N, sentence_N) -> dict | None:
    """Finds each sentence among another language's: mean reciprocal rank over ordered pairs.

    Of a pair, the sentences that both languages have are queries and candidates; a pair with fewer
    than two is left out. Vectors are taken as they are: center them before.

    Args:
        vectors_ND: One per clip; 1-D vectors (D = 1) are compared by their difference.
        language_N: Codes.
        sentence_N: Each at most once in a language.

    Returns:
        ``mrr``, ``ci95`` (normal approximation over sentences), ``chance``, ``candidates`` (mean
        number), ``by_language`` (mean over the pairs that it is in); None without any pair.
    """
    vectors_ND = np.asarray(vectors_ND, dtype=np.float64)
    place: dict[str, dict] = {}
    for i, (code, sentence) in enumerate(zip(language_N, sentence_N, strict=True)):
        place.setdefault(str(code), {})[sentence] = i
    pairs: dict[tuple[str, str], float] = {}
    counts: list[int] = []
    by_sentence: dict[object, list[float]] = {}
    for a, b in permutations(sorted(place), 2):
        shared = sorted(place[a].keys() & place[b].keys())
        if len(shared) < 2:
            continue
        queries = vectors_ND[[place[a][s] for s in shared]]
        keys = vectors_ND[[place[b][s] for s in shared]]
        one = queries.shape[1] == 1
        ranks_S = reciprocal_ranks(-abs(queries - keys.T) if one else cosine(queries, keys))
        pairs[a, b] = float(ranks_S.mean())
        counts.append(len(shared))
        for sentence, rank in zip(shared, ranks_S, strict=True):
            by_sentence.setdefault(sentence, []).append(rank)
    if not pairs:
        return None
    mrr = float(np.mean(list(pairs.values())))
    # Sentences are the sample: pairs of languages share them, and are no independent trials.
    means = [np.mean(ranks) for ranks in by_sentence.values()]
    half = 1.96 * float(np.std(means, ddof=1)) / len(means) ** 0.5
    return {
        "mrr": mrr,
        "ci95": [max(0.0, mrr - half), min(1.0, mrr + half)],
        "chance": float(np.mean([chance_reciprocal_rank(n) for n in counts])),
        "candidates": float(np.mean(counts)),
        "by_language": {
            code: float(np.mean([value for pair, value in pairs.items() if code in pair]))
            for code in sorted({code for pair in pairs for code in pair})
        },
    }


def linear_cka(x_ND, y_NE) -> float | None:
    """Linear centered kernel alignment of two representations of the same clips, debiased.

    1 for spaces that differ by rotation, shift and one scale alone, about 0 for unrelated ones. The
    plain estimate is far above 0 for unrelated spaces wherever clips are not many more than
    dimensions; so HSIC is estimated without bias (Song et al. 2012; Nguyen et al. 2021).

    Args:
        x_ND: One vector per clip.
        y_NE: Of the same clips, in the same order.

    Returns:
        None where one of the spaces does not vary, or there are fewer than four clips.
    """
    x_ND, y_NE = np.asarray(x_ND, dtype=np.float64), np.asarray(y_NE, dtype=np.float64)
    if len(x_ND) != len(y_NE):
        raise ValueError(f"CKA: found {len(x_ND)} and {len(y_NE)} clips, expected the same ones")
    if len(x_ND) < 4:
        return None
    x_NN, y_NN = _gram(x_ND), _gram(y_NE)
    spread = _hsic(x_NN, x_NN) * _hsic(y_NN, y_NN)
    return float(_hsic(x_NN, y_NN) / spread**0.5) if spread > 0 else None


def _gram(x_ND: np.ndarray) -> np.ndarray:
    x_ND = x_ND - x_ND.mean(0)
    size = np.linalg.norm(x_ND)
    x_ND = x_ND / size if size > 0 else x_ND  # CKA has no scale; products of tiny ones underflow
    gram_NN = x_ND @ x_ND.T
    np.fill_diagonal(gram_NN, 0)
    return gram_NN


def _hsic(k_NN: np.ndarray, l_NN: np.ndarray) -> float:
    n = len(k_NN)
    k_N, l_N = k_NN.sum(1), l_NN.sum(1)
    sums = (k_NN * l_NN).sum() + k_N.sum() * l_N.sum() / ((n - 1) * (n - 2))
    return float((sums - 2 * (k_N @ l_N) / (n - 2)) / (n * (n - 3)))


def _unit(x_ND) -> np.ndarray:
    x_ND = np.asarray(x_ND, dtype=np.float64)
    return x_ND / np.maximum(np.linalg.norm(x_ND, axis=1, keepdims=True), 1e-30)


def _mean_by_pair(values_NN, language_N, chosen_NN) -> float | None:
    """Mean over the pairs of languages of the means over the chosen pairs of clips."""
    codes, index_N = np.unique(language_N, return_inverse=True)
    member_NL = np.eye(len(codes))[index_N]
    counts_LL = member_NL.T @ chosen_NN @ member_NL
    sums_LL = member_NL.T @ (values_NN * chosen_NN) @ member_NL
    some = counts_LL > 0
    return float((sums_LL[some] / counts_LL[some]).mean()) if some.any() else None


def _ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b is not None and b > 1e-12 else None
