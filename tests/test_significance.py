"""Two systems: the paired tests are those of theory, of sacrebleu's command, and honest."""

import json
import random
import re
import subprocess
import sys

import numpy as np
import pytest

from espnet_part import paired
from espnet_part.bin import score as score_command
from espnet_part.pairs import Pair
from espnet_part.results import load_rows
from espnet_part.scoring import score_asr, score_st
from espnet_part.significance import bootstrap, paired_bootstrap, per_cent, sum_groups

SENTENCES = [
    "the cat sat on the warm mat",
    "there are three dogs in the old garden",
    "it rains every day in the north of the country",
    "she bought two books and a red pen",
    "we will meet again at noon on the bridge",
    "nobody knows where the train stops tonight",
    "his brother plays the piano very well",
    "the small shop sells bread and fresh milk",
]


def stats(errors, tokens=10.0) -> np.ndarray:
    errors = np.asarray(errors, float)
    return np.stack([errors, np.full(len(errors), tokens)], axis=1)


def spoiled(share: float, seed: int) -> list[str]:
    rng = random.Random(seed)
    kept = [[w for w in s.split() if rng.random() > share] for s in SENTENCES * 3]
    return [" ".join(words) for words in kept]


def pairs(hyps) -> list[Pair]:
    return [Pair(f"u{i}", SENTENCES[i % 8], hyp) for i, hyp in enumerate(hyps)]


# --- the bootstrap


def test_interval_of_a_difference_is_as_wide_as_theory_says():
    rng = np.random.default_rng(0)
    a, b = rng.normal(3.0, 1.0, 400), rng.normal(2.0, 1.0, 400)
    result = paired_bootstrap(stats(a), stats(b), per_cent, True, samples=2000)
    standard_error = 10.0 * np.std(b - a) / 20  # in per cent: 100 / 10 tokens, 400 utterances
    assert result.delta == pytest.approx(10.0 * np.mean(b - a))
    assert result.ci95[1] - result.ci95[0] == pytest.approx(2 * 1.96 * standard_error, rel=0.1)
    assert result.p_value == pytest.approx(2 / 2001)
    assert (result.better, result.n_units) == (1.0, 400)


def test_pairing_sees_what_two_intervals_hide():
    """Utterances differ far more than systems do: B has one error less here and there."""
    a = np.arange(60) % 10
    b = np.maximum(a - (np.arange(60) % 20 < 10), 0)
    low, high = bootstrap(stats(a), per_cent)
    assert low < stats(b)[:, 0].mean() * 10 < high
    result = paired_bootstrap(stats(a), stats(b), per_cent, True)
    assert result.delta == pytest.approx(-4.5)
    assert result.p_value < 0.01


def test_swapping_the_systems_swaps_the_signs():
    rng = np.random.default_rng(1)
    a, b = stats(rng.integers(0, 5, 50)), stats(rng.integers(0, 5, 50))
    one = paired_bootstrap(a, b, per_cent, True)
    other = paired_bootstrap(b, a, per_cent, True)
    assert one.ci95 == pytest.approx([-other.ci95[1], -other.ci95[0]])
    assert (one.delta, one.p_value) == pytest.approx((-other.delta, other.p_value))
    # Where a higher score is the better one, "better" turns round and nothing else does.
    higher = paired_bootstrap(a, b, per_cent, False)
    assert higher.better == other.better != one.better
    assert (higher.delta, higher.ci95) == (one.delta, one.ci95)


def test_a_system_is_not_better_than_itself():
    a = stats([0, 1, 2, 3])
    result = paired_bootstrap(a, a, per_cent, True)
    assert (result.delta, result.ci95, result.p_value, result.better) == (0.0, [0.0, 0.0], 1.0, 0.0)


def test_p_values_are_right_where_there_is_no_difference():
    """Of 200 comparisons of equal systems some 5 % come out below 0.05."""
    rng = np.random.default_rng(2)
    values = []
    for seed in range(200):
        a, b = rng.poisson(2.0, (2, 80))
        values.append(paired_bootstrap(stats(a), stats(b), per_cent, True, 200, seed).p_value)
    assert 0.02 <= np.mean(np.array(values) < 0.05) < 0.09


