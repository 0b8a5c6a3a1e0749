"""Loading audio as 16 kHz mono, and its length from the header alone.

`audio_samples` reads the header and `load_audio` decodes, and both derive the length from the same
two functions (`AudioHeader.span`, `resampled_length`): batches are planned from headers, so a
difference of one sample between the two would be a bug.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from espnet_part.audiofile import (
    MIN_SECONDS,
    MP3_SHORTAGE_SEC,
    SAMPLE_RATE,
    AudioError,
    AudioHeader,
    check_header,
    is_pipe,
    open_audio,
    pipe_error,
    read_header,
    resampled_length,
    truncated_error,
    unreadable_error,
)

__all__ = [
    "MIN_SECONDS",
    "SAMPLE_RATE",
    "AudioError",
    "AudioHeader",
    "audio_samples",
    "change_speed",
    "is_pipe",
    "load_audio",
    "load_audio_file",
    "pipe_error",
    "read_header",
    "resample",
    "resampled_length",
    "to_mono_16k",
]

PADDED_SAMPLES = 1 << 14
KEPT_FILTERS = 1 << 20  # odd rates have filters of gigabytes


def audio_samples(
    path: str | Path, start_sec: float | None = None, end_sec: float | None = None
) -> int:
    """Samples at 16 kHz that `load_audio` returns for the same arguments, from the header only.

    Raises:
        AudioError: As `read_header` and `AudioHeader.span`.
    """
    return read_header(path).samples(start_sec, end_sec)


def load_audio(
    path: str | Path, start_sec: float | None = None, end_sec: float | None = None
) -> np.ndarray:
    """Reads a file, or only the segment of it, as mono at 16 kHz.

    Args:
        path: wav, flac, mp3, ogg, opus, sph, what else soundfile reads; any rate, any channels.
        start_sec: Start of the segment in seconds (None: the start of the file).
        end_sec: End of the segment in seconds (None: the end of the file).

    Returns:
        float32 array (T_samples,); T_samples is `audio_samples(path, start_sec, end_sec)`.

    Raises:
        AudioError: As `audio_samples`, or the samples are truncated, damaged, or not finite.
    """
    with open_audio(path) as file:
        return _load(file, check_header(file, str(path)), start_sec, end_sec)


def load_audio_file(
    file: BinaryIO, name: str, start_sec: float | None = None, end_sec: float | None = None
) -> np.ndarray:
    """`load_audio` for an open binary file; `name` stands for it in messages."""
    try:
        opened = soundfile.SoundFile(file)
    except (soundfile.SoundFileError, TypeError) as err:
        raise unreadable_error(name, err) from None
    with opened:
        return _load(opened, check_header(opened, name), start_sec, end_sec)


def to_mono_16k(waveform, sample_rate: int) -> np.ndarray:
    """Mixes a waveform down to mono and resamples it to 16 kHz.

    Args:
        waveform: numpy array or torch tensor, (T,), (T, C) or (C, T): the shorter axis is the
            channels. Integers are scaled to [-1, 1).
        sample_rate: Hz.

    Returns:
        float32 array (resampled_length(T, sample_rate),).

    Raises:
        ValueError: No samples, more than two axes, unsigned samples, a rate below 1 Hz, or samples
            that are not finite.
    """
    wave = np.asarray(waveform.detach().cpu() if hasattr(waveform, "detach") else waveform)
    if wave.ndim not in (1, 2) or wave.size == 0:
        raise ValueError(f"waveform: found shape {wave.shape}, expected (samples,) or (samples, C)")
    if int(sample_rate) != sample_rate or sample_rate < 1:
        raise ValueError(f"waveform: found sample rate {sample_rate}, expected whole Hz above 0")
    if wave.dtype.kind not in "fi":
        raise ValueError(f"waveform: found samples of type {wave.dtype}, expected float or int16")
    if wave.dtype.kind == "i":
        wave = wave.astype(np.float32) / -float(np.iinfo(wave.dtype).min)
    if wave.ndim == 2:
        wave = wave.mean(axis=int(wave.shape[0] > wave.shape[1]), dtype=np.float32)
    wave = np.ascontiguousarray(wave, dtype=np.float32)
    if not np.isfinite(wave).all():
        raise ValueError("waveform: found NaN or infinite samples, expected finite ones")
    return resample(wave, int(sample_rate), SAMPLE_RATE)


def resample(wave_T: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Resamples (T,) float32 to (resampled_length(T, rate, new_rate),)."""
    if rate == new_rate:
        return wave_T
    import torch  # here: reading headers does without

    # Every new length makes the convolution prepare itself anew, which takes longer than it does.
    padded = np.pad(wave_T, (0, -len(wave_T) % PADDED_SAMPLES))
    ratio = Fraction(rate, new_rate)
    size = ratio.numerator * ratio.denominator  # of the filters, near enough
    make = _resampler if size <= KEPT_FILTERS else _resampler.__wrapped__
    # Dev clips are loaded within the training's autocast, whose bfloat16 numpy does not know.
    with torch.autocast("cpu", enabled=False):
        out = make(rate, new_rate)(torch.from_numpy(padded)).numpy()
    # torchaudio forms the length in float32, which is off by some samples beyond 2^24 of them.
    length = resampled_length(len(wave_T), rate, new_rate)
    return np.pad(out[:length], (0, max(0, length - len(out))))


@lru_cache(maxsize=32)
def _resampler(rate: int, new_rate: int):
    from torchaudio.transforms import Resample

    return Resample(rate, new_rate)


def change_speed(wave_T: np.ndarray, factor: float) -> np.ndarray:
    """Plays (T,) `factor` times as fast, pitch included; returns (ceil(T / factor),).

    Args:
        wave_T: float32 samples.
        factor: 1.1 is faster and higher; rounded to a ratio of whole numbers up to 100.
    """
    ratio = Fraction(factor).limit_denominator(100)
    if ratio <= 0:
        raise ValueError(f"speed factor: found {factor}, expected a number above 0, e.g. 0.9")
    return resample(wave_T, ratio.numerator, ratio.denominator)


def _load(
    file: soundfile.SoundFile, header: AudioHeader, start_sec: float | None, end_sec: float | None
) -> np.ndarray:
    first, frames = header.span(start_sec, end_sec)
    try:
        if first:
            file.seek(first)
        wave_TC = file.read(frames, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as err:
        detail = (str(err) or "the decoder gave up").rstrip(".")
        raise AudioError(
            f"{header.path}: truncated or damaged: found an error while decoding ({detail}), "
            f"expected {header.frames} samples; fetch it again or remove the row",
            "truncated file",
        ) from None
    missing = frames - len(wave_TC)
    if missing:
        if header.format != "MP3" or missing > MP3_SHORTAGE_SEC * header.sample_rate:
            raise truncated_error(
                header.path, f"{len(wave_TC)} of the samples from {first} on", f"{frames}"
            )
        wave_TC = np.pad(wave_TC, ((0, missing), (0, 0)))
    if not np.isfinite(wave_TC).all():
        raise AudioError(
            f"{header.path}: found NaN or infinite samples, expected finite ones; make the file "
            "again or remove the row",
            "NaN or infinite samples",
        )
    return to_mono_16k(wave_TC if wave_TC.shape[1] > 1 else wave_TC[:, 0], header.sample_rate)
