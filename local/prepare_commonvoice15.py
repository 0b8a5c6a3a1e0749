"""Common Voice 15.0: sentences read aloud by volunteers, in ten of its languages, as data folders.

    python local/prepare_commonvoice15.py /corpora/cv-corpus-15.0-2023-09-08 data/commonvoice15

Card
  languages  zh en ja ko yue de fr ru es it (asr); locales of the same name, but zh is zh-CN.
             `yue` is the locale yue; zh-HK is another one: --locale yue=zh-HK takes that instead
  license    CC0; the host's terms forbid to share copies
  source     Mozilla Data Collective, see below
  layout     cv-corpus-15.0-2023-09-08/<locale>/{train,dev,test,validated,...}.tsv
             cv-corpus-15.0-2023-09-08/<locale>/clips/<clip>.mp3
             columns: client_id path sentence up_votes down_votes age gender accents variant locale
             segment. Other releases have others: a table's own header decides
  clips      zh   train    29,396 dev 10,625 test 10,625 validated   183,370 (232 h)
             en         1,070,066     16,386      16,386           1,752,390 (2,531 h)
             ja             7,105      4,978       4,978              58,241 (78 h)
             ko               279        213         228                 721 (1.2 h)
             yue            3,074      2,562       2,565              20,851 (23 h)
             de           567,993     16,167      16,167             895,943 (1,301 h)
             fr           527,554     16,132      16,132             695,024 (967 h)
             ru            26,328     10,195      10,196             158,417 (227 h)
             es           311,392     15,796      15,796             388,715 (526 h)
             it           166,503     15,127      15,127             233,460 (349 h)

Getting it
  No script can fetch it. Since October 2025 the Mozilla Data Collective alone gives it out, to who
  has an account (https://mozilladatacollective.com/organization/cmfh0j9o10006ns07jq45h7xk). It
  lists new releases; ask commonvoice@mozilla.com for 15.0. Put the archives
  cv-corpus-15.0-2023-09-08-<locale>.tar.gz into CORPUS (or beside it, where CORPUS is named
  cv-corpus-15.0-2023-09-08) and call with --fetch, which unpacks those that are not unpacked yet
  and leaves the archives; or unpack them yourself.

Sets made
  train_<lang>  dev_<lang>  commonvoice15_test_asr_<lang>
  Speakers and sentences of train, dev and test differ. The official train has each sentence once,
  so that it is a small part of what listeners approved of. `--train validated` takes validated.tsv
  without any clip, speaker or sentence (letters alone compared) of dev and test. It holds some MB:
  the names and sentences of dev and test.

Known faults, and what we do
  Every release splits anew: train here holds clips that other releases, and CoVoST 2, test on.
    Stage 4 drops from training whatever a test set of the experiment holds. Of another release
    than 15.0 the test set is another one: rows are counted and a difference is told.
  Sentences in quotation marks that an import added, inner ones doubled: taken off, see unwrap() in
    common_voice.py. Stray ones stay, and so do case, punctuation and the quotes of speech.
  Quotation marks are not closed: tables are read without quoting. A line with too many or too few
    fields, a clip that is missing, or has 0 bytes, or ends too early is skipped and counted.
  reported.tsv lists sentences that someone complained about: offensive, hard to say, misspelled,
    in another language. Its own lines are broken by tabs. It is not used: two listeners found that
    these clips match their sentences, and test sets must stay whole to be comparable.
  segment is `Benchmark` for single words (digits, yes, no, hey, Firefox): they stay.
"""

import argparse
import functools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from common_voice import HeldOut, bad_clip, clip_name, speaker_name, unwrap
from corpus import Bad, CorpusSet, chosen, count_lines, get_parser, need_folder, run
from fetch import Archive, unpack
from tsv import read_tsv

from espnet_part.datadir import Row

RELEASE = "cv-corpus-15.0-2023-09-08"
LOCALES = {"zh": "zh-CN"}
LOCALES |= {lang: lang for lang in ("en", "ja", "ko", "yue", "de", "fr", "ru", "es", "it")}
SPLITS = ("train", "dev", "test")
# Clips by locale: common-voice/cv-dataset, datasets/scripted-speech/cv-corpus-15.0-2023-09-08.json.
CLIPS = {
    "zh-CN": (29396, 10625, 10625),
    "en": (1070066, 16386, 16386),
    "ja": (7105, 4978, 4978),
    "ko": (279, 213, 228),
    "yue": (3074, 2562, 2565),
    "zh-HK": (8426, 5593, 5593),
    "zh-TW": (7048, 4950, 4950),
    "de": (567993, 16167, 16167),
    "fr": (527554, 16132, 16132),
    "ru": (26328, 10195, 10196),
    "es": (311392, 15796, 15796),
    "it": (166503, 15127, 15127),
}
WHERE = (
    f"No script can fetch it: ask the Mozilla Data Collective (commonvoice@mozilla.com) for Common "
    f"Voice 15.0 (CC0), put {RELEASE}-<locale>.tar.gz there and call with --fetch, or unpack them "
    f"and name the folder, the one that holds de/ and the like, in db.sh (COMMONVOICE15=...)"
)


