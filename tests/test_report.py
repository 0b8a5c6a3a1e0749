"""Stage 13 on a made experiment: files that ESPnet's scripts read, results.json, RESULTS.md."""

import json
import re
import subprocess
import sys

import pytest

from espnet_part.bin import report as report_command
from espnet_part.datadir import Row, write_datadir
from espnet_part.report import derangement
from espnet_part.results import KEYS, METRICS, load_rows, merge_rows, save_rows

WORDS = "Katze Hund Kuh Henne Schwein Fuchs Eule Biene Ameise Ratte".split()
ANIMALS = "cat dog cow hen pig fox owl bee ant rat".split()
N = 12


def sentence(i, words=ANIMALS):
    return " ".join(words[(i * 7 + k * k + 3 * k) % 10] for k in range(4 + i % 3))


def make_test_set(dump, name, task, tgt, target):
    rows = [
        Row(f"u{i:02}-{task}", task, "en", tgt, target(i), f"{i}.wav", speaker=f"spk{i % 2}")
        for i in range(N)
    ]
    folder = dump / "raw" / name
    write_datadir(folder, rows)
    return rows


def write_hyps(folder, hyps):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text").write_text("".join(f"{u} {h}\n" for u, h in hyps), encoding="utf-8")


@pytest.fixture
def experiment(tmp_path):
    """Two phases, an asr and a st test set; phase 2a hears everything, phase 1 nothing of u00."""
    dump, exp = tmp_path / "dump", tmp_path / "exp" / "digits"
    asr = make_test_set(dump, "digits_test_asr_en", "asr", "en", sentence)
    st = make_test_set(dump, "digits_test_st_en_de", "st", "de", lambda i: sentence(i, WORDS))
    for phase in ("1", "2a"):
        phase_dir = exp / "part" / f"phase{phase}"
        decode = phase_dir / "decode_greedy_latest"
        for name, rows in (("digits_test_asr_en", asr), ("digits_test_st_en_de", st)):
            hyps = [(row.utt_id, row.target) for row in rows]
            if phase == "1":
                hyps[0] = (hyps[0][0], "")
            write_hyps(decode / name, hyps[::-1])
        (phase_dir / "config.yaml").write_text("seed: 7\nmax_steps: 3\n")
        meta = {"checkpoint": "latest.pth", "lid": "right"}
        (decode / "decode.json").write_text(json.dumps(meta))
    return dump, exp


def run(dump, exp, *more):
    report_command.main(["--exp", str(exp), "--dumpdir", str(dump), "--bootstrap", "50", *more])
    return json.loads((exp / "results.json").read_text(encoding="utf-8"))["results"]


