"""Your own corpus, as JSON lines, to data folders.

Called in the recipe folder:

    python local/from_jsonl.py my/train.jsonl data/mine/train --lang de
    python local/from_jsonl.py my/test.jsonl data/mine --test_sets mine     # mine_test_asr_de ...

One object a line, in .jsonl or .jsonl.gz. Speech:

    {"path": "a/1.wav", "text": "guten morgen", "lang": "de"}
    {"path": "a/2.wav", "text": "guten abend", "lang": "de", "start": 1.5, "end": 3.0,
     "speaker": "anna", "id": "2-1", "tgt_lang": "en", "translation": "good evening"}

Text for mt, and, in one language, for instruct; its folder is another one, data/mine/train_text:

    {"source": "guten morgen", "target": "good morning", "lang": "de", "tgt_lang": "en"}
    {"source": "Wie geht's?", "target": "Gut!", "lang": "de", "task": "instruct"}

Keys, with other names for them (the manifests of NeMo and FunASR are read as they are)
  path         audio, audio_filepath, audio_path, wav; relative ones start at the JSONL's folder, or
               at --audio_root, and are written as seen from where this is called
  text         txt; what is said; in a row of task st without translation: the translation
  lang         language, src_lang, source_lang; a code or a name
  tgt_lang     target_lang
  translation  target; NeMo's answer, unless it is na, predict, or the text again
  transcript   source; what is said, where `text` is the translation
  task         taskname; asr, st (ast, s2t_translation), mt, instruct. A row without it that has
               text and translation gives two rows, asr and st
  start, end   start_time, end_time; or offset, duration; in seconds. duration alone: whole file
  speaker      speaker_id, spk; else the clip
  id           utt_id, utterance_id, key; else made of path and times as they stand in the row, so
               that it is the same everywhere. Rows are called <id>-asr, <id>-st-en ...

--lang, --tgt_lang and --task hold for rows that do not say it themselves. Other keys are ignored;
one that looks misspelled is told once. A row that cannot be used is skipped, counted by reason and
listed in skipped.tsv of its folder.
"""

import argparse
import difflib
import gzip
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from corpus import Bad, CorpusSet, run
from jsonl_rows import KEYS, Defaults, rows_of
from own_rows import RowError, add_options, need_language, out_folder, split_sets

from espnet_part.datadir import Row
from espnet_part.prompt import TASKS


def make_sets(args: argparse.Namespace) -> list[CorpusSet]:
    """The sets that the file's rows need.

    Raises:
        ValueError: No such file, or it is no JSONL; an unknown language.
    """
    _check_file(args.jsonl)
    codes = [
        need_language(name, key) if name else None
        for key, name in (("lang", args.lang), ("tgt_lang", args.tgt_lang))
    ]
    base = args.jsonl.parent if args.audio_root is None else args.audio_root
    defaults = Defaults(base, codes[0], codes[1], args.task)
    slips = _Slips(args.jsonl)
    settings = {"base": str(base), "lang": codes[0], "tgt_lang": codes[1], "task": args.task}
    return split_sets(args, lambda: _read(args.jsonl, defaults, slips), [args.jsonl], settings)


def _open(path: Path):
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected one JSON object a line")
    with _open(path) as file:
        if file.read(1 << 10).lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"["):
            raise ValueError(
                f"{path}: a JSON list, expected one object a line; `jq -c '.[]'` makes that of it"
            )


class _Slips:
    """Tells of keys that look misspelled, once of each."""

    def __init__(self, path: Path):
        self._path = path
        self._known = [name for names in KEYS.values() for name in names]
        self._seen = {*self._known, "source_len", "target_len"}  # FunASR's, near to ours

    def look_at(self, keys: Iterable[str]) -> None:
        for key in keys:
            if key not in self._seen:
                self._seen.add(key)
                near = difflib.get_close_matches(key.lower(), self._known, n=1, cutoff=0.75)
                if near:
                    print(f"{self._path}: key {key!r} is ignored; did you mean {near[0]!r}?")


def _read(path: Path, defaults: Defaults, slips: _Slips) -> Iterator[Row | Bad]:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            where = f"{path.name}:{number}"
            line = line.removeprefix(b"\xef\xbb\xbf").strip()
            if not line:
                continue
            try:
                item = json.loads(line)
            except (ValueError, RecursionError) as err:
                yield Bad(where, "no JSON", str(err))
                continue
            if not isinstance(item, dict):
                yield Bad(where, "no JSON object", f"found {type(item).__name__}")
                continue
            slips.look_at(item)
            try:
                yield from rows_of(item, defaults)
            except RowError as err:
                yield Bad(where, err.reason, str(err))


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("jsonl", type=Path, help="one JSON object a line; .gz too")
    add_options(parser)
    parser.add_argument("--lang", help="source language of rows that name none")
    parser.add_argument("--tgt_lang", help="target language of rows that name none")
    parser.add_argument("--task", choices=TASKS, help="task of rows that name none")
    return run(parser, make_sets, argv, out=out_folder)


if __name__ == "__main__":
    sys.exit(main())