def test_drawing_speakers_is_more_careful():
    """Ten utterances that a speaker says alike are one observation, not ten."""
    rng = np.random.default_rng(3)
    a, b = rng.poisson(2.0, (2, 30))
    groups = [f"s{i // 10}" for i in range(300)]
    many = [stats(np.repeat(errors, 10)) for errors in (a, b)]
    sums = [sum_groups(one, groups) for one in many]
    assert sums[0].shape == (30, 2) and sums[0].sum() == many[0].sum()
    narrow = paired_bootstrap(*many, per_cent, True)
    wide = paired_bootstrap(*sums, per_cent, True)
    assert wide.delta == pytest.approx(narrow.delta)
    width = np.ptp(wide.ci95) / np.ptp(narrow.ci95)
    assert width == pytest.approx(np.sqrt(10), rel=0.2)


def test_too_little_to_draw_from():
    with pytest.raises(ValueError, match="found 1, expected 2 or more"):
        paired_bootstrap(stats([1]), stats([2]), per_cent, True)
    with pytest.raises(ValueError, match="resamples: found 0"):
        paired_bootstrap(stats([1, 2]), stats([2, 2]), per_cent, True, samples=0)


# --- systems


def test_error_rates_and_their_variants_are_compared():
    scores = [score_asr(pairs(spoiled(*how)), "en", 0) for how in ((0.3, 0), (0.1, 1))]
    rows = paired.compare(*scores, "asr", "en", samples=200)
    assert [row["metric"] for row in rows] == ["wer", "wer_basic"]
    main = rows[0]
    assert main["value_a"] == pytest.approx(scores[0].measures[0].value)
    assert main["value_b"] == pytest.approx(scores[1].measures[0].value)
    assert main["delta"] == pytest.approx(main["value_b"] - main["value_a"]) and main["delta"] < 0
    assert main["ci95"][1] < 0 < main["prob_b_better"]
    assert main["signature"] == "test:paired-bootstrap|draws:utterances|bs:200|seed:12345"


@pytest.mark.parametrize("test", ["bs", "ar"])
def test_bleu_and_chrf_p_values_are_the_sacrebleu_commands(tmp_path, test):
    hyps = {"a": spoiled(0.12, 0), "b": spoiled(0.1, 1)}
    for name, lines in {"ref": SENTENCES * 3, **hyps}.items():
        (tmp_path / name).write_text("".join(line + "\n" for line in lines))
    trials = 50 if test == "bs" else 500
    command = [sys.executable, "-m", "sacrebleu", "ref", "-i", "a", "b", "-m", "bleu", "chrf"]
    command += [f"--paired-{test}", f"--paired-{test}-n", str(trials), "-f", "text"]
    command += ["-w", "4"]  # sacrebleu 2.6.0 cannot write this test's p-values as JSON
    out = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    found = re.findall(r"\(p = ([\d.]+)\)", out.stdout)
    assert len(found) == 2
    scores = [score_st(pairs(lines), "en", 0) for lines in hyps.values()]
    rows = paired.compare(*scores, "st", "en", samples=50, test=test)
    assert [row["metric"] for row in rows] == ["bleu", "chrf"]
    for row, p_value in zip(rows, found, strict=True):
        assert row["p_value"] == pytest.approx(float(p_value), abs=6e-5)
        assert f"{row['value_b']:.4f}" in out.stdout
        assert row["ci95"][0] <= row["delta"] <= row["ci95"][1]
        assert f"{test}:{trials}" in row["signature"]
    assert 0 < rows[0]["p_value"] < 1


def test_sacrebleu_calls_a_system_better_than_itself_and_we_do_not():
    scores = score_st(pairs(spoiled(0.1, 0)), "en", 0)
    assert [row["p_value"] for row in paired.compare(scores, scores, "st", "en", 20)] == [1.0, 1.0]


# --- the command


@pytest.fixture
def files(tmp_path):
    """Options that name a reference and two systems, the second one the better."""
    content = {
        "ref": SENTENCES * 3,
        "a": spoiled(0.4, 0),
        "b": spoiled(0.05, 1),
        "utt2spk": [f"s{i % 4}" for i in range(24)],
    }
    for name, lines in content.items():
        rows = [f"u{i} {line}\n" for i, line in enumerate(lines)]
        (tmp_path / name).write_text("".join(rows))
    return tmp_path


