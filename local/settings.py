"""Turns --part_config and --part_args of the recipe into settings `key.sub=value`, one per line.

    python local/settings.py --config my.yaml -- max_steps=10 --lr.llm 1e-5

prints those of the YAML first; of several for one key, the last wins. `key=value`, `--key=value`
and ESPnet's `--key value` all do.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from espnet_part.schema import load_yaml


def flatten(values: dict, prefix: str = "") -> Iterator[str]:
    """Settings of nested values; a list is one value."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={json.dumps(value, ensure_ascii=False)}"


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
    parser.add_argument("words", nargs="*", help="key=value or --key value, after --")
    args = parser.parse_args()
    try:
        if args.config is not None:
            print("\n".join(flatten(load_yaml(args.config))))
        print("\n".join(parse_words(args.words)))
    except ValueError as error:
        sys.exit(f"{parser.prog}: error: {error}")


if __name__ == "__main__":
    main()
