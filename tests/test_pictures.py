"""Pictures of an experiment: what is drawn is what the files say; empty and partial input."""

import json
import math
import re
from pathlib import Path

import pytest
import yaml

from espnet_part.bin import config as config_command
from espnet_part.pictures import curriculum_settings, draw_curriculum, families, short_names
from espnet_part.pictures_curves import draw_curves
from espnet_part.pictures_phases import draw_phases
from espnet_part.pictures_scores import MOST_ERRORS, draw_scores
from espnet_part.pictures_style import BLUE, FROZEN, phase_colors, save
from espnet_part.results import KEYS, load_rows, save_rows

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
PHASES = ["1", "2a", "2b", "3"]
LANGUAGES = "zh en ja ko yue de fr ru es it".split()
DIRECTIONS = [("en", tgt) for tgt in "zh ja de fr ru es sv id ar".split()]
DIRECTIONS += [(src, "en") for src in "zh ja de fr".split()]
DECODE = "decode_greedy_latest"


def history(steps, listen=True):
    """A point of training at each step, a validation at the last one."""
    points = [
        {"step": s, "split": "train", "loss": 2 / s, "acc": s / 100} for s in range(1, steps + 1)
    ]
    points.append({"step": steps, "split": "valid", "loss": 0.7, "acc": 0.5})
    if listen:
        points[-1]["listen"] = 1.25
    return points


def row(curriculum, phase, test_set, metric, value, ci95=None, **more):
    task, src, *tgt = test_set.split("_")[2:]
    decode = None if phase is None else DECODE
    own = {"curriculum": curriculum, "phase": phase, "decode": decode, "test_set": test_set}
    own |= {"task": task, "src": src, "tgt": (tgt or [src])[0], "metric": metric, "value": value}
    return {**dict.fromkeys(KEYS), **own, "ci95": ci95, **more}


def made_rows(languages=LANGUAGES, directions=DIRECTIONS, phases=PHASES, family="mini_test"):
    """Rows of a curriculum `part` and references; every value is another one."""
    rows = []
    for i, phase in enumerate(phases):
        for j, lang in enumerate(languages):
            value = 50 - 10 * i + j / 4
            rows.append(row("part", phase, f"{family}_asr_{lang}", "wer", value, [value - 1, 60]))
        for j, (src, tgt) in enumerate(directions):
            name = f"{family}_st_{src}_{tgt}"
            rows.append(row("part", phase, name, "bleu", 20 * i + j / 4, [0, 20 * i + j / 4 + 2]))
            rows.append(row("part", phase, name, "chrf", 99))
    for j, lang in enumerate(languages):
        rows.append(row("floor", None, f"{family}_asr_{lang}", "wer", 90 + j))
        rows.append(row("encoder_ctc", None, f"{family}_asr_{lang}", "wer", 15 + j))
    for j, (src, tgt) in enumerate(directions):
        rows.append(row("llm_text", None, f"{family}_st_{src}_{tgt}", "bleu", 80 + j))
        rows.append(row("cascade", None, f"{family}_st_{src}_{tgt}", "bleu", 50 + j))
    return rows


def bars(axes):
    return {
        (container.get_label(), round(bar.get_x() + bar.get_width() / 2)): bar.get_height()
        for container in axes.containers
        for bar in container
    }


def texts(figure):
    import matplotlib.text

    return [t.get_text() for t in figure.findobj(matplotlib.text.Text) if t.get_text()]


def ticks(axes):
    return [label.get_text() for label in axes.get_xticklabels()]


