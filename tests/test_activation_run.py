"""Activation by task in a real run: what its own log and checkpoints say, step by step."""

import pytest
import torch
import yaml
from core_helpers import same
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from espnet_part.batching import plan_of
from espnet_part.config import Config
from espnet_part.schema import from_dict
from espnet_part.task import PARTTask

STEPS = 12


@pytest.fixture
def train(config_values, manifests, tmp_path):
    """`train(steps)`: one real run of phase 3 with activation by task; its folder and config."""

    def run(steps=STEPS, name="run"):
        values = config_values(
            train=manifests,
            valid=[],
            tasks=["asr", "st"],
            trainable={"encoder": "all", "adapter": "all", "llm": "all"},
            llm_tasks=["st"],
            lr={"encoder": 1e-3, "adapter": 1e-3, "llm": 1e-2},
            batch_cost=60,  # a row or two: many steps hold asr alone
            max_steps=steps,
            log_interval=1,
            save_interval=1,
            schedule="constant",
            warmup_steps=1,
            weight_decay=0.1,
        )
        folder = tmp_path / name
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values))
        PARTTask.main(cmd=[f"--config={path}", f"--output_dir={folder}", "--num_workers=0"])
        return folder, from_dict(Config, values)

    return run


def steps_with(config, task):
    """Steps, counted from 1 as the log does, whose batch holds rows of a task."""
    plan = plan_of(config)
    tasks = plan.manifests[0].meta["tasks"]
    found = set()
    for step in range(STEPS):
        rows = plan.rows(step)
        if any(tasks[plan.manifests[m].index["task"][i]] == task for m, i in rows):
            found.add(step + 1)
    return found


def test_the_log_shows_a_gradient_of_the_llm_at_chosen_steps_only(train):
    folder, config = train()
    events = EventAccumulator(str(folder / "tensorboard/train")).Reload()
    logged = {event.step for event in events.Scalars("grad_norm/llm")}
    chosen = steps_with(config, "st")
    assert 2 <= len(chosen) <= STEPS - 2, "the plan must have steps of both kinds"
    assert logged == chosen
    assert all(event.value > 0 for event in events.Scalars("grad_norm/llm"))
    adapter = events.Scalars("grad_norm/adapter")
    assert {event.step for event in adapter} == set(range(1, STEPS + 1))


def test_checkpoints_of_a_real_run_keep_the_llm_to_the_bit_over_asr_steps(train):
    chosen = steps_with(train(1, "first")[1], "st")
    # A step of asr behind one that moved the LLM: AdamW's momentum would carry it on.
    step = next(s for s in range(2, STEPS + 1) if s not in chosen and s - 1 in chosen)
    states = []
    for steps in (step - 1, step):
        folder, _ = train(steps, f"run{steps}")
        states.append(torch.load(folder / "checkpoint.pth", weights_only=True))
    before, after = states
    llm = [name for name in before["model"] if name.startswith("llm.")]
    assert llm and all(same(before["model"][name], after["model"][name]) for name in llm)
    moved = [n for n in before["model"] if not same(before["model"][n], after["model"][n])]
    assert moved and not any(name.startswith("llm.") for name in moved)
