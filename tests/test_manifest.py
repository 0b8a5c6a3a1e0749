"""Manifests: what is in them, skipped rows, made once, read from any process."""

import json
import os
import pickle
import resource
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from espnet_part import manifest_writer
from espnet_part.audio import load_audio
from espnet_part.batching import row_cost
from espnet_part.bin.manifest import main
from espnet_part.datadir import Row, iter_rows, write_datadir
from espnet_part.manifest import FILES, Manifest, write_manifest
from espnet_part.prompt import LANGUAGES, TASKS


def make_tokenizer():
    """One token per UTF-8 byte, and a special token in front unless told otherwise."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=raw)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def speech(folder, seconds=(1.0, 0.5, 2.0), rate=8000):
    """A folder of asr and st rows that share their clips."""
    (folder / "wav").mkdir(parents=True)
    rows = []
    for i, sec in enumerate(seconds):
        path = folder / "wav" / f"c{i}.wav"
        wave = np.random.default_rng(i).standard_normal(round(sec * rate)) * 0.1
        soundfile.write(path, wave, rate)
        asr = Row(f"c{i}-asr", "asr", "en", "en", f"hello {i}", str(path), speaker="s")
        st = replace(asr, utt_id=f"c{i}-st-de", task="st", tgt="de", target="gr\u00fc\u00df")
        rows += [asr, replace(st, source=f"hello {i}")]
    write_datadir(folder / "data", rows)
    return folder / "data", rows


def test_manifest_holds_what_the_data_folder_says(tmp_path, tokenizer):
    data_dir, rows = speech(tmp_path)
    meta = write_manifest(data_dir, tmp_path / "m", tokenizer, jobs=2)
    manifest = Manifest.open(tmp_path / "m")
    assert len(manifest) == meta["rows"] == 6 and meta["skipped"] == {}
    assert [manifest.row(i) for i in range(6)] == rows == list(iter_rows(data_dir))
    for record, row in zip(manifest.index, rows, strict=True):
        assert record["samples"] == len(load_audio(row.path))
        assert record["n_target"] == len(tokenizer(row.target, add_special_tokens=False).input_ids)
        assert record["n_source"] == len((row.source or "").encode())
        assert manifest.meta["tasks"][record["task"]] == row.task
        assert manifest.meta["languages"][record["src"]] == row.src
        assert manifest.meta["languages"][record["tgt"]] == row.tgt
    assert manifest.meta["tasks"] == list(TASKS)
    assert manifest.meta["languages"] == list(LANGUAGES)
    assert {path.name for path in (tmp_path / "m").iterdir()} == set(FILES)


def test_totals(tmp_path, tokenizer):
    data_dir, _ = speech(tmp_path)
    totals = write_manifest(data_dir, tmp_path / "m", tokenizer)["totals"]
    index = Manifest.open(tmp_path / "m").index
    assert set(totals) == {"asr en en", "st en de"}
    cost = row_cost(index["samples"], index["n_source"], index["n_target"])
    assert totals["asr en en"] == {
        **{"rows": 3, "hours": pytest.approx(3.5 / 3600), "target_tokens": 21, "source_tokens": 0},
        "cost": pytest.approx(cost[0::2].sum()),
    }
    assert (totals["st en de"]["target_tokens"], totals["st en de"]["source_tokens"]) == (18, 21)
    assert totals["st en de"]["cost"] == pytest.approx(cost[1::2].sum())


def test_text_rows_and_empty_text(tmp_path, tokenizer):
    rows = [Row("a", "mt", "en", "ja", "\u3042", source="ab"), Row("b", "instruct", "en", "en", "")]
    write_datadir(tmp_path / "data", rows)
    write_manifest(tmp_path / "data", tmp_path / "m", tokenizer)
    manifest = Manifest.open(tmp_path / "m")
    assert manifest.index["samples"].tolist() == [0, 0]
    assert manifest.index["n_source"].tolist() == [2, 0]
    assert manifest.index["n_target"].tolist() == [3, 0]
    assert manifest.row(0) == rows[0]


def test_special_tokens_in_text_are_text(tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "</s>"})
    write_datadir(tmp_path / "data", [Row("a", "mt", "en", "de", "a</s>", source="b")])
    write_manifest(tmp_path / "data", tmp_path / "m", tokenizer)
    assert Manifest.open(tmp_path / "m").index["n_target"].tolist() == [5]


def test_many_blocks_are_one_file(tmp_path, tokenizer, monkeypatch):
    rows = [Row(f"m{i:03d}", "mt", "en", "de", "x" * i, source="y") for i in range(100)]
    write_datadir(tmp_path / "data", rows)
    whole = write_manifest(tmp_path / "data", tmp_path / "whole", tokenizer)
    monkeypatch.setattr(manifest_writer.blocks, "__defaults__", (7,))
    parts = write_manifest(tmp_path / "data", tmp_path / "parts", tokenizer)
    assert whole == parts
    for name in ("index.npy", "rows.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    manifest = Manifest.open(tmp_path / "parts")
    assert manifest.index["n_target"].tolist() == list(range(100))
    assert [manifest.row(i) for i in (99, 0, 50)] == [rows[99], rows[0], rows[50]]


def test_bad_audio_is_skipped_counted_and_named(tmp_path, tokenizer, caplog):
    data_dir, rows = speech(tmp_path, seconds=(1.0, 0.05, 0.5, 0.5))
    os.unlink(rows[4].path)
    (tmp_path / "wav" / "c3.wav").write_bytes(b"")
    meta = write_manifest(data_dir, tmp_path / "m", tokenizer)
    assert meta["skipped"] == {"empty file": 2, "missing file": 2, "shorter than 0.1 s": 2}
    assert meta["rows"] == 2 and len(Manifest.open(tmp_path / "m")) == 2
    for words in ("c1-asr", "c2-asr", "c3-asr", "c2.wav: no such file", "skipped 6 rows"):
        assert words in caplog.text


def test_few_of_many_skipped_rows_are_shown(tmp_path, tokenizer, caplog):
    data_dir, rows = speech(tmp_path, seconds=(1.0,))
    bad = [replace(rows[0], utt_id=f"x{i:02d}", path="/no/file.wav") for i in range(50)]
    write_datadir(data_dir, rows + bad)
    assert write_manifest(data_dir, tmp_path / "m", tokenizer)["skipped"] == {"missing file": 50}
    assert caplog.text.count("skipped x") == 3


def test_no_usable_row_is_an_error(tmp_path, tokenizer):
    data_dir, _ = speech(tmp_path, seconds=(0.05,))
    with pytest.raises(ValueError, match="none of its 2 rows is usable.*2 shorter than 0.1 s"):
        write_manifest(data_dir, tmp_path / "m", tokenizer)
    with pytest.raises(ValueError, match="stage 10"):
        Manifest.open(tmp_path / "m")


def test_made_once_and_again_after_a_change(tmp_path, tokenizer):
    data_dir, rows = speech(tmp_path)
    first = write_manifest(data_dir, tmp_path / "m", tokenizer)
    made = (tmp_path / "m" / "meta.json").stat().st_mtime_ns

    def again():
        meta = write_manifest(data_dir, tmp_path / "m", tokenizer)
        nonlocal made
        before, made = made, (tmp_path / "m" / "meta.json").stat().st_mtime_ns
        return meta, made != before

    assert again() == (first, False)
    write_datadir(data_dir, rows[:4])
    meta, anew = again()
    assert anew and meta["rows"] == 4
    (tmp_path / "m" / "index.npy").unlink()
    assert again()[1]
    other = make_tokenizer()
    other.add_tokens(["hello"])
    write_manifest(data_dir, tmp_path / "m", other)
    assert Manifest.open(tmp_path / "m").index["n_target"][0] == 3  # "hello", " ", "0"


def test_an_open_manifest_survives_a_new_one(tmp_path, tokenizer):
    data_dir, rows = speech(tmp_path)
    write_manifest(data_dir, tmp_path / "m", tokenizer)
    manifest = Manifest.open(tmp_path / "m")
    write_datadir(data_dir, [replace(rows[0], utt_id="new")])
    write_manifest(data_dir, tmp_path / "m", tokenizer)
    assert manifest.row(5) == rows[5] and manifest.index["samples"][0] == 16000


def test_pickle_and_threads(tmp_path, tokenizer):
    data_dir, _ = speech(tmp_path, seconds=[0.2] * 20)
    rows = list(iter_rows(data_dir))
    write_manifest(data_dir, tmp_path / "m", tokenizer)
    manifest = Manifest.open(tmp_path / "m")
    data = pickle.dumps(manifest)
    assert len(data) < 500
    assert pickle.loads(data).row(7) == rows[7]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(manifest.row, list(range(40)) * 20)) == rows * 20
    for i in (-1, 40):
        with pytest.raises(IndexError, match="row"):
            manifest.row(i)


def test_a_manifest_that_is_broken_says_so(tmp_path, tokenizer):
    data_dir, _ = speech(tmp_path)
    write_manifest(data_dir, tmp_path / "m", tokenizer)
    meta = json.loads((tmp_path / "m" / "meta.json").read_text())
    (tmp_path / "m" / "meta.json").write_text(json.dumps({**meta, "rows": 7}))
    with pytest.raises(ValueError, match="6 rows, expected format 1 with 7"):
        Manifest.open(tmp_path / "m")
    with pytest.raises(ValueError, match="meta.json: no such file.*stage 10"):
        Manifest.open(tmp_path / "nothing")


def test_memory_and_speed(tmp_path, tokenizer):
    # 20,000 rows; blocks keep the peak where one block puts it (the process has torch loaded).
    rows = (Row(f"m{i:06d}", "mt", "en", "de", "ziel", source=f"s {i % 7}") for i in range(20_000))
    write_datadir(tmp_path / "data", rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    write_manifest(tmp_path / "data", tmp_path / "m", tokenizer)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # kB
    assert len(Manifest.open(tmp_path / "m")) == 20_000


def test_command(tmp_path, tokenizer, capsys):
    data_dir, _ = speech(tmp_path, seconds=(1.0, 0.05))
    tokenizer.save_pretrained(tmp_path / "llm")
    argv = ["--data_dir", str(data_dir), "--out", str(tmp_path / "m"), "--nj", "2"]
    assert main([*argv, "--tokenizer", str(tmp_path / "llm")]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert "2 rows" in shown[0]
    assert shown[1].split()[:4] == ["task", "languages", "rows", "hours"]
    assert shown[2].split() == ["asr", "en", "1", "0.00", "1.00", "7", "0"]
    assert shown[3].split() == ["st", "en-de", "1", "0.00", "1.00", "6", "7"]
    assert shown[4] == "skipped: 2 shorter than 0.1 s"
    assert main([*argv, "--tokenizer", str(tmp_path / "no")]) == 1
    err = capsys.readouterr().err
    assert "error: --tokenizer" in err and "Traceback" not in err
    assert main(["--data_dir", "/no", "--out", str(tmp_path / "m"), "--tokenizer", "x"]) == 1
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0 and "examples:" in capsys.readouterr().out
