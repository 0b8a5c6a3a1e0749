"""CoVoST 2: sentences of Common Voice 4 with translations made by people, as data folders.

    python local/prepare_covost2.py /corpora/covost2 data/covost2 --langs de fr

Card
  directions  the paper's thirteen: zh ja de fr es it ru -> en, en -> zh ja de sv id ar (st).
              --langs takes directions (de-en) and languages (de: both, if they are there)
  license     translations CC0; Common Voice CC0, but its host's terms forbid to share copies
  source      translations: https://github.com/facebookresearch/covost, 27 MB a direction at most;
              --fetch gets them. Audio and transcripts: Common Voice 4 (2019-12-10), see below
  layout      covost_v2.<src>_<tgt>.tsv, in CORPUS or beside validated.tsv: path translation split
              <locale>/validated.tsv, in CORPUS or --common_voice FOLDER: path sentence client_id
              <locale>/clips/<clip>.mp3
              or, in the place of the first two, what the publisher's get_covost_splits.py makes:
              covost_v2.<src>_<tgt>.<split>.tsv: path sentence translation client_id
              Locales are zh-CN en ja de fr es it ru; in names of files also sv-SE id ar.
  rows        train is the extended one
              fr-en train 207,374 (264 h) dev 14,760 (22 h) test 14,760 (23 h)
              de-en       127,834 (184 h)     13,511 (21 h)      13,511 (22 h)
              es-en        79,015 (113 h)     13,221 (22 h)      13,221 (23 h)
              it-en        31,698 (44 h)       8,940 (14 h)       8,951 (15 h)
              ru-en        12,112 (18 h)       6,110 (10 h)       6,300 (11 h)
              zh-en         7,085 (10 h)       4,843 (8 h)        4,898 (8 h)
              ja-en         1,119 (1 h)          635 (1 h)          684 (1 h)
              en-x        289,430 (430 h)     15,531 (26 h)      15,531 (25 h), one audio for all x

Getting the audio
  No script can fetch it. Since October 2025 the Mozilla Data Collective alone gives Common Voice
  out, to who has an account; ask commonvoice@mozilla.com for release 4. Its archives hold clips/
  and validated.tsv without a folder around them: unpack each into CORPUS/<locale>.
  A later release can stand in: --common_voice /corpora/cv-corpus-15.0-2023-09-08. Clips keep their
  names; those of people who took their consent back are gone, and validated.tsv may lack others.

Sets made
  train_<src>_<tgt>  dev_<src>_<tgt>  covost2_test_st_<src>_<tgt>
  The publisher's join, and its splits: train is `train` and `train_covost`; dev and test are the
  rows of just that name (`dev_covost` and `test_covost` belong to CoVoST 1's way of splitting).
  As there, a backslash stands before a tab or a backslash that is text. validated.tsv is streamed;
  of the translations one split is in memory, at most 0.1 GB. Transcripts are kept (`transcript`).

Known faults, and what we do
  A translation whose clip is missing, has 0 bytes (504 clips in all languages of Common Voice 4) or
    is not in validated.tsv is skipped and counted. Where a set has not as many rows as was
    published, that is told at the end: a smaller test set is another test set.
  Some translations say REMOVE, or nothing. The former are left out of train, but stay in dev and
    test, so that these are the published ones; the latter cannot be used, and are left out of all.
  A line of the translations with too many or too few fields has no split that can be told: it is
    counted in each. Two rows of one clip: the first stays.
  Case, punctuation and quotation marks are kept as they are, in transcripts as well.
  Clips of dev and test are in train of later releases of Common Voice: stage 4 drops them there.
"""

import argparse
import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common_voice import bad_clip, clip_name, speaker_name
from corpus import DIRECTIONS, Bad, CorpusSet, chosen, count_lines, get_parser, need_folder, run
from covost_join import join
from fetch import Archive, fetch_archives
from tsv import read_tsv

from espnet_part.datadir import Row

_URL = "https://dl.fbaipublicfiles.com/covost"
_LOCALES = {"zh": "zh-CN", "sv": "sv-SE"}  # the others have our codes
SPLITS = ("train", "dev", "test")
# Rows: huggingface/datasets, datasets/covost2/README.md, made with the publisher's script.
ROWS = {f"en-{tgt}": (289430, 15531, 15531) for src, tgt in DIRECTIONS if src == "en"} | {
    "fr-en": (207374, 14760, 14760),
    "de-en": (127834, 13511, 13511),
    "es-en": (79015, 13221, 13221),
    "it-en": (31698, 8940, 8951),
    "ru-en": (12112, 6110, 6300),
    "zh-en": (7085, 4843, 4898),
    "ja-en": (1119, 635, 684),
}
WHERE = (
    "Put Common Voice 4 there as <locale>/validated.tsv and <locale>/clips/ (no script can fetch "
    "it: ask the Mozilla Data Collective, commonvoice@mozilla.com; a later release can stand in: "
    "--common_voice FOLDER), and covost_v2.<src>_<tgt>.tsv from "
    "https://github.com/facebookresearch/covost (--fetch gets those); then name the folder in "
    "db.sh (COVOST2=...)"
)


@dataclass(frozen=True)
class Tables:
    """Where the rows of one split of one direction are.

    Attributes:
        translations: The publisher's table of all splits, or the joined one of this split.
        validated: Common Voice's table; None where `translations` is joined already.
        clips: Folder of the audio.
    """

    translations: Path
    validated: Path | None
    clips: Path


