"""FLORES-200: sentences of Wikimedia's projects in 204 languages: test sets of text translation.

    python local/prepare_flores200.py /corpora/flores200_dataset data/flores200 --splits devtest

Card
  languages zh en ja ko yue de fr ru es it sv id ar (mt, any two of them)
  size      dev 997, devtest 1,012 sentences, translated from English into all languages
  license   CC BY-SA 4.0
  source    https://github.com/facebookresearch/flores (flores200/README.md), 26 MB; --fetch gets it
            from https://dl.fbaipublicfiles.com/nllb/flores200_dataset.tar.gz
  layout    flores200_dataset/{dev,devtest}/<xxx>_<Script>.{dev,devtest}, all aligned by line; or
            those files in one folder

Sets made
  flores200_test_mt_<src>_<tgt>      devtest, what papers report
  flores200_test_dev_mt_<src>_<tgt>  dev
  Nothing to train on: the sentences of FLEURS, an evaluation set of the paper, are these. Give
  the files to --exclude of prepare_opus.py and its like.

Known faults, and what we do
  Test sets stay whole: all lines are there, in their order.
  Some languages have stray or doubled quotes (facebookresearch/flores#36): left as they are.
  No longer kept up by its publisher: corrections are in FLORES+, whose numbers differ a little.
"""

import argparse
import sys
from pathlib import Path

from corpus import CorpusSet, chosen, get_parser, need_folder, run
from fetch import Archive, fetch_archives
from parallel_text import NAMES, aligned_pairs, choose_pairs

LINES = {"dev": 997, "devtest": 1012}
CODES = {  # ours: theirs
    "en": "eng_Latn",
    "zh": "zho_Hans",
    "ja": "jpn_Jpan",
    "ko": "kor_Hang",
    "yue": "yue_Hant",
    "de": "deu_Latn",
    "fr": "fra_Latn",
    "ru": "rus_Cyrl",
    "es": "spa_Latn",
    "it": "ita_Latn",
    "sv": "swe_Latn",
    "id": "ind_Latn",
    "ar": "arb_Arab",
}
ARCHIVE = Archive(
    "https://dl.fbaipublicfiles.com/nllb/flores200_dataset.tar.gz",
    gives="flores200_dataset",
    checksum="b8b0b76783024b85797e5cc75064eb83fc5288b41e9654dabc7be6ae944011f6",
)
WHERE = (
    "Fetch FLORES-200 from https://github.com/facebookresearch/flores (CC BY-SA 4.0), or call with "
    "--fetch; then name the folder that holds devtest/eng_Latn.devtest in db.sh (FLORES200=...)"
)


def make_sets(args: argparse.Namespace) -> list[CorpusSet]:
    """Test sets of the wanted directions and splits; without --splits, of those that are there."""
    splits = chosen(list(LINES), args.splits, "--splits")
    if args.fetch:
        fetch_archives([ARCHIVE], args.corpus)
    root = need_folder(args.corpus, WHERE)
    if (root / ARCHIVE.gives).is_dir():
        root = root / ARCHIVE.gives
    found = {split: _find(root, split) for split in splits}
    missing = [split for split, files in found.items() if len(files) < 2]
    if len(missing) == len(splits) or (missing and args.splits):
        raise ValueError(f"{root}: holds no {' '.join(missing)}. {WHERE}")
    if missing:
        print(f"Left out, not there: {' '.join(missing)}", flush=True)
    return [
        pair.test_set("flores200_test" + ("_dev" if split == "dev" else ""), LINES[split])
        for split in splits
        if split not in missing
        for pair in choose_pairs(
            aligned_pairs("flores200", found[split]), args.langs, f"{root}, {split}. {WHERE}"
        )
    ]


def _find(root: Path, split: str) -> dict[str, Path]:
    folder = root / split if (root / split).is_dir() else root
    files = {lang: folder / f"{code}.{split}" for lang, code in CODES.items()}
    return {lang: path for lang, path in files.items() if path.exists()}


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    return run(get_parser(__doc__, NAMES, list(LINES), fetchable=True), make_sets, argv)


if __name__ == "__main__":
    sys.exit(main())
