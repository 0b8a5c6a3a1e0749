"""`make demo`: how far it says it is, its shell around the recipe, and the closing page."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import demo_clips
import demo_page
import demo_progress
import pytest
from inference_fakes import FakeModel, tone

from espnet_part.inference import Speech2Text

ROOT = Path(__file__).resolve().parents[1]
LANGUAGES = "zh en ja ko yue de fr ru es it".split()
INTO = "zh ja de fr es ko sv id".split()
DIRECTIONS = [*(("en", t) for t in INTO), *((s, "en") for s in "zh de fr ru".split()), ("ja", "zh")]
PHASES = ("1", "2a", "2b", "3")
DECODE = "decode_greedy_latest"


# ----- the page's table -----


def row(system, phase, split, src, tgt, value, seed=0, **more):
    task = "asr" if src == tgt else "st"
    metric = "bleu" if task == "st" else "cer" if src in ("zh", "ja", "ko", "yue") else "wer"
    name = f"miniature_{split}_{task}_{src}" + ("" if task == "asr" else f"_{tgt}")
    ci95 = [value - 1, value + 1]
    found = {"curriculum": system, "phase": phase, "test_set": name, "metric": metric, "seed": seed}
    found |= {"decode": DECODE if phase else None, "value": value, "ci95": ci95}
    return {**found, **more}


def made_rows(split="test", phases=PHASES, seed=0):
    """Every score is a number of its own: 10 * phase + place in the list, and so on."""
    rows = []
    for place, (src, tgt) in enumerate([*((code, code) for code in LANGUAGES), *DIRECTIONS]):
        reference = "encoder_ctc" if src == tgt else "llm_text"
        if split == "test":
            rows.append(row("floor", None, split, src, tgt, 90 + place / 10))
            rows.append(row(reference, None, split, src, tgt, 5 + place / 10))
            if src != tgt:
                rows.append(row("cascade", None, split, src, tgt, 3 + place / 10))
        for number, phase in enumerate(phases):
            rows.append(row("part", phase, split, src, tgt, 10.0 * number + place / 10, seed))
        # What the table must not count.
        if src != tgt:
            rows.append(row("part", "3", split, src, tgt, 1.0, seed, metric="chrf"))
    return rows


def lines(rows):
    return list(demo_page.table(demo_page.Scores(rows)))


def line(text, start):
    found = [one for one in text if one.strip().startswith(start)]
    assert len(found) == 1, (start, text)
    return found[0].split()


def test_the_table_has_languages_directions_and_means():
    text = lines(made_rows() + made_rows("testvoice", ("3",)))
    assert max(map(len, text)) <= 100
    assert line(text, "Chinese     ") == (
        ["Chinese", "CER", "90.00", "5.00", "0.00", "10.00", "20.00", "30.00", "29.0-31.0"]
    )
    assert line(text, "German    ")[:3] == ["German", "WER", "90.50"]
    assert line(text, "English -> Indonesian")[-2:] == ["31.70", "30.7-32.7"]
    assert line(text, "Japanese -> Chinese")[3:6] == ["92.20", "5.20", "7.20"]
    # No cascade of recognition: its place is blank, and the numbers stand below their heads.
    assert text[0].split()[:4] == ["floor", "cascade", "reference", "phase"]
    chinese = next(one for one in text if one.strip().startswith("Chinese  "))
    swedish = next(one for one in text if "Swedish" in one)
    end = text[0].index("cascade") + len("cascade")
    assert swedish[:end].endswith(" 4.60") and not chinese[end - 7 : end].strip()
    assert line(text, "mean of 10")[3:] == ["90.45", "5.45", "0.45", "10.45", "20.45", "30.45"]
    assert line(text, "mean of 13")[3:] == ["91.60", "4.60", "6.60"] + (
        ["1.60", "11.60", "21.60", "31.60"]
    )
    assert line(text, "recognition, mean of 10")[4:] == ["-", "-", "-", "-", "-", "0.45"]
    assert line(text, "translation, mean of 13")[4:] == [*"------", "1.60"]
    order = [one.split()[0] for one in text if re.match(r"  \w+ +[CW]ER ", one)]
    assert (
        order
        == "Chinese English Japanese Korean Cantonese German French Russian Spanish Italian".split()
    )


def test_what_was_not_scored_is_a_dash():
    rows = made_rows(phases=("1", "2a"))
    rows = [r for r in rows if r["curriculum"] != "llm_text" and r["metric"] != "chrf"]
    rows = [r for r in rows if (r["test_set"], r["phase"]) != ("miniature_test_asr_ko", "1")]
    text = lines(rows)
    # The interval is that of the last phase there is.
    assert line(text, "Chinese   ")[3:] == ["5.00", "0.00", "10.00", "-", "-", "9.0-11.0"]
    assert line(text, "Korean   ")[3:6] == ["5.30", "-", "10.30"]
    # A mean over fewer languages would look like progress.
    assert line(text, "mean of 10")[3:] == ["90.45", "5.45", "-", "10.45", "-", "-"]
    assert line(text, "mean of 13")[4:6] == ["4.60", "-"]
    assert not [one for one in text if "voices" in one]


def test_seeds_are_averaged_and_have_no_interval():
    again = [{**r, "value": r["value"] + 2} for r in made_rows(seed=1) if r["phase"]]
    found = line(lines(made_rows() + again), "Chinese   ")
    assert found[4:] == ["1.00", "11.00", "21.00", "31.00", "-"]


def test_other_curricula_and_decodings_do_not_count():
    others = [{**r, "value": 77.0, "curriculum": "two_stage"} for r in made_rows() if r["phase"]]
    beam = [{**r, "value": 66.0, "decode": "decode_beam"} for r in made_rows() if r["phase"]]
    assert lines(beam + others + made_rows()) == lines(made_rows())


def test_an_experiment_without_scores_is_an_error():
    with pytest.raises(ValueError, match="no scores of curriculum part.*stages 12 and 13"):
        demo_page.Scores([r for r in made_rows() if r["curriculum"] == "floor"])


# ----- places, clips, commands -----


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe folder after the demo; the current folder."""
    monkeypatch.chdir(tmp_path)
    exp = tmp_path / "exp/miniature"
    (exp / "part/phase3").mkdir(parents=True)
    (exp / "part/images").mkdir()
    (exp / "part/images/curves.png").touch()
    (exp / "part/phase3/miniature_part_latest.zip").write_bytes(b"0" * 1_200_000)
    (exp / "RESULTS.md").touch()
    (exp / "report.html").touch()
    (exp / "results.json").write_text(json.dumps({"results": made_rows()}))
    (tmp_path / "data").mkdir()
    import soundfile

    for src, tgt in DIRECTIONS:
        folder = tmp_path / f"dump/raw/miniature_test_st_{src}_{tgt}"
        folder.mkdir(parents=True)
        ids = [f"{src}{i}-st-{tgt}" for i in range(4)]
        columns = {"text": f"in {tgt}", "transcript": f"said {src}", "utt2spk": "s"}
        columns |= {"utt2task": "st", "utt2lang": src, "utt2tgt": tgt}
        for name, value in columns.items():
            (folder / name).write_text("".join(f"{i} {value}\n" for i in ids))
        (folder / "wav.scp").write_text("".join(f"{i} data/{src}.wav\n" for i in ids))
        soundfile.write(tmp_path / f"data/{src}.wav", tone(0.5), 16000)
    return tmp_path


