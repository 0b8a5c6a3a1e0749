"""Which recordings make which connected string: the digits corpus without its sound."""

import random
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from digits_text import MAX_DIGITS, MIN_DIGITS

NAME = re.compile(r"(?P<digit>[0-9])_(?P<speaker>[a-z]+)_(?P<index>[0-9]+)\.wav")
TEST_INDICES = range(0, 5)  # the dataset's own split
DEV_INDICES = range(45, 50)  # taken from the official training side


@dataclass(frozen=True)
class Recording:
    """One spoken digit."""

    path: Path
    digit: str
    speaker: str
    index: int

    @property
    def split(self) -> str:
        """`test`, `dev` or `train`."""
        if self.index in TEST_INDICES:
            return "test"
        return "dev" if self.index in DEV_INDICES else "train"


def find_recordings(folder: Path) -> list[Recording]:
    """List the recordings of a Free Spoken Digit Dataset.

    Args:
        folder: the dataset, or its folder `recordings`.

    Returns:
        Recordings sorted by name.

    Raises:
        ValueError: no such folder, no recordings in it, or a digit of a speaker without
            recordings in one of the three splits.
    """
    inner = folder / "recordings" if (folder / "recordings").is_dir() else folder
    if not inner.is_dir():
        raise ValueError(
            f"{folder} is no folder. Name the Free Spoken Digit Dataset (the folder that holds "
            "recordings/0_george_0.wav) in db.sh as FSDD=..., or fetch it: "
            "python local/digits_fetch.py FOLDER"
        )
    matches = [(path, NAME.fullmatch(path.name)) for path in sorted(inner.glob("*.wav"))]
    found = [
        Recording(path, match["digit"], match["speaker"], int(match["index"]))
        for path, match in matches
        if match
    ]
    if not found:
        raise ValueError(
            f"{inner} holds no file named like 0_george_0.wav ({len(matches)} other wav files), "
            "so it is not the Free Spoken Digit Dataset. Expected its folder recordings/."
        )
    there = {(r.split, r.speaker, r.digit) for r in found}
    for speaker in sorted({r.speaker for r in found}):
        for split in ("test", "dev", "train"):
            gaps = [d for d in "0123456789" if (split, speaker, d) not in there]
            if gaps:
                raise ValueError(
                    f"{inner}: speaker {speaker} has no {split} recording of digit {gaps[0]}: "
                    "the copy is incomplete (test = index 0-4, dev = 45-49, train = 5-44)."
                )
    return found


def string_lengths(total: int, rng: random.Random) -> list[int]:
    """Cut `total` digits into strings of `MIN_DIGITS` to `MAX_DIGITS`, all lengths alike often.

    Raises:
        ValueError: fewer than `MIN_DIGITS` digits.
    """
    if total < MIN_DIGITS:
        raise ValueError(f"{total} digits do not make a string of at least {MIN_DIGITS}.")
    lengths: list[int] = []
    while total:
        block = list(range(MIN_DIGITS, MAX_DIGITS + 1))
        rng.shuffle(block)
        for length in block:
            # What is left over must itself be a string: 7 = 3 + 4, never 6 + 1.
            if total <= MAX_DIGITS:
                length = total
            elif total - length < MIN_DIGITS:
                length = MIN_DIGITS
            lengths.append(length)
            total -= length
            if not total:
                break
    return lengths


def spell(string: list[Recording]) -> str:
    """The digits of a string: "305"."""
    return "".join(r.digit for r in string)


def make_strings(
    recordings: list[Recording], repeats: int, rng: random.Random, held_out: set[str]
) -> list[list[Recording]]:
    """Make connected strings of one speaker each, using every recording `repeats` times.

    Args:
        recordings: one split.
        repeats: how often each recording is used.
        rng: random numbers.
        held_out: digit strings that must not be made (those of dev and test, for training).

    Returns:
        Strings, speaker by speaker.
    """
    by_speaker = defaultdict(list)
    for recording in recordings:
        by_speaker[recording.speaker].append(recording)
    strings: list[list[Recording]] = []
    for speaker in sorted(by_speaker):
        line: list[Recording] = []
        for _ in range(repeats):
            line += rng.sample(by_speaker[speaker], len(by_speaker[speaker]))
        mine, start = [], 0
        for length in string_lengths(len(line), rng):
            mine.append(line[start : start + length])
            start += length
        _avoid(mine, held_out, rng)
        strings += mine
    return strings


def _avoid(strings: list[list[Recording]], held_out: set[str], rng: random.Random) -> None:
    """Swap digits between strings, in place, until none spells a held-out string."""
    bad = [s for s in strings if spell(s) in held_out]
    while bad:
        for string in bad:
            other = strings[rng.randrange(len(strings))]
            i, j = rng.randrange(len(string)), rng.randrange(len(other))
            string[i], other[j] = other[j], string[i]
        bad = [s for s in strings if spell(s) in held_out]


def random_strings(count: int, rng: random.Random, held_out: set[str]) -> list[str]:
    """Draw digit strings, all lengths alike often, none of them held out.

    Args:
        count: how many.
        rng: random numbers.
        held_out: strings never drawn.

    Returns:
        Digit strings; short ones may come more than once.
    """
    strings: list[str] = []
    while len(strings) < count:
        length = rng.randint(MIN_DIGITS, MAX_DIGITS)
        string = "".join(rng.choice("0123456789") for _ in range(length))
        if string not in held_out:
            strings.append(string)
    return strings
