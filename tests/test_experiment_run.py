"""What a call of the experiments' driver does: links between equal phases, and which jobs wait."""

import os
from pathlib import Path

import pytest
import yaml
from experiment_conf import read_plan
from experiment_run import DIGEST, Run

from espnet_part.datadir import Row, write_datadir

CONF = Path(__file__).resolve().parents[1] / "conf"
PLAN = """
scales:
  tiny: &tiny {corpora: toy, model: toy, seeds: [0, 1], updates: 0.5, test_sets: "toy_test_*",
    dev_set: toy_dev, sentence: "-([0-9]+)-", ill_resourced: [ar]}
  large: {<<: *tiny, model: toy_large}
arms: {two_stage: {curriculum: two_stage}, two_stage_full: {curriculum: two_stage_full},
  part: {curriculum: part}, part_ai_sta: {curriculum: part_ai_sta}}
experiments:
  table4: {title: t, claim: c, paper: p, claims: [
    {better: two_stage, than: two_stage_full, by: [error, bleu, bleu_ill]},
    {better: two_stage_full, than: two_stage, by: [bleu]}]}
  lid: {title: t, claim: c, paper: p, claims: [
    {better: part@none-right, than: two_stage@none-right, by: [error, bleu]}]}
  full: {title: t, claim: c, paper: p, claims: [{better: part, than: two_stage_full, by: [bleu]}]}
  layers: {title: t, claim: c, paper: p, also: layers, claims: [
    {better: part_ai_sta, than: part, by: [bleu]}]}
  skills: {title: t, claim: c, paper: p, also: text_skills, claims: [
    {better: part, than: two_stage, by: [bleu]}]}
"""
SETS = ["toy_test_asr", "toy_test_st"]


def make_folder(folder):
    """The recipe's conf, but for plan and models: `toy`, and the same one as `toy_large`."""
    (folder / "conf/model").mkdir(parents=True)
    for name in ("curriculum", "phase", "decode", "prompts.yaml"):
        (folder / "conf" / name).symlink_to(CONF / name)
    for name in ("toy", "toy_large"):
        (folder / f"conf/model/{name}.yaml").symlink_to(CONF / "model/toy.yaml")
    (folder / "conf/experiments.yaml").write_text(PLAN)
    return folder


def make_run(*names, scale="tiny"):
    plan = read_plan(Path("conf/experiments.yaml"))
    return Run(plan, list(names), scale, Path("exp"), Path("dump"), 0)


@pytest.fixture(autouse=True)
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(make_folder(tmp_path))


def finish(*folders):
    """As training leaves a phase; long ago, so that what comes is younger."""
    for place in (folder / n for folder in folders for n in ("latest.pth", ".finished")):
        place.touch()
        os.utime(place, (1000, 1000))


def decode(folder, *endings, time=2000):
    for place in (folder / f"decode_greedy_latest{e}" / name for e in endings for name in SETS):
        place.mkdir(parents=True)
        (place / "text").touch()
        os.utime(place / "text", (time, time))


def options(job):
    return dict(zip(job.command[1::2], job.command[2::2], strict=True))


def test_equal_phases_are_links_and_each_is_owned_once():
    owners = make_run("table4").share()
    names = [("two_stage", "1"), ("two_stage", "2a"), ("two_stage", "2b"), ("two_stage_full", "2b")]
    for seed in (0, 1):
        exp = Path(f"exp/tiny_seed{seed}")
        assert os.readlink(exp / "two_stage_full/phase1") == "../two_stage/phase1"
        assert [(one.arm, one.phase) for one in owners[seed].values()] == names
        for digest, (arm, phase) in zip(owners[seed], names, strict=True):
            assert not (exp / arm / f"phase{phase}").is_symlink()
            assert (exp / arm / f"phase{phase}" / DIGEST).read_text() == f"{digest}\n"
    assert not owners[0].keys() & owners[1].keys()
    assert make_run("table4").share() == owners  # it stays so


def test_jobs_wait_for_what_they_start_from():
    found = {job.name: job for job in make_run("table4").jobs(SETS)}
    after = {
        "two_stage, phase 1": (),
        "two_stage, phase 2a": ("two_stage, phase 1",),
        "two_stage, phase 2b": ("two_stage, phase 2a",),
        "two_stage_full, phase 2b": ("two_stage, phase 1",),
        "two_stage, decoding": ("two_stage, phase 2b",),
        "two_stage_full, decoding": ("two_stage_full, phase 2b",),
    }
    assert {name: job.after for name, job in found.items()} == {
        f"seed {seed}: {name}": tuple(f"seed {seed}: {n}" for n in names)
        for seed in (0, 1)
        for name, names in after.items()
    }
    last = options(found["seed 1: two_stage_full, phase 2b"])
    assert last["--stage"] == "11" and {"seed=1", "max_steps=6"} <= {*last["--part_args"].split()}
    decoding = options(found["seed 1: two_stage_full, decoding"])
    assert decoding["--stage"] == "12" and decoding["--test_sets"] == " ".join(SETS)


