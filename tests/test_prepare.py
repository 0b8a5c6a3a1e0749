"""Stages 2 to 4: format, filter, speed: what is kept, what is skipped, killed runs, pipes."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile

from espnet_part import clipstore
from espnet_part.audio import audio_samples, load_audio
from espnet_part.bin.prepare import main
from espnet_part.datadir import Row, iter_rows, write_datadir
from espnet_part.filtering import Limits, filter_datadir
from espnet_part.formatting import format_datadir, perturb_datadir
from espnet_part.mt_rows import derive_mt

MT = Row("m1", "mt", "en", "de", "hallo welt", source="hello world")


def clip(path, sec, rate=16000, seed=0):
    wave = np.random.default_rng(seed).standard_normal(round(sec * rate)) * 0.1
    soundfile.write(path, wave, rate)
    return str(path)


def asr(name, path, **changes):
    row = Row(f"{name}-asr", "asr", "en", "en", f"text of {name}", str(path), speaker="s")
    return replace(row, **changes)


def st(name, path, **changes):
    row = asr(name, path, utt_id=f"{name}-st-de", task="st", tgt="de", source=f"text of {name}")
    return replace(row, **changes)


@pytest.fixture
def data(tmp_path):
    """Three good clips, two of them with an asr and an st row."""
    rows = []
    for i, rate in enumerate((8000, 16000, 44100)):
        path = clip(tmp_path / f"{i}.wav", 0.4 + i / 10, rate, i)
        rows += [asr(f"c{i}", path), st(f"c{i}", path)]
    write_datadir(tmp_path / "in", rows)
    return tmp_path / "in", rows


def tree(folder):
    """All files with their times of change."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file()
    }


def listed(folder):
    rows = (folder / "skipped.tsv").read_text().splitlines()
    return {line.split("\t")[0]: line.split("\t")[1] for line in rows}


def test_format_without_audio_format_copies_text_files_only(data, tmp_path):
    data_dir, rows = data
    result = format_datadir(data_dir, tmp_path / "out")
    assert result == {"rows": 6, "kept": 6, "skipped": {}}
    assert list(iter_rows(tmp_path / "out")) == rows
    assert not list((tmp_path / "out").rglob("*.wav"))
    for name in ("wav.scp", "text", "transcript"):
        assert (tmp_path / "out" / name).read_bytes() == (data_dir / name).read_bytes()
    before = tree(tmp_path / "out")
    assert format_datadir(data_dir, tmp_path / "out") == result
    assert tree(tmp_path / "out") == before
    write_datadir(data_dir, rows[:2])
    assert format_datadir(data_dir, tmp_path / "out")["kept"] == 2


def test_format_keeps_text_folders_whatever_the_audio_format(tmp_path):
    write_datadir(tmp_path / "in", [MT])
    format_datadir(tmp_path / "in", tmp_path / "out", "flac")
    assert list(iter_rows(tmp_path / "out")) == [MT]


@pytest.mark.parametrize("audio_format", ["flac", "wav"])
def test_format_writes_audio_anew(data, tmp_path, audio_format):
    data_dir, rows = data
    result = format_datadir(data_dir, tmp_path / "out", audio_format, jobs=2)
    assert result == {"rows": 6, "kept": 6, "skipped": {}}
    made = list(iter_rows(tmp_path / "out"))
    for old, new in zip(rows, made, strict=True):
        assert replace(new, path=old.path) == old
        info = soundfile.info(new.path)
        assert (info.samplerate, info.channels) == (16000, 1)
        assert new.path.endswith(audio_format)
        assert audio_samples(new.path) == audio_samples(old.path)
        np.testing.assert_allclose(load_audio(new.path), load_audio(old.path), atol=1e-4)
    assert made[0].path == made[1].path and len({row.path for row in made}) == 3
    before = tree(tmp_path / "out")
    assert format_datadir(data_dir, tmp_path / "out", audio_format, jobs=2) == result
    assert tree(tmp_path / "out") == before


def test_format_cuts_segments_out(data, tmp_path):
    data_dir, rows = data
    cut = [
        replace(rows[0], utt_id="a", start_sec=0.1, end_sec=0.3),
        replace(rows[0], utt_id="b", start_sec=0.2),
    ]
    write_datadir(data_dir, cut)
    format_datadir(data_dir, tmp_path / "out", "wav")
    made = list(iter_rows(tmp_path / "out"))
    assert not (tmp_path / "out" / "segments").exists()
    for old, new in zip(cut, made, strict=True):
        assert (new.start_sec, new.end_sec) == (None, None)
        wanted = load_audio(old.path, old.start_sec, old.end_sec)
        np.testing.assert_allclose(load_audio(new.path), wanted, atol=1e-4)


