"""The training loop in one process: updates, schedules, bad steps, files."""

import json
import logging
import math
import os
import re
import signal

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import digest, make_loop

from espnet_part import loop as loop_module
from espnet_part.loop import MAX_BAD_STEPS
from espnet_part.optim import clip_gradients, gradient_norms, lr_factor
from espnet_part.progress import Progress


@pytest.fixture
def quick(config_values, manifests, tmp_path, monkeypatch):
    """``quick(**changes)``: a loop over the toy data; no curves are drawn."""
    monkeypatch.setattr("espnet_part.progress.draw_curves", lambda *args: None)

    def make(folder="run", dropout=False, dataset=None, **changes):
        plan = dict(trainable={"adapter": "all", "llm": "all"}, lr={"adapter": 1e-3, "llm": 2e-3})
        data = dict(train=manifests, valid=[], save_interval=10**6, valid_interval=10**6)
        values = config_values(**{**plan, **data, **changes})
        return make_loop(values, tmp_path / folder, dropout=dropout, dataset=dataset)

    return make


def rates(loop, steps):
    """The learning rates of each step, by part."""
    seen = []
    plain = loop.optimizer.step
    loop.optimizer.step = lambda: (
        seen.append({g["part"]: g["lr"] for g in loop.optimizer.param_groups}),
        plain(),
    )
    loop.run()
    assert len(seen) == steps
    return seen


# ----- learning rates -----


@pytest.mark.parametrize(
    ("schedule", "final_lr", "expected"),
    [
        ("constant", 0.3, [0.5, 1, 1, 1, 1, 1]),
        ("linear", 0.0, [0.5, 1, 1, 0.75, 0.5, 0.25]),
        ("linear", 0.2, [0.5, 1, 1, 0.8, 0.6, 0.4]),
        ("cosine", 0.0, [0.5, 1, 1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)]),
    ],
)
def test_rates_by_part(quick, schedule, final_lr, expected):
    loop = quick(schedule=schedule, final_lr=final_lr, max_steps=6, warmup_steps=2)
    for step, rate in enumerate(rates(loop, 6)):
        assert rate["adapter"] == pytest.approx(1e-3 * expected[step], rel=1e-12)
        assert rate["llm"] == pytest.approx(2e-3 * expected[step], rel=1e-12)


