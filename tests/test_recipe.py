"""The recipe's shell: options, missing input, jobs, links, and all stages on the toy corpus."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "egs2/part_multilingual/s2t1"
FILES = ("run.sh", "part.sh", "cmd.sh", "path.sh", "db.sh")


def make_recipe(folder: Path) -> Path:
    """A recipe folder outside the repository, so that nothing is left in it."""
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).symlink_to(RECIPE / name)
    (folder / "conf").symlink_to(ROOT / "conf")
    (folder / "local").symlink_to(ROOT / "local")
    return folder


@pytest.fixture
def recipe(tmp_path):
    return make_recipe(tmp_path / "egs2/part_multilingual/s2t1")


def environment(**more):
    """The tests' own Python, whatever else is active, and no ESPnet checkout."""
    env = {k: v for k, v in os.environ.items() if k not in ("ESPNET_ROOT", "cmd_backend", "VENV")}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    env["VIRTUAL_ENV"] = sys.prefix  # path.sh then leaves Python alone
    return {**env, **more}


def run(folder, *command, **more):
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=environment(PWD=str(folder), **more),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def bash(folder, script, **more):
    return run(folder, "bash", "-c", "set -euo pipefail\n" + script, **more)


# ----- options -----


def test_help_is_made_from_the_one_list(recipe):
    result = run(recipe, "./run.sh", "--help")
    assert result.returncode == 0
    listed = re.findall(r"^  --(\w+)", result.stdout, re.M)
    declared = re.findall(r'^    "(\w+)\|', (RECIPE / "part.sh").read_text(), re.M)
    assert listed == declared
    for name in (
        "stage stop_stage skip_stages skip_data_prep skip_train skip_eval skip_packing "
        "skip_upload_hf ngpu num_nodes nj inference_nj gpu_inference dumpdir expdir part_tag "
        "part_config part_args inference_config inference_args inference_model pretrained_model "
        "train_set valid_set test_sets hf_repo corpora model curriculum phase decode_phases lid"
    ).split():
        assert name in listed


def test_every_option_is_used():
    text = (RECIPE / "part.sh").read_text() + (ROOT / "local/recipe.sh").read_text()
    for name in re.findall(r'^    "(\w+)\|', text, re.M):
        assert f"opt[{name}]" in text, name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stagee", "3"], "unknown option '--stagee'"),
        (["--ngpu"], "--ngpu needs a value"),
        (["3"], "expected an option, found '3'"),
        (["--skip-train", "yes"], "--skip_train is true or false, found 'yes'"),
        (["--stop_stage=x"], "--stop_stage is a whole number, found 'x'"),
        (["--stage", "1.5"], "--stage is a whole number, found '1.5'"),
        (["--stage", "09"], "--stage is a whole number, found '09'"),
        (["--ngpu", "-1"], "--ngpu is a whole number, found '-1'"),
        (["--max_wav_duration", "long"], "--max_wav_duration is a number"),
    ],
)
def test_bad_options_are_errors(recipe, arguments, message):
    result = run(recipe, "./run.sh", *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "--help" in result.stderr


def test_dashes_equal_underscores_and_the_last_value_wins(recipe):
    script = """
    option_list=("# A" "max_it|3|x" "corpora|digits|x" "flag|true|x" "word||x")
    . local/options.sh
    parse_options --max-it 4 --max_it=5 --corpus toy --flag false --word="a b"
    echo "${opt[max_it]} ${opt[corpora]} ${opt[flag]} ${opt[word]} ${opt_default[max_it]}"
    """
    assert bash(recipe, script).stdout == "5 toy false a b 3\n"


def test_nothing_to_do_is_no_error(recipe):
    result = run(recipe, "./run.sh", "--corpora", "toy", "--stop-stage", "0")
    assert result.returncode == 0, result.stderr
    assert "No stage has run: --stage 1 --stop_stage 0" in result.stdout
    assert "Successfully finished" in result.stdout


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("corpora", "", "--corpora is empty"),
        ("python", "nopython -X dev", "--python nopython -X dev: no such command"),
        ("inference_nj", "0", "--inference_nj: found 0, expected 1 or more"),
        ("gpu_inference", "maybe", "--gpu_inference is true, false or auto, found 'maybe'"),
        ("lid", "right nun", "--lid: found 'right nun', expected right, none, wrong or several"),
        ("lid", "rightwrong", "--lid: found 'rightwrong', expected right, none, wrong"),
        ("lid", "", "--lid: found '', expected right, none, wrong"),
        ("skip_stages", "13 x", "--skip_stages: found 'x', expected numbers"),
        ("part_config", "nope.yaml", "--part_config nope.yaml: no such file"),
        ("inference_config", "nope.yaml", "--inference_config nope.yaml: no such file"),
        ("pretrained_model", "nope.pth", "--pretrained_model nope.pth: no such file"),
        ("decode_phases", "3 7", "expected all, last or some of the phases of the curriculum part"),
        ("phase", "7", "--phase 7: no phase of the curriculum part, whose phases are: 1 2a 2b 3"),
    ],
)
def test_bad_values_are_errors_before_anything_runs(recipe, option, value, message):
    result = run(recipe, "./run.sh", "--corpora", "toy", f"--{option}", value)
    assert result.returncode == 1
    assert "Stage 1" not in result.stdout
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_typo_in_the_model_yaml_shows_before_anything_runs(recipe):
    (recipe / "conf").unlink()
    shutil.copytree(ROOT / "conf", recipe / "conf")
    toy = recipe / "conf/model/toy.yaml"
    toy.write_text(toy.read_text().replace("batch_cost", "batch_cots"))
    result = run(recipe, "./run.sh", "--corpora", "toy")
    assert result.returncode == 1
    assert "unknown key batch_cots; did you mean batch_cost?" in result.stderr
    assert "Stage 1" not in result.stdout


