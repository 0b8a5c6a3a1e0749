"""Scores with the right language in the prompt, none, and a wrong one: differences and tables."""

import json

import numpy as np
import pytest
from test_report import make_test_set, sentence, write_hyps

from espnet_part import scoring
from espnet_part.bin import report as report_command
from espnet_part.lid_table import lid_delta, lid_table, lid_tables, main_rows, same_decode
from espnet_part.pairs import Pair
from espnet_part.pictures import draw_curriculum

DECODE = "decode_greedy_latest"


def row(test_set, metric, value, lid="right", phase="3", **more):
    task, src, *tgt = test_set.split("_")[2:]
    decode = DECODE if lid in ("right", None) else f"{DECODE}_lid_{lid}"
    found = {"curriculum": "part", "phase": phase, "decode": decode, "test_set": test_set}
    found |= {"task": task, "src": src, "tgt": (tgt or [src])[0], "metric": metric}
    found |= {"value": value, "ci95": None, "seed": 0, "n_utts": 9}
    return {**found, **({} if lid is None else {"lid": lid}), **more}


def delta(value, low, high):
    return {"lid_delta": {"delta": value, "ci95": [low, high]}}


EN, DE, ST = "cv_test_asr_en", "cv_test_asr_de", "cv_test_st_en_de"
ROWS = [
    row(EN, "wer", 10.0, None),  # of a decoding before there was `lid`
    row(EN, "wer", 12.5, "none", **delta(2.5, 1.0, 4.0)),
    row(EN, "wer", 30.0, "wrong", **delta(20.0, 15.0, 25.0)),
    row(EN, "wrong_lang_rate", 0.0),
    row(EN, "wrong_lang_rate", 1.0, "none"),
    row(EN, "wrong_lang_rate", 44.0, "wrong"),
    row(DE, "wer", 20.0),
    row(DE, "wer", 21.5, "none", **delta(1.5, -0.5, 3.5)),
    row(DE, "wer", 40.0, "wrong"),
    row(DE, "wrong_lang_rate", 2.0),
    row(DE, "wrong_lang_rate", 3.0, "none"),
    row(DE, "wrong_lang_rate", 50.0, "wrong"),
    row(ST, "bleu", 25.0),
    row(ST, "bleu", 24.0, "none"),
    row(ST, "wrong_lang_rate", 0.5),
    row(ST, "wrong_lang_rate", 0.6, "none"),
    row("cv_test_asr_fr", "wer", 9.0),  # decoded with the right language only
    row(EN, "loop_rate", 99.0, "wrong"),
    row(EN, "wer", 77.0, phase="1"),
    {**row(EN, "wer", 133.0), "curriculum": "floor", "phase": None, "decode": None},
]


def test_the_table_by_hand():
    (table,) = lid_tables(ROWS)
    assert table.title == f"part, {DECODE}, phase 3: language named in the prompt"
    assert table.header == [
        "test set", "metric", "right", "none", "none - right", "wrong", "wrong - right",
        "right: wrong lang %", "none: wrong lang %", "wrong: wrong lang %",
    ]  # fmt: skip
    assert table.rows == [
        [EN, "wer", "10.00", "12.50", "+2.50 [+1.00, +4.00]", "30.00", "+20.00 [+15.00, +25.00]",
         "0.00", "1.00", "44.00"],
        [DE, "wer", "20.00", "21.50", "+1.50 [-0.50, +3.50]", "40.00", "+20.00",
         "2.00", "3.00", "50.00"],
        ["mean of asr", "wer", "15.00", "17.00", "+2.00", "35.00", "+20.00",
         "1.00", "2.00", "47.00"],
        [ST, "bleu", "25.00", "24.00", "-1.00", "-", "-", "0.50", "0.60", "-"],
    ]  # fmt: skip
    text = lid_table(ROWS)
    assert text.startswith(f"## {table.title}\n\n| test set ")
    assert all(cell in text for line in table.rows for cell in line)


