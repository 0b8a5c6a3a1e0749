"""Instructions and answers (Alpaca or chat form), as data folders of instruct rows.

    python local/prepare_instruct.py /corpora/instruct data/instruct --lang en

Card
  what      anyone's *.json and *.jsonl below the folder: a JSON array (streamed) or JSON Lines
  languages zh en ja ko yue de fr ru es it sv id ar; one row has one language. It is, in this order,
            the row's field `lang`, the code in the file's name (de.json, bactrian.de.jsonl), --lang
  license   each publisher's. Public ones: Alpaca (52,000, en, github.com/tatsu-lab/stanford_alpaca,
            CC BY-NC 4.0), Bactrian-X (67,000 in each of 52 languages, github.com/mbzuai-nlp/
            Bactrian-X, CC BY-NC 4.0)
  forms     {"instruction", "input" (may be missing or empty), "output"}: instruction and input are
            what is asked
            {"messages": [{"role": "system"|"user"|"assistant", "content"}]}
            {"conversations": [{"from": "system"|"human"|"gpt", "value"}]}, as ShareGPT

Sets made
  train     all but dev
  dev       of each file every 50th row, at most 500. No question of dev is in train; compared are
            letters and digits.

What is lost, and what we do
  A row is one question and one answer. Of a chat, the system's words, if any, and the first
  question are what is asked, the first answer is the answer; chats with more are counted
  ("later turns left out"), and their first exchange is used.
  Data folders hold one line a text: line breaks become spaces. That is harmless to a paragraph or
  two, and ruins code, tables and lists: answers with a code block (```) or with more than three
  line breaks are skipped and counted.
  Answers of both published sets were written by a model (OpenAI's), whose terms of use apply.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corpus import Bad, CorpusSet, chosen, count_lines, get_parser, run
from json_items import stream_items
from text_split import SPLITS, Part, Splitter, add_exclude

from espnet_part.datadir import Row
from espnet_part.prompt import LANGUAGES, check_language

MAX_BREAKS = 3
ROLES = {  # what publishers call the three
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
WHERE = (
    "Put *.jsonl or *.json files of instructions there, or name their folder in db.sh "
    "(INSTRUCT=...); local/prepare_instruct.py --help says what they hold"
)


def make_sets(args: argparse.Namespace) -> list[CorpusSet]:
    """Train and dev of all files.

    Raises:
        ValueError: No file, or an unknown language.
    """
    splits = chosen(SPLITS, args.splits, "--splits")
    if args.lang is not None:
        check_language(args.lang, "--lang")
    root: Path = args.corpus
    files = sorted(path for path in root.rglob("*.json*") if path.suffix in (".json", ".jsonl"))
    if not files:
        raise ValueError(f"{root}: found no *.jsonl or *.json there. {WHERE}")
    parts = [_part(path, path.relative_to(root), args.lang) for path in files]
    return Splitter(parts, args.exclude, answers=True).sets(splits)


def _part(path: Path, name: Path, lang: str | None) -> Part:
    lang = next((end for end in reversed(name.stem.split(".")) if end in LANGUAGES), lang)
    prefix = re.sub(r"\s", "_", ".".join(name.parts))
    total = (lambda: count_lines(path)) if path.suffix == ".jsonl" else None
    return Part(f"{prefix} {lang}", [path], lambda: _read(path, prefix, lang), total)


def _read(path: Path, prefix: str, lang: str | None) -> Iterator[tuple[int, Row | Bad]]:
    """Yields the number of each item, from 1, and its row or what is wrong with it."""
    for number, item in enumerate(_items(path), 1):
        utt_id = f"{prefix}-{number:08d}-instruct"
        try:
            if isinstance(item, _Unusable):
                raise item
            asked, answer, later = _exchange(item)
            _check_answer(answer)
            code = _language(item, lang)
        except _Unusable as problem:
            yield number, Bad(utt_id, problem.reason, problem.detail)
            continue
        yield number, Row(utt_id, "instruct", code, code, answer, source=asked)
        if later:
            yield number, Bad(f"{utt_id}-later", "later turns left out", f"{later} turns")


class _Unusable(Exception):
    """Why an item gives no row."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def _items(path: Path) -> Iterator[Any]:
    """Items of a JSON array or of JSON Lines, whatever the file's name says."""
    with path.open("rb") as file:
        start = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"["):
        yield from stream_items(path, "item")
        return
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                try:
                    yield json.loads(line.decode("utf-8-sig"))
                except ValueError as error:  # of UTF-8 or of JSON
                    yield _Unusable("not JSON", str(error))


def _exchange(item: Any) -> tuple[str, str, int]:
    """What is asked, the answer, and how many turns come after it."""
    if not isinstance(item, dict):
        raise _Unusable("unknown form", f"found a {type(item).__name__}, expected an object")
    if "messages" in item:
        return _first_exchange(item["messages"], "role", "content")
    if "conversations" in item:
        return _first_exchange(item["conversations"], "from", "value")
    if "instruction" in item and "output" in item:
        asked = [item["instruction"], item.get("input") or ""]
        return _join(asked), _text(item["output"]), 0
    raise _Unusable(
        "unknown form",
        f"found the fields {' '.join(map(str, item))[:200]}, expected instruction and output, or "
        "messages, or conversations",
    )


def _first_exchange(turns: Any, role_key: str, text_key: str) -> tuple[str, str, int]:
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise _Unusable("unknown form", "found turns that are no list of objects")
    roles = [ROLES.get(str(turn.get(role_key)), "other") for turn in turns]
    first = 1 if roles[:1] == ["system"] else 0
    if roles[first : first + 2] != ["user", "assistant"]:
        found = " ".join(str(turn.get(role_key)) for turn in turns[:4])
        raise _Unusable("no question and answer", f"found {found or 'no turns'!r}")
    asked = [turn.get(text_key) for turn in turns[: first + 1]]
    return _join(asked), _text(turns[first + 1].get(text_key)), len(turns) - first - 2


def _join(texts: list[Any]) -> str:
    return "\n".join(text for text in map(_text, texts) if text.strip())


def _text(value: Any) -> str:
    if not isinstance(value, str):  # such as a list with images
        raise _Unusable("no text", f"found a {type(value).__name__} where text was expected")
    return value


def _check_answer(answer: str) -> None:
    breaks = len(re.findall(r"\n+", answer.strip()))
    if "```" in answer:
        raise _Unusable("answer with a code block", "found ```")
    if breaks > MAX_BREAKS:
        raise _Unusable(f"answer with over {MAX_BREAKS} line breaks", f"found {breaks}")


def _language(item: dict, lang: str | None) -> str:
    code = item.get("lang") or lang
    if code is None:
        raise _Unusable(
            "no language", "found no field lang; say it in the file's name or by --lang"
        )
    if not isinstance(code, str) or code not in LANGUAGES:
        raise _Unusable(
            "language not ours", f"found {code!r}, expected one of {' '.join(LANGUAGES)}"
        )
    return code


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = get_parser(__doc__, [], SPLITS, fetchable=False)
    parser.add_argument("--lang", help=f"of rows that do not say it; one of {' '.join(LANGUAGES)}")
    add_exclude(parser)
    return run(parser, make_sets, argv)


if __name__ == "__main__":
    sys.exit(main())
