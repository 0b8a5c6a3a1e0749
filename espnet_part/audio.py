"""Audio files: header checks without decoding, and loading as 16 kHz mono.

`audio_samples` reads the header alone and `load_audio` decodes, and both derive the length from the
same two functions (`AudioHeader.span`, `resampled_length`): batches are planned from headers, so a
difference of one sample between the two would be a bug.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

SAMPLE_RATE = 16000
# Shorter than this no encoder gives a frame that means anything, and no word is this short.
MIN_SECONDS = 0.1
# Segment times come rounded from tables: an end this little past the end of the file is the end.
END_TOLERANCE_SEC = 0.02
# An MP3 without an Info header estimates its length: a shortage below this becomes zeros.
MP3_SHORTAGE_SEC = 0.1
# Headers written to a pipe declare "unknown", some value near 2^31 or 2^32: not a truncated file.
_STREAMING_BYTES = 0x7FFFF000
_FORMAT_HINT = "decode it once with `python -m espnet_part.bin.prepare format` (stage 3)"


class AudioError(ValueError):
    """Bad audio that the user can mend or skip.

    Attributes:
        reason: A few words without the file name, to count skipped rows by.
    """

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason

    def __reduce__(self):
        # The default would call __init__ with the message only: data workers pickle their errors.
        return type(self), (self.args[0], self.reason)


def resampled_length(samples: int, sample_rate: int, new_rate: int = SAMPLE_RATE) -> int:
    """Samples after resampling, in exact integer arithmetic (rounded up, as torchaudio does)."""
    return -(-samples * new_rate // sample_rate)


@dataclass(frozen=True)
class AudioHeader:
    """What a file's header says.

    Attributes:
        path: The file, for messages.
        sample_rate: Hz.
        frames: Samples per channel at `sample_rate`.
        format: soundfile's name of the container, e.g. "WAV", "MP3".
    """

    path: str
    sample_rate: int
    frames: int
    format: str

    def span(self, start_sec: float | None, end_sec: float | None) -> tuple[int, int]:
        """First frame and number of frames of a segment, at the file's own rate.

        Raises:
            AudioError: The segment is empty, ends after the file, or lasts under MIN_SECONDS.
        """
        seconds = self.frames / self.sample_rate
        begin = 0.0 if start_sec is None else start_sec
        end = seconds if end_sec is None else end_sec
        where = f"{self.path}: segment {begin:g} to {end:g} s"
        if not (0 <= begin and math.isfinite(begin) and math.isfinite(end)):
            raise AudioError(f"{where}: expected a start of 0 s or later", "bad segment")
        if end > seconds + END_TOLERANCE_SEC:
            raise AudioError(
                f"{where}: ends after the end of the file, which lasts {seconds:.3f} s; "
                "mend the times in `segments`",
                "segment ends after the file",
            )
        first = round(begin * self.sample_rate)
        last = self.frames if end_sec is None else min(round(end * self.sample_rate), self.frames)
        if last <= first:
            raise AudioError(
                f"{where}: holds no audio (the file lasts {seconds:.3f} s); expected start < end, "
                "both within the file; mend the times in `segments`",
                "bad segment",
            )
        if last - first < MIN_SECONDS * self.sample_rate:
            raise AudioError(
                f"{self.path}: found {(last - first) / self.sample_rate:.3f} s of audio, expected "
                f"at least {MIN_SECONDS} s; remove the row (stage 4 does)",
                f"shorter than {MIN_SECONDS} s",
            )
        return first, last - first

    def samples(self, start_sec: float | None = None, end_sec: float | None = None) -> int:
        """Samples that `load_audio` returns for this segment, at 16 kHz."""
        return resampled_length(self.span(start_sec, end_sec)[1], self.sample_rate)


def read_header(path: str | Path) -> AudioHeader:
    """Reads and checks the header of an audio file; decodes nothing.

    Raises:
        AudioError: The file is missing, empty, unreadable, without samples, truncated as far as a
            header can tell (wav, aiff, sph, ogg, opus), or the path is a pipe or an archive offset.
    """
    with _open(path) as file:
        return _header(file, str(path))


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
    with _open(path) as file:
        return _load(file, _header(file, str(path)), start_sec, end_sec)


def load_audio_file(
    file: BinaryIO, name: str, start_sec: float | None = None, end_sec: float | None = None
) -> np.ndarray:
    """`load_audio` for an open binary file; `name` stands for it in messages."""
    try:
        opened = soundfile.SoundFile(file)
    except (soundfile.SoundFileError, TypeError) as err:
        raise _unreadable(name, err) from None
    with opened:
        return _load(opened, _header(opened, name), start_sec, end_sec)


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
    import torch  # here: reading headers needs neither of the two
    from torchaudio.functional import resample as torchaudio_resample

    out = torchaudio_resample(torch.from_numpy(wave_T), rate, new_rate).numpy()
    # torchaudio forms the length in float32, which is off by some samples beyond 2^24 of them.
    length = resampled_length(len(wave_T), rate, new_rate)
    return np.pad(out[:length], (0, max(0, length - len(out))))


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


def is_pipe(path: str) -> bool:
    """Whether a wav.scp entry is a command or stdin, not a file."""
    stripped = path.strip()
    return stripped == "-" or stripped.endswith("|") or stripped.startswith("|")


def pipe_error(name: str) -> AudioError:
    """The error for a wav.scp entry that is a pipe."""
    return AudioError(
        f"{name}: found a pipe, expected an audio file: commands in data files are not run; "
        f"{_FORMAT_HINT} with --audio_format flac --allow_pipes, if you trust the folder",
        "pipe",
    )


def _open(path: str | Path) -> soundfile.SoundFile:
    name = str(path)
    if is_pipe(name):
        raise pipe_error(name)
    try:
        size = Path(name).stat().st_size
        if size:
            return soundfile.SoundFile(name)
    except (FileNotFoundError, NotADirectoryError):
        archive = re.fullmatch(r"(.+\.ark):\d+(\[.*\])?", name)
        hint = (
            f"Kaldi archives are not read: {_FORMAT_HINT} from audio files"
            if archive
            else ("mend wav.scp (relative paths start at the working directory)")
        )
        raise AudioError(
            f"{name}: no such file, expected an audio file; {hint}", "missing file"
        ) from None
    except (soundfile.SoundFileError, TypeError, OSError) as err:
        raise _unreadable(name, err) from None
    raise AudioError(
        f"{name}: found an empty file (0 bytes), expected audio; fetch it again or remove the row",
        "empty file",
    )


def _unreadable(name: str, err: Exception) -> AudioError:
    detail = (str(err).split("': ")[-1].strip() or "unknown format").rstrip(".")
    return AudioError(
        f"{name}: soundfile cannot read it ({detail}), expected wav, flac, mp3, ogg, opus or sph; "
        "fetch it again if it is damaged, convert it if it is of another format",
        "unreadable file",
    )


def _truncated(name: str, found: str, expected: str) -> AudioError:
    return AudioError(
        f"{name}: truncated: found {found}, expected {expected}; fetch it again or remove the row",
        "truncated file",
    )


def _header(file: soundfile.SoundFile, name: str) -> AudioHeader:
    info = file.extra_info
    for declared, there in re.findall(r"(?m)^ ?(?:data|SSND) : (\d+) \(should be (\d+)\)", info):
        if int(there) < int(declared) < _STREAMING_BYTES:
            raise _truncated(name, f"{there} bytes of samples", f"{declared} as its header says")
    if "Last page lacks an end-of-stream bit" in info:
        raise _truncated(name, "no end-of-stream page", "one, as every whole Ogg file has")
    if file.format == "NIST":
        declared = _sph_frames(name)
        if declared is not None and file.frames < declared:
            raise _truncated(name, f"{file.frames} samples", f"{declared} as its header says")
    if file.frames <= 0:
        raise AudioError(
            f"{name}: found a header but no samples, expected audio; fetch it again or remove the "
            "row",
            "no samples",
        )
    return AudioHeader(name, file.samplerate, file.frames, file.format)


def _sph_frames(name: str) -> int | None:
    """Samples per channel that a NIST header declares; None if it declares none."""
    try:
        with open(name, "rb") as raw:
            found = re.search(rb"sample_count -i (\d+)", raw.read(1024))
    except OSError:
        return None
    return int(found[1]) if found else None


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
            raise _truncated(
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