def test_a_phase_stays_in_the_folder_of_the_experiment_that_came_first():
    make_run("full").share()
    Path("exp/tiny_seed0/two_stage_full/phase1/config.yaml").touch()
    jobs = {job.name: job for job in make_run("table4").jobs(SETS)}
    assert os.readlink("exp/tiny_seed0/two_stage/phase1") == "../two_stage_full/phase1"
    first = options(jobs["seed 0: two_stage_full, phase 1"])
    assert first["--part_exp"] == "exp/tiny_seed0/two_stage_full"
    assert first["--curriculum"] == "two_stage_full" and first["--phase"] == "1"
    assert jobs["seed 0: two_stage, phase 2a"].after == ("seed 0: two_stage_full, phase 1",)


def test_what_is_done_makes_no_job():
    run = make_run("lid")
    run.share()
    seed0, seed1 = Path("exp/tiny_seed0"), Path("exp/tiny_seed1")
    finish(*seed0.glob("*/phase*"), *seed1.glob("two_stage/phase*"), seed1 / "part/phase1")
    decode(seed0 / "two_stage/phase2b", "", "_lid_none")
    decode(seed0 / "part/phase3", "")  # not with no language in the prompt
    decode(seed1 / "two_stage/phase2b", "", "_lid_none", time=900)  # older than the model
    jobs = {job.name: job for job in run.jobs(SETS)}
    assert {name: job.after for name, job in jobs.items()} == {
        "seed 0: part, decoding": (),
        "seed 1: part, phase 2a": (),
        "seed 1: part, phase 2b": ("seed 1: part, phase 2a",),
        "seed 1: part, phase 3": ("seed 1: part, phase 2b",),
        "seed 1: two_stage, decoding": (),
        "seed 1: part, decoding": ("seed 1: part, phase 3",),
    }
    assert options(jobs["seed 0: part, decoding"])["--lid"] == "right none"


def test_measuring_waits_for_its_checkpoint():
    for name in SETS:
        row = Row("a-1-asr", "asr", "de", "de", "eins", "a.wav", speaker="a")
        write_datadir(Path("dump/raw") / name, [row])
    run = make_run("layers")
    run.share()
    finish(*Path("exp/tiny_seed0").glob("*/phase*"))
    Path("exp/tiny_seed0/part/phase3/layers.json").touch()
    jobs = {job.name: job.after for job in run.jobs(SETS) if job.name.endswith("layers")}
    assert jobs == {
        "seed 0: before phase 3, layers": (),
        "seed 0: part_ai_sta, layers": (),
        "seed 1: before phase 3, layers": ("seed 1: part, phase 2b",),
        "seed 1: part, layers": ("seed 1: part, phase 3",),
        "seed 1: part_ai_sta, layers": ("seed 1: part_ai_sta, phase 3",),
    }


def test_a_folder_with_a_run_of_other_settings_is_refused():
    make_run("table4").share()
    folder = Path("exp/tiny_seed1/two_stage/phase2a")
    (folder / DIGEST).write_text("another\n")
    make_run("table4").share()  # nothing was trained there
    (folder / "config.yaml").touch()
    make_run("table4").share()
    (folder / DIGEST).write_text("another\n")
    with pytest.raises(ValueError, match=f"{folder} holds a run of other settings than conf/ has"):
        make_run("table4").share()
    # Where a link belongs, too.
    link = Path("exp/tiny_seed0/two_stage_full/phase1")
    link.unlink()
    link.mkdir()
    (link / "config.yaml").touch()
    with pytest.raises(ValueError, match="with these it is equal to .*/two_stage/phase1: remove"):
        make_run("table4").share()


def test_a_folder_in_which_nothing_was_trained_is_nobodys_home():
    make_run("full").share()
    plan = yaml.safe_load(PLAN)
    plan["arms"]["part"]["settings"] = {"3": {"lr.llm": 3.0e-4}}  # and the former ones elsewhere:
    plan["arms"]["part_old"] = {"curriculum": "part"}
    claims = [{"better": "part_old", "than": "part", "by": ["bleu"]}]
    plan["experiments"]["full"]["claims"] = claims
    Path("conf/experiments.yaml").write_text(yaml.safe_dump(plan))
    jobs = {job.name for job in make_run("full").jobs(SETS)}
    assert {"seed 0: part, phase 3", "seed 0: part_old, phase 3"} <= jobs
    assert not Path("exp/tiny_seed0/part_old/phase3").is_symlink()


def test_a_half_trained_phase_of_an_arm_that_is_gone_is_told():
    make_run("full").share()
    Path("exp/tiny_seed0/two_stage_full/phase1/config.yaml").touch()
    plan = yaml.safe_load(PLAN)
    del plan["arms"]["two_stage_full"], plan["experiments"]["table4"], plan["experiments"]["full"]
    Path("conf/experiments.yaml").write_text(yaml.safe_dump(plan))
    with pytest.raises(ValueError, match="two_stage_full/phase1 holds an equal phase, half"):
        make_run("lid").jobs(SETS)
