import math

import pytest
import torch
from core_helpers import make_loop, same, snapshot, update

from espnet_part.optim import (
    build_optimizer,
    clip_gradients,
    gradient_norms,
    lr_factor,
    set_learning_rates,
)

LR = {"encoder": 1e-4, "adapter": 2e-3, "llm": 3e-5}


@pytest.fixture
def model(make_model):
    model = make_model()
    model.set_trainable({"encoder": "last:2", "adapter": "all", "llm": ["*.norm.weight"]})
    return model


def test_groups(model):
    optimizer = build_optimizer(model, LR, [0.9, 0.98], 0.1)
    names = {p: name for name, p in model.named_parameters()}
    seen = []
    for group in optimizer.param_groups:
        assert group["lr"] == LR[group["part"]]
        for parameter in group["params"]:
            assert names[parameter].startswith(group["part"] + ".")
            assert group["weight_decay"] == (0.1 if parameter.dim() > 1 else 0.0)
            seen.append(names[parameter])
    trains = [name for name, p in model.named_parameters() if p.requires_grad]
    assert sorted(seen) == sorted(trains), "each trained tensor once, nothing else"
    assert optimizer.defaults["betas"] == (0.9, 0.98)


def test_rates_follow_the_factor(model):
    optimizer = build_optimizer(model, LR, [0.9, 0.98], 0.1)
    for factor in (0.5, 0.25, 1.0):  # from the peak each time, not from the last value
        set_learning_rates(optimizer, factor)
        assert {g["part"]: g["lr"] for g in optimizer.param_groups} == {
            part: pytest.approx(peak * factor) for part, peak in LR.items()
        }


def test_schedules_by_hand():
    def at(step, schedule="cosine", warmup=10, final=0.1):
        return lr_factor(step, 110, warmup, schedule, final)

    assert [at(step) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    for schedule in ("cosine", "linear"):
        assert at(10, schedule) == pytest.approx(1.0)
        assert at(60, schedule) == pytest.approx(0.55)
        assert at(110, schedule) == at(500, schedule) == pytest.approx(0.1)
    assert at(35) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert at(35, "linear") == pytest.approx(0.775)
    assert at(109, "constant") == 1.0
    assert at(0, warmup=0) == 1.0
    assert lr_factor(0, 5, 100, "cosine", 0.0) == pytest.approx(0.01)
    factors = [at(step) for step in range(110)]
    assert all(a <= b for a, b in zip(factors[:10], factors[1:10], strict=False))
    assert all(a >= b for a, b in zip(factors[10:], factors[11:], strict=False))


def test_norms_and_clipping(model):
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
    model.llm.model.norm.weight.grad = None
    norms = gradient_norms(model)
    assert set(norms) == {"encoder", "adapter"}
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    whole = float(torch.cat([grad.flatten() for grad in grads]).norm())
    before = [grad.clone() for grad in grads]

    assert clip_gradients(model, norms, whole * 2) == pytest.approx(whole)
    assert all(torch.equal(a, b) for a, b in zip(grads, before, strict=True))
    assert clip_gradients(model, norms, 1.0) == pytest.approx(whole)
    now = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert float(now.norm()) == pytest.approx(1.0, rel=1e-5)
    for a, b in zip(grads, before, strict=True):
        torch.testing.assert_close(a, b / whole)


def test_rates_and_schedule_reach_the_weights(make_model, make_batch, config_values, tmp_path):
    """AdamW's first step moves each weight by its part's rate of that step."""
    model = make_model()
    policy = {"encoder": "all", "adapter": "all", "llm": "all"}
    model.set_trainable(policy)
    values = config_values(lr=LR, warmup_steps=4, weight_decay=0.0)
    before = snapshot(model)
    loop = make_loop(model, values, tmp_path)
    update(loop, make_batch(model, ["asr", "st", "mt"]))
    for part, rate in LR.items():
        moved = max(
            float((p - before[name]).abs().max().detach())
            for name, p in model.named_parameters()
            if name.startswith(part)
        )
        assert moved == pytest.approx(rate / 4, rel=0.02), part


def test_a_gradient_that_is_not_finite_is_skipped(
    make_model, make_batch, config_values, tmp_path, caplog
):
    model = make_model()
    model.set_trainable({"adapter": "all"})
    values = config_values(trainable={"adapter": "all"}, lr={"adapter": 1e-3}, max_steps=100)
    loop = make_loop(model, values, tmp_path)
    batch = make_batch(model, ["asr"])
    broken = {**batch, "speech": batch["speech"] * float("nan")}
    before = snapshot(model)
    for _ in range(9):
        update(loop, broken)
    assert all(same(tensor, before[name]) for name, tensor in snapshot(model).items())
    assert not loop.optimizer.state and "gradient not finite" in caplog.text
    update(loop, batch)
    assert loop.bad_steps == 0
    assert not same(model.adapter.out.weight, before["adapter.out.weight"])
    with pytest.raises(RuntimeError, match="for 10 steps in a row.*lower the learning rates"):
        for _ in range(10):
            update(loop, broken)
