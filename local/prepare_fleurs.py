"""FLEURS: FLORES sentences read aloud, as data folders.

    python local/prepare_fleurs.py /corpora/fleurs data/fleurs --langs de fr --splits test

Card
  languages zh en ja ko yue de fr ru es it (asr); sv id ar are there as text to translate into
  hours     about 10 train, 1 dev, 2 to 3 test in each language
  license   audio CC BY 4.0; the sentences are FLORES-101's, CC BY-SA 4.0
  source    https://huggingface.co/datasets/google/fleurs (about 2 GB a language; --fetch gets the
            wanted languages and splits only, at a fixed revision; we pin no checksums)
            or https://storage.googleapis.com/xtreme_translations/FLEURS102/<language>.tar.gz
  layout    data/<language>/{train,dev,test}.tsv and data/<language>/audio/<split>.tar.gz, which
            holds <split>/*.wav; in Google's own tar files <language>/<split>.tsv and
            <language>/audio/<split>/*.wav. Either will do. Audio that is still packed is unpacked
            beside its archive, because data folders name files.
  tables    without header, seven fields: id, file_name, raw_transcription, transcription, chars
            (`h e l l o |`), num_samples, gender. We take raw_transcription: cased, punctuated.

Sets made
  train_<lang>  dev_<lang>  fleurs_test_asr_<lang>
  with --st, also train_<src>_<tgt>  dev_<src>_<tgt>  fleurs_test_st_<src>_<tgt>: the speech of a
  sentence, and as its translation the other language's sentence of the same id in the same split.
  These are translations by FLORES' translators, nearly all from English. `--st` alone means the
  paper's thirteen directions, as far as their source is among --langs; `--st de-fr` any other.

Known faults, and what we do
  `id` counts sentences, and several speakers read each one: our ids hold the file name, with the
  language before it. There are no speaker ids; each clip stands for a speaker.
  Odd spaces (U+00A0, U+2000-200A, U+2028, U+2029, U+202F, U+205F) become a plain space; what has
  no width (U+200B-200F, U+202A-202E, U+2060, U+FEFF) is removed.
  Quotes are text, never quoting; some stand alone or doubled in FLORES itself, and are left.
  Rows with other than seven fields, without audio, or twice are skipped and counted.
  Sentences without a reading in the target language have no st row; they are counted.
  All sentences of all splits are in FLORES dev or devtest: who trains on FLEURS' train has seen
  much of FLORES; keep FLEURS' test out of training text with --exclude (prepare_opus.py).
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from corpus import DIRECTIONS, Bad, CorpusSet, chosen, count_lines, get_parser, need_folder, run
from fetch import Archive, download, fetch_archives
from fleurs_table import CODES, SPLITS, find_audio, find_language, read_table

from espnet_part.datadir import Row

_URL = (
    "https://huggingface.co/datasets/google/fleurs/resolve/"
    "70bb2e84b976b7e960aa89f1c648e09c59f894dd/data"
)
# Clips as tensorflow.org/datasets/catalog/xtreme_s and the viewer of Hugging Face count them; those
# of zh, yue, de are told by neither.
TEST_CLIPS = {"en": 647, "ja": 650, "ko": 382, "fr": 676, "ru": 775, "es": 908, "it": 865}
SPEECH = list(CODES)[:10]  # the last three are there to be translated into
WHERE = (
    "Fetch FLEURS from https://huggingface.co/datasets/google/fleurs (CC BY 4.0), or call with "
    "--fetch; then name its folder, the one that holds data/de_de/ or de_de/, in db.sh (FLEURS=...)"
)
Key = tuple[str, ...]  # of a set: one language (asr) or two (st), and a split


def make_sets(args: argparse.Namespace) -> list[CorpusSet]:
    """The sets that are wanted; what no option names may be missing.

    Raises:
        ValueError: The corpus, or something that an option names, is missing.
    """
    langs = chosen(SPEECH, args.langs, "--langs")
    splits = chosen(SPLITS, args.splits, "--splits")
    pairs = _directions(args.st, langs)
    if args.fetch:
        _fetch(args.corpus, langs, splits, pairs)
    need_folder(args.corpus, WHERE)
    tables = {
        (lang, split): folder / f"{split}.tsv"
        for lang in CODES
        if (folder := find_language(args.corpus, lang)) is not None
        for split in splits
        if (folder / f"{split}.tsv").exists()
    }
    keys = [(*key, split) for key in [*((lang,) for lang in langs), *pairs] for split in splits]
    there = {
        key: [tables[lang, key[-1]] for lang in key[:-1]]
        for key in keys
        if all((lang, key[-1]) in tables for lang in key[:-1])
    }
    _check_missing(args, [key for key in keys if key not in there], list(there))
    return [
        _st_set(files[0], files[1], *key[:2]) if len(files) == 2 else _asr_set(files[0], key[0])
        for key, files in there.items()
    ]


def _directions(wanted: list[str] | None, langs: list[str]) -> list[tuple[str, str]]:
    """What --st asks for: None, nothing; an empty list, the paper's directions."""
    if wanted is None:
        return []
    pairs = []
    for name in dict.fromkeys(wanted):
        src, _, tgt = name.partition("-")
        if src not in SPEECH or tgt not in CODES or src == tgt:
            raise ValueError(
                f"--st: found {name!r}, expected directions such as de-en, from one of "
                f"{' '.join(SPEECH)} to another of {' '.join(CODES)}"
            )
        pairs.append((src, tgt))
    return pairs or [pair for pair in DIRECTIONS if pair[0] in langs]


