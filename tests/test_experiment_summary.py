"""The page that holds all experiments of a call: which rows it has, and what the picture shows."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "local"))

from experiment_results import Difference, Results  # noqa: E402
from experiment_scores import Estimate  # noqa: E402
from experiment_summary import draw_summary, words, write_summary  # noqa: E402


def estimate(value):
    return Estimate(value, (value - 1, value + 1), (value - 0.5, value + 0.5))


@pytest.fixture
def results():
    both = {"error": estimate(20.0), "bleu": estimate(60.0)}
    exposure = {"asr": [0.5, 100.0], "st": [1.0, 200.0]}
    first = Results(
        ["error", "bleu"],
        {"base": both, "part": both, "part@none": both},
        [
            Difference("part", "base", "error", estimate(-4.0), "shown"),
            Difference("part", "base", "bleu", estimate(-3.0), "opposite"),
        ],
        {"floor": {"error": 60.0, "bleu": 10.0}},
        {"base": exposure, "part": exposure | {"mt": [0.0, 50.0]}},
        2,
    )
    second = Results(
        ["bleu_ill"],
        {"part": {"bleu_ill": estimate(50.0)}},
        [Difference("part", "other", "bleu_ill", estimate(0.5), "not shown")],
        {},
        {"part": exposure | {"mt": [0.0, 50.0]}},
        2,
    )
    return {"fig": first, "text": second}


@pytest.fixture
def run(tmp_path):
    scale = SimpleNamespace(corpora="toy", model="toy", seeds=[0, 1])
    return SimpleNamespace(out=tmp_path, scale_name="smoke", scale=scale)


def test_every_system_once_and_every_claim(run, results):
    lines = [line.split("|") for line in words(run, results).splitlines() if line[:1] == "|"]
    cells = [[cell.strip() for cell in line[1:-1]] for line in lines]
    of = {line[0]: line[1:] for line in cells[:6]}
    assert list(of["system"])[2:] == ["asr: audio, s", "asr: tokens", "st: audio, s", "st: tokens",
                                     "mt: tokens"]  # fmt: skip
    assert of["part"] == ["20.00 [19.00, 21.00]", "60.00 [59.00, 61.00]", "1,800", "100", "3,600",
                          "200", "50"]  # fmt: skip
    assert of["part@none"][2:] == [""] * 5 and of["base"][6] == "0"
    assert of["floor: another sentence"][:2] == ["60.00", "10.00"]
    assert [line[0] for line in cells[8:]] == ["fig", "fig", "text"]
    assert cells[8][1:] == ["part - base", "error %", "-4.00 [-5.00, -3.00]", "-4.5 -3.5", "shown"]
    assert cells[10][2] == "BLEU, ill-resourced" and cells[10][-1] == "not shown"


def test_the_picture_has_each_difference_where_it_is(results):
    error, bleu = draw_summary("smoke", results).axes
    assert [label.get_text() for label in error.get_yticklabels()] == ["fig: part $-$ base"]
    assert [label.get_text() for label in bleu.get_yticklabels()] == [
        "text: part $-$ other (ill-resourced)", "fig: part $-$ base",
    ]  # fmt: skip
    interval, point = error.get_lines()[:2]
    assert list(interval.get_xdata()) == [-5, -3] and list(point.get_xdata()) == [-4]
    text, fig = (line for line in bleu.get_lines()[:4] if len(line.get_xdata()) == 1)
    assert text.get_markerfacecolor() == "white" and fig.get_marker() == "D"


def test_files(run, results):
    assert write_summary(run, results).name == "summary.md"
    assert {p.name for p in run.out.iterdir()} == {"summary.md", "summary.png", "summary.svg"}
