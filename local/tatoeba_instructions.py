"""Makes simple instructions of Tatoeba's sentences, whose answers are known to be right.

    python local/tatoeba_instructions.py /corpora/tatoeba downloads/instruct/tatoeba.jsonl

Alpaca form, as local/prepare_instruct.py reads it: `Which language is this?`, a sentence, and its
language. Small and dull, but true, and free of a model's terms of use: it shows that instruct
rows train, and is no replacement for real instructions.
"""

import argparse
import json
import sys
from pathlib import Path

from prepare_tatoeba import CODES

from espnet_part.prompt import LANGUAGES

QUESTION = "Which language is this?"


def rows(folder: Path):
    """One instruction for each sentence of each language; English ones for every twelfth pair.

    Raises:
        ValueError: A language's file is missing.
    """
    for place, (code, theirs) in enumerate(CODES.items()):
        path = folder / f"tatoeba.{theirs}-eng.{theirs}"
        if not path.is_file():
            raise ValueError(
                f"{path}: no such file; local/prepare_tatoeba.py --help says where from"
            )
        english = path.with_suffix(".eng").read_text(encoding="utf-8").splitlines()
        lines = path.read_text(encoding="utf-8").splitlines()
        for number, (own, other) in enumerate(zip(lines, english, strict=True)):
            yield own, LANGUAGES[code]
            if number % len(CODES) == place:  # as many English ones as of any other language
                yield other, LANGUAGES["en"]


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tatoeba", type=Path, help="folder of tatoeba.<xxx>-eng.<xxx>")
    parser.add_argument("out", type=Path, help="JSON Lines to write")
    args = parser.parse_args(argv)
    try:
        lines = [
            json.dumps(
                {"instruction": QUESTION, "input": text, "output": name, "lang": "en"},
                ensure_ascii=False,
            )
            for text, name in rows(args.tatoeba)
        ]
    except ValueError as error:
        sys.exit(f"{parser.prog}: error: {error}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{args.out}: {len(lines):,} instructions")


if __name__ == "__main__":
    main()