def test_curves_hold_the_numbers_of_all_phases():
    lengths = dict(zip(PHASES, (40, 20, 30, 50), strict=True))
    curves = {phase: history(steps) for phase, steps in lengths.items()}
    figure = draw_curves(curves, "mini: part")
    assert len(figure.axes) == 3
    start, drawn = 0, {axes: list(axes.lines) for axes in figure.axes}
    for points in curves.values():
        for axes, key in zip(figure.axes, ("loss", "acc", "listen"), strict=True):
            for split, name in (("train", "train"), ("valid", "dev")):
                own = [p for p in points if p["split"] == split and key in p]
                if own:
                    line = next(li for li in drawn[axes] if li.get_label() == name)
                    drawn[axes].remove(line)
                    assert list(line.get_xdata()) == [start + p["step"] for p in own]
                    assert list(line.get_ydata()) == [p[key] for p in own]
        start += max(p["step"] for p in points)
    borders = {line.get_xdata()[0] for line in drawn[figure.axes[0]]}
    assert borders == {40, 60, 90} and figure.axes[0].get_xlim() == (0, 140)
    assert {"phase 1", "phase 2a", "phase 2b", "phase 3", "train", "dev"} <= set(texts(figure))


def test_curves_of_partial_histories():
    points = history(10, listen=False)
    points[0]["loss"] = math.nan  # an interval whose rows were all left out
    figure = draw_curves({"1": points})
    assert len(figure.axes) == 2
    assert list(figure.axes[0].lines[0].get_xdata()) == list(range(2, 11))
    lone = draw_curves({"1": [{"step": 4, "split": "train", "loss": 0.0, "acc": 1.0}]})
    assert [list(axes.lines[0].get_ydata()) for axes in lone.axes] == [[0.0], [1.0]]
    assert draw_curves({"1": [{"step": 4, "split": "train", "loss": math.nan}]}).axes


def test_bars_marks_and_intervals_are_the_rows():
    rows = made_rows()
    figure = draw_scores(rows, "part", DECODE, PHASES)
    asr, st = figure.axes
    assert [label.split("\n")[0] for label in ticks(asr)] == LANGUAGES
    assert set(ticks(st)) == {f"{src}→{tgt}" for src, tgt in DIRECTIONS}
    for axes, metric in ((asr, "wer"), (st, "bleu")):
        labels = [label.split("\n")[0] for label in ticks(axes)]
        own = [r for r in rows if r["metric"] == metric]
        names = [r["src"] if metric == "wer" else f"{r['src']}→{r['tgt']}" for r in own]
        expected, intervals, marks = {}, [], []
        for r, name in zip(own, names, strict=True):
            if r["phase"]:
                expected[f"phase {r['phase']}", labels.index(name)] = r["value"]
                intervals.append(tuple(r["ci95"]))
            else:
                marks.append((r["curriculum"], labels.index(name), r["value"]))
        assert bars(axes) == expected
        drawn = [tuple(c.get_segments()[0][:, 1]) for c in axes.collections]
        assert sorted(drawn) == sorted(intervals)
        lines = [(li.get_label(), sum(li.get_xdata()) / 2, li.get_ydata()[0]) for li in axes.lines]
        assert sorted(lines) == [(n, pytest.approx(x), y) for n, x, y in sorted(marks)]
        last = [f"{r['value']:.1f}" for r in own if r["phase"] == "3"]
        assert sorted(t.get_text() for t in axes.texts) == sorted(last)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [*(f"phase {p}" for p in PHASES), "floor", "encoder_ctc", "cascade"] + [
        "llm_text",
        "95 % interval",
    ]


def test_texts_of_large_and_small_figures_do_not_meet():
    for sizes in ((LANGUAGES, DIRECTIONS, PHASES), (["en"], [], ["1", "3"])):
        figure = draw_scores(made_rows(*sizes), "part", DECODE, PHASES)
        figure.canvas.draw()
        width, height = figure.canvas.get_width_height()
        for axes in figure.axes:
            boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
            assert all(a.x1 < b.x0 for a, b in zip(boxes, boxes[1:], strict=False))
        box = figure.legends[0].get_window_extent()
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0


