"""Audio inside the page: segments as Ogg/Opus in data URIs, within a budget of bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np
import soundfile

from espnet_part.audio import SAMPLE_RATE, AudioError, audio_samples, load_audio
from espnet_part.row import Row
from espnet_part.worst import WorstOfSet

MAX_SEC = 20.0
_FADE_SAMPLES = 160  # 10 ms: a cut is not to click


@dataclass(frozen=True)
class Clip:
    """Audio of one utterance: the data URI of a player, and what is to be said about it."""

    uri: str | None
    note: str


@dataclass
class Clips:
    """Clips by the identity of their row, and the bytes that they take of the page."""

    budget: int
    size: int = 0
    count: int = 0
    found: dict[tuple[str, str], Clip] = field(default_factory=dict)

    def get(self, test_set: str, utt_id: str) -> Clip | None:
        """The clip of an utterance; None where the row has no audio."""
        return self.found.get((test_set, utt_id))


def encode(wave_T: np.ndarray) -> bytes:
    """Encode 16 kHz mono samples as Ogg/Opus."""
    out = io.BytesIO()
    with soundfile.SoundFile(
        out, "w", SAMPLE_RATE, 1, "OPUS", format="OGG", compression_level=0.9
    ) as file:
        file.write(wave_T)
    return out.getvalue()


def cut(row: Row) -> tuple[np.ndarray, str]:
    """Read the part of a row's audio that is played.

    Returns:
        Samples at 16 kHz, and its length in words.

    Raises:
        AudioError: if the audio is missing or damaged.
    """
    assert row.path is not None
    seconds = audio_samples(row.path, row.start_sec, row.end_sec) / SAMPLE_RATE
    if seconds <= MAX_SEC:
        return load_audio(row.path, row.start_sec, row.end_sec), f"{seconds:.1f} s"
    start = row.start_sec or 0.0
    wave_T = load_audio(row.path, start, start + MAX_SEC)
    wave_T[-_FADE_SAMPLES:] *= np.linspace(1, 0, len(wave_T[-_FADE_SAMPLES:]), dtype=np.float32)
    return wave_T, f"the first {MAX_SEC:.0f} of {seconds:.1f} s"


def make_clips(worst: Sequence[WorstOfSet], megabytes: float) -> Clips:
    """Encode the utterances' audio until the budget is spent.

    The worst of every test set comes first, then the second of each: a small budget is shared.

    Args:
        worst: of each test set.
        megabytes: of the page, base64 included; 0 leaves out all audio.
    """
    clips = Clips(int(megabytes * 1e6))
    places = zip_longest(*([(w.test_set, u.example) for u in w.utterances] for w in worst))
    for test_set, example in (item for place in places for item in place if item):
        if example.path is not None:
            clips.found[test_set, example.utt_id] = _clip(example, clips)
    return clips


def _clip(row: Row, clips: Clips) -> Clip:
    spent = f"no audio: the page's budget of {clips.budget / 1e6:g} MB (--report_audio_mb) is spent"
    if clips.size >= clips.budget:
        return Clip(None, spent)
    try:
        wave_T, note = cut(row)
        content = encode(wave_T)
    except AudioError as error:
        return Clip(None, f"no audio: {error.reason}")  # without the path: the page is shared
    except (OSError, RuntimeError) as error:  # of soundfile; one without Opus, for example
        return Clip(None, f"no audio: {type(error).__name__}")
    uri = "data:audio/ogg;base64," + base64.b64encode(content).decode("ascii")
    if clips.size + len(uri) > clips.budget:
        return Clip(None, spent)
    clips.size += len(uri)
    clips.count += 1
    return Clip(uri, note)
