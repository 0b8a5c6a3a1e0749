"""What a person sees of a run."""

import json
import logging
import math
import os
import sys
import time
import types

import pytest
import torch

from espnet_part.meter import Meter
from espnet_part.parallel import Processes
from espnet_part.progress import Progress, by_task, draw_curves, duration, log_table
from espnet_part.prompt import LANGUAGES, TASKS


def test_duration():
    seconds = (0, 59.9, 60, 3599, 3600, 3725, 360000)
    expected = ("0m00s", "0m59s", "1m00s", "59m59s", "1h00m", "1h02m", "100h00m")
    assert tuple(duration(s) for s in seconds) == expected


def table_of(**sums):
    """Sums by ``task_language``."""
    table = torch.zeros(len(TASKS), len(LANGUAGES), 3, dtype=torch.float64)
    for name, values in sums.items():
        task, language = name.split("_")
        table[TASKS.index(task), list(LANGUAGES).index(language)] = torch.tensor(values).double()
    return table


def test_means_by_task_and_language():
    values = by_task(table_of(asr_en=[10.0, 5, 10], st_de=[30.0, 3, 10], st_zh=[0.0, 10, 10]))
    assert values == {
        "loss": pytest.approx(40 / 30),
        "acc": pytest.approx(18 / 30),
        "loss/asr": 1.0,
        "acc/asr": 0.5,
        "loss/asr.en": 1.0,
        "acc/asr.en": 0.5,
        "loss/st": 1.5,
        "acc/st": 0.65,
        "loss/st.zh": 0.0,
        "acc/st.zh": 1.0,
        "loss/st.de": 3.0,
        "acc/st.de": 0.3,
    }
    assert by_task(table_of()) == {}


def test_transport_is_a_mean_over_aligned_rows(tmp_path, caplog):
    """Whatever the number of their tokens; rows that are not aligned do not count."""
    table = torch.nn.functional.pad(table_of(asr_en=[10.0, 5, 10], st_de=[30.0, 3, 10]), (0, 2))
    assert "transport" not in by_task(table)
    table[TASKS.index("asr"), list(LANGUAGES).index("en"), 3:] = torch.tensor([4.5, 3.0])
    table[TASKS.index("st"), list(LANGUAGES).index("de"), 3:] = torch.tensor([0.5, 1.0])
    values = by_task(table)
    found = [values[f"transport{cell}"] for cell in ("", "/asr", "/st.de")]
    assert found == [1.25, 1.5, 0.5]
    progress = Progress(tmp_path, 10, tensorboard=False)
    with caplog.at_level(logging.INFO):
        progress.valid(4, values, {"loss": 1.25})
        progress.train(4, {**values, "grad_norm/total": 0.0}, 0.0)
    assert all("  transport 1.250" in line for line in caplog.messages)
    draw_curves([{"step": 1, "split": "valid", **values}], tmp_path / "images")
    assert (tmp_path / "images" / "transport.png").exists()


def test_tables_are_aligned(caplog):
    rows = [{"part": "encoder", "n": 12000, "lr": 1e-5}, {"part": "llm", "n": 7, "lr": None}]
    with caplog.at_level(logging.INFO):
        log_table("what trains", rows, {"part": "", "n": ",d", "lr": ".1e"})
    title, *lines = caplog.messages[0].split("\n")
    assert title == "what trains"
    assert [line.split() for line in lines] == [
        ["part", "n", "lr"],
        ["encoder", "12,000", "1.0e-05"],
        ["llm", "7", "-"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_lines_of_a_validation(tmp_path, caplog, monkeypatch):
    progress = Progress(tmp_path, 10, tensorboard=False)
    with caplog.at_level(logging.INFO):
        progress.valid(4, {"loss": 1.5, "acc": 0.25, "listen": 0.5}, {"loss": 1.25})
        progress.valid(5, {"loss": 1.5, "acc": 0.25}, {"loss": 1.25})
        progress.train(6, {"grad_norm/total": 0.0}, 0.0)
    assert caplog.messages[0].startswith("step 4/10  dev loss 1.500 (best 1.250)  dev acc 25.0%")
    assert "+0.500 with the wrong audio" in caplog.messages[0]
    assert "listens" not in caplog.messages[1]
    assert not any("transport" in line for line in caplog.messages)
    assert "loss nan" in caplog.messages[2], "an interval of unreadable rows has no loss"


def test_wandb_by_option(tmp_path, monkeypatch):
    logged = []
    run = types.SimpleNamespace(
        log=lambda values, step: logged.append((step, values)), finish=lambda: logged.append("end")
    )
    fake = types.SimpleNamespace(init=lambda **kwargs: logged.append(kwargs["project"]) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    progress = Progress(tmp_path / "part" / "phase1", 10, False, "ours")
    progress.train(1, {"loss": 1.0, "acc": 0.5, "grad_norm/total": 2.0}, 7.0)
    progress.close([])
    assert logged[0] == "ours" and logged[-1] == "end"
    assert logged[1][1]["train/audio_seconds_per_second"] == 7.0
    assert logged[1][1]["train/loss"] == 1.0


def test_restarted_in_the_same_second(tmp_path, monkeypatch):
    """Event files are read in the order of their names, where process 10 comes before process 9."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    while time.time() % 1 > 0.5:
        time.sleep(0.02)
    for pid, first_step in ((9, 0), (10, 1)):
        monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)
        progress = Progress(tmp_path, 3, first_step=first_step)
        if pid == 10:
            progress.valid(2, {"loss": 1.0, "acc": 0.5}, {"loss": 1.0})
        progress.close([])
    events = EventAccumulator(str(tmp_path / "tensorboard" / "valid")).Reload()
    assert [e.step for e in events.Scalars("loss")] == [2]


def test_curves_of_what_there_is(tmp_path):
    history = [
        {"step": 1, "split": "train", "loss": 2.0, "acc": 0.1},
        {"step": 2, "split": "train"},  # nothing could be read
        {"step": 2, "split": "valid", "loss": math.nan, "acc": 0.2},
    ]
    draw_curves(history, tmp_path / "images")
    assert (tmp_path / "images" / "loss.png").stat().st_size > 1000
    assert (tmp_path / "images" / "acc.png").exists()
    assert not (tmp_path / "images" / "listen.png").exists()
    assert not (tmp_path / "images" / "transport.png").exists()
    assert len(json.loads((tmp_path / "images" / "curves.json").read_text())) == 3
    draw_curves([], tmp_path / "none")
    assert not list((tmp_path / "none").glob("*.png"))


def test_a_meter_goes_on_where_it_was(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("espnet_part.meter.time.perf_counter", lambda: clock[0])
    meter, one = Meter(), Processes()
    meter.add(table_of(asr_en=[1.0, 1, 2]), {"total": 3.0}, 10.0)
    clock[0] = 4.0
    meter.add(table_of(asr_en=[2.0, 0, 1]), {"total": 5.0}, 10.0)
    clock[0] = 10.0
    meter.pause(6.0)
    assert meter.rate() == pytest.approx(5.0)
    again = Meter()
    again.load(meter.state(one), one)
    again.add(table_of(asr_en=[1.0, 1, 1]), {"total": 1.0}, 1.0)
    assert by_task(again.table)["loss"] == 1.0 and again.norms == {"total": 1.0}
    second = Meter()
    second.load(meter.state(one), Processes(1, 2))
    assert float(second.table.sum()) == 0, "the first process holds the sums of all"
