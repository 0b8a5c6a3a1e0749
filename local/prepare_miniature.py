"""Data folders of the miniature (stage 1): `python local/prepare_miniature.py OUT`.

A parallel corpus of a small grammar (miniature_grammar.py), spoken by eSpeak NG in ten languages,
and its translations in the paper's thirteen directions. All is made here; nothing is downloaded.

    OUT/audio/<split>/*.flac
    OUT/train  OUT/dev                           speech: asr and st rows
    OUT/train_text                               text: mt rows
    OUT/miniature_test_<task>_<src>[_<tgt>]      pairs of words that no training says together
    OUT/miniature_testvoice_...                  the same sentences in a voice that no training has

Swedish, Indonesian and Arabic are ill-resourced: a tenth of other languages' st and text rows.
The same seed gives the same files. With --base: the speech of the encoder's pre-training.
"""

import argparse
import itertools
import json
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from miniature_grammar import DIRECTIONS, ILL_RESOURCED, SPOKEN, Meaning, draw, say
from miniature_speech import Clip, plan, write_clips

from espnet_part.datadir import Row, write_datadir

ILL_SHARE = 10  # one in so many rows of an ill-resourced language is kept


def targets_of(language: str) -> list[str]:
    """The languages into which one is translated."""
    return [tgt for src, tgt in DIRECTIONS if src == language]


def asr_row(clip: Clip) -> Row:
    """The transcript of a clip."""
    text = say(clip.meaning, clip.language)
    return Row(
        utt_id=f"{clip.clip_id}-asr",
        task="asr",
        src=clip.language,
        tgt=clip.language,
        target=text,
        path=str(clip.path),
        start_sec=None,
        end_sec=None,
        source=None,
        speaker=clip.speaker,
    )


def st_row(clip: Clip, tgt: str) -> Row:
    """The translation of a clip."""
    return Row(
        utt_id=f"{clip.clip_id}-st-{tgt}",
        task="st",
        src=clip.language,
        tgt=tgt,
        target=say(clip.meaning, tgt),
        path=str(clip.path),
        start_sec=None,
        end_sec=None,
        source=say(clip.meaning, clip.language),
        speaker=clip.speaker,
    )


def training_rows(clips: list[Clip]) -> Iterator[Row]:
    """All rows of the training clips."""
    for number, clip in enumerate(clips):
        yield asr_row(clip)
        for tgt in targets_of(clip.language):
            if tgt not in ILL_RESOURCED or number % ILL_SHARE == ILL_RESOURCED.index(tgt):
                yield st_row(clip, tgt)


def dev_rows(clips: list[Clip]) -> Iterator[Row]:
    """Rows to validate on: read often, so each clip is translated once, targets in turn."""
    for number, clip in enumerate(clips):
        yield asr_row(clip)
        targets = targets_of(clip.language)
        if targets:
            yield st_row(clip, targets[number % len(targets)])


def text_rows(meanings: list[Meaning]) -> Iterator[Row]:
    """Text rows in all directions."""
    for number, meaning in enumerate(meanings):
        for src, tgt in DIRECTIONS:
            if tgt in ILL_RESOURCED and number % ILL_SHARE != ILL_RESOURCED.index(tgt):
                continue
            yield Row(
                utt_id=f"text-{number:05d}-mt-{src}-{tgt}",
                task="mt",
                src=src,
                tgt=tgt,
                target=say(meaning, tgt),
                path=None,
                start_sec=None,
                end_sec=None,
                source=say(meaning, src),
                speaker=None,
            )


def write_tests(out: Path, split: str, clips: list[Clip]) -> None:
    """One folder per task and language pair."""
    for language in SPOKEN:
        mine = [clip for clip in clips if clip.language == language]
        write_datadir(out / f"miniature_{split}_asr_{language}", [asr_row(clip) for clip in mine])
        for tgt in targets_of(language):
            rows = [st_row(clip, tgt) for clip in mine]
            write_datadir(out / f"miniature_{split}_st_{language}_{tgt}", rows)


def prepare(out: Path, sizes: dict[str, int], n_text: int, seed: int, n_processes: int) -> None:
    """Make everything.

    Args:
        out: result.
        sizes: split -> clips per language.
        n_text: meanings of the text folder.
        seed: everything random hangs on it.
        n_processes: that speak at once.
    """
    settings = {"clips_per_language": sizes, "text": n_text, "seed": seed}
    done = out / "prepared.json"
    if done.exists() and json.loads(done.read_text())["settings"] == settings:
        print(f"{out} is prepared with these settings; delete {done} to make it again.")
        return
    done.unlink(missing_ok=True)
    plans = {
        split: [c for lang in SPOKEN for c in plan(split, lang, n, out / "audio", seed)]
        for split, n in sizes.items()
    }
    total, spoken, start, version = sum(map(len, plans.values())), 0, time.monotonic(), ""
    for version, n in write_clips(plans, seed, n_processes):  # noqa: B007
        spoken += n
        sec = time.monotonic() - start
        left = sec / spoken * (total - spoken)
        print(f"{spoken}/{total} clips spoken, {sec:.0f} s, {left:.0f} s left", flush=True)
    for split, clips in plans.items():
        if split.startswith("test"):
            write_tests(out, split, clips)
        elif split.endswith("dev"):
            write_datadir(out / "dev", list(dev_rows(clips)))
        else:
            write_datadir(out / "train", list(training_rows(clips)))
    if n_text:
        meanings = itertools.islice(draw("train", random.Random(f"{seed} text"), set()), n_text)
        write_datadir(out / "train_text", list(text_rows(list(meanings))))
    made = {"settings": settings, "espeak": version}
    done.write_text(json.dumps(made, indent=1) + "\n")
    print(f"{out}: {sizes} clips per language, eSpeak NG {version}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="result, e.g. data/miniature")
    parser.add_argument("--base", choices=["clean", "varied"], help="the encoder's pre-training")
    parser.add_argument("--n_train", type=int, default=1200, help="training clips per language")
    parser.add_argument("--n_dev", type=int, default=24)
    parser.add_argument("--n_test", type=int, default=60)
    parser.add_argument("--n_text", type=int, default=1200, help="meanings of train_text")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nj", type=int, default=len(os.sched_getaffinity(0)), help="processes")
    args = parser.parse_args()
    sizes = {"train": args.n_train, "dev": args.n_dev, "test": args.n_test}
    sizes["testvoice"] = args.n_test
    if args.base:
        sizes = {f"{args.base}_train": args.n_train, f"{args.base}_dev": args.n_dev}
    try:
        prepare(args.out, sizes, 0 if args.base else args.n_text, args.seed, args.nj)
    except ValueError as error:
        sys.exit(f"{parser.prog}: error: {error}")


if __name__ == "__main__":
    main()
