"""Killed at any moment and started again: the same bits as an undisturbed run."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import FORK, fork_all

from espnet_part import checkpoint, journal, layer_choice, loop, progress
from espnet_part.bin import train

STEPS = 8
FILES = ("checkpoint.pth", "latest.pth", "valid.loss.best.pth", "valid.acc.best.pth")


@pytest.fixture(scope="module")
def config_file(config_values, manifests, tmp_path_factory):
    """A phase with everything that draws random numbers; saves, logs and validates out of step."""
    values = config_values(
        train=manifests,
        valid=manifests,
        trainable={"encoder": "last:3", "adapter": "all", "llm": "lora"},
        llm_tasks=["st", "mt"],
        model={
            "adapter": {"dropout": 0.2},
            "llm": {"lora": {"r": 4, "alpha": 8, "dropout": 0.2}},
        },
        max_steps=STEPS,
        micro_cost=150,
        save_interval=2,
        log_interval=3,
        valid_interval=3,
        source_dropout=0.5,
        speed_perturb=[0.9, 1.0, 1.1],
        spec_augment={"time_masks": 2, "time_width": 0.2, "freq_masks": 2, "freq_width": 0.2},
        listen_rows=8,
    )
    path = tmp_path_factory.mktemp("resume") / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def command(config_file):
    """``command(folder, workers)``: the arguments of bin.train."""

    def make(folder, workers=0):
        return [
            f"--config={config_file}",
            f"--output_dir={folder}",
            f"--num_workers={workers}",
            "--log_level=WARNING",
        ]

    return make


@pytest.fixture(scope="module")
def undisturbed(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert fork_all([lambda: train.main(command(folder))], 60) == [0]
    return folder


class Hazard:
    """Calls `event(name)` at every place where a run may be hit."""

    def __init__(self, event):
        self.event = event
        for owner, name in (
            (loop.Loop, "_update"),
            (loop.Loop, "_validate"),
            (journal.Journal, "train"),
            (loop.Loop, "save"),
            (journal.Journal, "finish"),
            (torch.optim.AdamW, "step"),
            (checkpoint.os, "fsync"),
            (progress, "draw_curves"),
        ):
            self.around(owner, name)
        # What is about to be replaced, and half a file.
        replace, write = os.replace, torch.save

        def hit_replace(source, target):
            self.event(f"before {os.path.basename(target)}")
            replace(source, target)
            self.event(f"after {os.path.basename(target)}")

        def half_write(payload, file):
            write(payload, file)
            whole = file.tell()
            file.truncate(whole // 2)
            file.flush()
            self.event(f"within {os.path.basename(file.name).split('.pth')[0][1:]}.pth")
            file.seek(0)
            file.truncate()
            write(payload, file)

        checkpoint.os.replace, checkpoint.torch.save = hit_replace, half_write

    def around(self, owner, name):
        plain = getattr(owner, name)

        def hit(*args, **kwargs):
            self.event(name)
            return plain(*args, **kwargs)

        setattr(owner, name, hit)


def run_until(command, folder, workers, hit) -> int:
    """A process that goes through `hit(name)` at every event; its exit code."""

    def run():
        Hazard(hit)
        train.main(command(folder, workers))

    (code,) = fork_all([run], 60)
    return code


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def assert_same(folder, expected):
    for name in FILES:
        a, b = (torch.load(path / name, weights_only=True) for path in (folder, expected))
        assert_equal(a, b, name)
    assert_equal(*((path / "images" / "curves.json").read_text() for path in (folder, expected)))
    assert json.loads((folder / ".finished").read_text())["step"] == STEPS
    assert not list(folder.glob(".*.tmp")), "a killed run's half-written files stayed"
    assert curves(folder) == curves(expected)


def assert_equal(a, b, where=""):
    """Equal to the bit, at any depth."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all()), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


def curves(folder):
    """What TensorBoard shows, but for the speed."""
    out = {}
    for split in ("train", "valid"):
        events = EventAccumulator(str(folder / "tensorboard" / split)).Reload()
        for tag in events.Tags()["scalars"]:
            if tag != "audio_seconds_per_second":
                out[split, tag] = [(e.step, e.value) for e in events.Scalars(tag)]
    return out


def test_an_undisturbed_run_repeats_itself(command, undisturbed, tmp_path):
    """With two workers: their number changes nothing. And the run must have learned something."""
    assert fork_all([lambda: train.main(command(tmp_path, 2))], 60) == [0]
    assert_same(tmp_path, undisturbed)
    history = torch.load(tmp_path / "checkpoint.pth")["history"]
    assert [(h["step"], h["split"]) for h in history] == [
        (3, "train"),
        (3, "valid"),
        (6, "train"),
        (6, "valid"),
        (8, "train"),
        (8, "valid"),
    ]
    assert len({h["loss"] for h in history}) == 6


def test_killed_at_the_worst_moments(command, undisturbed, tmp_path):
    moments = [
        ("within latest.pth", 1),
        ("before checkpoint.pth", 1),  # latest.pth is new, checkpoint.pth is not there
        ("within checkpoint.pth", 1),
        ("after checkpoint.pth", 1),  # step 2 is saved from here on
        ("within valid.loss.best.pth", 1),  # step 3
        ("before valid.acc.best.pth", 1),
        ("before latest.pth", 1),
        ("step", 2),
        ("within checkpoint.pth", 2),  # step 4 is saved, step 6 is not
        ("before latest.pth", 2),  # step 6 is saved, step 8 is not
        ("before checkpoint.pth", 1),  # the last one: latest.pth is new, checkpoint.pth old
        ("finish", 1),
    ]
    for name, times in moments:
        seen = []

        def hit(event, name=name, times=times, seen=seen):
            seen.append(event)
            if seen.count(name) == times:
                die()

        assert run_until(command, tmp_path, 0, hit) == -signal.SIGKILL, (name, times)
        assert not (tmp_path / ".finished").exists()
        assert bool(list(tmp_path.glob(".*.tmp"))) == name.startswith(("within", "before"))
    assert run_until(command, tmp_path, 0, lambda event: None) == 0
    assert_same(tmp_path, undisturbed)