def test_one_language_two_phases_seeds_and_missing_scores():
    rows = made_rows(["en", "de"], [], ["1", "3"])
    rows = [r for r in rows if (r["phase"], r["src"]) != ("1", "de")]
    rows.append(row("part", "3", "mini_test_asr_en", "wer", 60, [50, 70], seed=1))
    rows.append(row("other", "3", "mini_test_asr_en", "wer", 1))
    [axes] = draw_scores(rows, "part", DECODE, PHASES).axes
    assert bars(axes) == {("phase 1", 0): 50, ("phase 3", 0): 50, ("phase 3", 1): 40.25}
    assert len(axes.collections) == 2  # none over the mean of two seeds
    assert draw_scores(rows, "part", "decode_other", PHASES) is None
    assert draw_scores([], "part", DECODE, PHASES) is None


def test_a_looping_phase_does_not_flatten_the_others():
    rows = [row("part", "1", "mini_test_asr_en", "wer", 812.0)]
    rows.append(row("part", "3", "mini_test_asr_en", "wer", 5.0))
    [axes] = draw_scores(rows, "part", DECODE, PHASES).axes
    assert axes.get_ylim()[1] < 1.2 * MOST_ERRORS
    assert bars(axes)["phase 1", 0] == 812
    assert {t.get_text() for t in axes.texts} == {"812", "5.0"}


def test_families_of_test_sets():
    rows = made_rows(["en"], [("en", "de")], ["1"]) + made_rows(["en"], [], ["1"], "mini_testvoice")
    assert list(families(rows)) == ["mini_test", "mini_testvoice"]
    assert short_names(["mini_test", "mini_testvoice"]) == {
        "mini_test": "test",
        "mini_testvoice": "testvoice",
    }
    assert short_names(["mini_test"]) == {"mini_test": "test"}
    assert short_names(["a_test", "b_test"]) == {"a_test": "a_test", "b_test": "b_test"}
    own = {**row("part", "1", "mini_test_asr_en", "wer", 1), "test_set": "mine"}
    assert list(families([own])) == [""]
    [axes] = draw_scores([own], "part", DECODE, PHASES).axes
    assert ticks(axes) == ["en\nWER"]


def blocks(figure):
    """Colours of all blocks, by rows of the diagram, from left to right."""
    from matplotlib.colors import to_hex
    from matplotlib.patches import Rectangle

    rows = {}
    for patch in figure.axes[0].patches:
        if isinstance(patch, Rectangle) and patch.get_height() > 0.4:
            rows.setdefault(patch.get_y(), []).append(
                (patch.get_x(), to_hex(patch.get_facecolor()))
            )
    return [[color for _, color in sorted(row)] for _, row in sorted(rows.items())]


def test_diagram_of_the_method():
    figure = draw_phases(curriculum_settings(CONF, "part_2b", "part"))
    encoder, adapter, llm = blocks(figure)
    assert encoder == [FROZEN] * 9 + [FROZEN] * 6 + [BLUE] * 3 + [BLUE] * 18
    assert adapter == [BLUE] * 12
    assert llm == [FROZEN] * 27 + [BLUE] * 9
    found = texts(figure)
    for text in ("phase 1", "phase 2a", "phase 2b", "phase 3", "encoder", "adapter", "LLM", "data"):
        assert found.count(text) == 1
    assert [found.count(text) for text in ("asr", "st", "mt", "last 8 layers train")] == [
        4,
        1,
        1,
        1,
    ]
    assert found.count("within each language") == found.count("across languages") == 1


def test_every_curriculum_has_its_own_diagram():
    seen = {}
    for path in sorted((CONF / "curriculum").glob("*.yaml")):
        found = texts(draw_phases(curriculum_settings(CONF, "part_2b", path.stem)))
        phases = yaml.safe_load(path.read_text())["phases"]
        assert [text[6:] for text in found if text.startswith("phase ")] == phases
        seen[path.stem] = found
    assert "trains on st, mt" in seen["part_task_activation"]
    assert "text alone" in seen["part_text_first"] and "text alone" not in seen["part"]
    assert "within each language" not in seen["two_stage"]
    assert "mt" not in seen["part_no_text"]
    lora = texts(draw_phases(curriculum_settings(CONF, "part_2b_lora", "part")))
    assert "LoRA trains" in lora
    some = {"phase": "x", "trainable": {"llm": ["layers.0.*"]}, "tasks": ["instruct"]}
    assert "chosen tensors" in texts(draw_phases([some]))
    with pytest.raises(ValueError, match="settings of phase 1: no trainable, tasks"):
        draw_phases([{"phase": "1"}])


