"""Decoding data folders: every id that comes in goes out."""

import json
import logging
import re
from datetime import datetime

import numpy as np
import pytest
import soundfile
from inference_fakes import RATE, FakeModel, tone

from espnet_part.bin import inference as command
from espnet_part.datadir import Row, iter_rows, write_datadir
from espnet_part.decode_job import decode_rows, lid_of, read_keys, select_rows
from espnet_part.decode_options import DecodeOptions
from espnet_part.decode_output import write_output
from espnet_part.inference import Speech2Text


@pytest.fixture
def folder(tmp_path):
    """A data folder: three good clips, a segment, and four files that cannot be read."""
    audio = tmp_path / "audio"
    audio.mkdir()
    rows = []
    for number, seconds in enumerate([3.0, 1.0, 2.0]):
        soundfile.write(audio / f"{number}.flac", tone(seconds), RATE)
        rows.append(Row(f"a{number}", "asr", "de", "de", "x", str(audio / f"{number}.flac")))
    soundfile.write(audio / "short.wav", tone(0.05), RATE)
    soundfile.write(audio / "nan.wav", np.full(RATE, np.nan), RATE, "FLOAT")
    (audio / "text.wav").write_text("no audio at all")
    for name in ("short", "nan", "text", "missing"):
        rows.append(Row(f"b-{name}", "asr", "de", "de", "x", str(audio / f"{name}.wav")))
    write_datadir(tmp_path / "data", [Row(**{**vars(r), "speaker": "s"}) for r in rows])
    return tmp_path / "data"


@pytest.fixture
def text_folder(tmp_path):
    rows = [Row(f"t{n}", "mt", "sv", "en", "x", source=f"ord {n}") for n in range(3)]
    write_datadir(tmp_path / "text_data", rows)
    return tmp_path / "text_data"


@pytest.fixture
def s2t():
    return Speech2Text.from_model(FakeModel(), DecodeOptions(batch_size=2))


def read(path):
    return dict(line.rstrip("\n").split(" ", 1) for line in path.open(encoding="utf-8"))


def test_unreadable_files_give_empty_hypotheses(folder, tmp_path, s2t, caplog):
    outcome = decode_rows(s2t, select_rows(folder, None), "data")
    write_output(tmp_path / "out", outcome)
    text = read(tmp_path / "out/1best_recog/text")
    assert list(text) == [row.utt_id for row in iter_rows(folder)]
    assert {key: value for key, value in text.items() if value} == {
        "a0": "30 asr de de right",
        "a1": "10 asr de de right",
        "a2": "20 asr de de right",
    }
    failed = read(tmp_path / "out/failed")
    assert set(failed) == set(text) - {"a0", "a1", "a2"}
    assert "b-missing.wav" not in failed["b-nan"] and "NaN" in failed["b-nan"]
    assert sum(outcome.reasons.values()) == 4
    assert all(f"{key}: empty hypothesis" in caplog.text for key in failed)
    for name in ("token", "token_int", "score"):
        assert list(read(tmp_path / f"out/1best_recog/{name}")) == list(text)
    token = read(tmp_path / "out/1best_recog/token")
    assert token["a1"].split() == ["1", "0", "▁", *"asr", "▁", *"de", "▁", *"de", "▁", *"right"]
    assert read(tmp_path / "out/1best_recog/token_int")["a1"].startswith("49 48 32 ")
    score = read(tmp_path / "out/1best_recog/score")
    assert score["a0"] == "-1.000000" and score["b-nan"] == "nan"


def test_key_files(folder, tmp_path, s2t):
    (tmp_path / "keys").write_text("a2 x\na0\n\n")
    rows = select_rows(folder, tmp_path / "keys")
    assert list(rows) == list(decode_rows(s2t, rows, "data").decoded) == ["a2", "a0"]
    (tmp_path / "keys").write_text("a2\nzz\n")
    with pytest.raises(ValueError, match="id zz is not in .*data"):
        select_rows(folder, tmp_path / "keys")
    (tmp_path / "keys").write_text("a2\na2\n")
    with pytest.raises(ValueError, match="a2 comes more than once"):
        read_keys(tmp_path / "keys")
    with pytest.raises(ValueError, match="no such key file"):
        read_keys(tmp_path / "none")


