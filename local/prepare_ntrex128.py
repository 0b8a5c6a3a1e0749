"""NTREX-128: news in English and its translations by professionals, as data folders.

    python local/prepare_ntrex128.py /corpora/ntrex128 data/ntrex128 [--use test]

Card
  languages zh en ja ko yue de fr ru es it sv id ar (mt, any two of them; 128 in all)
  size      1,997 sentences of 123 documents, translated from English into all languages
  license   CC BY-SA 4.0
  source    https://github.com/MicrosoftTranslator/NTREX (8 MB; --fetch gets our languages)
  layout    NTREX-128/newstest2019-src.eng.txt and NTREX-128/newstest2019-ref.<xxx>.txt, all
            aligned by line; or the same files without the folder

Sets made
  --use train (default)  train, dev: mt rows of the paper's thirteen directions, or of --langs.
            dev has every 50th line; no sentence of dev is in train.
  --use test  ntrex128_test_mt_<src>_<tgt>, of each direction all lines in their order

Known faults, and what we do
  Published to evaluate, and used so elsewhere: who reports NTREX must not train on it, nor on
  WMT's newstest2019, which has the same English. We offer it as a little clean text to train on,
  and as a test set; a run takes one of the two.
  Into English, the "source" is a translation, and more regular than what people write.
  zho-CN is taken, not zho-TW; spa, fra and eng without a country.
"""

import argparse
import sys
from pathlib import Path

from corpus import CorpusSet, chosen, get_parser, need_folder, run
from fetch import download
from parallel_text import NAMES, aligned_pairs, choose_pairs
from text_split import SPLITS, Splitter, add_exclude

_URL = (
    "https://raw.githubusercontent.com/MicrosoftTranslator/NTREX/"
    "8561f6a622db9edad1217683e5c83daefd8bb2bf/NTREX-128"
)
FILES = {  # by our code
    "en": "newstest2019-src.eng.txt",
    "zh": "newstest2019-ref.zho-CN.txt",
    "ja": "newstest2019-ref.jpn.txt",
    "ko": "newstest2019-ref.kor.txt",
    "yue": "newstest2019-ref.yue.txt",
    "de": "newstest2019-ref.deu.txt",
    "fr": "newstest2019-ref.fra.txt",
    "ru": "newstest2019-ref.rus.txt",
    "es": "newstest2019-ref.spa.txt",
    "it": "newstest2019-ref.ita.txt",
    "sv": "newstest2019-ref.swe.txt",
    "id": "newstest2019-ref.ind.txt",
    "ar": "newstest2019-ref.arb.txt",
}
LINES = 1997
WHERE = (
    "Fetch NTREX-128 from https://github.com/MicrosoftTranslator/NTREX (CC BY-SA 4.0), or call "
    "with --fetch; then name the folder that holds newstest2019-src.eng.txt in db.sh (NTREX128=...)"
)


def make_sets(args: argparse.Namespace) -> list[CorpusSet]:
    """Train and dev, or test sets, of the wanted directions."""
    splits = chosen(SPLITS, args.splits, "--splits")
    if args.use == "test" and args.splits:
        raise ValueError("--splits: found it with --use test, which has no splits; leave one out")
    if args.fetch:
        _fetch(args.corpus)
    root = need_folder(args.corpus, WHERE)
    if (root / "NTREX-128").is_dir():
        root = root / "NTREX-128"
    files = {lang: root / name for lang, name in FILES.items() if (root / name).exists()}
    pairs = choose_pairs(aligned_pairs("ntrex128", files), args.langs, f"{root}. {WHERE}")
    if args.use == "test":
        return [pair.test_set("ntrex128_test", LINES) for pair in pairs]
    return Splitter([pair.part() for pair in pairs], args.exclude).sets(splits)


def _fetch(root: Path) -> None:
    if (root / FILES["en"]).exists() or (root / "NTREX-128" / FILES["en"]).exists():
        folder = root if (root / FILES["en"]).exists() else root / "NTREX-128"
    else:
        folder = root / "NTREX-128"
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES.values():
        if not (folder / name).exists():
            download(f"{_URL}/{name}", folder / name)


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = get_parser(__doc__, NAMES, SPLITS, fetchable=True)
    parser.add_argument(
        "--use", choices=("train", "test"), default="train", help="what the text is for (train)"
    )
    add_exclude(parser)
    return run(parser, make_sets, argv)


if __name__ == "__main__":
    sys.exit(main())
