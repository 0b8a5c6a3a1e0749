"""conf/experiments.yaml: arms of equal length, what they share, and what is wrong with a plan."""

import shutil
from dataclasses import replace
from pathlib import Path

import experiment_plan
import pytest
import yaml
from experiment_conf import Arm, chosen, lids_of, read_plan
from experiment_plan import arm_phases

from espnet_part.config import Config

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def plan():
    return read_plan(ROOT / "conf/experiments.yaml")


def phases(plan, arm, scale="quick", seed=0, conf=ROOT / "conf"):
    return arm_phases(conf, plan.scales[scale], arm, plan.arms[arm], seed, ["-"], ["-"])


@pytest.fixture(scope="module")
def quick(plan):
    return {arm: phases(plan, arm) for arm in plan.arms}


def test_the_issues_experiments_are_there(plan):
    wanted = "fig2a llm_trained llm_frozen fig2b table4 activation text lid ai_sta lora"
    assert set(wanted.split()) <= set(plan.experiments)
    used = {arm for experiment in plan.experiments.values() for arm in experiment.arms}
    assert used == set(plan.arms)


def test_all_arms_have_equally_many_updates(quick):
    totals = {arm: sum(run.config["max_steps"] for run in runs) for arm, runs in quick.items()}
    assert set(totals.values()) == {1050}  # half of 1200 + 150 + 300 + 450
    assert [run.config["max_steps"] for run in quick["part"]] == [600, 75, 150, 225]
    assert [run.config["max_steps"] for run in quick["two_stage_full"]] == [600, 450]


def shared(a, b):
    return [run.phase for run in a if run.digest in {other.digest for other in b}]


def test_equal_phases_are_shared_and_no_others(quick):
    for arm in ("part_lora", "part_llm_frozen", "part_task_activation", "part_no_text"):
        assert shared(quick[arm], quick["part"]) == ["1", "2a", "2b"]
    assert shared(quick["two_stage_llm"], quick["two_stage"]) == ["1"]
    assert shared(quick["two_stage_full"], quick["two_stage"]) == ["1"]
    # 2b is longer in two_stage, whose last phase it is.
    assert shared(quick["three_stage_mixed"], quick["two_stage"]) == ["1", "2a"]
    assert shared(quick["two_stage"], quick["part"]) == []
    assert shared(quick["part_llm_always"], quick["part"]) == []


def test_a_phase_behind_another_one_is_another_phase(plan, quick):
    first, second = quick["part"][:2]
    again = {run.digest for run in phases(plan, "part", seed=1)}
    assert not again & {run.digest for run in quick["part"]}
    assert second.before is first


def test_a_key_that_a_later_version_adds_keeps_digests(plan, quick, monkeypatch):
    import dataclasses

    later = dataclasses.make_dataclass(
        "Config", [("a_new_key", int, dataclasses.field(default=3))], bases=(Config,)
    )
    real = experiment_plan.merge

    def merge(*args):
        config = real(*args)
        own = {item.name: getattr(config, item.name) for item in dataclasses.fields(config)}
        return later(**own)

    monkeypatch.setattr(experiment_plan, "merge", merge)
    found = phases(plan, "part")
    assert found[0].config["a_new_key"] == 3
    assert [run.digest for run in found] == [run.digest for run in quick["part"]]


def test_settings_of_an_arm_reach_its_config_and_the_command(plan, quick):
    last = quick["part_lora"][-1]
    assert last.config["model"]["llm"]["lora"]["r"] == 16
    assert last.config["trainable"]["llm"] == "lora"
    assert "lr.llm=0.002" in last.settings and "max_steps=225" in last.settings
    assert quick["part"][-1].config["model"]["llm"]["lora"] is None


def test_the_llm_trains_at_the_miniatures_own_rate_wherever_it_does(quick):
    for arm, runs in quick.items():
        for run in runs:
            if run.config["trainable"]["llm"] == "all":
                assert run.config["lr"]["llm"] == 4e-4, (arm, run.phase)


def test_an_arm_without_updates_for_its_last_phase_is_refused(plan, tmp_path):
    conf = tmp_path / "conf"
    shutil.copytree(ROOT / "conf", conf)
    path = conf / "curriculum/two_stage_full.yaml"
    values = yaml.safe_load(path.read_text())
    values["overrides"]["1"]["max_steps"] = 5000
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match="two_stage_full: phases 1 take all of the 1050 updates"):
        phases(plan, "two_stage_full", conf=conf)


