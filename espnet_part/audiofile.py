"""Audio files: opening, and checking all that a header can tell, without decoding."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import soundfile

from espnet_part.mp3 import mp3_length

SAMPLE_RATE = 16000
# Shorter than this no encoder gives a frame that means anything, and no word is this short.
MIN_SECONDS = 0.1
# Segment times come rounded from tables: an end this little past the end of the file is the end.
END_TOLERANCE_SEC = 0.02
# Decoders differ on what they trim from the ends of an MP3: a shortage below this becomes zeros.
MP3_SHORTAGE_SEC = 0.1
# Headers written to a pipe declare "unknown", some value near 2^31 or 2^32: not a truncated file.
_STREAMING_BYTES = 0x7FFFF000
_MP3_FRAME = 1152
_MAX_FRAMES = 1 << 40  # libsndfile says 2^63 - 1 where it does not know
_CHUNK_SIZE = re.compile(r"(?m)^ ?(?:data|SSND) : (\d+) \(should be (\d+)\)")
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
            header can tell (wav, aiff, sph, flac, ogg, mp3), or a pipe or an archive offset.
    """
    with open_audio(path) as file:
        header = check_header(file, str(path))
        if header.format == "FLAC":
            # The header knows nothing of a missing end; seeking to it costs less than 1 ms.
            try:
                file.seek(header.frames - 1)
            except soundfile.SoundFileError:
                raise truncated_error(
                    header.path, "no last sample", f"{header.frames} samples by its header"
                ) from None
    return header


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


def open_audio(path: str | Path) -> soundfile.SoundFile:
    """Opens an audio file.

    Raises:
        AudioError: A pipe, a missing, empty or unreadable file.
    """
    name = str(path)
    if is_pipe(name):
        raise pipe_error(name)
    try:
        size = Path(name).stat().st_size
        if size:
            return soundfile.SoundFile(name)
    except (FileNotFoundError, NotADirectoryError):
        archive = re.fullmatch(r"(.+\.ark):\d+(\[.*\])?", name)
        hint = "mend wav.scp (relative paths start at the working directory)"
        if archive:
            hint = "Kaldi archives are not read: name the audio files in wav.scp"
        raise AudioError(
            f"{name}: no such file, expected an audio file; {hint}", "missing file"
        ) from None
    except (soundfile.SoundFileError, TypeError, OSError) as err:
        raise unreadable_error(name, err) from None
    raise AudioError(
        f"{name}: found an empty file (0 bytes), expected audio; fetch it again or remove the row",
        "empty file",
    )


def unreadable_error(name: str, err: Exception) -> AudioError:
    """The error for a file that soundfile does not open."""
    detail = (str(err).split("': ")[-1].strip() or "unknown format").rstrip(".")
    return AudioError(
        f"{name}: soundfile cannot read it ({detail}), expected wav, flac, mp3, ogg, opus or sph; "
        "fetch it again if it is damaged, convert it if it is of another format",
        "unreadable file",
    )


def truncated_error(name: str, found: str, expected: str) -> AudioError:
    """The error for a file that ends too early."""
    return AudioError(
        f"{name}: truncated: found {found}, expected {expected}; fetch it again or remove the row",
        "truncated file",
    )


def check_header(file: soundfile.SoundFile, name: str) -> AudioHeader:
    """Reads the header of an open file.

    Raises:
        AudioError: Without samples, or truncated as far as a header can tell.
    """
    frames = file.frames
    for declared, there in _CHUNK_SIZE.findall(file.extra_info):
        if int(there) < int(declared) < _STREAMING_BYTES:
            raise truncated_error(name, f"{there} bytes of samples", f"{declared} by its header")
    if "Last page lacks an end-of-stream bit" in file.extra_info:
        raise truncated_error(name, "no end-of-stream page", "one, as every whole Ogg file has")
    if file.format == "NIST":
        declared = _sph_frames(name)
        if declared is not None and frames < declared:
            raise truncated_error(name, f"{frames} samples", f"{declared} by its header")
    if file.format == "MP3":
        frames = _mp3_frames(name, frames)
    if frames <= 0:
        raise AudioError(
            f"{name}: found a header but no samples, expected audio; fetch it again or remove the "
            "row",
            "no samples",
        )
    if frames > _MAX_FRAMES:
        raise AudioError(
            f"{name}: its header does not tell its length (it was written to a pipe), expected one "
            "that does; write it again (ffmpeg -i in.flac out.flac)",
            "unknown length",
        )
    return AudioHeader(name, file.samplerate, frames, file.format)


def _sph_frames(name: str) -> int | None:
    """Samples per channel that a NIST header declares; None if it declares none."""
    try:
        with open(name, "rb") as raw:
            found = re.search(rb"sample_count -i (\d+)", raw.read(1024))
    except OSError:
        return None
    return int(found[1]) if found else None


def _mp3_frames(name: str, frames: int) -> int:
    """Samples per channel that can be read of an MP3, given soundfile's count.

    Raises:
        AudioError: Truncated, or soundfile would lose the end of it.
    """
    try:
        length = mp3_length(name)
    except OSError:  # read from memory, not from a file
        return frames
    if length is None:
        return frames
    if length.missing_bytes:
        raise truncated_error(name, f"{length.missing_bytes} bytes less", "what its header says")
    if length.samples is None:
        return frames
    if length.samples > frames + _MP3_FRAME:
        raise AudioError(
            f"{name}: an MP3 of varying bit rate without an Info header: soundfile would read "
            f"{frames} of its {length.samples} samples; repack it (ffmpeg -i in.mp3 -c copy "
            "out.mp3) or convert it to flac",
            "MP3 of unknown length",
        )
    return min(frames, length.samples)