@pytest.mark.parametrize("text", ["", "- a", "a: [1, 2\nb: }"])
def test_a_damaged_model_yaml_is_named(recipe, text):
    (recipe / "broken.yaml").write_text(text)
    result = bash(recipe, ". ./path.sh; python3 local/parts.py list broken.yaml")
    assert result.returncode == 1
    assert "broken.yaml" in result.stderr and "Traceback" not in result.stderr


# ----- missing input -----


@pytest.mark.parametrize(
    ("arguments", "missing", "stage"),
    [
        (["--stage", "3"], "there are no data folders of 'mine'", 1),
        (["--stage", "4", "--valid_set", "dev"], "dump/raw/org/dev/utt2task is missing", 3),
        (["--stage", "10", "--train_set", "a"], "dump/raw/a/utt2task is missing", 4),
        (["--stage", "11", "--train_set", "a"], "exp/part_stats_toy/a/meta.json is missing", 10),
        (["--stage", "12"], "there are no test sets", 1),
        (["--stage", "12", "--test_sets", "t"], "exp/mine_toy/part/phase1/config.yaml", 11),
        (["--stage", "13"], "exp/mine_toy/part is missing", 12),
        (["--stage", "14"], "exp/mine_toy/part/phase3/latest.pth is missing", 11),
        (["--stage", "15", "--skip_upload_hf", "false", "--hf_repo", "a/b"], ".zip is missing", 14),
    ],
)
def test_missing_input_is_named_with_its_command(recipe, arguments, missing, stage):
    last = max(5, int(arguments[1]))
    where = ["--corpora", "mine", "--model", "toy", "--stop_stage", last, *arguments]
    (recipe / "exp/toy_parts/encoder").mkdir(parents=True)
    (recipe / "exp/toy_parts/llm").mkdir()
    result = run(recipe, "./run.sh", *where)
    assert result.returncode == 1
    assert missing in result.stderr, result.stderr
    command = re.search(r"\./run\.sh --stage (\d+) --stop_stage \d+ (.*)", result.stderr)
    assert int(command[1]) == stage
    assert "--corpora mine --model toy" in command[2]


def test_unknown_corpus_model_curriculum(recipe):
    for arguments, message in (
        (["--corpora", "toi", "--model", "toy"], "unknown corpus 'toi'"),
        (["--corpora", "toy", "--model", "toi"], "conf/model/toi.yaml is missing"),
        (["--corpora", "toy", "--curriculum", "x"], "conf/curriculum/x.yaml is missing"),
        (["--corpora", "toy", "--phase", "7", "--stage", "20"], "no phase of the curriculum part"),
        (["--corpora", "toy", "--inference_config", "x"], "--inference_config x: no such file"),
    ):
        result = run(recipe, "./run.sh", "--stop_stage", "1", *arguments)
        assert result.returncode != 0
        assert message in result.stderr


def test_hub_ids_are_looked_up_before_anything_is_fetched(recipe):
    result = run(
        recipe, "./run.sh", "--stage=5", "--stop_stage=5", "--corpora=mine", "--model=part_2b",
        HF_HUB_OFFLINE="1", HF_HOME=str(recipe / "hub"),
    )  # fmt: skip
    assert result.returncode == 1
    assert "could not be fetched from the hub" in result.stderr


def test_parts_made_again_after_training_are_an_error(recipe):
    for part in ("encoder", "llm"):
        (recipe / f"exp/toy_parts/{part}").mkdir(parents=True)
    weights = recipe / "exp/toy_parts/encoder/model.safetensors"
    weights.write_text("first")
    for name in ("a", "b"):
        (recipe / f"exp/part_stats_toy/{name}").mkdir(parents=True)
        (recipe / f"exp/part_stats_toy/{name}/meta.json").touch()
    phase = "exp/mine_toy/part/phase1"
    merge = "python3 -m espnet_part.bin.config merge --model toy --curriculum part --phase 1"
    bash(recipe, f". ./path.sh; {merge} --folder {phase} --train a --valid b")
    (recipe / phase / ".finished").touch()
    train = ["./run.sh", "--stage=11", "--stop_stage=11", "--corpora=mine", "--model=toy"]
    train += ["--train_set=a", "--valid_set=b", "--phase=1"]
    weights.write_text("first")  # newer, and the same
    result = run(recipe, *train)
    assert result.returncode == 0, result.stderr
    assert "Phase 1 is finished" in result.stdout
    weights.write_text("again")
    result = run(recipe, *train)
    assert result.returncode == 1
    assert (
        f"error: {phase} was trained with other files than exp/toy_parts/encoder" in result.stderr
    )
    assert f"remove {phase}" in result.stderr and "Phase 1 is finished" not in result.stdout


