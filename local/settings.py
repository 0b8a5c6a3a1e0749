"""Turns --part_config and --part_args of the recipe into settings `key.sub=value`, one per line.

    python local/settings.py --config my.yaml --words "max_steps=10 --lr.llm 1e-5 tasks=[asr, st]"

prints those of the YAML first; of several for one key, the last wins. `key=value`, `--key=value`
and ESPnet's `--key value` all do. Spaces within brackets, braces or quotes part nothing.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from espnet_part.schema import load_yaml

PARTNERS = {"[": "]", "{": "}", "'": "'", '"': '"'}


def flatten(values: dict, prefix: str = "") -> Iterator[str]:
    """Settings of nested values; a list is one value."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={json.dumps(value, ensure_ascii=False)}"


def split_words(text: str) -> list[str]:
    """Cuts at white space outside brackets, braces and quotes.

    Raises:
        ValueError: A bracket, brace or quotation mark has no partner.
    """
    words, open_marks = [""], ""
    for char in text:
        if open_marks and char == open_marks[-1]:
            open_marks = open_marks[:-1]
        elif char in PARTNERS and open_marks[-1:] not in ("'", '"'):
            open_marks += PARTNERS[char]
        if char.isspace() and not open_marks:
            words.append("")
        else:
            words[-1] += char
    if open_marks:
        raise ValueError(f"--part_args: {words[-1]!r} lacks a closing {open_marks[-1]}")
    return [word for word in words if word]


def parse_words(words: list[str]) -> Iterator[str]:
    """Settings of command-line words.

    Raises:
        ValueError: A key without a value, or a value without a key.
    """
    words = list(words)
    while words:
        word = words.pop(0)
        key = word.removeprefix("--")
        if "=" in key:
            yield key
        elif word.startswith("--") and words and not words[0].startswith("--"):
            yield f"{key}={words.pop(0)}"
        else:
            raise ValueError(f"--part_args: found {word!r}, expected key=value or --key value")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, help="YAML of the keys of config.yaml")
    parser.add_argument("--words", default="", help="key=value or --key value, in one string")
    args = parser.parse_args()
    try:
        if args.config is not None:
            print("\n".join(flatten(load_yaml(args.config))))
        print("\n".join(parse_words(split_words(args.words))))
    except ValueError as error:
        sys.exit(f"{parser.prog}: error: {error}")


if __name__ == "__main__":
    main()