@pytest.mark.parametrize(("seed", "workers"), [(0, 0), (1, 2)])
def test_killed_at_random(command, undisturbed, tmp_path, seed, workers):
    rng = np.random.default_rng(seed)
    kills, code = 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        left = [int(rng.integers(12, 45)) if kills < 8 else 10**9]

        def hit(event, left=left):
            left[0] -= 1
            if left[0] == 0:
                die()

        code = run_until(command, tmp_path, workers, hit)
        kills += code != 0
    assert code == 0 and kills >= 2, (code, kills)
    assert_same(tmp_path, undisturbed)


@pytest.mark.parametrize("step", [1, 6, 7])
def test_sigterm_saves_and_exits(command, undisturbed, tmp_path, step):
    """Before the first log, on a step that logs, validates and saves anyway, and between them."""
    seen = []

    def hit(event):
        seen.append(event)
        if event == "step" and seen.count("step") == step:
            os.kill(os.getpid(), signal.SIGTERM)

    assert run_until(command, tmp_path, 0, hit) == 143
    assert torch.load(tmp_path / "checkpoint.pth")["step"] == step
    assert torch.load(tmp_path / "latest.pth")["step"] == step
    assert not (tmp_path / ".finished").exists()
    assert (tmp_path / "images" / "curves.json").exists()
    assert run_until(command, tmp_path, 0, lambda event: None) == 0
    assert_same(tmp_path, undisturbed)


def test_sigterm_in_the_last_step_finishes(command, undisturbed, tmp_path):
    seen = []

    def hit(event):
        seen.append(event)
        if event == "step" and seen.count("step") == STEPS:
            os.kill(os.getpid(), signal.SIGTERM)

    assert run_until(command, tmp_path, 0, hit) == 0
    assert_same(tmp_path, undisturbed)


def test_sigterm_to_a_whole_job(command, undisturbed, tmp_path):
    """As Slurm sends it: to the training process and to its loader processes."""
    slow = (
        "import time, sys; from espnet_part import loop; update = loop.Loop._update\n"
        "def slowly(self, *a):\n"
        "    time.sleep(0.3); print('at', self.step, file=sys.stderr, flush=True)\n"
        "    return update(self, *a)\n"
        "loop.Loop._update = slowly\n"
        "from espnet_part.bin.train import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", slow, *command(tmp_path, 2)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("at 4"):
                os.killpg(process.pid, signal.SIGTERM)
        code = process.wait(60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert code == 143, "".join(lines[-20:])
    assert torch.load(tmp_path / "checkpoint.pth")["step"] == 5
    assert run_until(command, tmp_path, 0, lambda event: None) == 0
    assert_same(tmp_path, undisturbed)


def test_adaptive_alignment_goes_on_with_its_layers(config_file, tmp_path, monkeypatch):
    """Killed between two choices of the layers, and where one is due."""
    values = yaml.safe_load(config_file.read_text())
    options = {"layers": "adaptive", "adapt_interval": 3, "weight": 1.0, "adapt_rows": 6}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**values, "alignment": options}))

    def command(folder, workers=0):
        return [f"--config={path}", f"--output_dir={folder}", "--num_workers=0"]

    # A choice that hangs on every bit of the scores, and is never what a fresh model has.
    monkeypatch.setattr(
        layer_choice, "propose_layers", lambda scores, most: [0, 1 + int(sum(scores) * 1e9) % 2]
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run_until(command, whole, 0, lambda event: None) == 0
    found = torch.load(whole / "checkpoint.pth", weights_only=True)
    assert found["alignment_layers"] in ([0, 1], [0, 2])
    assert all(h["transport"] > 0 for h in found["history"])
    assert (whole / "images" / "transport.png").exists()
    # Steps 2, 4 and 6 are saved, layers chosen at 0, 3 and 6: goes on at 0, 2, 4 and 6.
    for step in (1, 4, 4, 3):
        seen = []

        def hit(event, step=step, seen=seen):
            seen.append(event)
            if event == "step" and seen.count("step") == step:
                die()

        assert run_until(command, killed, 0, hit) == -signal.SIGKILL
    assert torch.load(killed / "checkpoint.pth")["step"] == 6
    assert run_until(command, killed, 0, lambda event: None) == 0
    assert_same(killed, whole)


def test_resuming_a_finished_run_changes_nothing(command, undisturbed, tmp_path):
    import shutil

    shutil.copytree(undisturbed, tmp_path / "copy")
    assert run_until(command, tmp_path / "copy", 0, lambda event: None) == 0
    assert_same(tmp_path / "copy", undisturbed)


def test_workers_end_with_a_killed_run(command, tmp_path):
    """Loader processes must not stay behind when their run is killed."""
    group = FORK.Value("i", 0)

    def run():
        os.setsid()
        group.value = os.getpid()
        Hazard(lambda event: die() if event == "step" else None)
        train.main(command(tmp_path, 2))

    assert fork_all([run], 60) == [-signal.SIGKILL]
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            os.killpg(group.value, 0)
        except ProcessLookupError:
            break
        time.sleep(0.2)
    else:
        os.killpg(group.value, signal.SIGKILL)
        pytest.fail("loader processes are still there 20 s after their run was killed")
