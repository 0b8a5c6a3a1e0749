"""MuST-C: English TED talks with transcripts and translations, as data folders.

    python local/prepare_mustc.py /corpora/MUSTC_v2.0 data/mustc --langs en-de en-zh

Card
  directions  English into de zh ja ar, which are the paper's (st), and English alone (asr); on
              request (--langs en-es) into es fr it ru too. --langs takes `en` for asr, and a
              direction or its target
  hours       train 385 to 504 for each European language, 237 or more for the others
  license     CC BY-NC-ND 4.0; the talks are TED Conferences LLC's
  source      https://ict.fbk.eu/must-c-releases/, which no longer answers (since January 2024):
              ask its authors (doi 10.1016/j.csl.2020.101155); so there is no --fetch
  versions    v1.0 de es fr it nl pt ro ru, v1.2 also ar cs fa tr vi zh, v2 de ja zh, v3: all are
              read. What they have in common in tests differs: say which one a score is for
  layout      en-<tgt>/data/<split>/wav/ted_<talk>.wav, whole talks, 16 kHz (h5/, features that
              v1 has beside them, is not read)
              en-<tgt>/data/<split>/txt/<split>.{en,<tgt>}, a segment per line, and for each line
              in <split>.yaml: - {duration: 3.5, offset: 16.08, rW: 9, uW: 0, speaker_id: spk.767,
              wav: ted_767.wav} (v1 has no rW, uW); splits train dev tst-COMMON tst-HE

Sets made
  train_en_<tgt>  dev_en_<tgt>  mustc_test_common_st_en_<tgt>  mustc_test_he_st_en_<tgt>
  train_en  dev_en  mustc_test_common_asr_en  mustc_test_he_asr_en
  All directions tell the same talks, cut differently: the asr sets come from one of them, the first
  of de zh ja ar es fr it ru that is wanted and there. Clips are <talk>-<start>-<end> in ms.

Known faults, and what we do
  The three files of a split do not have the same number of lines: an error that says how many.
  Several lines have the same segment, so at most one has the right text. In train all of them are
    skipped and counted; dev and tests keep all lines, the second as <clip>-2: tests stay whole.
  Segments under 0.2 s: in dev and tests widened to that around their middle; in train those under
    0.1 s are skipped.
  Sounds as text, (Laughter) or （拍手）: a train segment without words beside them, in either
    language, is skipped and counted. Within sentences, and in dev and tests, they stay, as do
    names of who speaks (Audience: ...): published scores are for references that hold them.
  TED-LIUM 3's train, and train of other MuST-C versions, may hold talks of these tests.
"""

import argparse
import functools
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from corpus import Bad, CorpusSet, chosen, count_lines, get_parser, need_folder, run
from mustc_segments import Segment, read_entries

from espnet_part.datadir import Row

PAPER_TARGETS = ("de", "zh", "ja", "ar")
TARGETS = (*PAPER_TARGETS, "es", "fr", "it", "ru")
LANGS = ("en", *TARGETS, *(f"en-{tgt}" for tgt in TARGETS))
SPLITS = ("train", "dev", "tst-COMMON", "tst-HE")
MIN_TEST_SEC = 0.2
WHERE = (
    "MuST-C is no longer offered at https://ict.fbk.eu/must-c-releases/ (ask its authors); name "
    "the folder that holds en-de/, en-zh/ ... in db.sh (MUSTC=...)"
)
_SOUND = re.compile(r"\([^()]*\)|（[^（）]*）|\[[^\[\]]*\]")


@dataclass(frozen=True)
class Part:
    """A split of a direction.

    Attributes:
        folder: Of the split: holds txt and wav.
        split: As the corpus names it.
        tgt: Language of the translations.
    """

    folder: Path
    split: str
    tgt: str

    def table(self, ending: str) -> Path:
        """One of its files: yaml, en, or the target language."""
        return self.folder / "txt" / f"{self.split}.{ending}"


def make_sets(args: argparse.Namespace) -> list[CorpusSet]:
    """The sets of the wanted directions and splits that are there.

    Raises:
        ValueError: The corpus, or a direction or split that was asked for, is missing.
    """
    langs = chosen(LANGS, args.langs or ["en", *PAPER_TARGETS], "--langs")
    splits = chosen(SPLITS, args.splits, "--splits")
    root = need_folder(args.corpus, WHERE)
    targets = [tgt for tgt in TARGETS if tgt in langs or f"en-{tgt}" in langs]
    there = [tgt for tgt in targets if (root / f"en-{tgt}").is_dir()]
    missing = [f"en-{tgt}" for tgt in targets if tgt not in there]
    if missing and args.langs:
        raise ValueError(f"{root}: holds no {' '.join(missing)}. {WHERE}")
    for direction in missing:
        print(f"{root / direction}: not there, it is left out", flush=True)
    sets = [
        _make_set(part, "st")
        for tgt in there
        for part in _parts(root, tgt, splits, named=bool(args.langs and args.splits))
    ]
    if "en" in langs:
        source = next((t for t in there or TARGETS if (root / f"en-{t}").is_dir()), None)
        if source is not None:
            sets += [_make_set(part, "asr") for part in _parts(root, source, splits)]
    if not sets:
        raise ValueError(f"{root}: holds none of the sets. {WHERE}")
    return sets


