"""part-transcribe: files of any format and length to text or subtitles."""

import numpy as np
import pytest
import soundfile
from inference_fakes import RATE, FakeModel, listening, tone

from espnet_part.bin import transcribe as command
from espnet_part.decode_options import DecodeOptions
from espnet_part.inference import Speech2Text


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Three files of unlike format, rate, channels and length, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(command.MODEL_VARIABLE, raising=False)
    soundfile.write("a.wav", tone(2.0), RATE)
    soundfile.write("b.flac", np.stack([tone(1.0, rate=44100)] * 2, 1), 44100)
    soundfile.write("c.ogg", tone(20.0, rate=8000), 8000)
    return tmp_path


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command with a fake model: (exit code, standard output, standard error, s2t)."""
    made = []

    def fake(source, device="cpu", dtype="float32"):
        made.append(Speech2Text.from_model(FakeModel(), DecodeOptions(batch_size=5)))
        made[-1].source = source
        return made[-1]

    monkeypatch.setattr(Speech2Text, "from_pretrained", fake)

    def call(*arguments):
        with pytest.raises(SystemExit) as leaving:
            command.main([*arguments])
        shown = capsys.readouterr()
        return leaving.value.code, shown.out, shown.err, made[-1] if made else None

    return call


def test_one_file(files, run):
    code, out, _, s2t = run("a.wav", "--lang", "de", "--model", "pack.zip")
    assert (code, out) == (0, "20 asr de de right\n")
    assert s2t.source == "pack.zip" and s2t.options.batch_size == 5


def test_several_files_go_together_and_are_named(files, run):
    code, out, _, s2t = run(
        "a.wav", "b.flac", "c.ogg", "--lang", "de", "--to", "en", "--model", "p"
    )
    assert code == 0
    assert out.splitlines() == [
        "a.wav: 20 st de en right",
        "b.flac: 10 st de en right",
        "c.ogg: 200 st de en right",
    ]
    assert len(s2t.model.calls) == 1


def test_without_a_language(files, run):
    assert run("a.wav", "--model", "p")[1] == "20 asr en en none\n"


def test_no_model(files, run, monkeypatch):
    code, out, err, s2t = run("a.wav", "--lang", "de")
    assert (code, out, s2t) == (1, "", None)
    assert "no model given" in err and "--model" in err and "stage 14" in err
    monkeypatch.setenv(command.MODEL_VARIABLE, "from_environment")
    assert run("a.wav", "--lang", "de")[3].source == "from_environment"


def test_a_bad_file_does_not_stop_the_others(files, run):
    (files / "text.txt").write_text("no audio")
    code, out, err, _ = run("none.wav", "a.wav", "text.txt", "--lang", "de", "--model", "p")
    assert code == 1
    assert out == "a.wav: 20 asr de de right\n"
    assert "none.wav: no such file" in err and "text.txt" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.wav", "--lang", "xx"], "--lang: unknown language 'xx'"),
        (["a.wav", "--lang", "de", "--to", "de"], "--to de is the language spoken"),
        (["a.wav", "--device", "foo"], "--device: found 'foo', expected cpu, cuda or auto"),
        (["a.wav", "--output_dir", "b.flac"], "File exists: 'b.flac'"),
        (["."], ".: a folder, expected audio files"),
        (["a.wav", "--lang", "de", "--to", "yy"], "--to: unknown language 'yy'"),
        (["a.wav", "b.flac", "--srt"], "say by --output_dir"),
        (["a.wav", "x/a.wav", "--output_dir", "o"], "two files are called a.wav"),
        (["a.wav", "--max_sec", "0.5"], "max_sec: found 0.5, expected at least 2"),
    ],
)
def test_wrong_arguments(files, run, arguments, message):
    code, out, err, _ = run(*arguments, "--model", "p")
    assert (code, out) == (1, "")
    assert message in err


def test_subtitles(files, run):
    code, out, _, _ = run("c.ogg", "--lang", "de", "--srt", "--model", "p")
    assert code == 0
    assert out.startswith("1\n00:00:00,000 --> 00:00:0")
    assert out.count(" --> ") == 4 and " --> 00:00:20,000\n" in out
    whole = ("--max_sec", "30", "--pause_sec", "0", "--model", "p")
    assert run("c.ogg", "--srt", *whole)[1].count(" --> ") == 1
    s2t = run("c.ogg", "--srt", "--model", "p")[3]
    assert (s2t.options.max_sec, s2t.options.pause_sec) == (8.0, 0.5)


def test_progress_on_a_terminal(files, run, monkeypatch):
    assert run("c.ogg", "--model", "p", "--max_sec", "4")[2] == ""
    monkeypatch.setattr(command, "_on_terminal", lambda: True)
    _, out, err, _ = run("c.ogg", "--model", "p", "--max_sec", "4")
    assert "pieces" not in out
    assert "\033[Kpart-transcribe: 5 of " in err and err.endswith("\r\033[K")


def test_output_dir(files, run):
    code, out, _, _ = run(
        *("a.wav", "b.flac", "--lang", "de", "--srt", "--output_dir", "out", "--model", "p")
    )
    assert code == 0 and out.splitlines() == ["out/a.wav.srt", "out/b.flac.srt"]
    assert "20 asr de de right" in (files / "out/a.wav.srt").read_text()
    run("a.wav", "--output_dir", "out", "--model", "p")
    assert (files / "out/a.wav.txt").read_text() == "20 asr en en none\n"


def test_options_reach_the_model(files, run):
    _, _, _, s2t = run("a.wav", "--beam_size", "3", "--batch_size", "2", "--model", "p")
    assert (s2t.options.beam_size, s2t.options.batch_size, s2t.options.max_sec) == (3, 2, 30.0)


def test_five_minutes_whole_by_the_real_model(make_model):
    s2t = Speech2Text.from_model(
        listening(make_model()), DecodeOptions(maxlenratio=1, maxlenextra=2, max_sec=20)
    )
    syllables = [tone(4.5, 150 + 40 * i) for i in range(60)]
    wave = np.concatenate([np.append(s, np.zeros(RATE // 2, np.float32)) for s in syllables])
    assert len(wave) == 300 * RATE
    pieces = s2t.transcribe_pieces(wave, lang="sv")
    assert pieces[-1].end_sec == 300.0 and len(pieces) >= 15
    # Each piece is decoded as it is alone.
    cut = [wave[int(p.start_sec * RATE) : int(p.end_sec * RATE)] for p in pieces]
    assert [s2t.transcribe(piece, lang="sv") for piece in cut[::9]] == [p.text for p in pieces[::9]]
    assert s2t.transcribe(wave, lang="sv") == " ".join(p.text for p in pieces if p.text)
    assert len({piece.text for piece in pieces}) > 3
