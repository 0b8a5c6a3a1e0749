"""LibriSpeech: English audiobooks, read (LibriVox), as data folders.

    python local/prepare_librispeech.py /corpora/LibriSpeech data/librispeech

Card
  language  English (asr)
  hours     982: train 961 (clean-100, clean-360, other-500), dev 5 + 5, test 5 + 5
  license   CC BY 4.0
  source    https://www.openslr.org/12 (60 GB; --fetch gets it: the wanted splits only)
  layout    LibriSpeech/<split>/<speaker>/<chapter>/<speaker>-<chapter>-<utterance>.flac, 16 kHz
            LibriSpeech/<split>/<speaker>/<chapter>/<speaker>-<chapter>.trans.txt: `<id> <TEXT>`

Sets made
  train_clean_100  train_clean_360  train_other_500  dev_clean  dev_other
  librispeech_test_clean_asr_en  librispeech_test_other_asr_en

Known faults, and what we do
  Transcripts are in capitals, without punctuation: an LLM's tokenizer breaks capitals into many
  pieces it rarely saw, so they are lower-cased. Numbers are spelled out; we leave them.
  A .trans.txt line without its .flac is skipped and counted; a .flac without a line is counted too,
  also where a chapter's whole .trans.txt is missing.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from corpus import Bad, CorpusSet, chosen, count_lines, get_parser, need_folder, run
from fetch import Archive, fetch_archives

from espnet_part.datadir import Row

_URL = "https://www.openslr.org/resources/12"
MD5 = {  # https://www.openslr.org/resources/12/md5sum.txt
    "train-clean-100": "2a93770f6d5c6c964bc36631d331a522",
    "train-clean-360": "c0e676e450a7ff2f54aeade5171606fa",
    "train-other-500": "d1a0fd59409feb2c614ce4d30c387708",
    "dev-clean": "42e2234ba48799c1f50f24a7926300a1",
    "dev-other": "c8d0bcc9cca99d4f8b62fcc847357931",
    "test-clean": "32fa31d27d2e1cad72775fee3f4849a9",
    "test-other": "fb5a50374b501bb3bac4815ee91d3135",
}
ROWS = {  # as published
    "train-clean-100": 28_539,
    "train-clean-360": 104_014,
    "train-other-500": 148_688,
    "dev-clean": 2_703,
    "dev-other": 2_864,
    "test-clean": 2_620,
    "test-other": 2_939,
}
WHERE = (
    "Fetch LibriSpeech from https://www.openslr.org/12 (CC BY 4.0), or call with --fetch; then "
    "name its folder, the one that holds test-clean/, in db.sh (LIBRISPEECH=...)"
)


def make_sets(args: argparse.Namespace) -> list[CorpusSet]:
    """The sets of the splits that are wanted; without --splits, of those that are there.

    Raises:
        ValueError: The corpus or a wanted split is missing.
    """
    splits = chosen(list(MD5), args.splits, "--splits")
    root = args.corpus
    if args.fetch:
        archives = [
            Archive(f"{_URL}/{split}.tar.gz", f"LibriSpeech/{split}", MD5[split])
            for split in splits
            if not (root / split).is_dir()
        ]
        fetch_archives(archives, root)
    need_folder(root, WHERE)
    # The archives unpack to a folder LibriSpeech.
    places = [place / split for split in splits for place in (root, root / "LibriSpeech")]
    there = {place.name: place for place in places if place.is_dir()}
    missing = [split for split in args.splits or [] if split not in there]
    if missing or not there:
        raise ValueError(f"{root}: holds no {' '.join(missing) or 'split'}. {WHERE}")
    return [_make_set(folder) for folder in there.values()]


def _make_set(folder: Path) -> CorpusSet:
    name = folder.name.replace("-", "_")
    if name.startswith("test"):
        name = f"librispeech_{name}_asr_en"
    lists = sorted(folder.glob("*/*/*.trans.txt"))
    if not lists:
        raise ValueError(f"{folder}: no <speaker>/<chapter>/*.trans.txt there. {WHERE}")
    return CorpusSet(
        name,
        lists,
        lambda: _read(folder),
        lambda: count_lines(*lists),
        expected=ROWS[folder.name],
    )


def _read(folder: Path) -> Iterator[Row | Bad]:
    for chapter in sorted(folder.glob("*/*/")):
        path = chapter / f"{chapter.parent.name}-{chapter.name}.trans.txt"
        clips = {clip.stem for clip in chapter.glob("*.flac")}
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for number, line in enumerate(text.splitlines(), 1):
            clip, _, text = line.strip().partition(" ")
            if not clip:
                yield Bad(f"{path.name}:{number}", "empty line", f"line {number} of {path}")
                continue
            clips.discard(clip)
            audio = path.with_name(f"{clip}.flac")
            speaker = clip.split("-")[0]
            yield Row(f"{clip}-asr", "asr", "en", "en", text.lower(), str(audio), speaker=speaker)
        for clip in sorted(clips):
            yield Bad(f"{clip}-asr", "audio without a transcript", f"{clip}.flac is not in {path}")


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    return run(get_parser(__doc__, ["en"], list(MD5), fetchable=True), make_sets, argv)


if __name__ == "__main__":
    sys.exit(main())