def test_an_empty_share_of_the_keys(folder, tmp_path, s2t):
    (tmp_path / "keys").write_text("")
    outcome = decode_rows(s2t, select_rows(folder, tmp_path / "keys"), "data")
    write_output(tmp_path / "out", outcome)
    assert (tmp_path / "out/1best_recog/text").read_text() == ""
    assert not (tmp_path / "out/failed").exists()


def test_text_folders(text_folder, s2t):
    outcome = decode_rows(s2t, select_rows(text_folder, None), "text")
    assert [answer.text for answer in outcome.decoded.values()] == [
        f"ord {n} mt sv en right" for n in range(3)
    ]


def test_segments_are_honored(tmp_path, s2t):
    soundfile.write(tmp_path / "long.wav", tone(10.0), RATE)
    path = str(tmp_path / "long.wav")
    rows = [
        Row("u1", "asr", "de", "de", "x", path, 1.0, 3.5, None, "s"),
        Row("u2", "asr", "de", "de", "x", path, 4.0, 5.0, None, "s"),
    ]
    write_datadir(tmp_path / "data", rows)
    outcome = decode_rows(s2t, select_rows(tmp_path / "data", None), "data")
    assert [answer.text[:2] for answer in outcome.decoded.values()] == ["25", "10"]


def test_long_files_are_decoded_whole(tmp_path):
    soundfile.write(tmp_path / "long.wav", tone(70.0), RATE)
    rows = [Row("u", "asr", "zh", "zh", "x", str(tmp_path / "long.wav"), speaker="s")]
    write_datadir(tmp_path / "data", rows)
    s2t = Speech2Text.from_model(FakeModel())
    outcome = decode_rows(s2t, select_rows(tmp_path / "data", None), "data")
    assert len(outcome.decoded["u"].pieces) >= 3
    assert "right2" in outcome.decoded["u"].text.replace("right1", "right2")  # joined as Chinese is


def test_lid(folder, s2t):
    rows = select_rows(folder, None)
    outcome = decode_rows(s2t, {"a0": rows["a0"]}, "data", lid="none")
    assert outcome.decoded["a0"].text == "30 asr de de none"
    wrong = [lid_of(Row(f"u{n}", "asr", "de", "de", ""), "wrong") for n in range(200)]
    assert "de" not in wrong and len(set(wrong)) == 12
    assert lid_of(rows["a0"], "wrong") == lid_of(rows["a0"], "wrong")


def test_a_wrong_language_may_be_the_target_or_one_that_is_never_spoken():
    """Published figures depend on it; the option's help says so."""
    wrong = {lid_of(Row(f"u{n}", "st", "de", "en", ""), "wrong") for n in range(200)}
    assert {"en", "sv", "id", "ar"} < wrong and "de" not in wrong
    help_text = " ".join(command.get_parser().format_help().split())
    assert "any but the source language (st: may be the target language)" in help_text


def test_rtf_lines(folder, s2t, caplog):
    """ESPnet's calculate_rtf.py: start and end of each utterance, by the time in its log line."""
    with caplog.at_level(logging.INFO):
        outcome = decode_rows(s2t, select_rows(folder, None), "data")
    formatter = logging.Formatter("%(asctime)s (%(module)s:%(lineno)d) %(levelname)s: %(message)s")
    lines = [formatter.format(record) for record in caplog.records]
    samples, spent, started = [], 0.0, None
    for line in lines:
        time = datetime.strptime(line.split(" (")[0], "%Y-%m-%d %H:%M:%S,%f")
        if "INFO: speech length" in line:
            samples.append(int(line.split("speech length: ")[1]))
            started = time
        elif "INFO: best hypo" in line:
            spent += (time - started).total_seconds()
            started = None
    assert sorted(samples) == [RATE, 2 * RATE, 3 * RATE]
    assert sum(samples) / RATE == outcome.audio_sec
    assert spent == pytest.approx(outcome.decode_sec, abs=0.01)
    assert re.search(
        r"data: 7/7 utterances, 0.1 min of audio, .* x real time, 0:00:00 left", lines[-1]
    )


