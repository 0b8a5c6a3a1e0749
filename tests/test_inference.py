"""Speech2Text: what goes in, what comes out, and what is refused."""

import numpy as np
import pytest
import soundfile
import torch
from inference_fakes import RATE, FakeModel, tone

from espnet_part.decode_options import DecodeOptions
from espnet_part.inference import Speech2Text


@pytest.fixture
def s2t():
    return Speech2Text.from_model(FakeModel())


def test_one_clip_gives_espnets_list(s2t):
    ((text, token, token_int, hyp),) = s2t(tone(2.0), lang="de")
    assert text == "20 asr de de right"
    assert token[:2] == ["2", "0"] and token_int[:2] == [ord("2"), ord("0")]
    assert hyp.text == text and hyp.score == -1.0


def test_a_list_gives_a_list_of_lists(s2t):
    found = s2t([tone(2.0), tone(1.0)], lang="de")
    assert [nbest[0][0][:2] for nbest in found] == ["20", "10"]
    assert s2t([]) == [] and s2t.transcribe([]) == []
    assert s2t.transcribe((tone(1.0),), lang="en") == ["10 asr en en right"]


def test_tasks_and_languages(s2t):
    clip = tone(1.0)
    assert s2t.transcribe(clip) == "10 asr en en none"
    assert s2t.transcribe(clip, lang="sv") == "10 asr sv sv right"
    assert s2t.transcribe(clip, lang="sv", tgt_lang="sv") == "10 asr sv sv right"
    assert s2t.transcribe(clip, "st", "sv", "de") == "10 st sv de right"
    assert s2t.transcribe(clip, task="st", tgt_lang="de") == "10 st de de none"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"task": "mt"}, "task: found 'mt', expected one of asr st"),
        ({"lang": "xx"}, "lang: unknown language 'xx'; expected one of zh en"),
        ({"task": "st", "lang": "de", "tgt_lang": "yy"}, "tgt_lang: unknown language 'yy'"),
        ({"task": "st", "lang": "de"}, "tgt_lang is missing"),
        ({"lang": "de", "tgt_lang": "en"}, "use task='st'"),
        ({"tgt_lang": "en"}, "use task='st'"),
        ({"sr": 0}, "sr: found 0"),
        ({"sr": 44.1}, "sr: found 44.1"),
        ({"sr": None}, "sr: found None"),
    ],
)
def test_wrong_arguments(s2t, how, message):
    with pytest.raises(ValueError, match=message):
        s2t.transcribe(tone(1.0), **how)


def test_a_prompt_that_needs_the_language(s2t):
    templates = {"asr": {**s2t.model.prompter.templates["asr"], "without_source": "In {tgt}:"}}
    s2t.model.prompter.templates = templates
    with pytest.raises(ValueError, match="give lang"):
        s2t.transcribe(tone(1.0))
    assert s2t.transcribe(tone(1.0), lang="de")


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (tone(0.05), "clip 1: found 0.050 s of audio, expected at least 0.100 s"),
        (np.full(RATE, np.nan, np.float32), "clip 1: .*NaN"),
        (torch.full((RATE,), torch.inf), "clip 1: .*infinite"),
        (np.zeros(0, np.float32), "clip 1: .*shape"),
        (np.zeros((2, 3, 4)), "clip 1: .*shape"),
        ([0.1, 0.2], "clip 1: found list, expected a numpy or torch waveform, or a path"),
        (7, "clip 1: found int"),
        (None, "clip 1: found NoneType"),
    ],
)
def test_bad_clips(s2t, clip, message):
    with pytest.raises(ValueError, match=message):
        s2t.transcribe([tone(1.0), clip])


def test_rates_channels_and_types(s2t):
    wave = tone(1.0, rate=44100)
    stereo = np.stack([wave, wave])
    for clip in (wave, stereo, stereo.T, torch.from_numpy(wave), torch.from_numpy(stereo)):
        assert s2t.transcribe(clip, sr=44100).startswith("10 ")
    assert s2t.transcribe(torch.from_numpy(tone(1.0)).bfloat16()).startswith("10 ")
    s2t.transcribe((tone(1.0) * 32767).astype(np.int16), sr=np.int64(RATE))
    heard = s2t.model.calls[-1].speech[0]
    assert heard.dtype == np.float32 and 0.2 < np.abs(heard).max() < 0.4
    s2t.transcribe(torch.from_numpy((tone(1.0) * 32767).astype(np.int16)))
    np.testing.assert_array_equal(s2t.model.calls[-1].speech[0], heard)


def test_paths(s2t, tmp_path):
    path = tmp_path / "stereo.flac"
    soundfile.write(path, np.stack([tone(1.0, rate=44100)] * 2, 1), 44100)
    assert s2t.transcribe(path) == s2t.transcribe(str(path)) == "10 asr en en none"
    for bad in (tmp_path / "none.wav", tmp_path, __file__):
        with pytest.raises(ValueError, match=str(bad)):
            s2t.transcribe(bad)


def test_five_minutes_whole(s2t):
    wave = np.concatenate([np.append(tone(9.5), np.zeros(RATE // 2, np.float32))] * 30)
    pieces = s2t.transcribe_pieces(wave, lang="de")
    assert pieces[0].start_sec == 0 and pieces[-1].end_sec == 300.0
    assert all(a.end_sec == b.start_sec for a, b in zip(pieces, pieces[1:], strict=False))
    assert max(piece.end_sec - piece.start_sec for piece in pieces) <= 30
    # Every cut lies in one of the pauses, which begin at 9.5 s of each 10.
    assert all(piece.end_sec % 10 > 9.5 for piece in pieces[:-1])
    assert s2t.transcribe(wave, lang="de") == " ".join(piece.text for piece in pieces)
    both = s2t.transcribe_pieces([wave, tone(1.0)], lang="de")
    assert both[0] == pieces and len(both[1]) == 1


def test_the_encoders_limit_holds():
    s2t = Speech2Text.from_model(FakeModel(max_sec=5.0), DecodeOptions(max_sec=30.0))
    assert s2t.options.max_sec == 5.0
    assert len(s2t.transcribe_pieces(tone(12.0))) >= 3
    s2t.set_options(DecodeOptions(max_sec=3.0))
    assert s2t.options.max_sec == 3.0
    assert Speech2Text.from_model(FakeModel(max_sec=60.0)).options.max_sec == 30.0


def test_missing_files(tmp_path):
    with pytest.raises(ValueError, match="config.yaml: no such file"):
        Speech2Text(tmp_path / "config.yaml")
    with pytest.raises(ValueError, match="dtype: found 'float16'"):
        Speech2Text(__file__, dtype="float16")