def test_clips_are_of_different_languages(recipe):
    clips = demo_clips.pick_clips(Path("dump/raw"), "miniature")
    assert [(c.src, c.tgt) for c in clips] == [
        ("zh", "en"),
        ("en", "zh"),
        ("ja", "zh"),
        ("de", "en"),
    ]
    assert demo_clips.pick_clips(Path("dump/raw"), "other") == []


def test_the_whole_page(recipe, monkeypatch, capsys):
    loaded = []

    def fake(source, **options):
        loaded.append(source)
        return Speech2Text.from_model(FakeModel())

    monkeypatch.setattr(Speech2Text, "from_pretrained", fake)
    demo_page.main(["exp/miniature"])
    shown = capsys.readouterr().out
    assert max(map(len, shown.split("Where everything")[0].splitlines())) <= 100
    pack = Path("exp/miniature/part/phase3/miniature_part_latest.zip")
    assert loaded == [pack]
    for text in (
        f"{recipe / pack} (1.2 MB",
        str(recipe / "exp/miniature/part/images/curves.png"),
        str(recipe / "exp/miniature/RESULTS.md"),
        str(recipe / "exp/miniature/report.html"),
        "said in Chinese",
        "said zh",
        "translated into Chinese",
        "in zh",
        "toy vocabulary, some 140 words per language in synthetic voices",
        f"{recipe}/data/zh.wav --lang zh --to en --model {recipe / pack}",
        "./run.sh --help",
    ):
        assert text in shown, text