def make_sets(args: argparse.Namespace) -> list[CorpusSet]:
    """The sets of the wanted languages and splits; without the options, of those that are there.

    Raises:
        ValueError: The corpus, or a wanted language or split, is missing.
    """
    langs = chosen(list(LOCALES), args.langs, "--langs")
    splits = chosen(SPLITS, args.splits, "--splits")
    locales = LOCALES | _other_locales(args.locale)
    root = args.corpus
    if args.fetch:
        _unpack_archives(root, [locales[lang] for lang in langs])
    need_folder(root, WHERE)
    if (root / RELEASE).is_dir():  # as the archives unpack
        root = root / RELEASE
    sets = []
    for lang in langs:
        folder = root / locales[lang]
        if not folder.is_dir():
            _lacking(folder, required=args.langs is not None)
            continue
        if not (folder / "clips").is_dir():
            raise ValueError(f"{folder}: found no clips/ in it, expected the audio there. {WHERE}")
        for split in splits:
            validated = split == "train" and args.train == "validated"
            table = folder / ("validated.tsv" if validated else f"{split}.tsv")
            if not table.is_file():
                _lacking(table, required=args.splits is not None)
                continue
            sets.append(_make_set(table, lang, split))
    if not sets:
        wanted = " ".join(locales[lang] for lang in langs)
        raise ValueError(f"{root}: holds no {' '.join(splits)} of {wanted}. {WHERE}")
    return sets


def _lacking(path: Path, required: bool) -> None:
    """Says that something is left out; where it was asked for, that is an error."""
    if required:
        raise ValueError(f"{path}: not there. {WHERE}")
    print(f"{path}: not there, left out", flush=True)


def _other_locales(options: Sequence[str]) -> dict[str, str]:
    """{language: locale} of the values of --locale."""
    found = {}
    for option in options:
        lang, _, locale = option.partition("=")
        if lang not in LOCALES or locale not in CLIPS:
            raise ValueError(
                f"--locale: found {option!r}, expected <language>=<locale> of the languages "
                f"{' '.join(LOCALES)} and the locales {' '.join(CLIPS)}"
            )
        found[lang] = locale
    return found


def _unpack_archives(root: Path, locales: list[str]) -> None:
    home = root.parent if root.name == RELEASE else root
    for locale in locales:
        name = f"{RELEASE}-{locale}.tar.gz"
        gives = f"{RELEASE}/{locale}"
        lies = [folder / name for folder in (home, root) if (folder / name).is_file()]
        if lies and not (home / gives).exists() and not (root / locale).exists():
            unpack(lies[0], home, Archive(name, gives))


def _make_set(table: Path, lang: str, split: str) -> CorpusSet:
    name = f"commonvoice15_test_asr_{lang}" if split == "test" else f"{split}_{lang}"
    validated = table.name == "validated.tsv"
    held_out = [table.with_name("dev.tsv"), table.with_name("test.tsv")] if validated else []
    expected = None if validated else CLIPS[table.parent.name][SPLITS.index(split)]
    return CorpusSet(
        name,
        [table, *held_out],
        functools.partial(_read, table, lang, held_out),
        functools.partial(count_lines, table),
        expected=expected,
    )


def _read(table: Path, lang: str, held_out: list[Path]) -> Iterator[Row | Bad]:
    others = HeldOut(held_out)
    for found in read_tsv(table, ("client_id", "path", "sentence")):
        if isinstance(found, Bad):
            yield found
            continue
        client_id, path, sentence = found
        clip = clip_name(path)
        if clip is None:
            yield bad_clip(path, table)
            continue
        if reason := others.problem(client_id, path, sentence):
            yield Bad(f"{clip}-asr", reason, f"{path} in {table}")
            continue
        audio = str(table.parent / "clips" / path)
        speaker = speaker_name(client_id, clip)
        yield Row(f"{clip}-asr", "asr", lang, lang, unwrap(sentence), audio, speaker=speaker)


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = get_parser(__doc__, list(LOCALES), SPLITS, fetchable=True)
    parser.add_argument(
        "--train",
        choices=["official", "validated"],
        default="official",
        help="what to train on: train.tsv, or validated.tsv but for what dev and test hold",
    )
    parser.add_argument(
        "--locale", nargs="+", default=[], metavar="LANG=LOCALE", help="e.g. yue=zh-HK"
    )
    return run(parser, make_sets, argv)


if __name__ == "__main__":
    sys.exit(main())
