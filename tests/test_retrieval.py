"""Retrieval on planted data."""

import pytest
import torch

from espnet_part.retrieval import (
    both_ways,
    mean_pool,
    mean_reciprocal_rank,
    propose_layers,
    spread,
)


def test_ranks_by_hand():
    keys = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    # Nearest first: 0 2 1, then 0 2 1 as well, then 2 and a tie.
    queries = torch.tensor([[3.0, 0.1], [5.0, 0.2], [1.0, 1.0]])
    assert mean_reciprocal_rank(queries, keys) == pytest.approx((1 + 1 / 3 + 1) / 3)
    assert mean_reciprocal_rank(queries[[1, 0, 2]], keys) == pytest.approx((1 + 1 / 3 + 1) / 3)


def test_planted_pairs_are_found_and_noise_is_not():
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(200, 16, generator=generator)
    noise = torch.randn(200, 16, generator=generator)
    assert both_ways(text + 0.1 * noise, text) == (1.0, 1.0)
    chance = sum(1 / (i + 1) for i in range(200)) / 200
    for score in both_ways(noise, text):
        assert score == pytest.approx(chance, abs=0.02)
    near = both_ways(text + 2 * noise, text)
    assert all(0.1 < score < 0.9 for score in near) and near[0] != near[1]


def test_what_has_collapsed_finds_nothing():
    same = torch.randn(1, 7).expand(20, 7)
    assert both_ways(same, same.clone()) == pytest.approx((1 / 20, 1 / 20))
    assert spread(same) == pytest.approx(0.0, abs=1e-9)


def test_spread_by_hand():
    assert spread(torch.eye(3)) == pytest.approx(1.0)
    assert spread(torch.tensor([[1.0, 0.0], [-2.0, 0.0]])) == pytest.approx(2.0)
    assert spread(torch.tensor([[1.0, 0], [1, 0], [0, 4]])) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("scores", "most", "wanted"),
    [
        ([0.2, 0.5, 0.7, 0.6], 2, [0, 1]),  # capped
        ([0.2, 0.5, 0.7, 0.6], 4, [0, 1, 2]),  # up to the peak
        ([0.2, 0.5, 0.505, 0.9], 4, [0, 1]),  # a plateau ends it, whatever comes behind
        ([0.9, 0.1, 0.95], 3, [0]),  # layer 0 is always among them
        ([0.1, 0.2, 0.3], 9, [0, 1, 2]),
        ([0.4], 2, [0]),
    ],
)
def test_proposal(scores, most, wanted):
    assert propose_layers(scores, most) == wanted


def test_pooling():
    states = torch.tensor([[1.0, 2], [3, 4], [10, 20]], dtype=torch.bfloat16)
    pooled = mean_pool(states, [2, 1])
    assert pooled.dtype == torch.float32
    assert pooled.tolist() == [[2, 3], [10, 20]]


def test_errors():
    with pytest.raises(ValueError, match="2 queries and 3 keys"):
        mean_reciprocal_rank(torch.ones(2, 2), torch.ones(3, 2))
    with pytest.raises(ValueError, match="needs two vectors, found 1"):
        spread(torch.ones(1, 2))
    with pytest.raises(ValueError, match="at most 0 layers"):
        propose_layers([0.5], 0)
