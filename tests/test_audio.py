"""Audio files: exact lengths from headers, and one clear error for every kind of bad file."""

import pickle
import struct

import numpy as np
import pytest
import soundfile
import torch

from espnet_part import audio
from espnet_part.audio import AudioError, audio_samples, load_audio, resample, to_mono_16k
from espnet_part.mp3 import mp3_length

RATES = (8000, 11025, 16000, 22050, 44100, 48000)


def noise(samples, seed=0):
    return (np.random.default_rng(seed).standard_normal(samples) * 0.1).astype(np.float32)


def write(path, wave, rate, **kwargs):
    soundfile.write(path, wave, rate, **kwargs)
    return path


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg", "sph"])
def test_header_length_is_the_loaded_length(tmp_path, rate, suffix):
    kwargs = {"format": "NIST"} if suffix == "sph" else {}
    path = write(tmp_path / f"a.{suffix}", noise(int(rate * 0.9137)), rate, **kwargs)
    for start, end in [(None, None), (0.1, None), (None, 0.5), (0.123457, 0.76543), (0.5, 0.9)]:
        wave = load_audio(path, start, end)
        assert len(wave) == audio_samples(path, start, end), (start, end)
        assert wave.dtype == np.float32 and wave.ndim == 1
        begin, stop = start or 0, 0.9137 if end is None else end
        assert abs(len(wave) - (stop - begin) * 16000) <= 3


def test_opus_and_stereo(tmp_path):
    stereo = np.stack([noise(48000), noise(48000, 1)], axis=1)
    path = write(tmp_path / "a.opus", stereo, 48000, format="OGG", subtype="OPUS")
    assert len(load_audio(path)) == audio_samples(path) == 16000
    path = write(tmp_path / "a.wav", stereo[:16000], 16000, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(path), stereo[:16000].mean(axis=1), atol=1e-7)


def test_a_segment_is_that_part_of_the_file(tmp_path):
    wave = noise(16000)
    path = write(tmp_path / "a.wav", wave, 16000, subtype="FLOAT")
    np.testing.assert_array_equal(load_audio(path, 0.25, 0.5), wave[4000:8000])
    np.testing.assert_array_equal(load_audio(path, 0.25), wave[4000:])
    # A rounded end is the end of the file.
    np.testing.assert_array_equal(load_audio(path, 0.5, 1.01), wave[8000:])


@pytest.mark.parametrize("length", [2**24 + 1, 40_000_001])
@pytest.mark.parametrize("rate", [11025, 44100])
def test_long_lengths_are_exact_integers(length, rate):
    # torchaudio computes the length in float32; ours is checked against exact fractions.
    assert (audio.resampled_length(length, rate) - 1) * rate < length * 16000
    assert audio.resampled_length(length, rate) * rate >= length * 16000


@pytest.mark.parametrize("size", [1, 2])
def test_resample_keeps_to_the_exact_length(monkeypatch, size):
    import torchaudio.functional

    real = torchaudio.functional.resample
    for off in (-size, size):  # as if float32 had rounded the length down or up

        def wrong(wave, rate, new_rate, off=off):
            out = real(wave, rate, new_rate)
            return out[:off] if off < 0 else torch.nn.functional.pad(out, (0, off))

        monkeypatch.setattr(torchaudio.functional, "resample", wrong)
        assert len(audio.resample(noise(11025), 11025, 16000)) == 16000