def make_sets(args: argparse.Namespace) -> list[CorpusSet]:
    """The sets of the wanted directions and splits that are there.

    Raises:
        ValueError: The corpus, or a direction that --langs names itself, is missing.
    """
    directions = wanted_directions(args.langs)
    splits = chosen(SPLITS, args.splits, "--splits")
    voice = args.common_voice or args.corpus
    if args.fetch:
        _fetch(args.corpus, voice, directions)
    need_folder(args.corpus, WHERE)
    need_folder(voice, WHERE)
    sets = []
    for src, tgt in directions:
        for split in splits:
            found = find_tables(args.corpus, voice, src, tgt, split)
            if isinstance(found, Tables):
                sets.append(_make_set(found, src, tgt, split))
            elif f"{src}-{tgt}" in (args.langs or []):
                raise ValueError(f"{found}: not there. {WHERE}")
            else:
                print(f"{found}: not there, {split} of {src}-{tgt} is left out", flush=True)
    if not sets:
        raise ValueError(f"{args.corpus}: holds none of the sets. {WHERE}")
    return sets


def wanted_directions(langs: list[str] | None) -> list[tuple[str, str]]:
    """The directions that --langs names, or names a language of.

    Raises:
        ValueError: Something unknown is wanted.
    """
    codes = dict.fromkeys(lang for pair in DIRECTIONS for lang in pair if lang != "en")
    names = chosen([*codes, *map("-".join, DIRECTIONS)], langs, "--langs")
    return [pair for pair in DIRECTIONS if "-".join(pair) in names or set(pair) & set(names)]


def find_tables(corpus: Path, voice: Path, src: str, tgt: str, split: str) -> Tables | Path:
    """Where a split of a direction is; if it is not there, the first file that is missing."""
    locale = voice / _LOCALES.get(src, src)
    clips, validated = locale / "clips", locale / "validated.tsv"
    if not clips.is_dir():
        return clips
    table = _find(corpus, voice, src, _table_name(src, tgt))
    if table and validated.is_file():
        return Tables(table, validated, clips)
    if joined := _find(corpus, voice, src, _table_name(src, tgt, f".{split}")):
        return Tables(joined, None, clips)
    return validated if table else corpus / _table_name(src, tgt)


def _find(corpus: Path, voice: Path, src: str, name: str) -> Path | None:
    locale = _LOCALES.get(src, src)
    places = (folder / name for folder in (corpus, corpus / locale, voice / locale))
    return next((path for path in places if path.is_file()), None)


def _table_name(src: str, tgt: str, split: str = "") -> str:
    return f"covost_v2.{_LOCALES.get(src, src)}_{_LOCALES.get(tgt, tgt)}{split}.tsv"


def _fetch(corpus: Path, voice: Path, directions: list[tuple[str, str]]) -> None:
    """Gets the translations that lie nowhere yet, joined or not."""
    archives = []
    for src, tgt in directions:
        name, *joined = [_table_name(src, tgt, part) for part in ("", *(f".{s}" for s in SPLITS))]
        there = [_find(corpus, voice, src, table) is not None for table in (name, *joined)]
        if not there[0] and not all(there[1:]):
            archives.append(Archive(f"{_URL}/{name}.tar.gz", name))
    fetch_archives(archives, corpus)


def _make_set(tables: Tables, src: str, tgt: str, split: str) -> CorpusSet:
    name = f"covost2_test_st_{src}_{tgt}" if split == "test" else f"{split}_{src}_{tgt}"
    expected = ROWS[f"{src}-{tgt}"][SPLITS.index(split)]
    sources = [tables.translations] + ([tables.validated] if tables.validated else [])
    return CorpusSet(
        name,
        sources,
        functools.partial(_read, tables, src, tgt, split),
        # A whole table of translations holds all splits, and what no split takes.
        (lambda: expected) if tables.validated else functools.partial(count_lines, *sources),
        expected=expected,
        settings={"clips": str(tables.clips)},
    )


def _read(tables: Tables, src: str, tgt: str, split: str) -> Iterator[Row | Bad]:
    if tables.validated is None:
        columns = ("path", "sentence", "translation", "client_id")
        joined = read_tsv(tables.translations, columns, escapes=True)
    else:
        joined = join(tables.translations, tables.validated, split)
    for found in joined:
        if isinstance(found, Bad):
            yield found
            continue
        path, sentence, translation, client_id = found
        clip = clip_name(path)
        if clip is None:
            yield bad_clip(path, tables.translations)
            continue
        utt_id = f"{clip}-st-{tgt}"
        if split == "train" and "REMOVE" in translation:
            yield Bad(utt_id, "translation says REMOVE", translation)
            continue
        speaker = speaker_name(client_id, clip)
        audio = str(tables.clips / path)
        yield Row(utt_id, "st", src, tgt, translation, audio, source=sentence, speaker=speaker)


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    directions = ["-".join(pair) for pair in DIRECTIONS]
    codes = [code for code in dict.fromkeys(sum(DIRECTIONS, ())) if code != "en"]
    parser = get_parser(__doc__, [*directions, *codes], SPLITS, fetchable=True)
    parser.add_argument(
        "--common_voice",
        type=Path,
        metavar="FOLDER",
        help="holds <locale>/validated.tsv and <locale>/clips (CORPUS)",
    )
    return run(parser, make_sets, argv)


if __name__ == "__main__":
    sys.exit(main())
