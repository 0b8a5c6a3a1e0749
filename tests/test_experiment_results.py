"""An experiment's numbers, page and picture, from planted hypotheses and measures of two seeds."""

import json
from functools import partial
from pathlib import Path
from statistics import mean

import experiment_results
import numpy as np
import pytest
import soundfile
import yaml
from experiment_measures import json_of, measure_words, models_of
from experiment_picture import draw_experiment
from experiment_report import write_experiment
from experiment_results import LID_FOLDERS, REFERENCES, exposure, read_results
from experiment_scores import Estimate, Resampling
from test_experiment_run import make_folder, make_run

from espnet_part.batching import plan_of
from espnet_part.config import Config
from espnet_part.datadir import Row, write_datadir
from espnet_part.pairs import Pair
from espnet_part.schema import from_dict
from espnet_part.scoring import score

N = 12
WORDS = {"de": "null eins zwei drei vier fünf".split(), "zh": "零 一 二 三 四 五".split()}
SETS = {  # zh has characters, not words: its error is CER
    "toy_test_asr_de": ("asr", "de", "de"),
    "toy_test_asr_zh": ("asr", "zh", "zh"),
    "toy_test_st_ar": ("st", "de", "ar"),
    "toy_test_st_sv": ("st", "de", "sv"),
}
ASR, ST = list(SETS)[:2], list(SETS)[2:]
# System -> how many sentences lack their last word, with seed 0; with seed 1 it is one more.
WRONG = {"two_stage": 1, "two_stage_full": 8, "part": 1, "two_stage@none": 9, "part@none": 3}


def say(i, tgt):
    words = WORDS.get(tgt, WORDS["de"])
    return " ".join(words[(i * 5 + k * k) % 6] for k in range(6))


def pairs(name, wrong):
    task, _, tgt = SETS[name]
    refs = [(f"x-{i:02d}-{task}", say(i, tgt)) for i in range(N)]
    return [Pair(u, ref, ref if i >= wrong else ref[:-2]) for i, (u, ref) in enumerate(refs)]


@pytest.fixture(autouse=True)
def recipe(tmp_path, monkeypatch):
    """A recipe folder with test sets, and fewer draws than the thousand, which take seconds."""
    monkeypatch.chdir(make_folder(tmp_path))
    monkeypatch.setattr(experiment_results, "Resampling", partial(Resampling, samples=60))
    for name, (task, src, tgt) in SETS.items():
        kind = dict(task=task, src=src, tgt=tgt, path="a.wav", speaker="x")
        rows = [Row(utt_id=p.utt_id, target=p.ref, **kind) for p in pairs(name, 0)]
        write_datadir(Path("dump/raw") / name, rows)


def plant(name, scale="tiny"):
    """Plants hypotheses and exposures of an experiment's arms; returns its run, too."""
    run = make_run(name, scale=scale)
    one = run.plan.experiments[name]
    run.share()
    for seed, arm in ((seed, arm) for seed in run.scale.seeds for arm in one.arms):
        for phase in run.runs[seed][arm]:
            kept = run.folder(seed, phase) / ".exposure.json"
            kept.write_text(json.dumps({"asr": [1.0 + seed, 10], "mt": [0.0, 4]}))
        for lid, test_set in ((lid, t) for lid in one.lids(arm) for t in SETS):
            decode = run.folder(seed, phase) / f"decode_greedy_latest{LID_FOLDERS[lid]}"
            (decode / test_set).mkdir(parents=True)
            wrong = WRONG[arm if lid == "right" else f"{arm}@{lid}"] + seed
            lines = [f"{p.utt_id} {p.hyp}\n" for p in pairs(test_set, wrong)]
            (decode / test_set / "text").write_text("".join(lines))
    return run, one


def direct(system, test_sets):
    """By seed, the mean of what the scorer itself gives for the same hypotheses."""
    scores = [
        [score(pairs(t, WRONG[system] + seed), *SETS[t], 0).measures[0].value for t in test_sets]
        for seed in (0, 1)
    ]
    return np.mean(scores, axis=1)


