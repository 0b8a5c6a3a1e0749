"""The experiments' driver, two tiny steps a phase: all in this process, one through run.sh."""

import json
import re
import shutil
from pathlib import Path

import experiment
import pytest
import yaml
from experiment_conf import read_plan
from experiment_jobs import Runner
from experiment_run import DIGEST
from settings import parse_words, split_words
from test_recipe import make_recipe, run

from espnet_part.bin import analyze, layers, text_skills
from espnet_part.curriculum import merge
from espnet_part.datadir import iter_rows, write_datadir
from espnet_part.phase_folder import write_config
from espnet_part.task import PARTTask

ROOT = Path(__file__).resolve().parents[1]
pytestmark = [pytest.mark.recipe, pytest.mark.timeout(900)]
EXP = Path("exp/smoke_seed0")


def one_seed(path):
    """Leaves the scale `smoke` one seed."""
    values = yaml.safe_load(path.read_text())
    values["scales"]["smoke"]["seeds"] = [0]
    path.write_text(yaml.safe_dump(values))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe folder with the toy corpus after stage 10, and a scale `smoke` of one seed."""
    recipe = make_recipe(tmp_path_factory.mktemp("experiment") / "egs2/part_multilingual/s2t1")
    (recipe / "conf").unlink()
    shutil.copytree(ROOT / "conf", recipe / "conf")
    one_seed(recipe / "conf/experiments.yaml")
    done = run(recipe, "./run.sh", "--corpora", "toy", "--stop_stage", "10")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return recipe


@pytest.fixture(scope="module")
def table4(recipe, tmp_path_factory):
    """A recipe folder in which run.sh has made one experiment, and what it said."""
    copy = tmp_path_factory.mktemp("table4") / "egs2/part_multilingual/s2t1"
    copy.parent.mkdir(parents=True)
    shutil.copytree(recipe, copy, symlinks=True)
    shutil.rmtree(copy / "exp/experiments", ignore_errors=True)
    shutil.rmtree(copy / EXP, ignore_errors=True)
    done = run(copy, "./run.sh", "--experiment", "table4", "--scale", "smoke")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return copy, done.stdout


@pytest.mark.slow
def test_one_command_trains_decodes_and_writes_the_page(table4):
    recipe, said = table4
    page = (recipe / "exp/experiments/smoke/table4.md").read_text()
    assert page in said
    assert re.search(r"^\| two_stage_full +\|", page, re.M)
    assert re.search(r"^\| two_stage - two_stage_full \| +error % \|", page, re.M)
    assert "6 jobs, " in said and "[6/6] " in said and " of CPU" in said
    numbers = json.loads((recipe / "exp/experiments/smoke/table4.json").read_text())
    assert set(numbers["systems"]) == {"two_stage", "two_stage_full"}
    assert [d["by"] for d in numbers["differences"]] == ["error", "bleu"]
    for ending in ("svg", "png"):
        assert (recipe / f"exp/experiments/smoke/table4.{ending}").stat().st_size > 1000


@pytest.mark.slow
def test_an_equal_phase_is_trained_once_and_linked(table4):
    recipe, _ = table4
    link = recipe / EXP / "two_stage_full/phase1"
    assert link.is_symlink() and link.resolve() == (recipe / EXP / "two_stage/phase1").resolve()
    assert not (recipe / EXP / "two_stage_full/phase2b").is_symlink()
    config = yaml.safe_load((recipe / EXP / "two_stage_full/phase2b/config.yaml").read_text())
    assert config["max_steps"] == 6 and config["tasks"] == [
        "asr",
        "st",
    ]  # 2 and 2 and 2 of part's 8


@pytest.mark.slow
def test_exposure_is_what_the_updates_read(table4):
    recipe, _ = table4
    numbers = json.loads((recipe / "exp/experiments/smoke/table4.json").read_text())
    for arm in ("two_stage", "two_stage_full"):
        assert set(numbers["exposure"][arm]) == {"asr", "st"}
        assert all(hours > 0 and tokens > 0 for hours, tokens in numbers["exposure"][arm].values())


@pytest.mark.slow
def test_a_second_call_does_nothing_and_another_setting_is_refused(table4):
    recipe, _ = table4
    again = run(recipe, "./run.sh", "--experiment", "table4", "--scale", "smoke")
    assert again.returncode == 0 and "0 jobs, " in again.stdout
    mark = recipe / EXP / "two_stage/phase2b" / DIGEST
    kept = mark.read_text()
    mark.write_text("another\n")
    refused = run(recipe, "./run.sh", "--experiment", "table4", "--scale", "smoke")
    mark.write_text(kept)
    assert refused.returncode != 0
    assert "phase2b holds a run of other settings than conf/ has now: remove" in refused.stderr


def test_unknown_names_end_at_once(tmp_path):
    recipe = make_recipe(tmp_path / "egs2/part_multilingual/s2t1")
    for words, message in (
        (("--experiment", "tabel4"), "no experiment 'tabel4'; did you mean 'table4'?"),
        (("--experiment", "table4", "--scale", "quik"), "no scale 'quik'; did you mean 'quick'?"),
        (("--experiment", "table4", "--model", "part_2b"), "--model does not go with --experiment"),
        (("--scale", "full"), "--scale goes with --experiment, such as ./run.sh --experiment all"),
    ):
        done = run(recipe, "./run.sh", *words)
        assert done.returncode != 0 and message in done.stderr


class InProcess(Runner):
    """Does what the jobs' commands say, in this process; a decoding finds the right answers."""

    manifests: tuple = ((), ())

    def run(self):
        for job in self.jobs.values():
            assert self.done.issuperset(job.after), job.name
            words = list(job.command)
            if words[0] == "./part.sh":
                options = dict(zip(words[1::2], words[2::2], strict=True))
                (self.train if options["--stage"] == "11" else self.decode)(options)
            else:
                module = {"analyze": analyze, "layers": layers, "text_skills": text_skills}
                module[words[2].rpartition(".")[2]].main(words[3:])
            self.done.add(job.name)

    def train(self, options):
        exp, phase = Path(options["--part_exp"]), options["--phase"]
        phases = yaml.safe_load(Path(f"conf/curriculum/{options['--curriculum']}.yaml").read_text())
        before = [p for p in phases["phases"] if p < phase]
        settings = list(parse_words(split_words(options["--part_args"])))
        init = str(exp / f"phase{before[-1]}/latest.pth") if before else None
        names = "conf", options["--model"], options["--curriculum"], phase
        config = write_config(merge(*names, *self.manifests, init, settings), exp / f"phase{phase}")
        PARTTask.main(
            cmd=["--config", str(config), "--output_dir", str(config.parent), "--num_workers", "0",
                 "--use_tensorboard", "false"]
        )  # fmt: skip

    def decode(self, options):
        for lid in options["--lid"].split():
            for name in options["--test_sets"].split():
                decode = "decode_greedy_latest" + ("" if lid == "right" else f"_lid_{lid}")
                folder = Path(options["--part_exp"]) / f"phase{options['--phase']}" / decode / name
                folder.mkdir(parents=True)
                rows = iter_rows(Path("dump/raw") / name)
                (folder / "text").write_text("".join(f"{r.utt_id} {r.target}\n" for r in rows))


