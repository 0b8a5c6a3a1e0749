"""The whole command on toy experiments: two curricula, a shared phase, frozen parts, bad input."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from espnet_part import analysis_report
from espnet_part.analysis_report import FIGURES
from espnet_part.bin import analyze as command
from espnet_part.checkpoint import write_atomically
from espnet_part.moments import read_moments

PLACES = [*(f"encoder.{i}" for i in range(11)), "adapter", "llm.1", "llm.2"]
POLICIES = {
    "1": {"adapter": "all"},
    "2a": {"encoder": "last:3", "adapter": "all"},
    "3": {"encoder": "all", "adapter": "all", "llm": "all"},
}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory, config_values, manifests):
    """`exp/toy`: part has phases 1, 2a, 3; two_stage links to part's phase 1 and has a 2a too.

    In place of training, what a phase trains is multiplied by 1.1.
    """
    from prepare_toy import prepare

    root = tmp_path_factory.mktemp("analyze")
    prepare(root / "dump" / "raw")
    for curriculum, phases in (("part", ["1", "2a", "3"]), ("two_stage", ["2a"])):
        init = str(root / "exp/toy/part/phase1/latest.pth") if curriculum != "part" else None
        for phase in phases:
            folder = root / "exp" / "toy" / curriculum / f"phase{phase}"
            folder.mkdir(parents=True)
            tasks = ["asr"] if curriculum == "part" and phase != "3" else ["asr", "st"]
            policy = POLICIES[phase]
            changes = {"phase": phase, "trainable": policy, "init": init, "tasks": tasks}
            changes |= {"lr": dict.fromkeys(policy, 1e-3), "train": manifests}
            values = config_values(**changes)
            (folder / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
            torch.manual_seed(0)
            model = _start(folder, init)
            model.set_trainable(policy)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(1.1 if parameter.requires_grad else 1)
            init = str(folder / "latest.pth")
            write_atomically(Path(init), model.trimmed_state())
    link = root / "exp" / "toy" / "two_stage" / "phase1"
    link.symlink_to("../part/phase1")
    return root


def _start(folder, init):
    from espnet_part.loading import load_model

    torch.manual_seed(0)
    return load_model(folder / "config.yaml", init)


def run(root, *words, out="analysis"):
    sets = ["toy_test_asr_en", "toy_test_asr_zh"]
    common = ["--exp", root / "exp/toy", "--dumpdir", root / "dump", "--test_sets", *sets]
    command.main([str(w) for w in [*common, "--out", root / out, *words]])
    return json.loads((root / out / "analysis.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", autouse=True)
def few_figures():
    """Drawing takes longer than all else here: only one figure is written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(analysis_report, "FIGURES", {"sentences": FIGURES["sentences"]})
        yield


@pytest.fixture(scope="module")
def found(experiment):
    return run(experiment, "--grad_rows", 3)


def pick(rows, **wanted):
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def test_every_place_at_every_moment(found):
    assert found["places"] == PLACES
    moments = [("part", p) for p in ("start", "1", "2a", "3")]
    moments += [("two_stage", p) for p in ("start", "1", "2a")]
    rows = [(r["curriculum"], r["phase"], r["place"]) for r in found["geometry"]]
    assert rows == [(*moment, place) for moment in moments for place in PLACES]
    assert found["clips"]["rows"] == {"en": 2, "zh": 2}
    assert found["clips"]["pairing"] == "ids" and found["clips"]["sentences"] == 2
    assert found["clips"]["chance"] == 0.75
    assert all(0.5 <= row["mrr"] <= 1 and row["separation"] > 0 for row in found["geometry"])


def test_frozen_layers_are_as_before(found):
    def same(phase):
        rows = pick(found["cka"], curriculum="part", to=phase)
        return {row["place"] for row in rows if row["cka"] > 1 - 1e-12}

    assert same("1") == {f"encoder.{i}" for i in range(11)}
    assert same("2a") == {f"encoder.{i}" for i in range(8)}  # the last three of ten have moved
    assert same("3") == {"encoder.0"}
    assert {row["from"] for row in pick(found["cka"], to="2a")} == {"1"}


def test_movement_is_what_was_done_to_the_weights(found):
    rows = pick(found["movement"], curriculum="part", phase="2a", part="encoder")
    moved = {row["block"]: row["moved"] for row in rows if row["block"].isdigit()}
    trained = {block: value for block, value in moved.items() if value > 0}
    assert trained == pytest.approx({"8": 0.1, "9": 0.1, "10": 0.1}, rel=1e-4)
    adapter = pick(found["movement"], part="adapter", block="all")
    # From the adapter that the seed gives, too: phase 1 starts from no checkpoint.
    assert [row["moved"] for row in adapter] == pytest.approx([0.1] * 5, rel=1e-4)
    llm = pick(found["movement"], part="llm", block="all")
    assert [round(row["moved"], 4) for row in llm] == [0, 0, 0.1, 0, 0]


def test_gradients_of_all_tasks_with_a_note_of_those_trained(found):
    rows = pick(found["gradients"], part="encoder")
    assert {(r["curriculum"], r["phase"]) for r in rows if r["task"] == "st" and r["trained"]} == {
        ("part", "3"),
        ("two_stage", "2a"),
    }
    assert not any(row["trained"] for row in rows if row["phase"] == "start")
    assert all(row["norm"] > 0 for row in rows)
    assert {tuple(row["tasks"]) for row in found["gradient_cosines"]} == {("asr", "st")}