def _fetch(root: Path, langs: list[str], splits: list[str], pairs: list[tuple[str, str]]) -> None:
    """Fetches tables, and the audio of languages that are spoken in a set."""
    spoken = {*langs, *(src for src, _ in pairs)}
    for lang, code in CODES.items():
        if lang not in spoken.union(tgt for _, tgt in pairs):
            continue
        folder = find_language(root, lang) or root / "data" / code
        folder.mkdir(parents=True, exist_ok=True)
        for split in splits:
            table = folder / f"{split}.tsv"
            if not table.exists():
                print(f"Fetching {_URL}/{code}/{table.name}", flush=True)
                download(f"{_URL}/{code}/{table.name}", table)
            audio = folder / "audio"
            if lang in spoken and not (audio / f"{split}.tar.gz").exists():
                archive = Archive(f"{_URL}/{code}/audio/{split}.tar.gz", gives=split)
                fetch_archives([archive], audio)


def _check_missing(args: argparse.Namespace, missing: list[Key], there: list[Key]) -> None:
    """Prints which sets cannot be made; an error where options name them.

    A set is named where each option that concerns it is given, and a language, split or direction
    where it is given and has no set at all.
    """
    named = [
        key
        for key in missing
        if (args.splits and (args.langs if len(key) == 2 else args.st))
        or (args.langs and len(key) == 2 and not any(key[0] == other[0] for other in there))
        or (args.splits and not any(key[-1] == other[-1] for other in there))
        or (args.st and len(key) == 3 and not any(key[:2] == other[:2] for other in there))
    ]
    if named or not there:
        names = ", ".join(map(_say, named)) or "language"
        raise ValueError(f"{args.corpus}: holds no {names}. {WHERE}")
    if missing:
        print(f"Left out, not in {args.corpus}: {', '.join(map(_say, missing))}", flush=True)


def _say(key: Key) -> str:
    return " ".join(["-".join(key[:-1]), key[-1]])


def _asr_set(table: Path, lang: str) -> CorpusSet:
    test = table.stem == "test"
    return CorpusSet(
        f"fleurs_test_asr_{lang}" if test else f"{table.stem}_{lang}",
        [table],
        lambda: _read_asr(table, lang),
        lambda: count_lines(table),
        expected=TEST_CLIPS.get(lang) if test else None,
    )


def _st_set(table: Path, other: Path, src: str, tgt: str) -> CorpusSet:
    split = table.stem
    return CorpusSet(
        f"fleurs_test_st_{src}_{tgt}" if split == "test" else f"{split}_{src}_{tgt}",
        [table, other],
        lambda: _read_st(table, other, src, tgt),
        lambda: count_lines(table),
    )


def _read_asr(table: Path, lang: str) -> Iterator[Row | Bad]:
    audio = find_audio(table)
    for clip in read_table(table, lang):
        if isinstance(clip, Bad):
            yield clip
            continue
        path = str(audio / clip.file_name)
        yield Row(f"{clip.name}-asr", "asr", lang, lang, clip.text, path, speaker=clip.name)


def _read_st(table: Path, other: Path, src: str, tgt: str) -> Iterator[Row | Bad]:
    audio = find_audio(table)
    texts: dict[str, str] = {}  # of at most some 1,500 sentences
    for clip in read_table(other, tgt):
        if not isinstance(clip, Bad):
            texts.setdefault(clip.sentence, clip.text)
    for clip in read_table(table, src):
        if isinstance(clip, Bad):
            yield clip
            continue
        utt_id, path = f"{clip.name}-st-{tgt}", str(audio / clip.file_name)
        if (target := texts.get(clip.sentence)) is None:
            yield Bad(utt_id, "no translation", f"{other} has no sentence {clip.sentence}")
        else:
            source = clip.text or None
            yield Row(utt_id, "st", src, tgt, target, path, source=source, speaker=clip.name)


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = get_parser(__doc__, SPEECH, SPLITS, fetchable=True)
    parser.add_argument(
        "--st",
        nargs="*",
        metavar="SRC-TGT",
        help="also make st sets: of these directions, or of the paper's thirteen",
    )
    return run(parser, make_sets, argv)


if __name__ == "__main__":
    sys.exit(main())