def test_the_pack_carries_the_options_of_decoding(recipe):
    python = recipe / "say_python"
    python.write_text(
        '#!/bin/sh\n[ "$2" = espnet_part.bin.pack ] || exec python3 "$@"\necho "$@"\n'
    )
    python.chmod(0o755)
    (recipe / "exp/mine_toy/part/phase3").mkdir(parents=True)
    (recipe / "exp/mine_toy/part/phase3/latest.pth").touch()
    result = run(
        recipe, "./run.sh", "--corpora=mine", "--model=toy", "--stage=14", "--stop_stage=14",
        "--python", python, "--inference_config", "conf/decode/beam4.yaml", "--inference_args",
        "--lid none --max_sec 12",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    options = "--inference_config conf/decode/beam4.yaml --inference_args=--lid none --max_sec 12"
    assert result.stdout.count(f"{options}\n") == 1


# ----- mt rows of st rows -----

# Stage 10 without a tokenizer: the tasks of a set are all that is asked of its manifest here.
# Stage 11 without training.
FAKE_PYTHON = """#!/bin/bash
[ "$2" != espnet_part.bin.train ] || exit 1
[ "$2" = espnet_part.bin.manifest ] || exec python3 "$@"
words=" $* "
inputs=(${words#* --data_dir }) outputs=(${words#* --out })
for ((i = 0; i < ${#inputs[@]}; i++)); do
    [ "${inputs[i]}" != --out ] || break
    mkdir -p "${outputs[i]}"
    tasks=$(cut -d " " -f 2 "${inputs[i]}/utt2task" | sort -u)
    tasks=$(echo "${tasks}" | sed 's/.*/"& de en": {}/' | paste -s -d ,)
    echo "{\\"totals\\": {${tasks}}}" > "${outputs[i]}/meta.json"
    echo "manifest of ${inputs[i]}: ${tasks}"
done
"""


@pytest.fixture
def mine(recipe):
    """A corpus of one's own: a clip with an asr and an st row, and a way to run stages on it."""
    folder = recipe / "data/mine"
    rows = ("clip-asr asr de hallo\n", "clip-st-en st en hello\n")
    soundfile.write(recipe / "clip.wav", np.zeros(8000), 16000)
    for name in ("train", "dev"):
        (folder / name).mkdir(parents=True)
        for number, file in ((1, "utt2task"), (2, "utt2tgt"), (3, "text")):
            lines = (f"{row.split()[0]} {row.split()[number]}\n" for row in rows)
            (folder / name / file).write_text("".join(lines))
        for value, file in (("clip.wav", "wav.scp"), ("anna", "utt2spk"), ("de", "utt2lang")):
            lines = (f"{row.split()[0]} {value}\n" for row in rows)
            (folder / name / file).write_text("".join(lines))
        (folder / name / "transcript").write_text("clip-st-en hallo\n")
    python = recipe / "python"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)

    def stages(first, last, *more):
        common = ("--corpora=mine", "--model=toy", f"--python={python}", "--skip_stages=5")
        where = (f"--stage={first}", f"--stop_stage={last}")
        return run(recipe, "./run.sh", *common, *where, *more)

    return stages


def manifests(result) -> list[str]:
    return re.findall(r"^manifest of (\S+): ", result.stdout, re.M)


def test_mt_rows_are_made_where_the_corpus_has_none(recipe, mine):
    result = mine(3, 10)
    assert result.returncode == 0, result.stderr
    made = recipe / "dump/raw/mt/mine_train"
    assert (made / "source").read_text() == "mt-clip-st-en hallo\n"
    assert (made / "text").read_text() == "mt-clip-st-en hello\n"
    sets = [f"dump/raw/{name}" for name in ("mine_train", "mt/mine_train", "mine_dev")]
    assert manifests(result) == sets
    assert manifests(mine(10, 10)) == sets  # a stage run alone later finds them, too
    result = mine(11, 11)
    assert "no training set has rows" not in result.stderr  # though no dev set has rows of mt
    assert "Phase 1 started" in result.stdout
    config = (recipe / "exp/mine_toy/part/phase1/config.yaml").read_text()
    assert "- exp/part_stats_toy/mt/mine_train\n" in config
    # A transcript taken away takes its rows along.
    (recipe / "data/mine/train/transcript").unlink()
    assert manifests(mine(3, 10)) == [sets[0], sets[2]]