# ----- the command -----


@pytest.fixture
def run(monkeypatch):
    """Runs the command with a fake model; returns the last Speech2Text."""
    made = []

    def fake(config, model_file, device, dtype, options):
        made.append(Speech2Text.from_model(FakeModel(), options))
        return made[-1]

    def fake_pack(tag, device, dtype, options):
        return fake(None, tag, device, dtype, options or DecodeOptions(beam_size=7, maxlencap=70))

    fake.from_pretrained = fake_pack
    monkeypatch.setattr("espnet_part.inference.Speech2Text", fake)

    def call(*arguments, model=("--part_train_config", "c", "--part_model_file", "exp/m.pth")):
        command.main([*model, *arguments])
        return made[-1]

    return call


def test_several_folders_in_one_process(run, folder, text_folder, tmp_path):
    (tmp_path / "k1").write_text("a0\nb-nan\n")
    (tmp_path / "k2").write_text("t1\n")
    (tmp_path / "dec.yaml").write_text("beam_size: 3\nmaxlencap: 40\n")
    folders = [str(folder), str(text_folder)]
    s2t = run(
        *("--data_dir", *folders, "--key_file", str(tmp_path / "k1"), str(tmp_path / "k2")),
        *("--output_dir", str(tmp_path / "o1"), str(tmp_path / "o2")),
        *("--config", str(tmp_path / "dec.yaml"), "--maxlencap", "50", "--lid", "none"),
    )
    assert (s2t.options.beam_size, s2t.options.maxlencap) == (3, 50)
    assert read(tmp_path / "o1/1best_recog/text") == {"a0": "30 asr de de none", "b-nan": ""}
    assert read(tmp_path / "o2/1best_recog/text") == {"t1": "ord 1 mt sv en none"}
    record = json.loads((tmp_path / "o1/decode.json").read_text())
    assert record["checkpoint"] == "exp/m.pth" and record["lid"] == "none"
    assert record["options"]["maxlencap"] == 50 and record["n_utts"] == 2
    assert record["failed"] == {"NaN or infinite samples": 1}
    assert "options" in json.loads((tmp_path / "o2/decode.json").read_text())


def test_options_of_a_pack(run, folder, tmp_path):
    """The pack's own hold; the command line goes over single ones; --config replaces all."""
    (tmp_path / "dec.yaml").write_text("batch_size: 3\n")
    pack = ("--model_tag", "m.zip")
    folders = ("--data_dir", str(folder), "--output_dir", str(tmp_path / "o"))
    s2t = run(*folders, "--maxlencap", "50", model=pack)
    assert (s2t.options.beam_size, s2t.options.maxlencap) == (7, 50)
    assert json.loads((tmp_path / "o/decode.json").read_text())["checkpoint"] == "m.zip"
    s2t = run(*folders, "--config", str(tmp_path / "dec.yaml"), model=pack)
    assert s2t.options == DecodeOptions(batch_size=3)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--lid", "left"], "--lid: found 'left', expected one of right none wrong"),
        (["--model_tag", "x"], "either --part_train_config"),
        (["--key_file", "a", "b"], "expected as many of each"),
        (["--beam_size", "0"], "beam_size: found 0, expected at least 1"),
        (["--key_file", "nowhere"], "nowhere: no such key file"),
    ],
)
def test_wrong_options(run, folder, tmp_path, caplog, extra, message):
    with pytest.raises(SystemExit) as leaving:
        run("--data_dir", str(folder), "--output_dir", str(tmp_path / "o"), *extra)
    assert leaving.value.code == 1
    assert message in caplog.text
    assert not (tmp_path / "o").exists()


def test_unknown_keys_of_the_config_are_errors(run, folder, tmp_path, caplog):
    (tmp_path / "dec.yaml").write_text("beam: 3\n")
    with pytest.raises(SystemExit):
        run(
            *("--data_dir", str(folder), "--output_dir", str(tmp_path / "o")),
            *("--config", str(tmp_path / "dec.yaml")),
        )
    assert "unknown decode option 'beam'" in caplog.text