def test_a_warm_up_of_nothing_and_of_everything():
    assert lr_factor(0, 10, 0, "cosine", 0.1) == 1.0
    assert lr_factor(10, 10, 0, "cosine", 0.1) == pytest.approx(0.1)
    assert [lr_factor(s, 4, 4, "linear", 0.0) for s in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert lr_factor(10**6, 10, 2, "linear", 0.5) == 0.5


def test_vectors_do_not_decay(quick):
    loop = quick(weight_decay=0.1)
    for group in loop.optimizer.param_groups:
        matrices = {p.dim() > 1 for p in group["params"]}
        assert matrices == ({True} if group["weight_decay"] else {False})
    parameters = [p for group in loop.optimizer.param_groups for p in group["params"]]
    trains = [p for p in loop.model.parameters() if p.requires_grad]
    assert {id(p) for p in parameters} == {id(p) for p in trains}
    assert len(parameters) == len(trains)


# ----- one update -----


def gradients_of(loop, step=0):
    """What the optimizer would see, and the norms."""
    seen = {}

    def keep():
        for name, parameter in loop.model.named_parameters():
            if parameter.grad is not None:
                seen[name] = parameter.grad.clone()

    loop.optimizer.step = keep
    out = loop._update(loop.model, loop.dataset[step][0])
    return seen, out


def test_accumulation_is_one_big_batch(quick):
    def one_step(micro_cost):
        return gradients_of(quick(batch_cost=10**6, micro_cost=micro_cost, clip_norm=1e9))

    (one, whole), (many, pieces) = one_step(1e9), one_step(90)
    assert len(quick(batch_cost=10**6, micro_cost=90).dataset[0][0]) > 8
    assert one.keys() == many.keys()
    largest = max(float(g.abs().max()) for g in one.values())
    for name in one:
        assert torch.allclose(one[name], many[name], rtol=1e-4, atol=1e-5 * largest), name
    assert whole["norms"] == pytest.approx(pieces["norms"], rel=1e-4)
    assert torch.allclose(whole["table"], pieces["table"], rtol=1e-4)
    assert whole["audio_sec"] == pieces["audio_sec"] > 5


def test_the_loss_is_a_mean_over_all_target_tokens(quick):
    """Not over micro-batches: those of few tokens would weigh too much."""
    loop = quick(batch_cost=10**6, micro_cost=90, clip_norm=1e9)
    batches = loop.dataset[0][0]
    loop.model.train()
    total = sum(float(loop.model(**b)[2]) for b in batches)
    expected = {}
    for batch in batches:
        loss, _, weight = loop.model(**batch)
        (loss * weight / total).backward()
    for name, parameter in loop.model.named_parameters():
        if parameter.grad is not None:
            expected[name] = parameter.grad.clone()
            parameter.grad = None
    found, _ = gradients_of(loop)
    for name in expected:
        assert torch.allclose(found[name], expected[name], rtol=1e-4, atol=1e-7), name


def test_clipping(quick):
    loop = quick(clip_norm=1e9)
    free, out = gradients_of(loop)
    assert out["norms"]["total"] > 0.5
    clipped, limited = gradients_of(quick(clip_norm=0.25))
    assert limited["norms"] == pytest.approx(out["norms"], rel=1e-5), "norms are told unclipped"
    after = math.sqrt(sum(float(g.double().pow(2).sum()) for g in clipped.values()))
    assert after == pytest.approx(0.25, rel=1e-5)
    scale = 0.25 / out["norms"]["total"]
    for name in free:
        assert torch.allclose(clipped[name], free[name] * scale, rtol=1e-4, atol=1e-8)
    parts = [out["norms"][part] for part in ("adapter", "llm")]
    assert out["norms"]["total"] == pytest.approx(math.hypot(*parts), rel=1e-6)
    assert "encoder" not in out["norms"]


def test_a_small_gradient_is_left_alone():
    layer = torch.nn.Linear(2, 1)
    layer.adapter = layer.llm = torch.nn.Identity()
    layer.encoder = torch.nn.Linear(2, 1, bias=False)
    layer.encoder.weight.grad = torch.tensor([[0.3, 0.4]])
    norms = gradient_norms(layer)
    assert norms == {"encoder": pytest.approx(0.5)}
    assert clip_gradients(layer, norms, 1.0) == pytest.approx(0.5)
    assert torch.equal(layer.encoder.weight.grad, torch.tensor([[0.3, 0.4]]))


def test_micro_batches_without_rows_change_nothing(quick):
    loop = quick(batch_cost=10**6, micro_cost=1e9, clip_norm=1e9)
    plain, _ = gradients_of(loop)
    batches, _ = loop.dataset[0]
    loop._update(loop.model, [None, *batches, None])
    seen = {}
    loop.optimizer.step = lambda: seen.update(
        {n: p.grad.clone() for n, p in loop.model.named_parameters() if p.grad is not None}
    )
    loop._update(loop.model, [None, *batches, None])
    for name in plain:
        assert torch.allclose(seen[name], plain[name], rtol=1e-5, atol=1e-8), name


def test_a_step_of_nothing_moves_nothing(quick):
    loop = quick(max_steps=3, log_interval=1)
    loop._update(loop.model, loop.dataset[0][0])  # momentum that could move on
    before = digest(loop.model.parameters())
    states = digest(v for s in loop.optimizer.state.values() for v in s.values())
    out = loop._update(loop.model, [None, None])
    assert digest(loop.model.parameters()) == before
    assert digest(v for s in loop.optimizer.state.values() for v in s.values()) == states
    assert out["norms"] == {"total": 0.0} and float(out["table"].sum()) == 0


def test_all_rows_left_out_does_not_stop_a_run(quick, caplog):
    class Nothing:
        def __getitem__(self, step):
            return [None], [f"row{step}: no such file"] * 30

    loop = quick(max_steps=3, log_interval=1, dataset=lambda *args: Nothing())
    with caplog.at_level(logging.INFO):
        loop.run()
    assert loop.journal.skipped == 90 and "90 rows left out" in caplog.text
    assert caplog.text.count("row left out:") == 20, "the log is not flooded"
    assert "only counted from here on" in caplog.text
    assert json.loads((loop.folder / ".finished").read_text())["left_out"] == 90


# ----- gradients that are not finite -----


def spoil(loop, bad_steps, value=math.nan):
    """Makes the loss of some steps NaN or infinite."""
    plain = loop.model.forward

    def forward(**batch):
        loss, stats, weight = plain(**batch)
        spoiled = loop.step in bad_steps and loop.model.training
        return loss * (value if spoiled else 1.0), stats, weight

    loop.model.forward = forward
    return loop


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bad_step_is_left_out(quick, caplog, value):
    loop = spoil(quick(max_steps=3, log_interval=1), {1}, value)
    seen, plain = [], loop._update

    def watched(*args):
        out = plain(*args)
        slots = [v for s in loop.optimizer.state.values() for v in s.values()]
        seen.append(digest([*loop.model.parameters(), *slots]))
        return out

    loop._update = watched
    with caplog.at_level(logging.WARNING):
        loop.run()
    assert seen[0] == seen[1] != seen[2]
    assert "step 2: gradient not finite, step skipped" in caplog.text
    assert loop.bad_steps == 0
    assert all(torch.isfinite(p).all() for p in loop.model.parameters())


def test_too_many_bad_steps_end_the_run(quick):
    loop = spoil(quick(max_steps=60, save_interval=3), set(range(5, 60)))
    with pytest.raises(RuntimeError, match=rf"not finite for {MAX_BAD_STEPS} steps in a row"):
        loop.run()
    assert loop.step == 5 + MAX_BAD_STEPS - 1
    # A new start goes on counting: a run that is killed and started again must not go on for ever.
    again = spoil(quick(max_steps=60, save_interval=3), set(range(5, 60)))
    again.resume(loop.folder / "checkpoint.pth")
    assert again.step == 12 and again.bad_steps == 7
    with pytest.raises(RuntimeError, match="lower the learning rates"):
        again.run()
    assert again.step == 5 + MAX_BAD_STEPS - 1


def test_bad_steps_count_in_a_row_only(quick):
    bad = {s for s in range(30) if s % 5}
    loop = spoil(quick(max_steps=25), bad)
    loop.run()
    assert loop.step == 25


# ----- files -----


def test_the_best_checkpoints(quick, monkeypatch):
    """By loss and by accuracy, each with the weights of its step."""
    scores = iter([(3.0, 0.1), (1.0, 0.3), (2.0, 0.5), (1.5, 0.5)])
    weights = []
    loop = quick(max_steps=4, valid_interval=1)

    def run(model):
        weights.append(digest(p for n, p in model.named_parameters() if n in loop.trained))
        loss, acc = next(scores)
        return {"loss": loss, "acc": acc}

    loop.validation.run = run
    loop.run()
    for key, step in (("loss", 2), ("acc", 3)):
        payload = torch.load(loop.folder / f"valid.{key}.best.pth", weights_only=True)
        assert payload["step"] == step, "the first of equals stays"
        assert digest(payload["model"][n] for n in loop.trained) == weights[step - 1]
        assert "optimizer" not in payload
    assert loop.journal.best == {"loss": 1.0, "acc": 0.5}
    latest = torch.load(loop.folder / "latest.pth", weights_only=True)
    assert latest["step"] == 4 and "optimizer" not in latest


def test_tensorboard_curves_and_images(config_values, manifests, tmp_path):
    values = config_values(train=manifests, valid=manifests, max_steps=2, batch_cost=5000)
    loop = make_loop(values, tmp_path)
    loop.journal.tensorboard = True
    loop.run()
    tags = {}
    for split in ("train", "valid"):
        events = EventAccumulator(str(tmp_path / "tensorboard" / split)).Reload()
        names = events.Tags()["scalars"]
        tags[split] = {name: [e.step for e in events.Scalars(name)] for name in names}
    kinds = ("", "/asr", "/asr.en", "/st", "/st.de", "/mt", "/mt.de")
    both = {f"{key}{kind}" for key in ("loss", "acc") for kind in kinds}
    train = {"grad_norm/encoder", "grad_norm/adapter", "grad_norm/llm", "grad_norm/total"}
    train |= {"lr/encoder", "lr/adapter", "lr/llm", "audio_seconds_per_second", "rows_left_out"}
    assert both | train <= tags["train"].keys()
    assert both | {"listen"} <= tags["valid"].keys()
    assert tags["train"]["loss"] == [1, 2] and tags["valid"]["loss"] == [2]
    images = tmp_path / "images"
    for name in ("loss.png", "acc.png", "listen.png"):
        assert (images / name).read_bytes().startswith(b"\x89PNG")
    assert json.loads((images / "curves.json").read_text()) == loop.journal.history
    assert [h["split"] for h in loop.journal.history] == ["train", "train", "valid"]
    assert json.loads((tmp_path / ".finished").read_text())["step"] == 2


def test_one_progress_line(quick, caplog):
    loop = quick(max_steps=2)
    with caplog.at_level(logging.INFO):
        loop.run()
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("step ")]
    pattern = (
        r"step (\d)/2  loss \d+\.\d{3}  acc \d+\.\d%  grad \d+\.\d{2}"
        r"  \d+ audio-s/s  \d+m\d\ds left"
    )
    assert [re.fullmatch(pattern, line)[1] for line in lines] == ["1", "2"]
    assert lines[-1].endswith("0m00s left")


