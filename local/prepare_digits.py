"""Data folders of the digits corpus: `python local/prepare_digits.py FSDD_FOLDER OUT`.

Source: Free Spoken Digit Dataset (CC BY-SA 4.0, six speakers, 8 kHz, one digit a file). Result:
connected strings of 3 to 6 digits of one speaker at 16 kHz, and what they mean in six languages.

    OUT/audio/<split>/*.flac                  the strings
    OUT/train  OUT/dev                        speech: asr in English, st from English
    OUT/train_text                            text: mt from English
    OUT/digits_test_asr_en  OUT/digits_test_st_en_<tgt>    one task and one pair each

The dataset's own split of recordings is kept (test: index 0-4); index 45-49 is dev. No string of
digits in dev or test is in the training speech or text. The same seed gives the same files.
"""

import argparse
import json
import random
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from digits_fetch import fetch_fsdd
from digits_strings import Recording, find_recordings, make_strings, random_strings, spell
from digits_text import SOURCE, TARGETS, say

from espnet_part.audio import SAMPLE_RATE, load_audio
from espnet_part.datadir import Row, write_datadir

PAUSE_SEC = (0.02, 0.20)  # between digits; at both ends the same
FADE_SEC = 0.005  # no click where a recording starts and stops
NOISE = 1.0 / 32768  # one step of 16 bits: a pause is quiet, not a row of zeros