def asr_lines(phase_dir):
    """Say what ESPnet's show_asr_result.sh makes of a folder: grep, cut at |, squeeze."""
    lines = []
    for path in sorted(phase_dir.glob("*/*/score_*/result.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if "Avg" in line:
                fields = re.sub("[| ]+", "|", line.replace("Sum/Avg", ""))
                lines.append(f"{path.parent.parent.name}{fields}")
    return lines


def translation_lines(phase_dir):
    """Say what show_translation_result.sh takes: field 3 of line 5, line 7 from field 3 on."""
    lines = []
    for path in sorted(phase_dir.glob("*/*/score_bleu/result.tc.txt")):
        content = path.read_text(encoding="utf-8").split("\n")
        score = content[4].split(" ")[2].replace(",", "")
        verbose = re.sub('[",]', "", " ".join(content[6].split(" ")[2:]))
        lines.append((path.parent.parent.name, score, verbose))
    return lines


def test_files_read_by_espnets_scripts(experiment):
    dump, exp = experiment
    rows = run(dump, exp)
    tokens = sum(len(sentence(i).split()) for i in range(N))
    first = exp / "part" / "phase1"
    lost = 4 / tokens * 100
    expected = f"|{N}|{tokens}|{100 - lost:.1f}|0.0|{lost:.1f}|0.0|{lost:.1f}|{100 / N:.1f}|"
    assert asr_lines(first) == [f"digits_test_asr_en{expected}"]
    [(name, score, verbose)] = translation_lines(first)
    row = next(r for r in rows if (r["phase"], r["metric"]) == ("1", "bleu"))
    assert (name, float(score)) == ("digits_test_st_en_de", round(row["value"], 2))
    assert re.match(r"[\d.]+/[\d.]+/[\d.]+/[\d.]+ \(BP = ", verbose)


def test_bleu_file_is_the_sacrebleu_commands(experiment):
    dump, exp = experiment
    run(dump, exp)
    folder = exp / "part/phase1/decode_greedy_latest/digits_test_st_en_de/score_bleu"
    command = [sys.executable, "-m", "sacrebleu", "ref.trn", "-i", "hyp.trn", "-m", "bleu", "chrf"]
    command += ["-w", "2"]
    out = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    content = (folder / "result.tc.txt").read_text(encoding="utf-8")
    assert content.split("\n", 1)[1] == out
    assert (folder / "hyp.trn.org").read_text().split("\n")[0] == "\t(spk0-u00-st)"


def test_sclites_own_report_where_it_is_installed(experiment, monkeypatch):
    dump, exp = experiment
    run(dump, exp)
    score_dir = exp / "part/phase1/decode_greedy_latest/digits_test_asr_en/score_wer"
    fake = exp.parent / "bin" / "sclite"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\necho "sclite $*"; wc -l < "$2"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(fake.parent), prepend=":")
    run(dump, exp)
    lines = (score_dir / "result.sclite.txt").read_text().splitlines()
    assert lines[0].startswith("sclite -r ref.trn trn -h hyp.trn trn -i rm")
    assert lines[1].strip() == str(N)
    assert (score_dir / "result.txt").read_text().startswith("WER by jiwer")


def test_result_txt(experiment):
    dump, exp = experiment
    utt = "u03-asr"
    path = exp / "part/phase1/decode_greedy_latest/digits_test_asr_en/text"
    words = sentence(3).split()
    hyp = " ".join(["so", *words[:1], "xx", *words[2:-1]])
    lines = path.read_text().replace(f"{utt} {sentence(3)}", f"{utt} {hyp}")
    path.write_text(lines)
    run(dump, exp)
    score_dir = path.parent / "score_wer"
    text = (score_dir / "result.txt").read_text(encoding="utf-8")
    assert re.search(r"^\| spk0 +\| +6 +\d+ \|( +[\d.]+){6} \|$", text, re.M)
    assert re.search(r"^\| Sum/Avg +\| +12 +\d+ \|( +[\d.]+){6} \|$", text, re.M)
    assert text.count("Avg") == 1
    frame = text.split("\n\n")[1].split("\n")
    assert len(frame) == 8 and len({len(line) for line in frame}) == 1
    block = text[text.index(f"id: (spk1-{utt})") :].split("\n")
    assert block[1] == f"Scores: (#C #S #D #I) {len(words) - 2} 1 1 1"
    assert block[2].split()[1:3] == ["**", words[0]]
    assert block[4].split() == ["Eval:", "I", "S", "D"]
    ref, hyp = ((score_dir / f"{n}.trn").read_text().split("\n")[3] for n in ("ref", "hyp"))
    assert ref == f"{sentence(3)}\t(spk1-{utt})"
    assert hyp.startswith("so ")


def test_characters_get_cer_and_aligned_columns(tmp_path):
    dump, exp = tmp_path / "dump", tmp_path / "exp"
    rows = [Row("a", "asr", "zh", "zh", "今天 下雨。", "a.wav", speaker="s")]
    write_datadir(dump / "raw" / "t_asr_zh", rows)
    write_hyps(exp / "part/phase1/greedy/t_asr_zh", [("a", "今天下大雪")])
    rows = run(dump, exp)
    assert {row["curriculum"] for row in rows} == {"part"}  # one utterance: no floor
    text = (exp / "part/phase1/greedy/t_asr_zh/score_cer/result.txt").read_text(encoding="utf-8")
    assert asr_lines(exp / "part/phase1")[0].startswith("t_asr_zh|1|4|75.0|25.0|0.0|25.0|50.0|")
    assert "HYP:  今 天 下" in text
    assert "\t(s-a)" in (exp / "part/phase1/greedy/t_asr_zh/score_cer/ref.trn").read_text()


def test_results_json_has_the_fixed_schema(experiment):
    dump, exp = experiment
    rows = run(dump, exp)
    for row in rows:
        assert set(KEYS) <= set(row)
        assert row["metric"] in METRICS
        assert isinstance(row["value"], float)
        assert len(row["ci95"]) == 2
        assert row["n_utts"] == N
        assert row["signature"]
    trained = [row for row in rows if row["curriculum"] == "part"]
    assert len(trained) == 2 * (5 + 6)
    assert {(r["seed"], r["checkpoint"], r["lid"]) for r in trained} == {(7, "latest.pth", "right")}
    perfect = {(r["metric"], r["value"]) for r in trained if r["phase"] == "2a"}
    assert {("wer", 0.0), ("loop_rate", 0.0)} <= perfect
    assert next(value for metric, value in perfect if metric == "bleu") == pytest.approx(100.0)
    floor = [row for row in rows if row["curriculum"] == "floor"]
    assert {r["metric"] for r in floor} > {"wer", "bleu", "chrf"}
    assert next(r["value"] for r in floor if r["metric"] == "wer") > 30


def test_scoring_again_replaces_and_keeps(experiment):
    dump, exp = experiment
    first = run(dump, exp)
    other = {**first[-1], "curriculum": "two_stage"}
    save_rows(exp / "results.json", [*first, other])
    again = run(dump, exp)
    assert again == [*first, other]
    seeded = merge_rows(first, [{**first[-1], "seed": 8}])
    assert len(seeded) == len(first) + 1


@pytest.mark.parametrize("place", ["", "logdir/output.1"])
def test_decode_json_of_a_job(experiment, place):
    dump, exp = experiment
    decode = exp / "part/phase1/decode_greedy_latest"
    (decode / "decode.json").unlink()
    folder = decode / "digits_test_asr_en" / place
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "decode.json").write_text('{"checkpoint": "/home/me/x/latest.pth", "lid": "none"}')
    rows = [r for r in run(dump, exp) if (r["curriculum"], r["phase"]) == ("part", "1")]
    found = {(r["task"], r["checkpoint"], r.get("lid")) for r in rows}
    assert found == {("asr", "latest.pth", "none"), ("st", None, None)}


