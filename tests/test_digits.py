"""The digits corpus: its words, its strings, its data folders, on a fake dataset of tones."""

import random
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "local"))

import digits_fetch  # noqa: E402
import digits_strings  # noqa: E402
import prepare_digits  # noqa: E402
from digits_text import SOURCE, TARGETS, WORDS, say, unsay  # noqa: E402

from espnet_part.audio import SAMPLE_RATE, load_audio  # noqa: E402
from espnet_part.datadir import iter_rows  # noqa: E402

REPEATS = {"test": 3, "dev": 2, "train": 2}
INDICES = (0, 1, 5, 6, 45)


def make_fake_fsdd(folder: Path, speakers=("anna", "bert")) -> Path:
    """Digit d is a tone of 300 + 60 d Hz; every speaker has his own length and level."""
    rate = 8000
    (folder / "recordings").mkdir(parents=True)
    for number, speaker in enumerate(speakers):
        seconds = np.arange(int(rate * (0.2 + 0.05 * number))) / rate
        for digit in range(10):
            wave = 0.1 * np.sin(2 * np.pi * (300 + 60 * digit) * seconds)
            for index in INDICES:
                name = f"{digit}_{speaker}_{index}.wav"
                soundfile.write(folder / "recordings" / name, wave, rate)
    return folder


@pytest.fixture(scope="module")
def fsdd(tmp_path_factory):
    return make_fake_fsdd(tmp_path_factory.mktemp("fsdd"))


@pytest.fixture(scope="module")
def prepared(fsdd, tmp_path_factory):
    out = tmp_path_factory.mktemp("digits")
    prepare_digits.prepare(fsdd, out, REPEATS, n_text=20, seed=0)
    return out


def rows_of(folder):
    return list(iter_rows(folder))


def test_words_are_unambiguous():
    assert set(WORDS) == {SOURCE, *TARGETS}
    for language, words in WORDS.items():
        assert len(set(words)) == 10, language
        assert unsay(say("0123456789", language), language) == "0123456789"
    assert say("305", "zh") == "三零五"
    assert say("305", "de") == "drei null fünf"
    # An answer in the wrong language shares no word with the right one.
    assert not set(WORDS["zh"]) & set("".join(WORDS["ja"]))


def test_wrong_words_are_named():
    with pytest.raises(ValueError, match="klingon"):
        say("1", "klingon")
    with pytest.raises(ValueError, match="string of digits"):
        say("1a", "en")
    with pytest.raises(ValueError, match="'oh'"):
        unsay("three oh five")


@pytest.mark.parametrize("total", [3, 4, 7, 8, 150, 151, 152, 3200])
def test_string_lengths_use_every_digit(total):
    lengths = digits_strings.string_lengths(total, random.Random(0))
    assert sum(lengths) == total
    assert all(3 <= n <= 6 for n in lengths)
    if total == 3200:
        assert max(Counter(lengths).values()) - min(Counter(lengths).values()) <= 2


def test_every_recording_is_used_as_often(fsdd):
    recordings = digits_strings.find_recordings(fsdd)
    test = [r for r in recordings if r.split == "test"]
    strings = digits_strings.make_strings(test, 3, random.Random(0), set())
    assert set(Counter(r for s in strings for r in s).values()) == {3}
    assert all(len({r.speaker for r in s}) == 1 for s in strings)


def test_held_out_strings_stay_out(fsdd):
    recordings = [r for r in digits_strings.find_recordings(fsdd) if r.split == "train"]
    held_out = {f"{n:03d}" for n in range(0, 1000, 2)}
    strings = digits_strings.make_strings(recordings, 4, random.Random(0), held_out)
    assert not held_out & {digits_strings.spell(s) for s in strings}
    assert set(Counter(r for s in strings for r in s).values()) == {4}
    assert not held_out & set(digits_strings.random_strings(500, random.Random(0), held_out))


