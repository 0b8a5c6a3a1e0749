"""Data folders of the corpus `toy`: `python local/prepare_toy.py OUT`.

Twenty made utterances in two languages, a second or two each, where every word is a tone of its
own. They are there to run the whole recipe in minutes; nothing can be learned from them.

    OUT/audio/*.flac                                 what is heard
    OUT/train  OUT/dev                               speech: asr in both languages, st both ways
    OUT/train_text                                   text: mt both ways
    OUT/toy_test_asr_{en,zh}  OUT/toy_test_st_{en_zh,zh_en}    one task and one pair each

The clips of dev are cut out of one long recording by `segments`; one recording has 8 kHz and one
has two channels, so that stages 3 to 12 meet what real corpora hold. Always the same bytes.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from espnet_part.datadir import Row, write_datadir

# English word, Chinese word, tone in Hz.
WORDS = [
    ("red", "红", 300),
    ("blue", "蓝", 400),
    ("one", "一", 520),
    ("two", "二", 680),
    ("bird", "鸟", 880),
    ("fish", "鱼", 1150),
]
OTHER = {"en": "zh", "zh": "en"}
SHIFT_HZ = {"en": 0.0, "zh": 130.0}  # the languages differ to the ear, too
WORD_SEC = 0.3
PAUSE_SEC = 0.05
SPLITS = {"train": 6, "dev": 2, "test": 2}  # clips of each language: twenty in all


@dataclass(frozen=True)
class Clip:
    """One utterance: who says which words, and where they are heard."""

    name: str
    language: str
    words: tuple[int, ...]
    path: Path
    start_sec: float | None = None
    end_sec: float | None = None

    def text(self, language: str) -> str:
        """What the clip says, in either language."""
        column = ("en", "zh").index(language)
        return ("", " ")[language == "en"].join(WORDS[i][column] for i in self.words)


def sentence(split: str, number: int) -> tuple[int, ...]:
    """Three to five words; dev and test sentences do not occur in train."""
    first = 2 * number + number // 3 + {"train": 0, "dev": 1, "test": 3}[split]
    step = {"train": 1, "dev": 2, "test": 4}[split]
    return tuple((first + step * i + i // 3) % len(WORDS) for i in range(3 + number % 3))


def tones(words: tuple[int, ...], language: str, rate: int) -> np.ndarray:
    """The sound of a sentence.

    Args:
        words: Indices into `WORDS`.
        language: ``en`` or ``zh``.
        rate: Samples per second.

    Returns:
        float32 (T_samples,), between -0.3 and 0.3.
    """
    time_sec = np.arange(int(WORD_SEC * rate)) / rate
    envelope = np.sin(np.pi * time_sec / WORD_SEC)
    pause = np.zeros(int(PAUSE_SEC * rate))
    pieces = [pause]
    for word in words:
        hz = WORDS[word][2] + SHIFT_HZ[language]
        wave = np.sin(2 * np.pi * hz * time_sec) + 0.5 * np.sin(4 * np.pi * hz * time_sec)
        pieces += [0.2 * envelope * wave, pause]
    speech = np.concatenate(pieces)
    noise = np.random.default_rng(len(speech)).standard_normal(len(speech))
    return (speech + 1e-3 * noise).astype(np.float32)


def make_clips(split: str, audio: Path) -> list[Clip]:
    """Write the audio of one split and say what is where."""
    clips: list[Clip] = []
    for language in OTHER:
        long: list[np.ndarray] = []
        for number in range(SPLITS[split]):
            words = sentence(split, number)
            name = f"toy{language}-{split}-{number:02d}"
            if split == "dev":  # one recording, cut by `segments`
                start = sum(len(wave) for wave in long) / 16000
                long.append(tones(words, language, 16000))
                end = start + len(long[-1]) / 16000
                path = audio / f"toy{language}-dev.flac"
                clips.append(Clip(name, language, words, path, start, end))
                continue
            path = audio / f"{name}.flac"
            rate = 8000 if split == "train" and number == 1 else 16000
            wave = tones(words, language, rate)
            stereo = split == "train" and number == 2
            soundfile.write(path, np.stack([wave, wave], 1) if stereo else wave, rate)
            clips.append(Clip(name, language, words, path))
        if long:
            soundfile.write(audio / f"toy{language}-dev.flac", np.concatenate(long), 16000)
    return clips


def speech_rows(clips: list[Clip], tasks: tuple[str, ...]) -> Iterator[Row]:
    """The asr and st rows of clips."""
    for clip in clips:
        for task in tasks:
            tgt = clip.language if task == "asr" else OTHER[clip.language]
            yield Row(
                utt_id=f"{clip.name}-asr" if task == "asr" else f"{clip.name}-st-{tgt}",
                task=task,
                src=clip.language,
                tgt=tgt,
                target=clip.text(tgt),
                path=str(clip.path),
                start_sec=clip.start_sec,
                end_sec=clip.end_sec,
                source=None if task == "asr" else clip.text(clip.language),
                speaker=f"toy{clip.language}",
            )


def text_rows(clips: list[Clip]) -> Iterator[Row]:
    """Text rows (mt both ways) that say what the clips say."""
    for clip in clips:
        tgt = OTHER[clip.language]
        yield Row(
            utt_id=f"{clip.name}-mt-{tgt}",
            task="mt",
            src=clip.language,
            tgt=tgt,
            target=clip.text(tgt),
            path=None,
            start_sec=None,
            end_sec=None,
            source=clip.text(clip.language),
            speaker=None,
        )


def prepare(out: Path) -> None:
    """Make everything under `out`."""
    audio = out / "audio"
    audio.mkdir(parents=True, exist_ok=True)
    clips = {split: make_clips(split, audio) for split in SPLITS}
    write_datadir(out / "train", list(speech_rows(clips["train"], ("asr", "st"))))
    write_datadir(out / "dev", list(speech_rows(clips["dev"], ("asr", "st"))))
    write_datadir(out / "train_text", list(text_rows(clips["train"])))
    for src, tgt in OTHER.items():
        test = [clip for clip in clips["test"] if clip.language == src]
        write_datadir(out / f"toy_test_asr_{src}", list(speech_rows(test, ("asr",))))
        write_datadir(out / f"toy_test_st_{src}_{tgt}", list(speech_rows(test, ("st",))))
    print(f"{out}: {sum(len(c) for c in clips.values())} utterances")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="result, e.g. data/toy")
    args = parser.parse_args()
    try:
        prepare(args.out)
    except ValueError as error:
        sys.exit(f"{parser.prog}: error: {error}")


if __name__ == "__main__":
    main()