def truncate(path, share=0.6):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def bad_files(folder):
    """Name -> (path, start, end, words of the message, reason)."""
    wav = write(folder / "good.wav", noise(16000), 16000)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("this is not audio")
    (folder / "raw.raw").write_bytes(b"\1\2\3\4" * 100)
    write(folder / "zero.wav", noise(0), 16000)
    write(folder / "short.wav", noise(800), 16000)
    nan = noise(16000)
    nan[77] = np.nan
    write(folder / "nan.wav", nan, 16000, subtype="FLOAT")
    inf = noise(16000)
    inf[77] = np.inf
    write(folder / "inf.wav", inf, 16000, subtype="DOUBLE")
    rows = {
        "missing": (folder / "no.wav", None, None, "no such file", "missing file"),
        "archive": (f"{folder}/a.ark:17", None, None, "archives are not read", "missing file"),
        "folder": (folder, None, None, "cannot read", "unreadable file"),
        "empty": (folder / "empty.wav", None, None, "0 bytes", "empty file"),
        "not audio": (folder / "text.wav", None, None, "cannot read", "unreadable file"),
        "unknown format": (folder / "raw.raw", None, None, "cannot read", "unreadable file"),
        "no samples": (folder / "zero.wav", None, None, "no samples", "no samples"),
        "too short": (folder / "short.wav", None, None, "0.050 s", "shorter than 0.1 s"),
        "short segment": (wav, 0.5, 0.55, "0.050 s", "shorter than 0.1 s"),
        "beyond the end": (wav, 0.5, 1.5, "1.000 s", "segment ends after the file"),
        "start beyond the end": (wav, 2.0, None, "holds no audio", "bad segment"),
        "backwards": (wav, 0.5, 0.2, "start < end", "bad segment"),
        "negative": (wav, -0.5, 0.5, "start of 0 s", "bad segment"),
        "not a number": (wav, 0.1, float("nan"), "start of 0 s", "bad segment"),
        "pipe": (f"cat {wav} |", None, None, "--allow_pipes", "pipe"),
        "sox pipe": ("sox a.sph -t wav - |  ", None, None, "stage 3", "pipe"),
        "stdin": ("-", None, None, "pipe", "pipe"),
        "nan": (folder / "nan.wav", None, None, "NaN", "NaN or infinite samples"),
        "inf": (folder / "inf.wav", None, None, "infinite", "NaN or infinite samples"),
    }
    for suffix in ("wav", "flac", "mp3", "ogg", "sph", "aiff"):
        kwargs = {"format": "NIST"} if suffix == "sph" else {}
        path = truncate(write(folder / f"cut.{suffix}", noise(48000), 48000, **kwargs))
        rows[f"truncated {suffix}"] = (path, None, None, "truncated", "truncated file")
    return rows


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    return bad_files(tmp_path_factory.mktemp("bad"))


@pytest.mark.parametrize(
    "name",
    [
        *("missing", "archive", "folder", "empty", "not audio", "unknown format", "no samples"),
        *("too short", "short segment", "beyond the end", "start beyond the end", "backwards"),
        *("negative", "not a number", "pipe", "sox pipe", "stdin", "nan", "inf"),
        *(f"truncated {suffix}" for suffix in ("wav", "flac", "mp3", "ogg", "sph", "aiff")),
    ],
)
def test_bad_input_has_one_clear_error(bad, name):
    path, start, end, words, reason = bad[name]
    with pytest.raises(AudioError) as caught:
        load_audio(path, start, end)
    assert str(path).strip() in str(caught.value) and words in str(caught.value)
    assert "expected" in str(caught.value) or "mend" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.reason == reason
    if name not in ("nan", "inf"):  # a header cannot know these
        with pytest.raises(AudioError) as from_header:
            audio_samples(path, start, end)
        assert from_header.value.reason == reason
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.reason) == (str(caught.value), reason)


def test_a_wav_written_to_a_pipe_is_not_truncated(tmp_path):
    path = write(tmp_path / "a.wav", noise(16000), 16000)
    data = bytearray(path.read_bytes())
    at = data.index(b"data")
    for value in (0xFFFFFFFF, 0x7FFFFFFF):
        data[at + 4 : at + 8] = struct.pack("<I", value)
        path.write_bytes(data)
        assert len(load_audio(path)) == 16000


def test_flac_without_a_length(tmp_path):
    path = write(tmp_path / "a.flac", noise(16000), 16000)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the 36 bits of STREAMINFO that hold the number of samples
    data[22:26] = bytes(4)
    path.write_bytes(data)
    for read in (audio_samples, load_audio):
        with pytest.raises(AudioError, match="does not tell its length.*expected"):
            read(path)


