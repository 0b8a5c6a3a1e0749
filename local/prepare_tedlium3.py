"""TED-LIUM 3: English TED talks with aligned transcripts, as data folders.

    python local/prepare_tedlium3.py /corpora/TEDLIUM_release-3 data/tedlium3

Card
  language  English (asr); translations of the talks are in MuST-C
  hours     train 452 (2,351 talks), dev 1.6 (8 talks), test 2.6 (11 talks)
  license   CC BY-NC-ND 3.0; the talks are TED Conferences LLC's
  source    https://www.openslr.org/51 (54 GB; --fetch gets it, in one archive for all splits)
  layout    TEDLIUM_release-3/legacy/{train,dev,test}/sph/<talk>.sph, 16 kHz, 16-bit PCM that is not
            compressed: soundfile reads it as it is, without sph2pipe
            TEDLIUM_release-3/legacy/{train,dev,test}/stm/<talk>.stm, a segment per line:
            <talk> <channel> <speaker> <start> <end> <label> <text>
            Of train, sph and stm are links to those in TEDLIUM_release-3/data/; where a copy lost
            them, that folder is read. speaker-adaptation/ splits the same talks otherwise: not used

Sets made
  train  dev  tedlium3_test_asr_en

Known faults, and what we do
  Regions that are not to be scored (ignore_time_segment_in_scoring) are skipped and counted.
  Words that the aligner did not know are <unk>, sounds {NOISE} or <sil>, variants for(2): the marks
  go. A text that is nothing else is skipped and counted (empty text).
  Words come apart at the apostrophe (i 'd, it 's, don 't): 's 're 've 'll 'd 'm 't 'clock and the
  one after a plural are joined again; words that start with one ('em, 'til, 'cause) are not.
  Transcripts are lower-case without punctuation, with numbers in words: left so. Those of train are
  aligned captions, so segments may be cut closely: times are left as they are.
  Repeated lines: the first stays. IWSLT and MuST-C test on TED talks that train may hold.
"""

import argparse
import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from corpus import Bad, CorpusSet, chosen, count_lines, get_parser, need_folder, run
from fetch import Archive, fetch_archives

from espnet_part.datadir import Row

SPLITS = {"train": "train", "dev": "dev", "test": "tedlium3_test_asr_en"}
# The checksum is torchaudio's: src/torchaudio/datasets/tedlium.py.
ARCHIVE = Archive(
    "https://www.openslr.org/resources/51/TEDLIUM_release-3.tgz",
    "TEDLIUM_release-3/legacy",
    "ad1e454d14d1ad550bc2564c462d87c7a7ec83d4dc2b9210f22ab4973b9eccdb",
)
WHERE = (
    "Fetch TED-LIUM 3 from https://www.openslr.org/51 (CC BY-NC-ND 3.0), or call with --fetch; "
    "then name the folder that holds legacy/ in db.sh (TEDLIUM3=...)"
)
_MARK = re.compile(r"<[^<>\s]*>|\{[^{}\s]*\}|\([^()\s]*\)")
_CLITIC = re.compile(r"(?<=\w) +'(?=(?:s|re|ve|ll|d|m|t|clock)(?: |$))|(?<=s) +'(?= |$)")


def make_sets(args: argparse.Namespace) -> list[CorpusSet]:
    """The sets of the splits that are wanted; without --splits, of those that are there.

    Raises:
        ValueError: The corpus or a wanted split is missing.
    """
    splits = chosen(list(SPLITS), args.splits, "--splits")
    root = args.corpus
    if args.fetch and not (root / "legacy").is_dir():
        fetch_archives([ARCHIVE], root)
    need_folder(root, WHERE)
    if (root / "TEDLIUM_release-3").is_dir():  # as the archive unpacks
        root = root / "TEDLIUM_release-3"
    folders = {split: _find_split(root, split) for split in splits}
    there = [split for split in splits if (folders[split] / "stm").is_dir()]
    missing = [split for split in args.splits or [] if split not in there]
    if missing or not there:
        raise ValueError(f"{root / 'legacy'}: holds no {' '.join(missing) or 'split'}. {WHERE}")
    for split in splits:
        if split not in there:
            print(f"{folders[split]}: not there, {split} is left out", flush=True)
    return [_make_set(folders[split], split) for split in there]


def _find_split(root: Path, split: str) -> Path:
    folder = root / "legacy" / split
    if split == "train" and not (folder / "stm").is_dir():
        if (root / "data" / "stm").is_dir():
            return root / "data"
    return folder


def _make_set(folder: Path, split: str) -> CorpusSet:
    tables = sorted((folder / "stm").glob("*.stm"))
    if not tables:
        raise ValueError(f"{folder / 'stm'}: found no *.stm there. {WHERE}")
    return CorpusSet(
        SPLITS[split],
        tables,
        functools.partial(_read, folder, tables),
        functools.partial(count_lines, *tables),
    )


def _read(folder: Path, tables: list[Path]) -> Iterator[Row | Bad]:
    for table in tables:
        for number, line in enumerate(table.read_text(encoding="utf-8").split("\n"), 1):
            if line.strip() and not line.startswith(";;"):  # the latter are STM's comments
                yield _make_row(folder, f"{table.name}:{number}", line)


def _make_row(folder: Path, where: str, line: str) -> Row | Bad:
    talk, _, speaker, start, end, _, text = [*line.split(maxsplit=6), *[""] * 7][:7]
    try:
        start_sec, end_sec = float(start), float(end)
    except ValueError:
        detail = f"{line!r}: expected <talk> <channel> <speaker> <start> <end> <label> <text>"
        return Bad(where, "line of another form", detail)
    clip = f"{talk}-{round(1000 * start_sec):07d}-{round(1000 * end_sec):07d}"
    if text.strip().lower() == "ignore_time_segment_in_scoring":
        return Bad(f"{clip}-asr", "not to be scored", where)
    path = str(folder / "sph" / f"{talk}.sph")
    text = clean_text(text)
    return Row(f"{clip}-asr", "asr", "en", "en", text, path, start_sec, end_sec, speaker=speaker)


def clean_text(text: str) -> str:
    """Text without marks, with its split words joined: `it 's <unk> for(2)` is `it's for`."""
    return _CLITIC.sub("'", " ".join(_MARK.sub("", text).split()))


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    return run(get_parser(__doc__, ["en"], list(SPLITS), fetchable=True), make_sets, argv)


if __name__ == "__main__":
    sys.exit(main())