def test_only_the_languages_that_were_tried():
    (table,) = lid_tables([r for r in ROWS if r.get("lid") != "none"])
    assert table.header[2:] == ["right", "wrong", "wrong - right", *table.header[-2:]]
    assert "none" not in " ".join(table.header)
    assert [line[0] for line in table.rows] == [EN, DE, "mean of asr"]


def test_no_table_without_something_to_compare():
    right = [r for r in ROWS if r.get("lid", "right") == "right"]
    others = [r for r in ROWS if r.get("lid") in ("none", "wrong")]
    for rows in ([], right, others):
        assert lid_tables(rows) == [] and lid_table(rows) is None
    # Scored in different phases, there is nothing to compare either.
    assert lid_table([*[{**r, "phase": "1"} for r in right if r["phase"]], *others]) is None


def test_seeds_are_averaged():
    more = [{**r, "seed": 1, "value": r["value"] + 2} for r in ROWS]
    (table,) = lid_tables([*ROWS, *more])
    assert table.rows[0][2:5] == ["11.00", "13.50", "+2.50"], "and intervals are of one seed"


def test_a_mean_needs_every_set():
    lacking = [r for r in ROWS if (r["test_set"], r.get("lid")) != (DE, "wrong")]
    (table,) = lid_tables(lacking)
    assert table.rows[2] == [
        "mean of asr", "wer", "15.00", "17.00", "+2.00", "-", "-", "1.00", "2.00", "-"
    ]  # fmt: skip


def test_what_belongs_together():
    assert same_decode("decode_greedy_latest_lid_none", "none") == DECODE
    assert same_decode("decode_greedy_lidnone_latest", "none") == DECODE  # by --inference_args
    assert same_decode("mine_lid_wrong", "wrong") == "mine"
    assert same_decode("mine_lid_none", "right") == "mine_lid_none"
    assert same_decode("mine_lid_nonesuch", "none") == "mine_lid_nonesuch"


def test_other_languages_are_no_systems_of_their_own():
    assert main_rows(ROWS) == [r for r in ROWS if r.get("lid", "right") == "right"]
    alone = [r for r in ROWS if r.get("lid") == "none"]
    assert main_rows(alone) == alone, "what there is without a right one is shown as it is"


# ----- differences -----


def scores_of(task, refs, hyps, tgt="en"):
    pairs = [Pair(f"u{i}", ref, hyp) for i, (ref, hyp) in enumerate(zip(refs, hyps, strict=True))]
    return scoring.score(pairs, task, "en", tgt, 20)


@pytest.mark.parametrize(("task", "tgt"), [("asr", "en"), ("st", "de")])
def test_differences_are_those_of_the_scores(task, tgt):
    refs = [sentence(i) for i in range(30)]
    worse = [" ".join(ref.split()[:-1]) if i % 3 else ref for i, ref in enumerate(refs)]
    right, other = (scores_of(task, refs, hyps, tgt) for hyps in (refs, worse))
    found = lid_delta(right, other, 200)
    values = [one.measures[0].value for one in (right, other)]
    assert found["delta"] == pytest.approx(values[1] - values[0]) and found["delta"] != 0
    low, high = found["ci95"]
    assert low < found["delta"] < high and not low <= 0 <= high
    json.dumps(found)
    assert lid_delta(right, right, 50) == {"delta": 0.0, "ci95": [0.0, 0.0]}
    assert lid_delta(right, other, 0) == {"delta": found["delta"], "ci95": None}


# ----- stage 13 -----