def test_scores_are_the_scorers_own_and_verdicts_have_the_right_sign():
    found = read_results(*plant("table4"))
    groups = {"error": ASR, "bleu": ST, "bleu_ill": ["toy_test_st_ar"]}
    assert found.groups == list(groups) and found.n_sets == 4
    assert list(found.systems) == ["two_stage_full", "two_stage"]
    for system, of in found.systems.items():
        for group, test_sets in groups.items():
            assert of[group].by_seed == pytest.approx(direct(system, test_sets))
            assert of[group].value == pytest.approx(mean(of[group].by_seed))
    assert [(d.better, d.by, d.verdict) for d in found.differences] == [
        ("two_stage", "error", "shown"), ("two_stage", "bleu", "shown"),
        ("two_stage", "bleu_ill", "shown"), ("two_stage_full", "bleu", "opposite"),
    ]  # fmt: skip
    for d, test_sets in zip(found.differences, (*groups.values(), ST), strict=True):
        expected = direct(d.better, test_sets) - direct(d.than, test_sets)
        assert d.estimate.by_seed == pytest.approx(expected)
    # Sums over phases, means over seeds.
    assert found.exposures["two_stage"] == {"asr": [4.5, 30.0], "mt": [0.0, 12.0]}
    assert found.exposures["two_stage_full"] == {"asr": [3.0, 20.0], "mt": [0.0, 8.0]}


def test_a_prompt_without_language_is_compared_by_what_it_costs():
    found = read_results(*plant("lid"))
    assert list(found.systems) == ["two_stage", "two_stage@none", "part", "part@none"]
    for difference, test_sets in zip(found.differences, (ASR, ST), strict=True):
        part, other = (
            direct(f"{arm}@none", test_sets) - direct(arm, test_sets)
            for arm in ("part", "two_stage")
        )
        assert difference.estimate.by_seed == pytest.approx(part - other)
        assert difference.verdict == "shown"


def write_references(folder, floor=50.0):
    rows = [("floor", t, "wer" if t in ASR else "bleu", floor) for t in SETS]
    rows += [("encoder_ctc", ASR[0], "wer", 10), ("encoder_ctc", ASR[1], "cer", 20)]
    rows += [("cascade", ST[0], "bleu", 30), ("cascade", ST[1], "bleu", 40)]
    # One direction only, and a number of the other one that is no BLEU.
    rows += [("llm_text", ST[0], "bleu", 77), ("llm_text", ST[1], "chrf", 88)]
    keys = ("curriculum", "test_set", "metric", "value")
    folder.mkdir(parents=True)
    content = {"results": [dict(zip(keys, row, strict=True)) for row in rows]}
    (folder / "references.json").write_text(json.dumps(content))


def test_references_stand_where_they_have_all_sets():
    run, one = plant("table4")
    assert read_results(run, one).references == {}
    write_references(Path("exp/toy_parts"))
    assert read_results(run, one).references == {
        "floor": {"error": 50.0, "bleu": 50.0, "bleu_ill": 50.0},
        "encoder_ctc": {"error": 15.0},
        "cascade": {"bleu": 35.0, "bleu_ill": 30.0},
        "llm_text": {"bleu_ill": 77.0},
    }
    # A model <corpus>_large has parts of its own.
    run, one = plant("table4", "large")
    assert read_results(run, one).references == {}
    write_references(Path("exp/toy_large_parts"), floor=2.0)
    assert read_results(run, one).references["floor"]["error"] == 2.0


def test_page_and_numbers_hold_arms_references_and_claims():
    run, one = plant("table4")
    write_references(Path("exp/toy_parts"))
    results = read_results(run, one)
    page = write_experiment(run, "table4", results, "## More\n\nof it").read_text()
    found = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    rows = {cells[0]: cells[1:] for cells in found if cells}
    assert rows["floor: another sentence"] == ["50.00", "", "50.00", "", "50.00", ""]
    assert rows["the encoder's own CTC"] == ["15.00", "", "", "", "", ""]
    assert rows["the LLM on the right transcript"] == ["", "", "", "", "77.00", ""]
    estimate = results.systems["two_stage"]["bleu"]
    low, high = estimate.ci95
    assert f"| {estimate.value:.2f} [{low:.2f}, {high:.2f}] |" in page
    assert ["two_stage_full - two_stage", "BLEU", "opposite"] in [c[:2] + c[-1:] for c in found]
    assert page.endswith("\n\n## More\n\nof it\n")
    numbers = json.loads(Path("exp/experiments/tiny/table4.json").read_text())
    assert numbers["references"] == results.references
    assert numbers["systems"]["two_stage"]["bleu"]["by_seed"] == list(estimate.by_seed)
    for ending in ("svg", "png"):
        assert Path(f"exp/experiments/tiny/table4.{ending}").stat().st_size > 1000