def test_a_page_without_pack_and_data(recipe, capsys):
    shutil.rmtree("dump")
    Path("exp/miniature/part/phase3/miniature_part_latest.zip").unlink()
    demo_page.main(["exp/miniature"])
    shown = capsys.readouterr().out
    assert "mean of 13" in shown and "part-transcribe" not in shown and "heard by" not in shown


def test_a_page_without_results_says_so(recipe):
    with pytest.raises(SystemExit, match="error: No such results file: exp/none/results.json"):
        demo_page.main(["exp/none"])


# ----- progress -----


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def narrate(script, finished=()):
    """(seconds passed, line) pairs -> what is shown."""
    clock = Clock()
    narrator = demo_progress.Narrator(finished, clock)
    shown = []
    for seconds, text in script:
        clock.now += seconds
        shown += narrator.feed(text + "\n")
    return shown


LOG = "2026-01-01T00:00:00 (part.sh:1:main) "


@pytest.fixture(autouse=True)
def plan_of_minutes(monkeypatch):
    """Estimates that stay, whatever the true ones become."""
    minutes = (1.5, 0.5, 2.5, 2.0, 2.5, 4.0, 1.5, 0.7, 0.3)
    steps = [replace(s, minutes=m) for s, m in zip(demo_progress.STEPS, minutes, strict=True)]
    monkeypatch.setattr(demo_progress, "STEPS", tuple(steps))


def test_the_plan_says_what_will_happen_and_how_long():
    plan = "\n".join(demo_progress.Narrator().plan())
    assert "estimated minutes on two cores" in plan and "about 16 min on two cores" in plan
    assert all(step.name in plan for step in demo_progress.STEPS)
    later = "\n".join(demo_progress.Narrator(["1", "2a"]).plan())
    assert "about 11 min" in later and "done  phase 2a" in later


def test_each_step_says_what_happens_how_far_and_how_long():
    shown = narrate(
        [
            (0, LOG + "Stage 1: Data preparation for miniature"),
            (180, LOG + "Stage 2: Skip: no perturbed copies"),
            (60, LOG + "Phase 1 started... log: 'x'"),
            (
                30,
                "INFO: step 20/600  loss 3.032  acc 22.3%  grad 18.5  183 audio-s/s  2m32s left",
            ),
        ]
    )
    assert "==> demo 1/9: speech: a synthesizer says" in shown[1]
    assert "about 16 min left in all" in shown[1]
    assert "==> demo 1/9: speech took 3 min 0 s" in shown
    # All takes twice as long as planned: so will the rest.
    third = next(text for text in shown if "demo 3/9" in text)
    assert "phase 1: the adapter alone" in third and "about 27 min left in all" in third
    assert "183 audio-s/s" in shown[-1]


def test_the_trainers_own_estimate_counts_and_is_told_now_and_then():
    step = "INFO: step 100/600  loss 1  acc 1%  grad 1  1 audio-s/s  10m00s left"
    shown = narrate(
        [
            (0, LOG + "Phase 3 started... log: 'x'"),
            (60, step),
            (1, "INFO: step 100/600  dev loss 1.187 (best 1.187)  dev acc 57.1%"),
            (1, "INFO: step 110/600  dev loss 1.187 (best 1.187)  dev acc 57.1%"),
        ]
    )
    told = [text for text in shown if "left in all" in text]
    assert len(told) == 2 and told[1] == "==> demo 6/9: phase 3: about 13 min left in all"