def test_format_skips_and_lists_bad_audio(data, tmp_path):
    data_dir, rows = data
    short = clip(tmp_path / "short.wav", 0.05)
    (tmp_path / "cut.flac").write_bytes(b"fLaC nothing more")
    bad = [asr("x1", short), asr("x2", tmp_path / "no.wav"), asr("x3", tmp_path / "cut.flac")]
    write_datadir(data_dir, rows + bad)
    result = format_datadir(data_dir, tmp_path / "out", "flac")
    assert (result["rows"], result["kept"]) == (9, 6)
    wanted = {"x1-asr": "shorter than 0.1 s", "x2-asr": "missing file", "x3-asr": "unreadable file"}
    assert listed(tmp_path / "out") == wanted
    assert result["skipped"] == dict.fromkeys(wanted.values(), 1)


def test_a_killed_format_goes_on_where_it_was(data, tmp_path, monkeypatch):
    data_dir, rows = data
    real, calls = clipstore.soundfile.write, []

    def killed(path, *args, **kwargs):
        calls.append(path)
        if len(calls) == 2:
            path.write_bytes(b"half a clip")
            raise KeyboardInterrupt
        real(path, *args, **kwargs)

    monkeypatch.setattr(clipstore.soundfile, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        format_datadir(data_dir, tmp_path / "out", "flac")
    made = [path for path in (tmp_path / "out").rglob("*.flac") if ".partial" not in path.parts]
    assert all(soundfile.info(path).frames for path in made) and 1 <= len(made) <= 2
    with pytest.raises(ValueError, match="neither wav.scp nor source"):
        list(iter_rows(tmp_path / "out"))
    # As after kill -9: the half-made clip is still there.
    (tmp_path / "out" / "audio" / ".partial").mkdir(exist_ok=True)
    (tmp_path / "out" / "audio" / ".partial" / "x.flac").write_bytes(b"half a clip")
    before, again = len(made), []
    monkeypatch.setattr(
        clipstore.soundfile, "write", lambda *a, **k: (again.append(a[0]), real(*a, **k))
    )
    assert format_datadir(data_dir, tmp_path / "out", "flac")["kept"] == 6
    assert len(again) == 3 - before
    assert not (tmp_path / "out" / "audio" / ".partial").exists()
    for row in iter_rows(tmp_path / "out"):
        load_audio(row.path)


def test_format_makes_a_changed_clip_again(data, tmp_path):
    data_dir, rows = data
    format_datadir(data_dir, tmp_path / "out", "flac")
    clip(rows[0].path, 0.7, 8000, 9)
    write_datadir(data_dir, rows)  # the folder's own times are what is looked at
    format_datadir(data_dir, tmp_path / "out", "flac")
    assert audio_samples(next(iter_rows(tmp_path / "out")).path) == round(0.7 * 16000)


def test_pipes_run_only_on_demand(data, tmp_path, capsys):
    data_dir, rows = data
    ran = tmp_path / "ran"
    pipe = f"touch {ran}; cat {rows[2].path} |"
    write_datadir(data_dir, [asr("a", pipe), asr("b", pipe), asr("c", "false |"), *rows[:1]])
    argv = ["format", "--data_dir", str(data_dir), "--out", str(tmp_path / "out")]
    for more in ([], ["--audio_format", "flac"], ["--allow_pipes"]):
        assert main(argv + more) == 1
        assert "pipe" in capsys.readouterr().err and not ran.exists()
    for command in (["filter"], ["speed", "--factors", "0.9"]):
        assert main([*command, *argv[1:]]) == 1
        assert "pipe" in capsys.readouterr().err and not ran.exists()
    assert main([*argv, "--audio_format", "flac", "--allow_pipes"]) == 0
    assert ran.exists()
    made = list(iter_rows(tmp_path / "out"))
    assert [row.utt_id for row in made] == ["a-asr", "b-asr", "c0-asr"]
    np.testing.assert_allclose(load_audio(made[0].path), load_audio(rows[2].path), atol=1e-4)
    assert made[0].path == made[1].path
    assert listed(tmp_path / "out") == {"c-asr": "pipe failed"}


def test_filter_keeps_counts_and_lists(data, tmp_path):
    data_dir, rows = data
    long = clip(tmp_path / "long.wav", 1.2)
    short = clip(tmp_path / "short.wav", 0.05)
    bad = [
        *(asr("x-long", long), asr("x-short", short), asr("x-missing", tmp_path / "no.wav")),
        *(asr("x-empty", rows[0].path, target=""), st("x-empty", rows[0].path, target="\t")),
        asr("x-wordy", rows[0].path, target="a" * 81),
    ]
    write_datadir(data_dir, rows + bad)
    result = filter_datadir(data_dir, tmp_path / "out", Limits(0.1, 1.0, 80), jobs=2)
    assert (result["rows"], result["kept"]) == (12, 6)
    assert list(iter_rows(tmp_path / "out")) == rows
    assert listed(tmp_path / "out") == {
        **{"x-long-asr": "longer than 1 s", "x-short-asr": "shorter than 0.1 s"},
        **{"x-missing-asr": "missing file", "x-empty-asr": "empty text"},
        **{"x-empty-st-de": "empty text", "x-wordy-asr": "over 80 characters"},
    }
    before = tree(tmp_path / "out")
    assert filter_datadir(data_dir, tmp_path / "out", Limits(0.1, 1.0, 80)) == result
    assert tree(tmp_path / "out") == before
    # Every limit counts, and another one is another job.
    assert filter_datadir(data_dir, tmp_path / "out", Limits(0.1, 2.0, 80))["kept"] == 7
    assert filter_datadir(data_dir, tmp_path / "out", Limits(0.45, 2.0, 80))["kept"] == 5
    assert filter_datadir(data_dir, tmp_path / "out", Limits(0.45, 2.0))["kept"] == 5
    assert filter_datadir(data_dir, tmp_path / "out", Limits(0.1, 1.0))["kept"] == 7


def test_filter_limits_hold_at_the_edge(tmp_path):
    path = clip(tmp_path / "a.wav", 0.5)
    write_datadir(tmp_path / "in", [asr("a", path)])
    assert filter_datadir(tmp_path / "in", tmp_path / "out", Limits(0.5, 1.0))["kept"] == 1
    assert filter_datadir(tmp_path / "in", tmp_path / "out", Limits(0.1, 0.5))["kept"] == 1


def test_filter_of_text(tmp_path):
    rows = [MT, replace(MT, utt_id="m2", source=""), replace(MT, utt_id="m3", target=" ")]
    write_datadir(tmp_path / "in", rows)
    result = filter_datadir(tmp_path / "in", tmp_path / "out", Limits(0.1, 30))
    assert result["skipped"] == {"empty source": 1, "empty text": 1}
    assert list(iter_rows(tmp_path / "out")) == [MT]


def test_nothing_left_is_an_error(data, tmp_path):
    data_dir, _ = data
    with pytest.raises(ValueError, match="no row is left: skipped 6 rows: 6 longer than 0.2 s"):
        filter_datadir(data_dir, tmp_path / "out", Limits(0.1, 0.2))
    assert len(listed(tmp_path / "out")) == 6


def test_speed_copies(data, tmp_path):
    data_dir, rows = data
    result = perturb_datadir(data_dir, tmp_path / "out", [0.9, 1.0, 1.1], jobs=2)
    assert result == {"rows": 18, "kept": 18, "skipped": {}}
    made = {row.utt_id: row for row in iter_rows(tmp_path / "out")}
    assert len(made) == 18 and [made[row.utt_id] for row in rows] == rows
    for row in rows:
        for factor in (0.9, 1.1):
            copy = made[f"sp{factor}-{row.utt_id}"]
            assert (copy.target, copy.source, copy.tgt) == (row.target, row.source, row.tgt)
            assert copy.speaker == f"sp{factor}-s"
            samples = audio_samples(row.path)
            assert abs(audio_samples(copy.path) - samples / factor) <= 1
    before = tree(tmp_path / "out")
    assert perturb_datadir(data_dir, tmp_path / "out", [1.1, 0.9]) == result
    assert tree(tmp_path / "out") == before


def test_speed_of_text_copies_it(tmp_path):
    write_datadir(tmp_path / "in", [MT])
    perturb_datadir(tmp_path / "in", tmp_path / "out", [0.9])
    assert list(iter_rows(tmp_path / "out")) == [MT]


def test_mt_rows_come_of_st_rows_with_a_transcript(data, tmp_path):
    data_dir, rows = data
    path, out = rows[0].path, tmp_path / "mt"
    left_out = [
        *(st("y-none", path, source=None), st("y-blank", path, source=" ")),
        st("y-mute", path, target=""),
    ]
    copy = st("c0", path, utt_id="sp0.9-c0-st-de")
    write_datadir(data_dir, [*rows, *left_out, copy])
    result = derive_mt(data_dir, out)
    wanted = [
        Row(f"mt-{row.utt_id}", "mt", row.src, row.tgt, row.target, source=row.source)
        for row in rows
        if row.task == "st"
    ]
    assert list(iter_rows(out)) == wanted and len(wanted) == 3
    assert not (out / "wav.scp").exists()
    assert result == {"rows": 6, "kept": 3, "skipped": {"no transcript": 2, "empty text": 1}}
    assert listed(out) == {
        **dict.fromkeys(("y-none-st-de", "y-blank-st-de"), "no transcript"),
        "y-mute-st-de": "empty text",
    }
    before = tree(out)
    assert derive_mt(data_dir, out) == result
    assert tree(out) == before


def test_mt_rows_keep_the_order_of_any_ids(data, tmp_path):
    """A suffix, or `mt` for `st` in the middle, would not: "-" comes after "!" and before "_"."""
    data_dir, rows = data
    ids = ["a", "a!", "a-n-st-de", "a-st-de", "a-st-de-2", "a_", "ä"]
    write_datadir(data_dir, [st("x", rows[0].path, utt_id=name) for name in ids])
    assert derive_mt(data_dir, tmp_path / "out")["kept"] == len(ids)
    assert [row.utt_id for row in iter_rows(tmp_path / "out")] == [f"mt-{name}" for name in ids]


def test_no_mt_rows_leave_no_data_folder(data, tmp_path, capsys):
    data_dir, rows = data
    argv = ["mt", "--data_dir", str(data_dir), "--out", str(tmp_path / "out")]
    assert main(argv) == 0
    assert f"{tmp_path / 'out'}: 3 of 3 st rows of {data_dir}" in capsys.readouterr().out
    write_datadir(data_dir, [replace(row, source=None) for row in rows])
    assert main(argv) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == f"{tmp_path / 'out'}: 0 of 3 st rows of {data_dir}"
    assert shown[1] == "  skipped 3: no transcript"
    assert not (tmp_path / "out" / "utt2task").exists()
    write_datadir(data_dir, [row for row in rows if row.task == "asr"])
    assert derive_mt(data_dir, tmp_path / "out") == {"rows": 0, "kept": 0, "skipped": {}}


def test_mt_rows_of_a_text_folder_are_an_error(tmp_path, capsys):
    write_datadir(tmp_path / "in", [MT])
    assert main(["mt", "--data_dir", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 1
    assert "found a text folder, expected one of speech" in capsys.readouterr().err
    assert main(["mt", "--data_dir", str(tmp_path / "in"), "--out", str(tmp_path / "in")]) == 1
    assert "expected another folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["filter", "--min_sec", "2", "--max_sec", "1"], "expected 0 <= min < max"),
        (["filter", "--max_chars", "0"], "max_chars 0"),
        (["filter", "--nj", "0"], "--nj: found 0"),
        (["speed", "--factors", "3"], "--factors: found 3"),
        (["format", "--allow_pipes"], "--allow_pipes has no effect"),
    ],
)
def test_bad_options_are_one_line(data, tmp_path, capsys, argv, words):
    data_dir, _ = data
    assert main([*argv, "--data_dir", str(data_dir), "--out", str(tmp_path / "out")]) == 1
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(err) == 1 and words in err[0]


@pytest.mark.parametrize("command", ["format", "filter"])
def test_an_output_folder_that_cannot_be_made_is_one_line(data, tmp_path, capsys, command):
    data_dir, _ = data
    (tmp_path / "file").write_text("")
    assert main([command, "--data_dir", str(data_dir), "--out", str(tmp_path / "file")]) == 1
    message = f"error: {tmp_path / 'file'}: found no folder that can be written (File exists)"
    assert message in capsys.readouterr().err


def test_command_line(data, tmp_path, capsys):
    data_dir, _ = data
    paths = ["--data_dir", str(data_dir), "--out", str(tmp_path / "out")]
    assert main(["filter", *paths, "--max_sec", "0.55"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].endswith(f"4 of 6 rows of {data_dir}")
    assert shown[1:] == [
        "  skipped 2: longer than 0.55 s",
        f"  listed in {tmp_path / 'out'}/skipped.tsv",
    ]
    assert main(["format", "--data_dir", str(data_dir), "--out", str(data_dir)]) == 1
    assert "expected another folder" in capsys.readouterr().err
    for command in ([], ["mt"], ["filter"], ["speed"], ["format"]):
        with pytest.raises(SystemExit) as caught:
            main([*command, "--help"])
        assert caught.value.code == 0
    assert "RUN the commands" in capsys.readouterr().out