def test_references_made_elsewhere(experiment, capsys):
    dump, exp = experiment
    path = exp.parent / "references.json"
    row = {"test_set": "digits_test_asr_en", "task": "asr", "metric": "wer", "value": 1.25}
    path.write_text(json.dumps([row]))
    rows = run(dump, exp, "--reference", str(path))
    ctc = [r for r in rows if r["curriculum"] == "encoder_ctc"]
    assert [(r["value"], r["phase"], r["seed"]) for r in ctc] == [(1.25, None, None)]
    out = capsys.readouterr().out
    header = next(line for line in out.splitlines() if line.startswith("| test set "))
    assert [cell.strip() for cell in header.split("|")[2:6]] == [
        "floor",
        "encoder_ctc",
        "phase 1",
        "phase 2a",
    ]
    known = ("llm_text", "elsewhere", "cascade", "encoder_ctc")
    rows = [row | {"curriculum": name, "metric": "bleu", "phase": None} for name in known]
    path.write_text(json.dumps([{**r, "test_set": "digits_test_st_en_de"} for r in rows]))
    run(dump, exp, "--reference", str(path))
    out = capsys.readouterr().out
    header = [line for line in out.splitlines() if line.startswith("| test set ")][1]
    assert [cell.strip() for cell in header.split("|")[2:8]] == (
        ["floor", "encoder_ctc", "cascade", "llm_text", "elsewhere", "phase 1"]
    )
    path.write_text(json.dumps([{"metric": "wer"}]))
    with pytest.raises(SystemExit, match="row 0 lacks test_set, value"):
        run(dump, exp, "--reference", str(path))
    with pytest.raises(SystemExit, match="No such results file"):
        run(dump, exp, "--reference", "none.json")