def content(svg):
    """Texts and fills of an SVG; outlines and places differ with matplotlib's version."""
    return re.findall(r"<!-- (.*) -->", svg), re.findall(r"fill: (#\w+)", svg)


def test_the_committed_diagram_is_what_is_drawn(tmp_path, capsys):
    committed = (ROOT / "docs/images/phases.svg").read_text(encoding="utf-8")
    assert len(committed) < 100_000
    drawn = []
    for name in ("a.svg", "b.svg"):
        words = ["--conf_dir", str(CONF), "--curriculum", "part", "--out", str(tmp_path / name)]
        config_command.main(["draw", *words])
        assert capsys.readouterr().out == f"{tmp_path / name}\n"
        drawn.append((tmp_path / name).read_text(encoding="utf-8"))
    assert drawn[0] == drawn[1]
    assert content(drawn[0]) == content(committed)
    assert content(committed)[0].count("asr") == 4
    with pytest.raises(ValueError, match="expected .png or .svg"):
        save(draw_phases(curriculum_settings(CONF, "part_2b", "finetune")), tmp_path / "a.jpg")


def test_phases_keep_their_colours():
    assert phase_colors(["1", "3"])["3"] == phase_colors(PHASES)["3"] == BLUE
    colors = phase_colors([*PHASES, "x", "y"])
    assert len({colors[p] for p in [*PHASES, "x", "y"]}) == 6


@pytest.fixture
def experiment(tmp_path):
    """Phases 1 and 3 with config and curves; two families of test sets."""
    exp = tmp_path / "exp" / "mini"
    init = None
    for phase, steps in (("1", 4), ("3", 6)):
        folder = exp / "part" / f"phase{phase}"
        (folder / "images").mkdir(parents=True)
        (folder / "images" / "curves.json").write_text(json.dumps(history(steps)))
        values = {"trainable": {"adapter": "all"}, "tasks": ["asr"], "init": init}
        (folder / "config.yaml").write_text(yaml.safe_dump({"phase": phase, **values}))
        init = f"exp/mini/part/phase{phase}/latest.pth"
    rows = made_rows(["en"], [("en", "de")], ["1", "3"])
    save_rows(exp / "results.json", rows + made_rows(["en"], [], ["3"], "mini_testvoice"))
    return exp


def test_pictures_of_an_experiment(experiment):
    folder = experiment / "part"
    (folder / "images").mkdir()
    (folder / "images" / "scores_old.png").write_bytes(b"")
    line = draw_curriculum(folder, load_rows(experiment / "results.json"))
    names = ["phases.png", "curves.png", "scores.png", "scores_testvoice.png"]
    assert line == f"Pictures: {folder / 'images'}: {' '.join(names)}"
    assert sorted(p.name for p in (folder / "images").iterdir()) == sorted(names)


def test_what_cannot_be_drawn_is_left_out_and_said(experiment, tmp_path):
    folder = experiment / "part"
    rows = load_rows(experiment / "results.json")
    (folder / "phase1/images/curves.json").write_text("{")
    line = draw_curriculum(folder, rows)
    assert "curves.png left out" in line and "phase1/images/curves.json: expected" in line
    for phase in ("1", "3"):
        (folder / f"phase{phase}/images/curves.json").unlink()
        (folder / f"phase{phase}/config.yaml").unlink()
    line = draw_curriculum(folder, rows)
    assert line.count("left out") == 2 and line.count("\n") == 0
    assert f"no {folder}/phase*/images/curves.json" in line and "scores.png" in line
    line = draw_curriculum(tmp_path / "nothing", [])
    assert line.startswith("Pictures: none of nothing; phases.png left out (no ")
    assert not (tmp_path / "nothing").exists()