def test_mt_rows_are_not_made_beside_those_of_the_corpus(recipe, mine):
    mine(3, 4)
    text = recipe / "data/mine/train_text"
    text.mkdir()
    values = {"source": "ja", "text": "yes", "utt2task": "mt", "utt2lang": "de", "utt2tgt": "en"}
    for name, value in values.items():
        (text / name).write_text(f"line1\t{value}\n")
    result = mine(3, 10)
    assert result.returncode == 0, result.stderr
    names = ("mine_train", "mine_train_text", "mine_dev")
    assert manifests(result) == [f"dump/raw/{name}" for name in names]
    assert "prepare mt" not in result.stdout and "There are no mt rows" not in result.stdout


def test_rows_that_no_phase_trains_on_are_told(mine):
    mine(3, 10)
    result = mine(11, 11, "--part_args", "tasks=[asr, mt] task_shares=null")
    assert "No phase trains on rows of st, which the training sets hold" in result.stdout
    assert "No phase trains on rows" not in mine(11, 11).stdout


def test_a_task_without_rows_shows_before_phase_1(recipe, mine):
    (recipe / "data/mine/train/transcript").unlink()
    result = mine(3, 11)
    assert result.returncode == 1
    assert "There are no mt rows, nor st rows with a transcript" in result.stdout
    assert "error: phase 3 trains on asr st mt, but no training set has rows of mt" in result.stderr
    assert "(found: asr st)" in result.stderr and "--curriculum part_no_text" in result.stderr
    assert "Phase 1 started" not in result.stdout
    for words in (["--curriculum=part_no_text"], ["--phase=1"]):
        result = mine(11, 11, *words)
        assert "no training set has rows" not in result.stderr
        assert "Phase 1 started" in result.stdout
    result = mine(11, 11, "--curriculum=finetune", "--part_args=tasks=[asr] task_shares=null")
    assert "no training set has rows" not in result.stderr
    assert "Phase 3 started" in result.stdout


def test_a_weight_of_nothing_shows_before_phase_1(recipe, mine):
    result = mine(3, 11, "--part_args=language_weights.yue=3")
    assert result.returncode == 1
    assert "error: language_weights: no training set has rows of 'yue'" in result.stderr
    assert "Phase 1 started" not in result.stdout
    result = mine(11, 11, "--part_args=corpus_weights.mine_trian=3")
    assert "no training set matches 'mine_trian'; the nearest of 2" in result.stderr
    assert "mine_train, mt/mine_train" in result.stderr


# ----- languages in the prompt -----

# Stage 12 without a model: an answer says which language its prompt named.
FAKE_INFERENCE = """
import argparse, json, pathlib
parser = argparse.ArgumentParser()
for name in ("--data_dir", "--key_file", "--output_dir"):
    parser.add_argument(name, nargs="+")
parser.add_argument("--lid", default="right")
args, _ = parser.parse_known_args()
for keys, output in zip(args.key_file, args.output_dir):
    folder = pathlib.Path(output, "1best_recog")
    folder.mkdir(parents=True)
    said = {"right": "hallo welt", "none": "hallo", "wrong": "the one of that and this is to"}
    for name in ("token", "token_int", "score", "text"):
        lines = [f"{line.split()[0]} {said[args.lid]}\\n" for line in open(keys)]
        (folder / name).write_text("".join(lines))
    pathlib.Path(output, "decode.json").write_text(json.dumps({"lid": args.lid}))
"""


def test_languages_in_the_prompt(recipe):
    """One command decodes with the right language, none and a wrong one, and prints one table."""
    test_set = recipe / "dump/raw/mine_test_asr_de"
    test_set.mkdir(parents=True)
    values = {"utt2task": "asr", "utt2lang": "de", "utt2tgt": "de", "utt2spk": "a"}
    for name, value in {**values, "text": "hallo welt", "wav.scp": "a.wav"}.items():
        (test_set / name).write_text(f"u1 {value}\nu2 {value}\nu3 {value}\n")
    phase = recipe / "exp/mine_toy/part/phase1"
    phase.mkdir(parents=True)
    for name in ("config.yaml", "latest.pth"):
        (phase / name).touch()
    (recipe / "fake.py").write_text(FAKE_INFERENCE)
    python = recipe / "python"
    python.write_text(
        '#!/bin/bash\n[ "$2" = espnet_part.bin.inference ] || exec python3 "$@"\n'
        f'exec python3 {recipe}/fake.py "${{@:3}}"\n'
    )
    python.chmod(0o755)
    where = ("--corpora=mine", "--model=toy", "--decode_phases=1", f"--python={python}")
    decode = ("./run.sh", *where, "--test_sets=mine_test_asr_de", "--stage=12")
    result = run(recipe, *decode, "--stop_stage=12")
    assert result.returncode == 0, result.stderr
    assert [path.name for path in phase.glob("decode*")] == ["decode_greedy_latest"]
    result = run(recipe, *decode, "--stop_stage=13", "--lid", "right none wrong")
    assert result.returncode == 0, result.stderr
    assert "Phase 1: mine_test_asr_de is decoded\n" in result.stdout, "the right one was there"
    names = {"": "hallo welt", "_lid_none": "hallo", "_lid_wrong": "the one of that and this is to"}
    assert {path.name for path in phase.glob("decode*")} == {
        f"decode_greedy_latest{name}" for name in names
    }
    for name, said in names.items():
        text = (phase / f"decode_greedy_latest{name}/mine_test_asr_de/text").read_text()
        assert text.splitlines() == [f"u{i} {said}" for i in (1, 2, 3)]
    for table in (result.stdout, (recipe / "exp/mine_toy/RESULTS.md").read_text()):
        assert table.count("phase 1: language named in the prompt") == 1
        (line,) = re.findall(r"^\| mine_test_asr_de .*\+50.*$", table, re.M)
        numbers = re.findall(r"(?<=\| ) *[-+\d.]+", line)
        assert [float(n) for n in numbers] == [0, 50, 50, 400, 400, 0, 0, 100]
    result = run(recipe, *decode, "--stop_stage=12", "--lid=wrong", "--inference_args=--lid none")
    assert "both name the prompt's language" in result.stderr