def test_a_reference_system_has_its_own_column_even_with_a_phase(experiment, capsys):
    dump, exp = experiment
    path = exp.parent / "references.json"
    row = {"test_set": "digits_test_asr_en", "metric": "wer", "value": 1.25, "phase": "parts"}
    path.write_text(json.dumps({"results": [row]}))
    run(dump, exp, "--reference", str(path))
    out = capsys.readouterr().out
    assert "## encoder_ctc" not in out
    assert re.search(r"^\| digits_test_asr_en +\| +[\d.]+ \| +1.25 \| +6.67 \|", out, re.M)


def test_tables_are_aligned_and_fit_the_terminal(experiment, capsys):
    dump, exp = experiment
    run(dump, exp)
    out = capsys.readouterr().out
    tables = [block.split("\n") for block in out.split("\n\n") if block.startswith("| ")]
    assert len(tables) == 4
    for table in tables:
        assert len({len(line) for line in table}) == 1
        assert len(table[0]) <= 100
    written = (exp / "RESULTS.md").read_text(encoding="utf-8")
    assert out.strip() in written
    phase = (exp / "part/phase2a/RESULTS.md").read_text(encoding="utf-8")
    assert "decode_greedy_latest/digits_test_asr_en" in phase
    for text in (written, phase):
        assert str(exp) not in text  # no machine's paths


def test_several_curricula_are_compared(experiment, capsys):
    dump, exp = experiment
    name = "digits_test_asr_en"
    source = exp / "part/phase1/decode_greedy_latest" / name / "text"
    target = exp / "two_stage/phase2/decode_greedy_latest" / name
    target.mkdir(parents=True)
    (target / "text").write_bytes(source.read_bytes())
    run(dump, exp)
    out = capsys.readouterr().out
    compared = out[out.index("## Last phases compared") :]
    assert re.search(r"\| part, decode_greedy_latest +\| +2a \| +0.00 \| +- \| +- \|", compared)
    assert re.search(r"\| two_stage, decode_greedy_latest +\| +2 \|", compared)


def test_one_unfinished_decoding_does_not_hide_the_others(experiment):
    dump, exp = experiment
    path = exp / "part/phase2a/decode_greedy_latest/digits_test_asr_en/text"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(SystemExit, match="1 of 12 utterances have no hypothesis: u11-asr"):
        run(dump, exp)
    rows = load_rows(exp / "results.json")
    assert {(r["phase"], r["metric"]) for r in rows} >= {("1", "wer"), ("2a", "bleu")}
    assert ("2a", "wer") not in {(r["phase"], r["metric"]) for r in rows}
    rows = run(dump, exp, "--allow_missing")
    assert ("2a", "wer") in {(r["phase"], r["metric"]) for r in rows}


def test_nothing_to_score_says_what_to_run(tmp_path, experiment):
    with pytest.raises(SystemExit, match="run stage 12"):
        run(tmp_path, tmp_path / "none")
    dump, exp = experiment
    with pytest.raises(SystemExit, match="No reference folder .*run stages 1 to 4"):
        run(tmp_path / "elsewhere", exp)
    folder = dump / "raw" / "digits_test_asr_en"
    for name, old, new in (("utt2task", "asr asr", "asr st"), ("utt2tgt", "asr en", "asr de")):
        changed = (folder / name).read_text().replace(old, new, 1)
        (folder / name).write_text(changed)
    with pytest.raises(SystemExit, match="language pair, found asr en en, st en de"):
        run(dump, exp)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_derangement_moves_everything(n):
    for seed in range(20):
        order = derangement(n, seed)
        assert sorted(order) == list(range(n))
        assert all(i != j for i, j in enumerate(order))


def test_pictures_are_named_and_cost_no_score(experiment, capsys, monkeypatch):
    dump, exp = experiment
    images = exp / "part" / "images"
    run(dump, exp)
    line = capsys.readouterr().err.strip()
    assert line.startswith(f"Pictures: {images}: scores.png; phases.png left out (")
    assert (images / "scores.png").stat().st_size > 1000
    monkeypatch.setitem(sys.modules, "espnet_part.pictures", None)  # as if it could not be imported
    (exp / "results.json").unlink()
    assert run(dump, exp)
    assert "Pictures: none of part (ModuleNotFoundError: " in capsys.readouterr().err