def test_shared_moments_are_the_same_and_measured_once(experiment, found):
    for key, names in (("geometry", ("start", "1")), ("gradients", ("start", "1"))):
        for phase in names:
            one, two = (
                [
                    {**r, "curriculum": "", "trained": ""}
                    for r in pick(found[key], phase=phase, curriculum=c)
                ]
                for c in ("part", "two_stage")
            )
            assert one == two and one
    keys = {
        moment.key
        for name in ("part", "two_stage")
        for moment in read_moments(experiment / "exp/toy" / name, "latest.pth")
    }
    assert len(keys) == 5  # start, 1, and 2a, 3, 2a


def test_files_and_page(experiment, found):
    out = experiment / "analysis"
    files = {"sentences.svg", "sentences.png", "analysis.json", "analysis.md"}
    assert {path.name for path in out.iterdir()} == files
    page = (out / "analysis.md").read_text(encoding="utf-8")
    assert re.findall(r"!\[\w+\]\((.+)\)\n\n\*\*Figure 1", page) == ["sentences.svg"]
    assert analysis_report.CAPTIONS.keys() == FIGURES.keys()
    assert "2 sentences are said in several languages, by their ids" in page
    row = pick(found["geometry"], curriculum="part", phase="3", place="adapter")[0]
    assert f"{row['separation']:.3g}" in page


def lines(axes):
    """Label of the axis' quantity -> y of every line with a marker."""
    drawn = [line for line in axes.get_lines() if line.get_marker() not in ("", "None", None)]
    return sorted(tuple(np.round(line.get_ydata(), 4)) for line in drawn)


def test_figures_show_the_numbers(found):
    figures = {name: draw(found, "toy") for name, draw in FIGURES.items()}
    for name, figure in figures.items():
        columns = [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
        assert columns == ["part", "two_stage"], name
    part, other = figures["separation"].axes
    for axes, curriculum, moments in ((part, "part", 4), (other, "two_stage", 3)):
        rows = pick(found["geometry"], curriculum=curriculum, place="adapter")
        assert len(rows) == moments
        assert {(round(row["separation"], 4),) for row in rows} <= set(lines(axes))
    moved = lines(figures["movement"].axes[0])
    # Per cent; the three blocks of 2a, the adapter of three phases, ten blocks and the LLM's of 3.
    assert [len(y) for y in moved if y] == [1, 1, 1, 2, 3, 10]
    assert all(np.allclose(y, 10, rtol=1e-3) for y in moved)
    hollow = [
        line for line in figures["gradients"].axes[0].get_lines() if line.get_mfc() == "white"
    ]
    assert len(hollow) == 4  # both tasks at the start, st after 1 and 2a


def test_without_parallel_sentences_retrieval_is_left_out_in_one_line(experiment):
    for code in ("en", "zh"):
        source = experiment / f"dump/raw/toy_test_asr_{code}"
        target = experiment / f"dump2/raw/toy_test_asr_{code}"
        shutil.copytree(source, target)
        for file in target.iterdir():  # numbers of clips that differ between languages
            text = file.read_text(encoding="utf-8")
            file.write_text(re.sub(r"(?m)^(\S+test-)", rf"\g<1>{code}x", text), encoding="utf-8")
    words = ["--dumpdir", experiment / "dump2", "--curricula", "two_stage", "--grad_rows", 0]
    found = run(experiment, *words, out="unpaired")
    assert found["clips"]["pairing"] is None and "mrr" not in found["geometry"][0]
    assert found["geometry"][0]["parallel"] is None and found["gradients"] == []
    page = (experiment / "unpaired/analysis.md").read_text(encoding="utf-8")
    assert page.count("No parallel sentences") == 1 and "Retrieval" not in page
    assert not list((experiment / "unpaired").glob("sentences*"))
    assert np.isfinite([row["separation"] for row in found["geometry"]]).all()


def test_one_language_has_no_distance_between_languages(experiment, monkeypatch):
    some = {name: FIGURES[name] for name in ("separation", "sentences", "movement")}
    monkeypatch.setattr(analysis_report, "FIGURES", some)
    words = ["--test_sets", "toy_test_asr_en", "--curricula", "two_stage", "--grad_rows", 0]
    found = run(experiment, *words, out="english")
    row = found["geometry"][0]
    assert row["within"] > 0 and row["between"] is None and row["separation"] is None
    names = {path.stem for path in (experiment / "english").glob("*.png")}
    assert names == {"movement"}
    page = (experiment / "english/analysis.md").read_text(encoding="utf-8")
    assert page.count("One language") == 1 and "None" not in page


def test_a_phase_without_checkpoint_is_left_out(experiment, tmp_path, caplog):
    shutil.copytree(experiment / "exp/toy/part", tmp_path / "part")
    (tmp_path / "part/phase2a/latest.pth").unlink()
    phases = [moment.phase for moment in read_moments(tmp_path / "part", "latest.pth")]
    assert phases == ["start", "1", "3"]
    assert "phase2a: no latest.pth there" in caplog.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--curricula", "none"], "none: found no phase with latest.pth"),
        (["--test_sets", "toy_test_st_en_zh"], "is a row of st, expected asr test sets"),
        (["--test_sets", "missing"], "missing: no such data folder"),
        (["--pairs", "nowhere"], "--pairs nowhere: no such file"),
        (["--rows", "1"], "--rows 1 --grad_rows 64: expected at least 2 and 0"),
    ],
)
def test_mistakes_are_told(experiment, words, message):
    with pytest.raises(SystemExit) as stop:
        run(experiment, *words, out="failed")
    assert message in str(stop.value)
    assert not (experiment / "failed").exists()