def test_one_experiment_on_two_tiny_steps(
    tmp_path, toy_data, parts, manifests, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "conf", "conf")
    one_seed(Path("conf/experiments.yaml"))
    Path("exp/toy_parts").mkdir(parents=True)
    for name, part in (("encoder", "sensevoice"), ("llm", "byte")):
        Path(f"exp/toy_parts/{name}").symlink_to(parts(part))
    for task in ("asr", "st"):
        rows = [row for row in iter_rows(toy_data / "speech") if row.task == task]
        write_datadir(Path(f"dump/raw/toy_test_{task}"), rows)
    Path("dump/raw/toy_dev").mkdir()
    monkeypatch.setattr(InProcess, "manifests", (manifests, manifests[:1]))
    monkeypatch.setattr(experiment, "Runner", InProcess)
    monkeypatch.setattr(experiment.Run, "prepare", lambda self: None)
    monkeypatch.setattr("sys.argv", ["experiment.py", "table4", "--scale", "smoke"])
    experiment.main()
    assert "6 jobs, " in capsys.readouterr().out
    link = EXP / "two_stage_full/phase1"
    assert link.is_symlink() and link.resolve() == (EXP / "two_stage/phase1").resolve()
    numbers = json.loads(Path("exp/experiments/smoke/table4.json").read_text())
    for arm in ("two_stage", "two_stage_full"):
        assert numbers["systems"][arm]["error"]["value"] == 0  # the right answers
        assert all(min(read) > 0 for read in numbers["exposure"][arm].values())
    assert "| two_stage - two_stage_full |" in Path("exp/experiments/smoke/table4.md").read_text()
    experiment.main()
    assert "0 jobs, " in capsys.readouterr().out


@pytest.mark.slow
def test_every_experiment_on_two_tiny_steps(recipe, monkeypatch, capsys):
    monkeypatch.chdir(recipe)
    stats = "exp/part_stats_toy"
    InProcess.manifests = [f"{stats}/toy_train", f"{stats}/toy_train_text"], [f"{stats}/toy_dev"]
    monkeypatch.setattr(experiment, "Runner", InProcess)
    monkeypatch.setattr(experiment.Run, "prepare", lambda self: None)
    monkeypatch.setattr("sys.argv", ["experiment.py", "all", "--scale", "smoke"])
    experiment.main()
    plan = read_plan(Path("conf/experiments.yaml"))
    for name, one in plan.experiments.items():
        page = Path(f"exp/experiments/smoke/{name}.md").read_text()
        assert one.title in page and one.paper in page
        for claim in one.claims:
            assert f"| {claim.better} - {claim.than}" in page
    config = yaml.safe_load((EXP / "part_lora/phase3/config.yaml").read_text())
    assert config["trainable"]["llm"] == "lora" and config["max_steps"] == 2
    assert yaml.safe_load((EXP / "part_ai_sta/phase3/config.yaml").read_text())["alignment"]
    assert (EXP / "part_ai_sta/phase2b").resolve() == (EXP / "part/phase2b").resolve()
    # What is measured beside the scores.
    page = Path("exp/experiments/smoke/ai_sta.md").read_text()
    for measure in ("transport, layer 0", "retrieval, layer 1", "spread, layer 1"):
        assert f"| {measure} " in page
    assert "| cross-entropy on dev | not worse by more than 2 % |" in page
    page = Path("exp/experiments/smoke/text.md").read_text()
    assert re.search(r"\| all +\| +before phase 1 \|", page)
    assert Path("exp/experiments/smoke/inside_two_stage_part/analysis.md").exists()
    # And again: nothing is left to do.
    capsys.readouterr()
    experiment.main()
    assert "0 jobs, " in capsys.readouterr().out