def test_what_was_there_says_nothing_about_speed():
    shown = narrate(
        [
            (0, LOG + "Phase 1 is finished: exp/x"),
            (0, LOG + "Phase 2a started... log: 'x'"),
            (50, "INFO: resuming at step 100 of 120 from x"),
            (50, LOG + "Phase 2b started... log: 'x'"),
        ],
        finished=["1"],
    )
    assert "about 9 min left in all" in shown[-2]


def test_noise_goes_to_the_log_alone():
    sets = " ".join(f"miniature_test_asr_{code}" for code in LANGUAGES)
    shown = narrate(
        [
            (0, LOG + "Stage 3: Format " + sets * 2),
            (0, "INFO: format data/x: 5 of 5 rows (100 %), 3 rows/s, 0 s left"),
            (0, "Failed to import Flash Attention, using ESPnet default: No module"),
            (0, "Loading weights:   0%|   | 0/38\rLoading weights: 100%|##| 38/38"),
            (0, LOG + "Stage 12: Decode phases"),
            (0, LOG + f"Phase 1: decoding {sets} started... log: 'x'"),
            (0, LOG + "Phase 1: miniature_test_asr_de is decoded"),
            (0, "WARNING: one clip is empty"),
            (0, LOG + "Stage 13: Score"),
            (0, "| test set | floor |"),
            (0, "## part, decode_greedy_latest"),
            (0, LOG + "Stage 14: Pack phase 3: x"),
        ]
    )
    own = [text for text in shown if text and not text.startswith("==>")]
    assert own == [
        (LOG + "Stage 3: Format " + sets * 2)[:157] + "...",
        LOG + "Stage 12: Decode phases",
        LOG + "Phase 1: decoding 10 test sets... log: 'x'",
        "WARNING: one clip is empty",
        LOG + "Stage 13: Score",
        LOG + "Stage 14: Pack phase 3: x",
    ]


# ----- demo.sh around a recipe -----

RUN_SH = """#!/usr/bin/env bash
set -euo pipefail
echo "$*" >> calls
log() {{ echo "2026-01-01T00:00:00 (part.sh:1:main) $*"; }}
log "Stage 1: Data preparation"
{body}
mkdir -p exp/miniature/part/phase3/decode_greedy_latest/miniature_test_asr_de
cd exp/miniature
touch part/phase3/checkpoint.pth part/phase3/latest.pth part/phase3/.finished
echo hyp > part/phase3/decode_greedy_latest/miniature_test_asr_de/text
echo '{{"results": []}}' > results.json
echo pack > part/phase3/x.zip
log "Successfully finished. [elapsed=1s]"
"""


