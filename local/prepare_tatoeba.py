"""Tatoeba as LASER ships it: 1,000 short everyday sentences with English, as data folders.

    python local/prepare_tatoeba.py /corpora/tatoeba data/tatoeba

Card
  languages zh ja ko yue de fr ru es it sv id ar, each with en (mt, either direction)
  size      1,000 pairs for each language
  license   CC BY 2.0 FR (https://tatoeba.org/eng/terms_of_use)
  source    https://github.com/facebookresearch/LASER, data/tatoeba/v1, of November 2018 (2 MB;
            --fetch gets it). The whole of Tatoeba comes from OPUS: prepare_opus.py.
  layout    tatoeba.<xxx>-eng.<xxx> and tatoeba.<xxx>-eng.eng, with as many lines

Sets made
  train     mt rows of the paper's thirteen directions, or of --langs
  dev       of each direction every 50th line; no sentence of dev is in train

Known faults, and what we do
  Made as a test set for sentence retrieval: who reports that must not train on it. Here it is
  text to train on, the easiest there is.
  Chinese is mixed: most of it traditional, some simplified. Left as it is.
  Lines are short and repeat each other ("Tom needed water", "Tom needs water"); what equals a
  sentence of dev but for case and punctuation is left out of train and counted.
"""

import argparse
import sys

from corpus import CorpusSet, chosen, get_parser, need_folder, run
from fetch import download
from parallel_text import NAMES, Pair, choose_pairs
from text_split import SPLITS, Splitter, add_exclude

_URL = (
    "https://raw.githubusercontent.com/facebookresearch/LASER/"
    "74bc6ae7ffb7cba670fe0f428d0ede9f666fb821/data/tatoeba/v1"
)
CODES = {  # ours: theirs
    "zh": "cmn",
    "ja": "jpn",
    "ko": "kor",
    "yue": "yue",
    "de": "deu",
    "fr": "fra",
    "ru": "rus",
    "es": "spa",
    "it": "ita",
    "sv": "swe",
    "id": "ind",
    "ar": "ara",
}
WHERE = (
    "Fetch data/tatoeba/v1 of https://github.com/facebookresearch/LASER, or call with --fetch; "
    "then name its folder in db.sh (TATOEBA=...)"
)


def make_sets(args: argparse.Namespace) -> list[CorpusSet]:
    """Train and dev of the wanted directions."""
    splits = chosen(SPLITS, args.splits, "--splits")
    if args.fetch:
        args.corpus.mkdir(parents=True, exist_ok=True)
        for code in CODES.values():
            for side in (code, "eng"):
                path = args.corpus / f"tatoeba.{code}-eng.{side}"
                if not path.exists():
                    download(f"{_URL}/{path.name}", path)
    stems = {lang: f"tatoeba.{code}-eng" for lang, code in CODES.items()}
    root = need_folder(args.corpus, WHERE)
    found = [
        Pair("tatoeba", lang, "en", root / f"{stem}.{CODES[lang]}", root / f"{stem}.eng")
        for lang, stem in stems.items()
        if (root / f"{stem}.eng").exists()
    ]
    pairs = choose_pairs(found, args.langs, f"{root}. {WHERE}")
    return Splitter([pair.part() for pair in pairs], args.exclude).sets(splits)


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = get_parser(__doc__, NAMES, SPLITS, fetchable=True)
    add_exclude(parser)
    return run(parser, make_sets, argv)


if __name__ == "__main__":
    sys.exit(main())
