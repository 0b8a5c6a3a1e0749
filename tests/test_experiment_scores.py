"""Scores of several seeds: planted hypotheses, the same draws for all, verdicts."""

import numpy as np
import pytest
import sacrebleu
from experiment_scores import (
    Estimate,
    Resampling,
    group_values,
    in_group,
    read_scores,
    sentence_of,
)

from espnet_part.datadir import Row, write_datadir

WORDS = "null eins zwei drei vier fünf sechs sieben acht neun".split()
N = 12


def say(i, shift=0):
    return " ".join(WORDS[(i * 3 + k + shift) % 10] for k in range(6))


@pytest.fixture
def make_set(tmp_path):
    """`make_set(task, wrong)`: scores of a set whose last `wrong` sentences lack a word."""

    def make(task="asr", wrong=0, src="de", tgt="de", sentence="-([0-9]+)-", name="s"):
        data = tmp_path / f"{name}_{task}_{src}_{tgt}"
        rows = [
            Row(f"x-{i:02d}-{task}", task, src, tgt, say(i), path="a.wav", speaker="x")
            for i in range(N)
        ]
        if not data.exists():
            write_datadir(data, rows)
        folder = tmp_path / f"hyp{wrong}" / data.name
        folder.mkdir(parents=True, exist_ok=True)
        hyps = [say(i) if i < N - wrong else say(i).rpartition(" ")[0] for i in range(N)]
        lines = [f"{row.utt_id} {hyp}\n" for row, hyp in zip(rows, hyps, strict=True)]
        (folder / "text").write_text("".join(lines))
        return read_scores(folder, data, sentence), [row.target for row in rows], hyps

    return make


def test_error_and_bleu_are_those_of_the_corpus(make_set):
    one, _, _ = make_set("asr", wrong=3)
    values = Resampling(1).mean_values([one])
    assert values.shape == (1001,)
    assert values[0] == pytest.approx(100 * 3 / (6 * N))
    two, refs, hyps = make_set("st", wrong=3, tgt="en")
    wanted = sacrebleu.corpus_bleu(hyps, [refs]).score
    assert Resampling(1).mean_values([two])[0] == pytest.approx(wanted)


def test_resamples_are_those_of_sentences(make_set):
    one, _, _ = make_set("asr", wrong=3)
    resampling = Resampling(1)
    weights = resampling.weights(one.sentences)
    assert (weights.sum(1) == N).all() and (weights[0] == 1).all()
    errors = weights[:, N - 3 :].sum(1)
    assert np.allclose(resampling.mean_values([one]), 100 * errors / (6 * N))


def test_sets_of_the_same_sentences_share_draws_and_others_do_not(make_set):
    a, _, _ = make_set("asr", wrong=3)
    b, _, _ = make_set("asr", wrong=3, src="fr", tgt="fr")
    resampling = Resampling(1)
    assert np.array_equal(resampling.mean_values([a]), resampling.mean_values([b]))
    whole, _, _ = make_set("asr", wrong=3, sentence="")  # ids are the sentences: others
    other = resampling.mean_values([whole])
    assert other[0] == pytest.approx(resampling.mean_values([a])[0])
    assert not np.array_equal(other, resampling.mean_values([a]))


def test_a_system_does_not_differ_from_itself_however_hard_sentences_are(make_set):
    scores = {seed: [make_set("asr", wrong=3 + seed)[0]] for seed in (0, 1, 2)}
    resampling = Resampling(3)
    values = group_values(scores, resampling, ["error", "bleu"], [])
    assert set(values) == {"error"} and values["error"].shape == (3, 1001)
    estimate = resampling.over_seeds(values["error"])
    assert estimate.value == pytest.approx(np.mean([100 * k / 72 for k in (3, 4, 5)]))
    assert estimate.ci95[0] < estimate.value < estimate.ci95[1]
    nothing = resampling.over_seeds(values["error"] - values["error"])
    assert nothing.ci95 == (0.0, 0.0) and nothing.verdict(1) == "not shown"


def test_intervals_cover_seeds_where_all_sentences_are_alike():
    values = np.repeat([[1.0], [2.0], [6.0]], 1001, axis=1)  # no spread over sentences
    estimate = Resampling(3).over_seeds(values)
    assert estimate.value == 3.0 and estimate.by_seed == (1.0, 2.0, 6.0)
    half = 4.303 * np.std([1, 2, 6], ddof=1) / np.sqrt(3)  # Student's t, two degrees of freedom
    assert estimate.ci95 == pytest.approx((3.0 - half, 3.0 + half), rel=0.05)
    assert Resampling(1).over_seeds(values[:1]).ci95 == (1.0, 1.0)


@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_of_few_seeds_cover_the_truth(seeds):
    resampling, rng = Resampling(seeds, samples=100), np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        values = np.repeat(rng.standard_normal((seeds, 1)), 101, axis=1)
        low, high = resampling.over_seeds(values).ci95
        covered += low < 0 < high
    assert 0.92 < covered / 400 < 0.98


@pytest.mark.parametrize(
    ("ci95", "by_seed", "wanted", "verdict"),
    [
        ((0.5, 2.0), (1.0, 1.5), 1, "shown"),
        ((0.5, 2.0), (1.0, 1.5), -1, "opposite"),
        ((-2.0, -0.5), (-1.0, -1.5), -1, "shown"),
        ((-0.1, 2.0), (1.0, 1.5), 1, "not shown"),
        ((0.5, 2.0), (1.0, -0.1), 1, "not shown"),  # a seed on the other side
    ],
)
def test_verdicts(ci95, by_seed, wanted, verdict):
    assert Estimate(np.mean(by_seed), ci95, by_seed).verdict(wanted) == verdict


def test_groups(make_set):
    asr, to_ar, to_de = (
        make_set(task, tgt=tgt, name="g")[0].test_set
        for task, tgt in (("asr", "de"), ("st", "ar"), ("st", "en"))
    )
    found = {
        group: [in_group(one, group, ["ar"]) for one in (asr, to_ar, to_de)]
        for group in ("error", "bleu", "bleu_ill", "bleu_other")
    }
    assert found == {
        "error": [True, False, False],
        "bleu": [False, True, True],
        "bleu_ill": [False, True, False],
        "bleu_other": [False, False, True],
    }


def test_missing_hypotheses_and_ids_that_do_not_fit(make_set, tmp_path):
    with pytest.raises(ValueError, match="text is missing; stage 12 makes it"):
        read_scores(tmp_path / "none", tmp_path, "")
    with pytest.raises(ValueError, match="'x-asr': the pattern '-.*' .sentence. does not match"):
        sentence_of("x-asr", "-([0-9]+)-")