@pytest.fixture
def experiment(tmp_path):
    """One test set decoded in three ways, as stage 12 leaves it: decode.json is the jobs'."""
    dump, exp = tmp_path / "dump", tmp_path / "exp" / "mine"
    rows = make_test_set(dump, "mine_test_asr_en", "asr", "en", sentence)
    said = {
        "right": lambda i, text: text,
        "none": lambda i, text: text if i else "",
        "wrong": lambda i, text: text if i > 3 else "der die das und ist in den von",
    }
    for lid, say in said.items():
        name = DECODE if lid == "right" else f"{DECODE}_lid_{lid}"
        folder = exp / "part/phase1" / name / "mine_test_asr_en"
        write_hyps(folder, [(r.utt_id, say(i, r.target)) for i, r in enumerate(rows)])
        (folder / "logdir/output.2").mkdir(parents=True)
        meta = {"checkpoint": "exp/mine/latest.pth", "lid": lid}
        (folder / "logdir/output.2/decode.json").write_text(json.dumps(meta))
    return dump, exp


def test_stage_13(experiment, capsys):
    dump, exp = experiment
    command = ["--exp", str(exp), "--dumpdir", str(dump), "--bootstrap", "100"]
    report_command.main(command)
    printed, written = capsys.readouterr().out, (exp / "RESULTS.md").read_text()
    rows = json.loads((exp / "results.json").read_text())["results"]
    trained = [r for r in rows if r["curriculum"] == "part"]
    assert {(r["decode"], r["lid"]) for r in trained} == {
        (DECODE, "right"), (f"{DECODE}_lid_none", "none"), (f"{DECODE}_lid_wrong", "wrong")
    }  # fmt: skip
    wer = {r["lid"]: r for r in trained if r["metric"] == "wer"}
    assert "lid_delta" not in wer["right"]
    for lid in ("none", "wrong"):
        found = wer[lid]["lid_delta"]
        assert found["delta"] == pytest.approx(wer[lid]["value"] - wer["right"]["value"])
        assert np.all(np.diff([found["ci95"][0], found["delta"], found["ci95"][1]]) > 0)
    rate = {r["lid"]: r["value"] for r in trained if r["metric"] == "wrong_lang_rate"}
    assert rate["right"] == 0 and rate["wrong"] == pytest.approx(100 * 4 / 12)
    for text in (printed, written):
        assert text.count("language named in the prompt") == 1
        assert lid_table(rows) in text
        # One system, beside which the others have no tables of their own.
        assert text.count("## part, ") == 2 and "Last phases compared" not in text
    images = exp / "part/images"
    assert "scores.png" in {path.name for path in images.iterdir()}
    assert "scores.png" in draw_curriculum(exp / "part", rows)
    # The phase's own report has every number of all three.
    own = (exp / "part/phase1/RESULTS.md").read_text()
    assert f"{DECODE}_lid_wrong/mine_test_asr_en" in own and f"Checks of {DECODE}_lid_none" in own


def test_stage_13_without_the_right_one(experiment, capsys):
    """Decoded with --lid none alone: a system like others, compared with nothing."""
    dump, exp = experiment
    for name in (DECODE, f"{DECODE}_lid_wrong"):
        (exp / "part/phase1" / name / "mine_test_asr_en/text").unlink()
    report_command.main(["--exp", str(exp), "--dumpdir", str(dump), "--bootstrap", "10"])
    printed = capsys.readouterr().out
    assert f"## part, {DECODE}_lid_none" in printed and "language named" not in printed


def test_stage_13_with_names_that_tell_another_story(experiment, capsys):
    """--inference_tag x --lid none: x is not compared with itself, nor x_lid_wrong with x."""
    dump, exp = experiment
    phase = exp / "part/phase1"
    (phase / DECODE).rename(phase / "other")
    (phase / f"{DECODE}_lid_none").rename(phase / "x")
    (phase / f"{DECODE}_lid_wrong").rename(phase / "x_lid_wrong")
    report_command.main(["--exp", str(exp), "--dumpdir", str(dump), "--bootstrap", "10"])
    rows = json.loads((exp / "results.json").read_text())["results"]
    assert {r["decode"]: r["lid"] for r in rows if r["curriculum"] == "part"} == {
        "other": "right", "x": "none", "x_lid_wrong": "wrong"
    }  # fmt: skip
    assert not any("lid_delta" in r for r in rows)
    assert "language named" not in capsys.readouterr().out
