"""The plan of a training: its weights are those of the model, its work that of the phases."""

import argparse

import pytest
import training_plan as plan  # local/, on the path by conftest.py

from espnet_part.build import build_parts
from espnet_part.config import ModelConfig
from espnet_part.curriculum import merge
from espnet_part.schema import from_dict, load_yaml

ARGS = argparse.Namespace(
    clip_sec=7.0, target_tokens=28.0, hours=None, peak_tflops=1000.0, utilization=0.5
)


@pytest.fixture(scope="module")
def small(conf_dir):
    return load_yaml(conf_dir / "benchmark/small.yaml")


def phase_config(conf_dir, phase):
    return merge(conf_dir, "part_2b", "part", phase, [], [])


def test_weights_are_those_of_the_model(small):
    shape = plan.measure(small)
    model = build_parts(from_dict(ModelConfig, small, "model."), prompter=None)
    for name in ("encoder", "adapter"):
        wanted = sum(p.numel() for p in getattr(model, name).parameters())
        assert shape.weights[name] == wanted
    llm = sum(p.numel() for p in model.llm.parameters())
    assert llm == shape.weights["llm"] + shape.head * (1 if small_is_tied(small) else 2)
    assert shape.encoder_hz == model.encoder.frame_rate_hz
    assert shape.blocks == len(model.encoder.layers)


def small_is_tied(values):
    return values["llm"]["config"].get("tie_word_embeddings", False)


def test_work_of_the_phases(conf_dir):
    shape = plan.Shape({"encoder": 600, "adapter": 40, "llm": 1500}, 200, 30, 50.0, 12.5, ())
    work = {}
    for phase in ("1", "2a", "2b", "3"):
        work[phase], _ = plan.operations(shape, phase_config(conf_dir, phase), 8.0, 20)
    # By hand: frozen encoder forward only; adapter forward, gradients of its weights and through
    # its layers; LLM forward and through; output layer at the 20 target positions.
    frames, positions = 400, 100
    llm = positions + plan.PROMPT_TOKENS + 20
    first = 2 * 600 * frames + 2 * 40 * positions * 3 + 4 * 1500 * llm + 4 * 200 * 20
    assert work["1"] == first
    assert work["2b"] - work["1"] == 4 * 600 * frames
    assert work["2a"] - work["1"] == pytest.approx(4 * 600 * frames * 8 / 30)
    assert work["3"] - work["2b"] == 2 * 1500 * llm + 2 * 200 * 20


def test_plan_and_table(conf_dir, small, capsys):
    shape = plan.measure(small)
    config = phase_config(conf_dir, "2b")
    row = plan.plan_phase(shape, config, ARGS, {})
    cost = 7 * 25 + 28 + 16  # DESIGN 5: one definition of cost
    assert row["clips"] == pytest.approx(config.batch_cost / cost)
    assert row["hours"] == pytest.approx(config.max_steps * row["clips"] * 7 / 3600)
    asked = argparse.Namespace(**{**vars(ARGS), "hours": ["asr=1000", "st=500"]})
    assert plan.plan_phase(shape, config, asked, {})["hours"] == pytest.approx(1000, rel=1e-3)
    third = plan.plan_phase(shape, phase_config(conf_dir, "3"), asked, {})
    assert third["hours"] == pytest.approx(1500, rel=1e-3)
    assert third["clips"] < row["clips"]  # part of the batch is text
    # A checkpoint holds what earlier phases have trained as well; AdamW's state is this phase's.
    adapter, llm = shape.weights["adapter"], shape.weights["llm"] + shape.head
    first = plan.plan_phase(shape, phase_config(conf_dir, "1"), ARGS, {"llm": float(llm)})
    assert first["weights_gb"] == pytest.approx(4e-9 * (adapter + llm))
    assert first["checkpoint_gb"] == pytest.approx(4e-9 * (3 * adapter + llm))
    plan.main(["--model", "part_2b"])
    assert "| `2b` |" in capsys.readouterr().out


@pytest.mark.parametrize("hours", ["ast=200000", "asr", "asr=many", "=3"])
def test_hours_that_are_none(hours):
    with pytest.raises(SystemExit, match="--hours: found .*expected asr=<hours> or st=<hours>"):
        plan.main(["--hours", hours])