def test_time_left_counts_from_this_start(tmp_path, caplog, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr("espnet_part.progress.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("espnet_part.progress.draw_curves", lambda *args: None)
    progress = Progress(tmp_path, 100, tensorboard=False, first_step=40)
    clock[0] += 20.0
    with caplog.at_level(logging.INFO):
        progress.train(50, {"loss": 1.0, "acc": 0.5, "grad_norm/total": 1.0}, 3.0)
    assert "1m40s left" in caplog.text  # 2 s a step, 50 to go


def test_the_speed_leaves_out_validation_and_saving(quick, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    loop = quick(max_steps=4, log_interval=2, valid_interval=1, save_interval=1)
    told = []
    monkeypatch.setattr(Progress, "train", lambda self, step, values, rate: told.append(rate))
    loop._update = lambda *args: (
        clock.__setitem__(0, clock[0] + 1.0),
        {"table": torch.zeros(4, 13, 3), "norms": {"total": 0.0}, "audio_sec": 30.0},
    )[1]
    loop._validate = lambda: clock.__setitem__(0, clock[0] + 500.0)
    loop.run()
    assert told == [pytest.approx(30.0), pytest.approx(30.0)]


def test_history_survives_a_restart(quick):
    whole = quick("whole", max_steps=6, log_interval=2)
    whole.run()
    first = quick("parts", max_steps=6, log_interval=2)
    first._update = stop_after(first, 3)
    with pytest.raises(loop_module.Stopped, match="stopped by SIGTERM at step 3, saved"):
        first.run()
    second = quick("parts", max_steps=6, log_interval=2)
    second.resume(first.folder / "checkpoint.pth")
    second.run()
    assert second.journal.history == whole.journal.history
    assert [h["step"] for h in second.journal.history] == [2, 4, 6]


def test_rows_left_out_are_counted_through_a_restart(quick):
    class OneShort:
        def __getitem__(self, step):
            return [None], [f"row{step}: no such file"]

    first = quick(max_steps=6, dataset=lambda *args: OneShort())
    first._update = stop_after(first, 4)
    with pytest.raises(loop_module.Stopped):
        first.run()
    second = quick(max_steps=6, dataset=lambda *args: OneShort())
    second.resume(first.folder / "checkpoint.pth")
    second.run()
    assert json.loads((second.folder / ".finished").read_text())["left_out"] == 6


def stop_after(loop, steps):
    plain = loop._update

    def update(*args):
        out = plain(*args)
        if loop.step + 1 == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return out

    return update


def test_the_signal_handler_is_handed_back(quick):
    before = signal.getsignal(signal.SIGTERM)
    loop = quick(max_steps=1)
    loop.run()
    assert signal.getsignal(signal.SIGTERM) is before
    bad = spoil(quick(max_steps=20), set(range(20)))
    with pytest.raises(RuntimeError):
        bad.run()
    assert signal.getsignal(signal.SIGTERM) is before


def test_resuming_another_policy_is_refused(quick):
    loop = quick(max_steps=1)
    loop.run()
    other = quick(max_steps=2, trainable={"adapter": "all"}, lr={"adapter": 1e-3})
    with pytest.raises(ValueError, match="was written while training other parameters"):
        other.resume(loop.folder / "checkpoint.pth")


def test_dropout_is_seeded_by_step(quick):
    """Two runs draw alike, two steps do not; nothing depends on what else was drawn."""
    first = quick(dropout=True, model={"adapter": {"dropout": 0.5}})
    again = quick(dropout=True, model={"adapter": {"dropout": 0.5}})
    torch.manual_seed(123)
    a, _ = gradients_of(first)
    torch.rand(7)
    b, _ = gradients_of(again)
    assert all(torch.equal(a[name], b[name]) for name in a)
    again.step = 1
    c, _ = gradients_of(again)
    assert not all(torch.equal(a[name], c[name]) for name in a)