def test_settings_of_a_phase_that_an_arm_lacks_are_refused(plan):
    arm = replace(plan.arms["two_stage"], settings={"3": {"seed": 1}})
    with pytest.raises(ValueError, match="arm x: settings of phase '3', expected 1 2a 2b"):
        arm_phases(ROOT / "conf", plan.scales["quick"], "x", arm, 0, ["-"], ["-"])


def test_systems_and_the_languages_in_their_prompts(plan):
    lid = plan.experiments["lid"]
    assert lid.arms == ["two_stage", "part", "two_stage_llm"]
    assert lid.lids("part") == ["right", "none", "wrong"]
    assert lid.lids("two_stage_llm") == ["right", "none", "wrong"]
    assert lids_of("part") == ["right"] and lids_of("part@none-right") == ["none", "right"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["arms"].pop("part_lora"), "experiments.lora: no arm 'part_lora'; did you"),
        (lambda v: v["scales"]["quick"].update(seed=[1]), "unknown key quick.seed; did you mean"),
        (lambda v: v["scales"]["quick"].update(seeds=[1, 1]), "seeds: found .1, 1., expected dif"),
        (lambda v: v["scales"]["quick"].update(updates=0), "updates: found 0.0, expected more"),
        (lambda v: v["scales"]["quick"].update(ill_resourced=["xx"]), "ill_resourced: found 'xx'"),
        (lambda v: v.pop("arms"), "found experiments scales, expected scales arms experiments"),
        (
            lambda v: v["experiments"]["fig2a"]["claims"][0].update(by=["wer"]),
            "by: found 'wer', expected error bleu",
        ),
        (
            lambda v: v["experiments"]["fig2a"]["claims"][0].update(better="part@some"),
            "found 'some' behind @, expected right none wrong",
        ),
        (
            lambda v: v["experiments"]["fig2a"]["claims"][0].update(better="part@right-wrong-none"),
            "expected one or two of right none wrong behind @",
        ),
        (lambda v: v["experiments"]["fig2a"]["claims"][0].update(by=[]), "by: found none"),
        (
            lambda v: v["experiments"]["fig2a"]["claims"][0].update(than="part"),
            "better and than are both 'part'",
        ),
        (lambda v: v["experiments"]["lid"].update(also="layers"), "layers compares two arms"),
        (lambda v: v["scales"]["quick"].update(sentence="-[0-9]+-"), "sentence: found 0 groups"),
        (lambda v: v["scales"]["quick"].update(sentence="-("), "sentence: '-.' is no pattern"),
        (lambda v: v.update(arms=None), "arms: found None, expected names with settings"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, message):
    values = yaml.safe_load((ROOT / "conf/experiments.yaml").read_text())
    change(values)
    path = tmp_path / "experiments.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=message) as caught:
        read_plan(path)
    assert str(path) in str(caught.value)


def test_an_unknown_name_has_a_nearest_one(plan):
    with pytest.raises(ValueError, match="no experiment 'fig2'; did you mean 'fig2[ab]'"):
        chosen(plan.experiments, "fig2", "--experiment: no experiment")


def test_layers_chosen_on_dev_pass_before_dev_is_known(plan, quick):
    arm = Arm("part_ai_sta", {"3": {"alignment.layers": "adaptive"}})
    last = arm_phases(ROOT / "conf", plan.scales["quick"], "x", arm, 0, ["-"], ["-"])[-1]
    assert last.config["alignment"]["layers"] == "adaptive"
    known = arm_phases(ROOT / "conf", plan.scales["quick"], "x", arm, 0, ["-"], ["data/dev"])[-1]
    assert last.digest == known.digest != quick["part_ai_sta"][-1].digest


def test_the_recipe_takes_layers_chosen_on_dev(capsys):
    from espnet_part.bin.config import main

    words = ["phases", "--conf_dir", str(ROOT / "conf"), "--curriculum", "part_ai_sta"]
    main([*words, "--model", "miniature", "--set", "alignment.layers=adaptive"])
    assert capsys.readouterr().out.split() == ["1", "2a", "2b", "3"]


def test_help_names_every_experiment_and_scale(plan):
    text = (ROOT / "egs2/part_multilingual/s2t1/part.sh").read_text()
    lines = {line.split("|")[0].strip(' "'): line for line in text.splitlines() if "|" in line}
    assert all(f" {name}" in lines["experiment"] for name in plan.experiments)
    assert all(f" {name}" in lines["scale"] for name in plan.scales if name != "smoke")