def test_folders(prepared):
    train, dev = rows_of(prepared / "train"), rows_of(prepared / "dev")
    test = rows_of(prepared / "digits_test_asr_en")
    heard = {r.target for r in train if r.task == "asr"}
    assert not heard & {r.target for r in dev + test if r.task == "asr"}
    for rows in (train, dev):
        assert Counter((r.task, r.tgt) for r in rows).keys() == {
            ("asr", "en"),
            *(("st", t) for t in TARGETS),
        }
    assert all(r.task == "asr" and r.tgt == "en" and r.source is None for r in test)
    for tgt in TARGETS:
        rows = rows_of(prepared / f"digits_test_st_en_{tgt}")
        assert {(r.task, r.src, r.tgt) for r in rows} == {("st", "en", tgt)}
        assert [say(unsay(r.source), tgt) for r in rows] == [r.target for r in rows]
        assert [r.path for r in rows] == [r.path for r in test]  # rows of one clip share it
    assert len(train) == 7 * len({r.path for r in train})
    assert len(dev) == 2 * len({r.path for r in dev})  # asr, and one language in turn
    text = rows_of(prepared / "train_text")
    assert len(text) == 20 * len(TARGETS)
    assert all(r.task == "mt" and r.path is None for r in text)
    assert not {r.source for r in text} & {r.target for r in test}


def test_audio_is_what_the_text_says(prepared):
    row = rows_of(prepared / "digits_test_asr_en")[0]
    wave = load_audio(row.path)
    digits = unsay(row.target)
    info = soundfile.info(row.path)
    assert (info.samplerate, info.channels) == (SAMPLE_RATE, 1)
    loud = np.abs(wave) > 0.02
    starts = np.flatnonzero(np.diff(loud.astype(int)) == 1)
    words = [starts[0], *(b for a, b in zip(starts, starts[1:], strict=False) if b - a > 320)]
    assert len(words) == len(digits)
    for start, digit in zip(words, digits, strict=True):
        part = wave[start + 400 : start + 2400]
        peak = np.abs(np.fft.rfft(part * np.hanning(len(part)), 16000)).argmax()  # 1 Hz a bin
        assert abs(peak - (300 + 60 * int(digit))) < 10


def test_same_seed_same_files(fsdd, prepared, tmp_path):
    prepare_digits.prepare(fsdd, tmp_path, REPEATS, n_text=20, seed=0)
    for path in sorted(prepared.rglob("*")):
        if path.is_file() and path.name not in ("wav.scp", "prepared.json"):
            assert (tmp_path / path.relative_to(prepared)).read_bytes() == path.read_bytes(), path


def test_second_run_makes_nothing(fsdd, prepared, capsys):
    before = {p: p.stat().st_mtime_ns for p in prepared.rglob("*")}
    prepare_digits.prepare(fsdd, prepared, REPEATS, n_text=20, seed=0)
    assert "is prepared" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in prepared.rglob("*")}


def test_wrong_folders(tmp_path, fsdd):
    with pytest.raises(ValueError, match="no folder.*FSDD="):
        digits_strings.find_recordings(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="not the Free Spoken Digit Dataset"):
        digits_strings.find_recordings(tmp_path)
    make_fake_fsdd(tmp_path / "gap")
    (tmp_path / "gap/recordings/7_bert_45.wav").unlink()
    with pytest.raises(ValueError, match="bert has no dev recording of digit 7"):
        digits_strings.find_recordings(tmp_path / "gap")


def test_fetch_and_offline(fsdd, tmp_path):
    archive = tmp_path / "fsdd.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for path in sorted((fsdd / "recordings").iterdir())[:20]:
            zipped.write(path, f"free-spoken-digit-dataset-x/recordings/{path.name}")
    digits_fetch.fetch_fsdd(tmp_path / "got", archive.as_uri())
    assert len(list((tmp_path / "got/recordings").iterdir())) == 20
    with pytest.raises(ValueError, match="FSDD="):
        digits_fetch.fetch_fsdd(tmp_path / "none", (tmp_path / "missing.zip").as_uri())
    bad = tmp_path / "bad.zip"
    bad.write_bytes(b"no zip")
    with pytest.raises(ValueError, match="damaged"):
        digits_fetch.unpack(bad, tmp_path / "bad")