def strip_info_header(path):
    """Removes the first frame, which holds the length, as an MP3 written to a pipe lacks it."""
    data = path.read_bytes()
    following = data.index(data[:2], 4)
    while data[following + 2] >> 2 & 3 != data[2] >> 2 & 3:
        following = data.index(data[:2], following + 1)
    path.write_bytes(data[following:])


def test_mp3_without_a_length_header_is_counted(tmp_path):
    wave = noise(16000 * 20)
    path = tmp_path / "a.mp3"
    write(path, wave, 16000, bitrate_mode="CONSTANT", compression_level=0.5)
    assert mp3_length(str(path)).samples is None
    assert len(load_audio(path)) == len(wave)
    strip_info_header(path)
    # Tags make the decoder's estimate too long: the frames are counted instead.
    tag = b"ID3\x03\0\0\0\0\x20\0" + bytes(4096)
    path.write_bytes(tag + path.read_bytes() + b"TAG" + bytes(125))
    assert soundfile.info(path).frames > len(wave) + 4000
    counted = mp3_length(str(path)).samples
    assert counted % 576 == 0 and 0 <= counted - len(wave) < 3 * 1152
    assert len(load_audio(path)) == audio_samples(path) == counted


@pytest.mark.parametrize("loud_first", [True, False])
def test_mp3_of_varying_bit_rate_without_a_length_header(tmp_path, loud_first):
    path = tmp_path / "a.mp3"
    loudness = np.repeat([1, 1e-3] if loud_first else [1e-3, 1], 160000).astype(np.float32)
    wave = noise(320000) * loudness
    write(path, wave, 16000, bitrate_mode="VARIABLE", compression_level=0.5)
    assert len(load_audio(path)) == len(wave)
    strip_info_header(path)
    if loud_first:  # the decoder would stop half-way, silently
        assert soundfile.info(path).frames < 0.9 * len(wave)
        with pytest.raises(AudioError, match="varying bit rate.*repack"):
            audio_samples(path)
    else:  # it promises too much: what there is, is read
        assert len(load_audio(path)) == audio_samples(path) == mp3_length(str(path)).samples


def test_to_mono_16k_takes_numpy_and_torch_of_any_shape():
    wave = noise(8000)
    for same in (wave, wave[:, None], wave[None], torch.from_numpy(wave), wave.astype(np.float64)):
        np.testing.assert_array_equal(to_mono_16k(same, 16000), wave)
    np.testing.assert_array_equal(
        to_mono_16k(np.array([16384, -32768], np.int16), 16000), [0.5, -1]
    )
    assert len(to_mono_16k(torch.from_numpy(np.stack([wave, wave])), 8000)) == 16000
    sine = np.sin(2 * np.pi * 440 * np.arange(44100) / 44100).astype(np.float32)
    expected = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert np.abs(to_mono_16k(sine, 44100) - expected)[100:-100].max() < 1e-2


@pytest.mark.parametrize(
    ("wave", "rate", "words"),
    [
        (np.zeros(0), 16000, "shape"),
        (np.zeros((2, 3, 4)), 16000, "shape"),
        (np.zeros(10, np.uint8), 16000, "uint8"),
        (np.full(10, np.nan), 16000, "NaN"),
        (np.zeros(10), 0, "rate"),
        (np.zeros(10), 16000.5, "rate"),
    ],
)
def test_to_mono_16k_names_what_is_wrong(wave, rate, words):
    with pytest.raises(ValueError, match=words):
        to_mono_16k(wave, rate)


def test_change_speed():
    wave = noise(16000)
    assert len(audio.change_speed(wave, 1.1)) == -(-16000 * 10 // 11)
    assert len(audio.change_speed(wave, 0.9)) == -(-16000 * 10 // 9)
    assert audio.change_speed(wave, 1.0) is wave
    with pytest.raises(ValueError, match="speed factor"):
        audio.change_speed(wave, 0)


def test_resampling_within_autocast():
    """Dev clips are loaded there; numpy has no bfloat16."""
    wave = np.sin(np.arange(44100) / 30).astype(np.float32)
    plain = resample(wave, 44100, 16000)
    with torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_array_equal(resample(wave, 44100, 16000), plain)
