"""Parallel text of OPUS in Moses form (NLLB, CCMatrix, TED2020, ...), as data folders of mt rows.

    python local/prepare_opus.py /corpora/opus data/opus --exclude flores200_dataset/*/*

Card
  languages any two of zh en ja ko yue de fr ru es it sv id ar; by default the paper's thirteen
            directions, as far as they are there; --langs de-fr ... for others
  license   differs from corpus to corpus: see the LICENSE or README in each archive
  source    https://opus.nlpl.eu; the Moses archives are at
            https://object.pouta.csc.fi/OPUS-<corpus>/<version>/moses/<l1>-<l2>.txt.zip
            (which of them is your choice, so nothing is fetched here; unpack them)
  layout    <corpus>.<l1>-<l2>.<l1> and <corpus>.<l1>-<l2>.<l2> with as many lines, anywhere below
            the folder. Tags: two or three letters, with a country or script (zh_cn, zh_CN,
            es_ES, zho_Hans) or without. Not ours: zh_tw, zh_hk, zh_Hant.

Sets made
  train     all but dev
  dev       of each corpus and direction every 50th line, at most 500. No sentence of dev is in
            train, in whatever corpus or direction; compared are letters and digits.

Known faults, and what we do
  Blank lines, lines over 2,000 characters, and lines that are copies of their translation are
  skipped and counted. Two files that differ in their number of lines are an error.
  Web-mined corpora (CCMatrix, NLLB, ParaCrawl) hold wrong pairs and published test sets: keep test
  text out with --exclude, which leaves out each row one side of which is a line of those files.
  Repeated pairs stay (OpenSubtitles has many): remove them before, e.g. with
  `paste a b | sort -u`, where that matters.
"""

import argparse
import re
import sys
from pathlib import Path

from corpus import CorpusSet, chosen, get_parser, need_folder, run
from languages import language_code
from parallel_text import NAMES, Pair, choose_pairs
from text_split import SPLITS, Splitter, add_exclude

WHERE = (
    "Fetch parallel text in Moses form from https://opus.nlpl.eu, unpack it, and name its folder, "
    "the one that holds <corpus>.<l1>-<l2>.<l1>, in db.sh (OPUS=...)"
)
_FILE = re.compile(r"(?P<corpus>.+)\.(?P<l1>\w+)-(?P<l2>\w+)\.(?P<side>\w+)")
_TRADITIONAL = re.compile(r"(zh|zho)_(tw|hant)", re.IGNORECASE)


def to_code(tag: str) -> str | None:
    """Our code for a language tag of OPUS, None if it is none of ours."""
    return None if _TRADITIONAL.fullmatch(tag) else language_code(tag)


def find_pairs(root: Path) -> list[Pair]:
    """All Moses pairs below a folder whose languages are ours.

    Raises:
        ValueError: One is there twice.
    """
    pairs: dict[str, Pair] = {}
    for path in sorted(root.rglob("*")):
        match = _FILE.fullmatch(path.name)
        if not match or match["side"] != match["l1"]:
            continue
        src, tgt = to_code(match["l1"]), to_code(match["l2"])
        other = path.with_suffix(f".{match['l2']}")
        if src is None or tgt is None or src == tgt or not other.is_file():
            continue
        name = re.sub(r"\s", "_", path.stem)  # <corpus>.<l1>-<l2>: a corpus may have en and en_GB
        if name in pairs:
            raise ValueError(
                f"{path}: {path.name} is also at {pairs[name].source}; expected it once, because "
                "the ids of both would be the same; rename or remove one"
            )
        pairs[name] = Pair(name, src, tgt, path, other)
    return list(pairs.values())


def make_sets(args: argparse.Namespace) -> list[CorpusSet]:
    """Train and dev of the wanted directions."""
    splits = chosen(SPLITS, args.splits, "--splits")
    found = find_pairs(need_folder(args.corpus, WHERE))
    pairs = choose_pairs(found, args.langs, f"{args.corpus}. {WHERE}")
    return Splitter([pair.part() for pair in pairs], args.exclude).sets(splits)


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = get_parser(__doc__, NAMES, SPLITS, fetchable=False)
    add_exclude(parser)
    return run(parser, make_sets, argv)


if __name__ == "__main__":
    sys.exit(main())