def command(folder, task, *more) -> list[str]:
    options = ["--ref", f"{folder}/ref", "--hyp", f"{folder}/a", "--task", task, "--lang", "en"]
    return [*options, "--bootstrap", "100", *more]


def test_the_command_compares_two_systems(files, capsys):
    out = files / "out.json"
    more = ["--hyp2", f"{files}/b", "--json", str(out)]
    score_command.main(command(files, "asr", *more))
    printed = capsys.readouterr().out
    assert f"A: {files}/a\n" in printed and f"B: {files}/b\n" in printed
    content = json.loads(out.read_text())
    assert set(content) == {"results", "paired"}
    row = content["paired"][0]
    assert f"{row['delta']:+8.2f}  [{row['ci95'][0]:+.2f}, {row['ci95'][1]:+.2f}]" in printed
    assert (row["system_a"], row["system_b"]) == (f"{files}/a", f"{files}/b")
    assert (row["test_set"], row["unit"], row["n_units"]) == (files.name, "utterance", 24)
    assert row["p_value"] < 0.05
    # Readers of results.json find both systems, apart.
    systems = {r["curriculum"]: r["value"] for r in load_rows(out) if r["metric"] == "wer"}
    assert systems == {f"{files}/a": row["value_a"], f"{files}/b": row["value_b"]}

    score_command.main(command(files, "asr", *more, "--utt2spk", f"{files}/utt2spk"))
    row = json.loads(out.read_text())["paired"][0]
    assert (row["unit"], row["n_units"]) == ("speaker", 4)
    score_command.main(command(files, "st", "--tgt-lang", "en", *more, "--paired", "ar"))
    assert [r["metric"] for r in json.loads(out.read_text())["paired"]] == ["bleu", "chrf"]
    assert "test:sacrebleu-ar|" in capsys.readouterr().out


def test_one_system_has_no_comparison(files):
    out = files / "out.json"
    score_command.main(command(files, "asr", "--json", str(out)))
    content = json.loads(out.read_text())
    assert set(content) == {"results"} and content["results"][0]["curriculum"] is None


@pytest.mark.parametrize(
    ("task", "more", "message"),
    [
        ("asr", ["--paired", "bs"], "--paired compares two systems: it needs --hyp2"),
        ("asr", ["--utt2spk", "x"], "--utt2spk compares two systems: it needs --hyp2"),
        ("asr", ["--hyp2", "x", "--paired", "ar"], "recognition has the paired bootstrap only"),
        ("asr", ["--hyp2", "x", "--bootstrap", "0"], "--hyp2 needs resamples"),
        ("asr", ["--tgt-lang", "de"], "--lang en, --tgt-lang de"),
        ("st", ["--tgt-lang", "de", "--hyp2", "x", "--utt2spk", "x"], "is for --task asr"),
    ],
)
def test_options_that_do_not_fit(files, capsys, task, more, message):
    with pytest.raises(SystemExit, match="2"):
        score_command.main(command(files, task, *more))
    assert message in capsys.readouterr().err


def test_files_that_do_not_fit(files):
    other = files / "other"
    more = ["--hyp2", str(other)]
    with pytest.raises(SystemExit, match="No such text file: .*other"):
        score_command.main(command(files, "asr", *more))
    other.write_text("u0 x\nu77 y\n")
    with pytest.raises(SystemExit, match="other: 1 of 2 utterance ids are not in the reference"):
        score_command.main(command(files, "asr", *more))
    other.write_text("u0 x\n")
    with pytest.raises(SystemExit, match="other: 23 of 24 utterances have no hypothesis"):
        score_command.main(command(files, "asr", *more))
    more = ["--hyp2", f"{files}/b", "--utt2spk", str(other)]
    with pytest.raises(SystemExit, match="23 of 24 utterances have no speaker, u1 first"):
        score_command.main(command(files, "asr", *more))
    other.write_text("u0\n")
    with pytest.raises(SystemExit, match="expected one speaker in each line, not so at u0"):
        score_command.main(command(files, "asr", *more))
