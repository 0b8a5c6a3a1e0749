"""Gradients of tasks: the norms are those of training, weights stay, tasks agree or do not."""

import pytest
import torch
from core_helpers import changed, snapshot

from espnet_part.dataset import ExampleLoader, collate
from espnet_part.gradients import task_batches, task_gradients, task_rows
from espnet_part.optim import gradient_norms

TASKS = ["asr", "st", "mt"]


@pytest.fixture
def measured(make_model, opened):
    def run(model=None, cost=300.0, tasks=TASKS, most=4):
        model = model or make_model()
        rows = task_rows(opened, tasks, most)
        return task_gradients(model, task_batches(model, opened, rows, cost))

    return run


def norm_of(norms):
    return {(row["task"], row["part"]): row["norm"] for row in norms}


def test_rows_are_of_their_task(opened):
    rows = task_rows(opened, [*TASKS, "instruct"], 6)
    assert list(rows) == TASKS  # no row of instruct there
    for task, places in rows.items():
        assert len(set(places)) == 6
        assert {opened[m].row(i).task for m, i in places} == {task}
    assert {m for m, _ in rows["mt"]} == {1}
    assert len(task_rows(opened, ["asr"], 1000)["asr"]) == 10


def test_norms_are_those_of_the_mean_loss_in_any_cut(make_model, opened, measured):
    whole, parts = (norm_of(measured(cost=cost, tasks=["st"])[0]) for cost in (1e6, 60))
    model = make_model().eval()
    model.set_trainable({"encoder": "all", "adapter": "all", "llm": "all"})
    model.eval()
    loader = ExampleLoader(model.prompter)
    rows = task_rows(opened, ["st"], 4)["st"]
    loss, _, _ = model(**collate([loader.load(opened[m].row(i), 0) for m, i in rows]))
    loss.backward()
    for part, norm in gradient_norms(model).items():
        assert whole["st", part] == pytest.approx(norm, rel=1e-4)
        assert parts["st", part] == pytest.approx(norm, rel=1e-3)


def test_no_weight_changes(make_model, measured):
    model = make_model()
    model.set_trainable({"adapter": "all"})
    before = snapshot(model)
    norms, _ = measured(model)
    assert changed(model, before) == set()
    assert all(p.grad is None for p in model.parameters())
    found = norm_of(norms)
    # Frozen in the phase, measured all the same.
    assert found["asr", "encoder"] > 0 and found["asr", "llm"] > 0
    # Text has no audio: nothing is asked of encoder and adapter.
    assert found["mt", "encoder"] == 0 and found["mt", "adapter"] == 0 and found["mt", "llm"] > 0


def test_cosines_know_agreement(make_model, opened, measured):
    model = make_model()
    rows = task_rows(opened, ["asr"], 6)["asr"]
    batches = task_batches(model, opened, {"asr": rows, "st": rows}, 300.0)
    _, cosines = task_gradients(model, batches)
    assert [row["cosine"] for row in cosines] == pytest.approx([1, 1, 1])
    _, cosines = measured()
    assert {(*row["tasks"], row["part"]) for row in cosines} == {
        ("asr", "st", "encoder"),
        ("asr", "st", "adapter"),
        ("asr", "st", "llm"),
        ("asr", "mt", "llm"),
        ("st", "mt", "llm"),
    }
    assert all(-1 < row["cosine"] < 0.999 for row in cosines)


def test_lora_is_measured_on_its_own_tensors(make_model, measured):
    lora = {"r": 2, "alpha": 4, "targets": ["q_proj"]}
    model = make_model(model={"llm": {"lora": lora}}, trainable={"llm": "lora"}, lr={"llm": 1e-3})
    norms, _ = measured(model, tasks=["asr"])
    size = sum(p.square().sum() for n, p in model.llm.named_parameters() if ".lora_" in n) ** 0.5
    row = next(row for row in norms if row["part"] == "llm")
    assert row["weights"] == pytest.approx(float(size), rel=1e-5) and row["norm"] > 0


def test_dropout_is_off(make_model, measured):
    model = make_model()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    once, again = (norm_of(measured(model, tasks=["asr"], most=2)[0]) for _ in range(2))
    assert once == again