def test_the_picture_has_a_line_for_each_reference():
    panels = {
        name: {"a": Estimate(20.0, (18.0, 22.0), (19.0, 21.0))} for name in ("error %", "BLEU")
    }
    lines = {"error %": {}, "BLEU": dict(zip(REFERENCES, (1, 2, 3, 4), strict=True))}
    figure = draw_experiment("x", panels, lines)
    for axes, values in zip(figure.axes, lines.values(), strict=True):
        drawn = {line.get_label(): line for line in axes.get_lines()}
        assert {label: drawn[label].get_xdata()[0] for label in values} == values
        assert len({str(drawn[label]._unscaled_dash_pattern) for label in values}) == len(values)
    error, bleu = (axes.get_legend() for axes in figure.axes)
    assert error is None and [text.get_text() for text in bleu.get_texts()] == list(REFERENCES)


def test_exposure_is_what_the_batch_plan_reads(tmp_path, config_values, manifests, opened):
    values = config_values(train=manifests, max_steps=5)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    plan = plan_of(from_dict(Config, values))
    expected = {}
    for step in range(5):
        for number, place in plan.rows(step):
            row = opened[number].row(place)
            sums = expected.setdefault(row.task, [0.0, 0.0])
            sums[0] += soundfile.info(row.path).duration / 3600 if row.path else 0.0
            sums[1] += int(opened[number].index[place]["n_target"])
    found = exposure(tmp_path)
    assert found == {task: pytest.approx(expected[task]) for task in ("asr", "st", "mt")}
    (tmp_path / "config.yaml").unlink()  # what is kept is enough
    assert exposure(tmp_path) == found


def measured(name, numbers):
    """Plants `numbers(i, seed)` of an experiment's i-th model; gives its tables' rows by header."""
    run = make_run(name)
    one = run.plan.experiments[name]
    run.share()
    for seed in (0, 1):
        for i, model in enumerate(models_of(run, one, seed)):
            place = json_of(run, one, seed, model)
            place.write_text(json.dumps(numbers(i, seed)))
            (place.parent / "images").mkdir(exist_ok=True)
            losses = [("valid", 9.0), ("valid", 1 + i + seed), ("train", 0.1)]
            points = [{"split": split, "loss": loss} for split, loss in losses]
            (place.parent / "images/curves.json").write_text(json.dumps(points))
    rows, header = [], []
    for line in measure_words(run, one).splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        header = cells and (header or cells)
        rows += [dict(zip(header, cells, strict=True))] if cells else []
    return rows


def test_layers_are_means_over_seeds():
    keys = ("speech_to_text", "text_to_speech", "transport", "spread", "retrieval")
    rows = measured("layers", lambda i, seed: {
        "layers": [{k: layer + i / 10 + seed / 100 for k in keys} for layer in (0, 1)]
    })  # fmt: skip
    checks = {row["measure"]: row for row in rows if "measure" in row}
    layers = {(row["layer"], row["model"]): row for row in rows if "layer" in row}
    for i, label in enumerate(("before phase 3", "part", "part_ai_sta")):
        for layer in (0, 1):
            value = f"{layer + i / 10 + 0.005:.3f}"
            assert list(layers[f"{layer}", label].values())[2:] == [value] * 4
            for measure in ("transport", "retrieval", "spread"):
                assert checks[f"{measure}, layer {layer}"][label] == value
        if i:
            assert checks["cross-entropy on dev"][label] == f"{1.5 + i:.3f}"


def test_text_skills_are_means_over_seeds():
    def numbers(i, seed):
        of = {"bleu": 10.0 * i + seed, "in_language": 90.0 + i + seed}
        of |= {"given_prompt.perplexity": 2.0 + i, "plain.perplexity": 5.0 + i}
        return {"means": {"all": of, "the others": {**of, "bleu": 70.0}}}

    rows = [list(row.values()) for row in measured("skills", numbers)[2:]]
    assert rows[:3] == [
        ["all", "before phase 1", "0.50", "90.50", "2.00", "5.00", "0.0 1.0"],
        ["all", "two_stage", "10.50", "91.50", "3.00", "6.00", "10.0 11.0"],
        ["all", "part", "20.50", "92.50", "4.00", "7.00", "20.0 21.0"],
    ]
    assert [row[:3] for row in rows[3:]][-1] == ["the others", "part", "70.00"]