# ----- small helpers -----


@pytest.mark.parametrize(("rows", "parts"), [(7, 3), (2, 4), (5, 1), (100, 7)])
def test_split_keys_is_even_and_in_order(recipe, rows, parts):
    (recipe / "set").mkdir()
    ids = [f"utt{i:03d}" for i in range(rows)]
    (recipe / "set/utt2task").write_text("".join(f"{i} asr\n" for i in ids))
    bash(recipe, f". local/recipe.sh; split_keys set {parts} keys.")
    split = [(recipe / f"keys.{i + 1}.scp").read_text().split() for i in range(parts)]
    assert [i for part in split for i in part] == ids
    assert max(map(len, split)) - min(map(len, split)) <= 1


def test_logs_are_rotated(recipe):
    for text in ("first", "second", "third"):
        bash(recipe, f". local/recipe.sh; rotate_log train.log; echo {text} > train.log")
    found = [(recipe / name).read_text() for name in ("train.log", "train.1.log", "train.2.log")]
    assert found == ["third\n", "second\n", "first\n"]


def test_jobs_run_as_under_kaldi(recipe):
    result = run(
        recipe, "local/run_jobs.sh", "--gpu", "0", "--max-jobs-run", "2", "JOB=1:3",
        "logs/job.JOB.log", "bash", "-c", 'echo "JOB: $0"; [ JOB != 2 ]', "a b",
    )  # fmt: skip
    assert result.returncode == 1
    assert "1 of 3 jobs failed" in result.stderr
    assert "logs/job.2.log (exit code 1)" in result.stderr
    for job in (1, 2, 3):
        assert f"{job}: a b\n" in (recipe / f"logs/job.{job}.log").read_text()


