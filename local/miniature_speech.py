"""Clips of the miniature: its sentences in synthetic voices, with speed, pitch and noise.

PART's data and the encoder's pre-training have different voices and conditions, so that every phase
of PART has something to learn; one voice per language is heard in no training at all.
"""

import itertools
import multiprocessing
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from espeak import Espeak, Manner
from miniature_grammar import SPOKEN, Meaning, draw, say

from espnet_part.audio import SAMPLE_RATE

CLEAN_VOICES = ("", "m2", "m5", "f3")  # of the encoder's pre-training, first on clean speech,
VARIED_VOICES = (*CLEAN_VOICES, "Alex", "Andy", "linda", "steph")  # then on more
VOICES = ("m1", "m3", "m4", "m6", "m8", "f1", "f2", "f4")  # of PART's training, dev and test
UNSEEN_VOICES = ("m7", "f5")  # languages in turn; only in `testvoice`


@dataclass(frozen=True)
class Conditions:
    """How clips are recorded: ranges that are drawn from evenly."""

    voices: tuple[str, ...]
    words_per_minute: tuple[int, int]
    pitch: tuple[int, int]
    snr_db: tuple[float, float]
    gain_db: tuple[float, float]


CLEAN = Conditions(CLEAN_VOICES, (160, 180), (45, 55), (35.0, 45.0), (-3.0, 0.0))
VARIED = Conditions(VARIED_VOICES, (150, 190), (40, 60), (15.0, 40.0), (-15.0, 0.0))
PART = Conditions(VOICES, (140, 200), (30, 70), (10.0, 30.0), (-15.0, 0.0))


@dataclass(frozen=True)
class Clip:
    """A sentence spoken once."""

    clip_id: str
    speaker: str
    language: str
    meaning: Meaning
    path: Path


def conditions_of(split: str, language: str) -> Conditions:
    """Voices and conditions of a split: train, dev, test, testvoice, clean_* or varied_*."""
    if split.startswith("clean"):
        return CLEAN
    if split.startswith("varied"):
        return VARIED
    if split == "testvoice":
        voice = UNSEEN_VOICES[SPOKEN.index(language) % len(UNSEEN_VOICES)]
        return Conditions((voice,), PART.words_per_minute, PART.pitch, PART.snr_db, PART.gain_db)
    return PART


def plan(split: str, language: str, n: int, folder: Path, seed: int) -> list[Clip]:
    """Choose what is said, and in whose voice.

    Dev and test say the same in every language; training draws anew for each.

    Args:
        split: see `conditions_of`.
        language: one of `SPOKEN`.
        n: clips.
        folder: where `<split>/<clip>.flac` will be.
        seed: makes the choice.
    """
    pairs = "test" if split == "testvoice" else split.rpartition("_")[2]
    same = f" {language}" if pairs == "train" else ""
    rng = random.Random(f"{seed} {pairs if pairs != 'train' else split}{same}")
    meanings = list(itertools.islice(draw(pairs, rng, set()), n))
    voices = conditions_of(split, language).voices
    clips = []
    for number, meaning in enumerate(meanings):
        speaker = f"{language}-{voices[number % len(voices)] or 'default'}"
        clip_id = f"{speaker}-{split}-{number:05d}"
        clips.append(Clip(clip_id, speaker, language, meaning, folder / split / f"{clip_id}.flac"))
    return clips


def noise(n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw noise of unit power between white and pink."""
    spectrum = np.fft.rfft(rng.standard_normal(1 << n.bit_length()))  # other lengths are slow
    spectrum /= np.maximum(np.arange(len(spectrum)), 1.0) ** rng.uniform(0.0, 0.5)
    wave = np.fft.irfft(spectrum)[:n]
    return wave / np.sqrt(np.mean(wave**2))


def record(espeak: Espeak, clip: Clip, split: str, seed: int) -> np.ndarray:
    """Speak a clip: float32 (T_samples,) at 16 kHz."""
    conditions = conditions_of(split, clip.language)
    # Seeded clip by clip: a split of another size leaves the other clips as they are.
    rng = np.random.default_rng([seed, zlib.crc32(clip.clip_id.encode())])
    variant = clip.speaker.partition("-")[2].replace("default", "")
    manner = Manner(
        variant,
        int(rng.integers(*conditions.words_per_minute, endpoint=True)),
        int(rng.integers(*conditions.pitch, endpoint=True)),
    )
    wave = espeak.say(say(clip.meaning, clip.language), clip.language, manner)
    wave = np.pad(wave, tuple(rng.integers(SAMPLE_RATE // 50, SAMPLE_RATE // 5, 2)))
    power = np.mean(wave**2)
    scale = np.sqrt(power / 10 ** (rng.uniform(*conditions.snr_db) / 10))
    wave = wave + scale * noise(len(wave), rng)
    wave *= 10 ** (rng.uniform(*conditions.gain_db) / 20) * 0.7 / np.abs(wave).max()
    return wave.astype(np.float32)


def _write(job: tuple[list[Clip], str, int]) -> tuple[str, int]:
    clips, split, seed = job
    torch.set_num_threads(1)  # the processes share the cores
    espeak = Espeak()
    for clip in clips:
        clip.path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(clip.path, record(espeak, clip, split, seed), SAMPLE_RATE)
    return espeak.version, len(clips)


def write_clips(
    plans: dict[str, list[Clip]], seed: int, n_processes: int
) -> Iterator[tuple[str, int]]:
    """Record clips, each language of each split in a new process: see espeak.py.

    Args:
        plans: split -> clips.
        seed: draws the conditions of each clip.
        n_processes: at once.

    Yields:
        eSpeak's version and the number of clips, as they get done.
    """
    jobs = []
    for split, clips in plans.items():
        for language in SPOKEN:
            mine = [clip for clip in clips if clip.language == language]
            # Long lists are cut, so that processes end together.
            jobs += [(mine[i : i + 250], split, seed) for i in range(0, len(mine), 250)]
    context = multiprocessing.get_context("fork")
    with context.Pool(n_processes, maxtasksperchild=1) as pool:
        yield from pool.imap_unordered(_write, jobs, chunksize=1)