class Demo:
    """A repository of its own, with a stub of run.sh and of the closing page."""

    def __init__(self, root: Path):
        self.root, self.recipe = root, root / "egs2/part_multilingual/s2t1"
        self.exp = self.recipe / "exp/miniature"
        for folder in (self.recipe, root / "local", root / "conf", root / "espnet_part"):
            folder.mkdir(parents=True)
        for name in ("demo.sh", "demo_progress.py"):
            shutil.copy(ROOT / "local" / name, root / "local" / name)
        (root / "local/demo_page.py").write_text("print('THE PAGE')\n")
        (root / "conf/phase.yaml").write_text("lr: 1\n")
        self.stub()

    def stub(self, body=""):
        (self.recipe / "run.sh").write_text(RUN_SH.format(body=body))
        (self.recipe / "run.sh").chmod(0o755)

    @property
    def calls(self):
        path = self.recipe / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def start(self, *arguments, path=None):
        env = {**os.environ, "PY": sys.executable, "PYTHONPATH": ""}
        env["PATH"] = f"{path}:{env['PATH']}" if path else env["PATH"]
        return subprocess.Popen(
            ["bash", self.root / "local/demo.sh", *arguments],
            cwd=self.root,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # Started in the background by some shells, tests ignore it, and bash could not trap it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def run(self, *arguments, **more):
        process = self.start(*arguments, **more)
        shown, _ = process.communicate(timeout=20)
        return process.returncode, shown


@pytest.fixture
def demo(tmp_path):
    return Demo(tmp_path / "repository")


def test_the_recipe_runs_and_the_page_follows(demo):
    code, shown = demo.run("--nj", "1")
    assert code == 0, shown
    assert demo.calls == [
        f"--corpora miniature --stage 1 --stop_stage 14 --python {sys.executable} --nj 1"
    ]
    assert shown.startswith("PART on a miniature")
    assert shown.index("Stage 1: Data") < shown.index("==> demo 9/9") < shown.index("THE PAGE")
    assert shown.count("Stage 1: Data preparation") == 1
    assert "Stage 1: Data" in (demo.exp / "demo.log").read_text()
    assert "NOTE" not in shown


def test_a_second_call_shows_the_page_only(demo):
    demo.run()
    code, shown = demo.run()
    assert code == 0 and len(demo.calls) == 1
    assert shown == (
        "demo: everything is done, and nothing has changed since: here is the page again\n"
        "THE PAGE\n"
    )


@pytest.mark.parametrize("change", ["settings", "options", "hypotheses", "model", "results"])
def test_what_has_changed_is_made_again(demo, change):
    demo.run()
    options = []
    if change == "settings":
        (demo.root / "conf/phase.yaml").write_text("lr: 2\n")
    elif change == "options":
        options = ["--part_args", "seed=1"]
    elif change == "hypotheses":
        text = demo.exp / "part/phase3/decode_greedy_latest/miniature_test_asr_de/text"
        text.write_text("other\n")
    elif change == "model":
        (demo.exp / "part/phase3/latest.pth").unlink()
    elif change == "results":
        (demo.exp / "results.json").unlink()
    code, shown = demo.run(*options)
    assert code == 0 and len(demo.calls) == 2 and "THE PAGE" in shown
    # Finished phases are kept: whoever changed what they were trained with is told.
    assert ("NOTE: the phases there were trained with other" in shown) == (
        change in ("settings", "options")
    )


def test_a_failure_is_one_sentence_with_the_log(demo):
    demo.stub('log "Error: training of phase 2a failed: see exp/x/train.log" >&2; exit 3')
    code, shown = demo.run()
    assert code == 1 and "THE PAGE" not in shown
    assert shown.splitlines()[-1] == (
        "demo: error: training of phase 2a failed: see exp/x/train.log. All that was said is in "
        "egs2/part_multilingual/s2t1/exp/miniature/demo.log; once that is mended, make demo "
        "goes on from there"
    )
    demo.stub()
    assert demo.run()[0] == 0


def test_failures_without_words_and_of_the_disk(demo):
    demo.stub("exit 7")
    assert "demo: error: run.sh ended with code 7. All" in demo.run()[1]
    demo.stub("echo 'OSError: [Errno 28] No space left on device'; exit 1")
    assert "demo: error: the disk is full. All" in demo.run()[1]


def test_a_full_disk_is_told_before_anything_runs(demo, tmp_path):
    (tmp_path / "bin").mkdir()
    df = tmp_path / "bin/df"
    df.write_text("#!/bin/sh\necho head\necho /dev/x 9 9 512000 9% /\n")
    df.chmod(0o755)
    code, shown = demo.run(path=tmp_path / "bin")
    assert code == 1 and demo.calls == []
    assert shown.startswith(f"demo: error: 500 MB free in {demo.recipe}, 2 GB needed")


def test_ctrl_c_lets_it_save_and_says_how_to_go_on(demo):
    # As run.sh does it: the script it calls catches the signal.
    trap = 'trap "echo saved at step 7; exit 1" INT'
    demo.stub(f"bash -c '{trap}; echo training; while :; do sleep 0.05; done'")
    process = demo.start()
    before = []
    for text in process.stdout:
        before.append(text)
        if text == "training\n":
            break
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    shown, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert shown == (
        "saved at step 7\n\ndemo: stopped; the same command, make demo, goes on where it stopped\n"
    )
    demo.stub()
    code, shown = demo.run()
    assert code == 0 and "THE PAGE" in shown


def test_make_demo_sets_up_first():
    found = subprocess.run(
        ["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert found.index("local/setup.sh") < found.index("local/demo.sh")