def join(waves: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Join recordings with short pauses.

    Args:
        waves: 16 kHz mono recordings.
        rng: draws pauses and noise.

    Returns:
        float32 (T_samples,).
    """
    fade = int(FADE_SEC * SAMPLE_RATE)
    ramp = np.linspace(0.0, 1.0, fade, dtype=np.float32)

    def pause() -> np.ndarray:
        return np.zeros(int(rng.uniform(*PAUSE_SEC) * SAMPLE_RATE), dtype=np.float32)

    pieces = [pause()]
    for wave in waves:
        wave = wave.copy()
        wave[:fade] *= ramp
        wave[-fade:] *= ramp[::-1]
        pieces += [wave, pause()]
    speech = np.concatenate(pieces)
    return speech + (NOISE * rng.standard_normal(len(speech))).astype(np.float32)


def write_strings(
    strings: list[list[Recording]], split: str, folder: Path, seed: int
) -> list[tuple[str, str, Path]]:
    """Write the audio of one split.

    Args:
        strings: recordings of each string.
        split: train, dev or test.
        folder: where `<clip>.flac` goes.
        seed: makes the pauses.

    Returns:
        (clip id, digits, path) of each string.
    """
    folder.mkdir(parents=True, exist_ok=True)
    waves: dict[Path, np.ndarray] = {}
    clips = []
    start = time.monotonic()
    for number, string in enumerate(strings):
        for recording in string:
            if recording.path not in waves:
                waves[recording.path] = load_audio(recording.path)
        # Seeded clip by clip: a split of another size leaves the other clips as they are.
        rng = np.random.default_rng([seed, zlib.crc32(split.encode()), number])
        clip = f"{string[0].speaker}-{split}-{number:05d}"
        path = folder / f"{clip}.flac"
        soundfile.write(path, join([waves[r.path] for r in string], rng), SAMPLE_RATE)
        clips.append((clip, spell(string), path))
        if (number + 1) % 1000 == 0 or number + 1 == len(strings):
            sec = time.monotonic() - start
            print(f"{split}: {number + 1}/{len(strings)} strings, {sec:.0f} s", flush=True)
    return clips


def speech_rows(clips: list[tuple[str, str, Path]], targets: tuple[str, ...]) -> Iterator[Row]:
    """The rows of clips: asr in English, or st, for each of `targets`.

    Args:
        clips: (clip id, digits, path).
        targets: languages; the source language stands for asr.

    Yields:
        Rows.
    """
    for clip, digits, path in clips:
        speaker = clip.split("-")[0]
        heard = say(digits, SOURCE)
        for tgt in targets:
            asr = tgt == SOURCE
            yield Row(
                utt_id=f"{clip}-asr" if asr else f"{clip}-st-{tgt}",
                task="asr" if asr else "st",
                src=SOURCE,
                tgt=tgt,
                target=say(digits, tgt),
                path=str(path),
                start_sec=None,
                end_sec=None,
                source=None if asr else heard,
                speaker=speaker,
            )


def text_rows(strings: list[str]) -> Iterator[Row]:
    """Text rows (mt from English into every target language) of digit strings."""
    for number, digits in enumerate(strings):
        for tgt in TARGETS:
            yield Row(
                utt_id=f"text-{number:05d}-mt-{tgt}",
                task="mt",
                src=SOURCE,
                tgt=tgt,
                target=say(digits, tgt),
                path=None,
                start_sec=None,
                end_sec=None,
                source=say(digits, SOURCE),
                speaker=None,
            )


def prepare(fsdd: Path, out: Path, repeats: dict[str, int], n_text: int, seed: int) -> None:
    """Make everything.

    Args:
        fsdd: Free Spoken Digit Dataset.
        out: result.
        repeats: per split, how often each recording is used.
        n_text: digit strings of the text folder (each becomes one row per target language).
        seed: everything random hangs on it.

    Raises:
        ValueError: `fsdd` is not the dataset.
    """
    recordings = find_recordings(fsdd)
    settings = {"recordings": len(recordings), "repeats": repeats, "text": n_text, "seed": seed}
    done = out / "prepared.json"
    if done.exists() and json.loads(done.read_text())["settings"] == settings:
        print(f"{out} is prepared with these settings; delete {done} to make it again.")
        return
    done.unlink(missing_ok=True)
    clips: dict[str, list[tuple[str, str, Path]]] = {}
    held_out: set[str] = set()
    for split in ("test", "dev", "train"):
        rng = random.Random(f"{seed} {split}")
        mine = [r for r in recordings if r.split == split]
        avoid = held_out if split == "train" else set()
        strings = make_strings(mine, repeats[split], rng, avoid)
        clips[split] = write_strings(strings, split, out / "audio" / split, seed)
        held_out |= {digits for _, digits, _ in clips[split]} if split != "train" else set()
    everything = (SOURCE, *TARGETS)
    write_datadir(out / "train", list(speech_rows(clips["train"], everything)))
    # Dev is read every few hundred steps: one translation of each clip, the languages in turn.
    dev = list(speech_rows(clips["dev"], (SOURCE,)))
    for number, tgt in enumerate(TARGETS):
        dev += speech_rows(clips["dev"][number :: len(TARGETS)], (tgt,))
    write_datadir(out / "dev", dev)
    text = random_strings(n_text, random.Random(f"{seed} text"), held_out)
    write_datadir(out / "train_text", list(text_rows(text)))
    write_datadir(out / "digits_test_asr_en", list(speech_rows(clips["test"], (SOURCE,))))
    for tgt in TARGETS:
        write_datadir(out / f"digits_test_st_en_{tgt}", list(speech_rows(clips["test"], (tgt,))))
    counts = {split: len(clips[split]) for split in clips}
    done.write_text(json.dumps({"settings": settings, "strings": counts}, indent=1) + "\n")
    print(f"{out}: strings {counts}, {len(TARGETS) * n_text} text rows")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("fsdd", type=Path, help="Free Spoken Digit Dataset")
    parser.add_argument("out", type=Path, help="result, e.g. data/digits")
    parser.add_argument("--fetch", action="store_true", help="fetch it to FSDD if it is not there")
    parser.add_argument("--train_repeats", type=int, default=8, help="uses of each recording")
    parser.add_argument("--dev_repeats", type=int, default=2)
    parser.add_argument("--test_repeats", type=int, default=3)
    parser.add_argument("--n_text", type=int, default=1000, help="digit strings in train_text")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    repeats = {"test": args.test_repeats, "dev": args.dev_repeats, "train": args.train_repeats}
    try:
        if args.fetch:
            fetch_fsdd(args.fsdd)
        prepare(args.fsdd, args.out, repeats, args.n_text, args.seed)
    except ValueError as error:
        sys.exit(f"{parser.prog}: error: {error}")


if __name__ == "__main__":
    main()