def test_jobs_get_a_gpu_each(recipe):
    result = run(
        recipe, "local/run_jobs.sh", "--gpu", "1", "JOB=1:3", "job.JOB.log", "bash", "-c",
        'echo "gpu $CUDA_VISIBLE_DEVICES."', CUDA_VISIBLE_DEVICES="4,6",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    gpus = [re.search(r"gpu (\d)\.\n", (recipe / f"job.{i}.log").read_text())[1] for i in (1, 2, 3)]
    assert gpus == ["4", "6", "4"]


def test_a_signal_reaches_the_jobs_and_waits_for_them(recipe):
    job = "trap 'sleep 0.3; echo saved; exit 5' TERM; echo ready; while true; do sleep 0.05; done"
    process = subprocess.Popen(
        ["local/run_jobs.sh", "job.log", "bash", "-c", job],
        cwd=recipe,
        env=environment(),
        stderr=subprocess.DEVNULL,
    )
    wait_for(recipe / "job.log", "ready\n")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 1
    assert "saved\n" in (recipe / "job.log").read_text()


def test_training_is_shown_and_a_signal_lets_it_save(recipe):
    script = """
    . local/recipe.sh
    code=0
    run_and_show train.log train.log bash -c '
        trap "sleep 0.3; echo saved; exit 143" TERM; echo ready; while true; do sleep 0.05; done
    ' || code=$?
    echo "code ${code}"
    """
    process = subprocess.Popen(
        ["bash", "-c", script], cwd=recipe, env=environment(), stdout=subprocess.PIPE, text=True
    )
    wait_for(recipe / "train.log", "ready\n")
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    shown, _ = process.communicate(timeout=20)
    assert shown == "ready\nsaved\ncode 143\n"


def wait_for(path, text):
    end = time.monotonic() + 20
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < end, f"{text!r} does not come in {path}"
        time.sleep(0.02)


def test_settings(recipe):
    (recipe / "my.yaml").write_text("max_steps: 3\nlr: {llm: 1.0e-5}\ntasks: [asr, st]\n")
    words = "--words=seed=1 --lr.adapter=2e-3 --max_steps 5 "
    words += """language_weights={yue: 3, "en-ar": 2} tasks=[asr, st] corpus_weights={'a b*': 2}"""
    result = run(recipe, sys.executable, "local/settings.py", "--config", "my.yaml", words)
    assert result.stdout.splitlines() == [
        "max_steps=3", "lr.llm=1e-05", 'tasks=["asr", "st"]', "seed=1", "lr.adapter=2e-3",
        "max_steps=5", 'language_weights={yue: 3, "en-ar": 2}', "tasks=[asr, st]",
        "corpus_weights={'a b*': 2}",
    ]  # fmt: skip
    for words, message in (("--seed", "expected key=value"), ("a={b: 1", "lacks a closing }")):
        result = run(recipe, sys.executable, "local/settings.py", f"--words={words}")
        assert result.returncode == 1
        assert message in result.stderr


def test_a_misspelled_setting_shows_before_the_first_stage(recipe):
    words = ["--corpora=toy", "--stop_stage=1", "--part_args", "max_setps=3"]
    result = run(recipe, "./run.sh", *words)
    assert result.returncode == 1
    assert "unknown key max_setps; did you mean max_steps?" in result.stderr
    # What only a later phase may have is not held against the first one.
    words = ["--corpora=toy", "--stop_stage=0", "--phase", "3", "--part_args", "tasks=[asr, st]"]
    result = run(recipe, "./run.sh", *words, "task_shares=null")
    assert result.returncode == 2  # not quoted together: an option is expected
    words[-1] += " task_shares=null"
    assert run(recipe, "./run.sh", *words).returncode == 0


def test_parts_follow_expdir(recipe):
    command = [sys.executable, "local/parts.py"]
    result = run(recipe, *command, "settings", "conf/model/toy.yaml", "--expdir", "other")
    values = dict(line.split("=", 1) for line in result.stdout.splitlines())
    assert json.loads(values["model.encoder"])["source"] == "other/toy_parts/encoder"
    assert json.loads(values["model.llm"])["source"] == "other/toy_parts/llm"
    assert run(recipe, *command, "settings", "conf/model/toy.yaml").stdout == ""
    result = run(recipe, *command, "check", "conf/model/toy.yaml")
    assert result.returncode == 1
    assert "encoder (exp/toy_parts/encoder)" in result.stderr


def test_a_corpus_that_is_not_there_is_told_before_any_is_made(recipe):
    result = run(
        recipe, *("./run.sh", "--corpora", "toy mustc", "--model", "toy", "--stop_stage", "1")
    )
    assert result.returncode == 2
    (told,) = [line for line in result.stderr.splitlines() if "error: " in line]
    assert told.startswith(
        "local/data.sh: error: where is mustc? Name its folder in db.sh (MUSTC=/corpora/...). "
        "MuST-C is no longer offered at https://ict.fbk.eu/must-c-releases/"
    )
    assert not (recipe / "data").exists()


def test_all_corpora_that_are_not_there_are_told_together(recipe, tmp_path):
    result = run(
        recipe,
        *("local/data.sh", "--check", "mine opus wenetspeech ntrex128"),
        OPUS=str(tmp_path / "misspelled"),
        WENETSPEECH="downloads",
        NTREX128=str(tmp_path),
        PYTHONPATH=str(ROOT),
    )
    assert result.returncode == 2
    mine, opus, wenetspeech = result.stderr.splitlines()
    assert "unknown corpus 'mine' (there is no local/prepare_mine.py); known: " in mine
    # Where to get it, in its script's own words.
    assert f"opus: found OPUS={tmp_path}/misspelled, which is no folder. Fetch parallel" in opus
    assert (
        "wenetspeech: found WENETSPEECH=downloads, but no script can fetch it. Ask for WenetSpeech "
        "at https://github.com/wenet-e2e/WenetSpeech"
    ) in wenetspeech
    assert not (recipe / "data").exists()


def test_a_corpus_in_its_place_and_one_to_fetch_pass_the_check(recipe, tmp_path):
    check = ("local/data.sh", "--check", "toy ntrex128 opus")
    more = {"NTREX128": "downloads", "PYTHONPATH": str(ROOT)}
    result = run(recipe, *check, OPUS=str(tmp_path), **more)
    assert (result.returncode, result.stderr) == (0, "")
    result = run(recipe, *check, "--fetch", OPUS=str(tmp_path / "new"), **more)
    assert (result.returncode, result.stderr) == (0, "")
    assert not (recipe / "data").exists()


def test_toy_corpus(recipe):
    digests = []
    for _ in range(2):
        shutil.rmtree(recipe / "data", ignore_errors=True)
        result = run(recipe, "local/data.sh", "toy", PYTHONPATH=str(ROOT))
        assert result.returncode == 0, result.stderr
        files = sorted(path for path in (recipe / "data/toy").rglob("*") if path.is_file())
        digests.append([(path, path.read_bytes()) for path in files])
    assert digests[0] == digests[1]
    sets = {path.name for path in (recipe / "data/toy").iterdir()}
    tests = {"toy_test_asr_en", "toy_test_asr_zh", "toy_test_st_en_zh", "toy_test_st_zh_en"}
    assert sets == {"audio", "train", "dev", "train_text"} | tests
    clips = set()
    for name in ("train", "dev", *tests):
        lines = (recipe / "data/toy" / name / "utt2task").read_text().split("\n")[:-1]
        clips |= {re.sub("-(asr|st-..) .*", "", line) for line in lines}
    assert len(clips) == 20
    train = set((recipe / "data/toy/train/text").read_text().split("\n"))
    assert (recipe / "data/toy/dev/segments").exists()
    said = {line.partition(" ")[2] for line in train}
    for name in ("dev", *tests):
        for line in (recipe / "data/toy" / name / "text").read_text().splitlines():
            assert line.partition(" ")[2] not in said


# ----- ESPnet checkouts -----


@pytest.fixture
def checkout(tmp_path):
    """What a checkout of ESPnet's master looks like from a recipe."""
    root = tmp_path / "espnet"
    template = root / "egs2/TEMPLATE/asr1"
    for name in ("utils", "scripts", "pyscripts", "steps"):
        (template / name).mkdir(parents=True)
    (template / "cmd.sh").write_text("export train_cmd=run.pl cuda_cmd=run.pl decode_cmd=run.pl\n")
    (template / "utils/run.pl").write_text("#!/bin/sh\necho from the checkout\n")
    (template / "utils/run.pl").chmod(0o755)
    (root / "espnet2").mkdir()
    (root / "espnet2/__init__.py").touch()
    (root / "tools").mkdir()
    (root / "tools/extra_path.sh").write_text("export EXTRA=seen\n")
    return root


SHOW = """. ./path.sh; . ./cmd.sh
echo "${ESPNET_ROOT:-none}|${PART_ROOT}|${cuda_cmd}|$(command -v run.pl || true)|${EXTRA:-}"
python3 -c 'import espnet2 as e, espnet_part as p; print(e.__path__[0], p.__path__[0])'
"""


def test_pip_only(recipe):
    result = bash(recipe, SHOW)
    first, second = result.stdout.splitlines()
    assert first == f"none|{ROOT}|local/run_jobs.sh||"
    assert second.endswith(f" {ROOT}/espnet_part")
    result = bash(recipe, SHOW, cmd_backend="slurm")
    assert result.returncode == 1
    assert "needs slurm.pl of an ESPnet checkout" in result.stderr
    result = bash(recipe, SHOW, cmd_backend="cloud")
    assert "cmd_backend is local, stdout, slurm, sge, pbs or ssh, found 'cloud'" in result.stderr


def test_named_checkout(recipe, checkout):
    first, second = bash(recipe, SHOW, ESPNET_ROOT=str(checkout)).stdout.splitlines()
    pl = checkout / "egs2/TEMPLATE/asr1/utils/run.pl"
    assert first == f"{checkout}|{ROOT}|run.pl|{pl}|seen"
    assert second == f"{checkout}/espnet2 {ROOT}/espnet_part"
    result = bash(recipe, SHOW, ESPNET_ROOT="/nowhere")
    assert result.returncode == 1
    assert "ESPNET_ROOT=/nowhere is no ESPnet checkout" in result.stderr


def test_linked_by_hand(checkout):
    """A link to our whole egs2/part_multilingual: the checkout is found by the logical path."""
    (checkout / "egs2/part_multilingual").symlink_to(ROOT / "egs2/part_multilingual")
    folder = checkout / "egs2/part_multilingual/s2t1"
    result = bash(folder, f"cd {folder}\n{SHOW}")
    assert result.stdout.splitlines()[0].startswith(f"{checkout}|{ROOT}|run.pl|{checkout}/")


@pytest.mark.parametrize("copy", [0, 1])
def test_make_link(checkout, copy):
    result = run(ROOT, "local/link.sh", checkout, copy)
    assert result.returncode == 0, result.stderr
    folder = checkout / "egs2/part_multilingual/s2t1"
    home = folder if copy else ROOT
    (folder / "cmd.sh").write_text((folder / "cmd.sh").read_text() + "# edited\n")
    (folder / "exp").mkdir()
    result = run(ROOT, "local/link.sh", checkout, copy)  # again
    assert result.returncode == 0, result.stderr
    assert (folder / "exp").is_dir()
    assert "# edited" in (folder / "cmd.sh").read_text()
    first, second = bash(folder, SHOW).stdout.splitlines()
    assert first == f"{checkout}|{home}|run.pl|{folder}/utils/run.pl|seen"
    assert second == f"{checkout}/espnet2 {home}/espnet_part"
    links = [path for path in folder.rglob("*") if path.is_symlink()]
    if copy:
        assert not any(Path(os.readlink(path)).is_absolute() for path in links)
        assert run(folder, "./run.sh", "--corpora", "toy", "--stop_stage", "0").returncode == 0
    else:
        assert (folder / "part.sh").resolve() == RECIPE / "part.sh"


def test_make_link_refuses_what_is_no_checkout(tmp_path):
    result = run(ROOT, "local/link.sh", tmp_path)
    assert result.returncode == 2
    assert f"{tmp_path} is no checkout of ESPnet" in result.stderr
    assert "name a checkout" in run(ROOT, "local/link.sh", "").stderr


# ----- all stages -----


@pytest.mark.recipe
@pytest.mark.timeout(1200)
def test_all_stages_on_toy(recipe, tmp_path):
    """Stages 1 to 14 on twenty utterances; what is finished is not done again; the pack works."""
    # Stage 10 on a fresh clone: stages 1 to 9 run first, and it says so.
    toy = ("./run.sh", "--corpora", "toy")
    result = run(recipe, *toy, "--stage", "10", "--stop_stage", "11")
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-5000:]
    assert "Stage 10 needs what stage 1 makes: running stages 1 to 9 first" in result.stdout
    # Two jobs for one phase; for the others one, which starts once only.
    decode = (*toy, "--stage", "12", "--stop_stage")
    result = run(
        recipe, *decode, "12", "--decode_phases", "1", "--inference_nj", "2", "--lid", "right wrong"
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-5000:]
    result = run(recipe, *decode, "14", "--inference_nj", "1")
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-5000:]
    assert "Phase 1: toy_test_asr_en is decoded" in result.stdout
    assert "toy_test_asr_zh: decoded 2 of 2 utterances" in result.stdout
    experiment = recipe / "exp/toy"
    tests = [f"toy_test_{name}" for name in ("asr_en", "asr_zh", "st_en_zh", "st_zh_en")]
    for phase in ("1", "2a", "2b", "3"):
        folder = experiment / f"part/phase{phase}"
        for name in "config.yaml train.log checkpoint.pth latest.pth .finished RESULTS.md".split():
            assert (folder / name).exists(), folder / name
        assert (folder / "valid.loss.best.pth").exists()
        for name in tests:
            decoded = folder / "decode_greedy_latest" / name
            ids = (recipe / "dump/raw" / name / "utt2task").read_text().split("\n")[:-1]
            for kind in ("text", "token", "token_int", "score"):
                lines = (decoded / kind).read_text().splitlines()
                assert [line.split(" ")[0] for line in lines] == [i.split(" ")[0] for i in ids]
            score = {"asr_en": "wer", "asr_zh": "cer"}.get(name[9:])
            found = decoded / (f"score_{score}/result.txt" if score else "score_bleu/result.tc.txt")
            assert found.exists()
    rows = json.loads((experiment / "results.json").read_text())["results"]
    assert {row["phase"] for row in rows if row["curriculum"] == "part"} == {"1", "2a", "2b", "3"}
    assert {row["test_set"] for row in rows} == set(tests)
    lids = {(row["decode"], row["lid"]) for row in rows if row["curriculum"] == "part"}
    assert lids == {
        ("decode_greedy_latest", "right"), ("decode_greedy_latest_lid_wrong", "wrong")
    }  # fmt: skip
    assert "phase 1: language named in the prompt" in (experiment / "RESULTS.md").read_text()

    # Again: nothing is trained or decoded a second time.
    times = {path: path.stat().st_mtime_ns for path in experiment.rglob("latest.pth")}
    result = run(recipe, *toy, "--stage", "11", "--stop_stage", "12")
    assert result.returncode == 0, result.stderr
    assert "Phase 3 is finished" in result.stdout
    assert "Phase 3: toy_test_asr_en is decoded" in result.stdout
    assert "started..." not in result.stdout
    assert times == {path: path.stat().st_mtime_ns for path in experiment.rglob("latest.pth")}

    # Stage 15, as far as it goes without a network.
    result = run(
        recipe, *toy, "--stage", "15", "--skip_upload_hf", "false", "--hf_repo", "me/toy",
        "--upload_args", "--dry_run",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "me/toy" in result.stdout

    # Phase 3 alone, on from a pack.
    result = run(
        recipe, *toy, "--stage", "11", "--stop_stage", "11", "--curriculum", "finetune",
        "--pretrained_model", "exp/toy/part/phase3/toy_part_latest.zip", "--part_args",
        "--max_steps 1",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-5000:]
    log = (experiment / "finetune/phase3/train.log").read_text()
    assert "loaded from exp/pretrained/toy_part_latest-" in log
    assert "step 1/1" in log

    # The pack of a phase that says something, elsewhere, without this recipe folder: the same text.
    assert (experiment / "part/phase3/toy_part_latest.zip").exists()
    result = run(recipe, *toy, "--stage", "14", "--stop_stage", "14", "--phase", "1")
    assert result.returncode == 0, result.stderr
    pack = experiment / "part/phase1/toy_part_latest.zip"
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(recipe / "data/toy/audio", elsewhere / "audio")
    shutil.copy(pack, elsewhere / "model.zip")
    shutil.move(recipe, tmp_path / "moved")
    result = run(
        elsewhere, sys.executable, "-m", "espnet_part.bin.transcribe", "audio/toyen-test-00.flac",
        "--lang", "en", "--model", "model.zip", PYTHONPATH=str(ROOT),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    decoded = tmp_path / "moved/exp/toy/part/phase1/decode_greedy_latest/toy_test_asr_en/text"
    expected = dict(line.split(" ", 1) for line in decoded.read_text().splitlines())
    assert expected["toyen-test-00-asr"].strip()
    assert expected["toyen-test-00-asr"].strip() in result.stdout
