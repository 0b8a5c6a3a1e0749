"""Cross-modal retrieval: does a sentence's speech find its transcript among others, and back?

AI-STA (arXiv 2503.10211) chooses the layers to align by it; the score per layer is the mean
reciprocal rank. The rule that turns the curve into a set of layers is ours.

Shapes: N sentences, D features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def mean_reciprocal_rank(queries_ND: Tensor, keys_ND: Tensor) -> float:
    """Mean of 1 / rank of each query's own key, by cosine.

    A tie counts against the query: where all keys are the same nothing is found, and the score is
    1 / N, not 1.

    Args:
        queries_ND: One vector per sentence.
        keys_ND: The other side's, in the same order.

    Raises:
        ValueError: Different numbers of both, or none.
    """
    if len(queries_ND) != len(keys_ND) or not len(keys_ND):
        raise ValueError(
            f"retrieval needs a key for each query, found {len(queries_ND)} queries and "
            f"{len(keys_ND)} keys"
        )
    cosine_NN = F.normalize(queries_ND.double(), dim=1) @ F.normalize(keys_ND.double(), dim=1).T
    own_N1 = cosine_NN.diagonal()[:, None]
    # Means of equal states over different lengths differ in their last bits.
    rank_N = (cosine_NN >= own_N1 - 1e-6).sum(1)
    return float((1 / rank_N.double()).mean())


def spread(vectors_ND: Tensor) -> float:
    """Mean cosine distance (0 to 2) of all pairs: falls where different sentences collapse.

    Raises:
        ValueError: Fewer than two vectors.
    """
    count = len(vectors_ND)
    if count < 2:
        raise ValueError(f"a distance needs two vectors, found {count}")
    unit_ND = F.normalize(vectors_ND.double(), dim=1)
    squares = float(unit_ND.square().sum())
    total = float(unit_ND.sum(0).square().sum())  # the sum of all cosines
    return 1 - (total - squares) / (count * (count - 1))


def propose_layers(scores: Sequence[float], most: int, rise: float = 0.01) -> list[int]:
    """The shallow layers up to the first peak or plateau of the retrieval score.

    Secondary sources of AI-STA report that aligning layers 0 and 1 was best, that deeper ones hurt,
    and that without layer 0 the loss does not converge. So layer 0 is always among them.

    Args:
        scores: One per layer, from layer 0 on.
        most: How many layers at most.
        rise: What counts as a rise; less is a plateau.

    Raises:
        ValueError: No score, or `most` below 1.
    """
    if not scores or most < 1:
        raise ValueError(f"found {len(scores)} scores, at most {most} layers; expected 1 or more")
    count = 1
    while count < min(most, len(scores)) and scores[count] > scores[count - 1] + rise:
        count += 1
    return list(range(count))


def both_ways(speech_ND: Tensor, text_ND: Tensor) -> tuple[float, float]:
    """Mean reciprocal ranks, speech to text and text to speech."""
    return mean_reciprocal_rank(speech_ND, text_ND), mean_reciprocal_rank(text_ND, speech_ND)


def mean_pool(states_MD: Tensor, lengths: Sequence[int]) -> Tensor:
    """Mean over each sentence's positions, which stand one sentence behind the other: (N, D).

    Every length is at least 1. Sums are float32 or more.
    """
    wide = states_MD.to(torch.promote_types(states_MD.dtype, torch.float32))
    return torch.stack([part.mean(0) for part in wide.split(list(lengths))])