def _parts(root: Path, tgt: str, splits: Sequence[str], named: bool = False) -> Iterator[Part]:
    for split in splits:
        part = Part(root / f"en-{tgt}" / "data" / split, split, tgt)
        if part.folder.is_dir():
            if not (part.folder / "wav").is_dir():
                raise ValueError(f"{part.folder}: holds no wav/, expected the audio there. {WHERE}")
            yield part
        elif named:
            raise ValueError(f"{part.folder}: no such folder. {WHERE}")
        else:
            print(f"{part.folder}: not there, it is left out", flush=True)


def _make_set(part: Part, task: str) -> CorpusSet:
    langs = f"en_{part.tgt}" if task == "st" else "en"
    if part.split.startswith("tst-"):
        name = f"mustc_test_{part.split.removeprefix('tst-').lower()}_{task}_{langs}"
    else:
        name = f"{part.split}_{langs}"
    endings = ("yaml", "en", part.tgt) if task == "st" else ("yaml", "en")
    return CorpusSet(
        name,
        [part.table(ending) for ending in endings],
        functools.partial(_read, part, task),
        functools.partial(count_lines, part.table("en")),
    )


def _read(part: Part, task: str) -> Iterator[Row | Bad]:
    repeated = _check_and_find_repeated(part, task)
    seen = dict.fromkeys(repeated, 0)
    texts = zip(
        _lines(part.table("en")),
        _lines(part.table(part.tgt if task == "st" else "en")),
        strict=True,
    )
    entries = read_entries(part.table("yaml"))
    for number, (entry, (english, target)) in enumerate(zip(entries, texts, strict=True), 1):
        if (segment := Segment.from_entry(entry)) is None:
            detail = f"{entry}: expected duration, offset, speaker_id and wav"
            yield Bad(f"{part.split}.yaml:{number}", "segment lacks a value", detail)
            continue
        clip = segment.clip
        ending = f"-st-{part.tgt}" if task == "st" else "-asr"
        if part.split == "train":
            if clip in repeated:
                yield Bad(clip + ending, "segment of several lines", f"{english!r} is one of them")
                continue
            if not (_has_words(english) and _has_words(target)) and english and target:
                yield Bad(clip + ending, "no words", f"{english!r}, {target!r}")
                continue
        else:
            segment = segment.widened(MIN_TEST_SEC)
            if clip in seen:
                seen[clip] += 1
                clip = f"{clip}-{seen[clip]}" if seen[clip] > 1 else clip
        yield _make_row(part, task, clip + ending, segment, english, target)


def _make_row(
    part: Part, task: str, utt_id: str, segment: Segment, english: str, target: str
) -> Row:
    tgt, source = (part.tgt, english or None) if task == "st" else ("en", None)
    path = str(part.folder / "wav" / f"{segment.talk}.wav")
    times = segment.start_sec, segment.end_sec
    return Row(utt_id, task, "en", tgt, target, path, *times, source, segment.speaker)


def _check_and_find_repeated(part: Part, task: str) -> set[str]:
    """Clips that several lines have, once it is clear that all files have as many lines.

    Holds the clips' names: some 30 MB for the longest list there is.
    """
    seen: set[str] = set()
    repeated: set[str] = set()
    found = {"yaml": 0}
    for entry in read_entries(part.table("yaml")):
        found["yaml"] += 1
        if (segment := Segment.from_entry(entry)) is not None:
            (repeated if segment.clip in seen else seen).add(segment.clip)
    for ending in ("en", part.tgt) if task == "st" else ("en",):
        found[ending] = sum(1 for _ in _lines(part.table(ending)))
    if len(set(found.values())) > 1:
        counts = ", ".join(f"{number:,} in {part.split}.{name}" for name, number in found.items())
        raise ValueError(
            f"{part.folder / 'txt'}: found {counts}, expected as many segments as lines: they "
            "belong together line by line; unpack the archive again"
        )
    return repeated


def _lines(path: Path) -> Iterator[str]:
    # Only \n ends a line: texts hold U+2028 and the like.
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for line in file:
            yield line.strip()


def _has_words(text: str) -> bool:
    return any(char.isalnum() for char in _SOUND.sub("", text))


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    return run(get_parser(__doc__, LANGS, SPLITS, fetchable=False), make_sets, argv)


if __name__ == "__main__":
    sys.exit(main())
