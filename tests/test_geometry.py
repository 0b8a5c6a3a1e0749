"""Distances, retrieval and CKA on planted vectors, whose answers are known."""

import numpy as np
import pytest

from espnet_part.geometry import (
    center_languages,
    chance_reciprocal_rank,
    distances,
    linear_cka,
    reciprocal_ranks,
    retrieval,
)

CODES = ["de", "en", "fr"]
SENTENCES = 40


def planted(language=0.0, sentence=0.0, noise=1.0, shift=50.0, size=64, seed=0):
    """Vectors = common direction + language + sentence + noise, each of a chosen size."""
    rng = np.random.default_rng(seed)
    own = rng.standard_normal((len(CODES), size)) * language
    said = rng.standard_normal((SENTENCES, size)) * sentence
    rows = [
        (own[i] + said[s] + noise * rng.standard_normal(size) + shift, code, s)
        for i, code in enumerate(CODES)
        for s in range(SENTENCES)
    ]
    vectors, languages, sentences = zip(*rows, strict=True)
    return np.array(vectors), list(languages), list(sentences)


def mrr(vectors, languages, sentences):
    return retrieval(center_languages(vectors, languages), languages, sentences)


def test_noise_alone_has_no_languages_and_no_sentences():
    data = planted()
    found = distances(*data)
    assert found["separation"] == pytest.approx(1, abs=0.03)
    assert found["parallel_ratio"] == pytest.approx(1, abs=0.05)
    found = mrr(*data)
    assert found["chance"] == pytest.approx(sum(1 / k for k in range(1, 41)) / 40)
    # The interval holds what guessing reaches.
    assert found["ci95"][0] < found["chance"] < found["ci95"][1]
    assert found["candidates"] == 40
    assert list(found["by_language"]) == CODES


def test_planted_languages_lie_apart_and_hide_no_sentence():
    vectors, languages, sentences = planted(language=2, sentence=0.7)
    found = distances(vectors, languages, sentences)
    assert found["separation"] > 3
    assert found["between"] > 1 > found["within"]
    assert found["parallel_ratio"] < 0.8
    plain = distances(*planted(language=0, sentence=0.7))
    # What tells languages apart does not come into the distance of translations.
    assert found["parallel_ratio"] == pytest.approx(plain["parallel_ratio"], abs=0.02)


def test_planted_sentences_are_found():
    assert mrr(*planted(sentence=3))["mrr"] > 0.99
    weak, none = mrr(*planted(sentence=0.4)), mrr(*planted(sentence=0))
    assert none["ci95"][1] < weak["ci95"][0] < weak["mrr"] < 0.9


def test_a_shift_common_to_all_clips_changes_nothing():
    near = distances(*planted(language=1, sentence=1, shift=0))
    far = distances(*planted(language=1, sentence=1, shift=1000))
    assert far == pytest.approx(near)


def test_distances_by_hand():
    """Two languages, two sentences, at right angles: all distances can be told by eye."""
    vectors = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])  # mean 0
    found = distances(vectors, ["a", "a", "b", "b"], [0, 1, 1, 0])
    assert found["within"] == pytest.approx(1)  # a0 a1, b1 b0
    assert found["between"] == pytest.approx(2)  # a0 b1 and a1 b0 are opposite
    assert found["parallel"] == pytest.approx(1)
    assert found["separation"] == pytest.approx(2)


def test_languages_count_the_same_however_many_clips_they_have():
    vectors, languages, sentences = planted(language=2)
    keep = [i for i, code in enumerate(languages) if code != "fr" or i % 8 == 0]
    few = [[data[i] for i in keep] for data in (vectors, languages, sentences)]
    whole = distances(vectors, languages, sentences)["separation"]
    assert distances(*few)["separation"] == pytest.approx(whole, rel=0.15)


def test_without_pairs_there_is_none():
    vectors, languages, _ = planted()
    found = distances(vectors, languages, range(len(languages)))
    assert found["parallel"] is None and found["parallel_ratio"] is None
    assert retrieval(vectors, languages, range(len(languages))) is None
    one = distances(vectors[:5], ["de"] * 5, range(5))
    assert one["between"] is None and one["separation"] is None and one["within"] > 0


def test_same_vectors_are_no_division_by_zero():
    found = distances(np.ones((4, 3)), ["a", "a", "b", "b"], [0, 1, 0, 1])
    assert found["separation"] == 1  # all at distance 1: nothing is told apart
    assert linear_cka(np.ones((4, 3)), np.ones((4, 3))) is None


def test_ranks_by_hand():
    scores = [[0.9, 0.1, 0.2], [0.5, 0.4, 0.3], [0.7, 0.7, 0.7]]
    # First; behind one; between two of the same score.
    assert reciprocal_ranks(scores).tolist() == [1, 1 / 2, 1 / 2]
    assert chance_reciprocal_rank(1) == 1
    assert chance_reciprocal_rank(2) == 0.75


def test_one_number_per_clip_is_retrieved_by_difference():
    lengths = [[1.0], [2.0], [3.0], [1.1], [2.1], [3.1]]
    found = retrieval(lengths, ["a"] * 3 + ["b"] * 3, [0, 1, 2] * 2)
    assert found["mrr"] == 1


def test_cka_knows_rotation_scale_and_shift():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 8))
    rotation = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    assert linear_cka(x, 3 * x @ rotation + 7) == pytest.approx(1)
    assert linear_cka(x * 1e-9, x) == pytest.approx(1)
    half = linear_cka(x, x + rng.standard_normal((60, 8)))
    assert 0.2 < half < 0.9


def test_cka_of_unrelated_spaces_is_about_zero_where_dimensions_outnumber_clips():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 40, 400))
    assert abs(linear_cka(x, y)) < 0.05  # the biased estimate gives 0.9
    assert linear_cka(x[:3], y[:3]) is None
    with pytest.raises(ValueError, match="40 and 39 clips"):
        linear_cka(x, y[:39])
