"""Cuts a data folder into sets of one task and one language pair, as test sets are.

    python local/split_set.py dump/raw/digits_dev

writes dump/raw/digits_dev_asr_en, dump/raw/digits_dev_st_en_de ... and prints their names.
"""

import argparse
import sys
from pathlib import Path

from espnet_part.datadir import iter_rows, write_datadir


def split_set(folder: Path) -> list[str]:
    """Write one folder per task and language pair beside `folder`, in one reading per pair.

    Returns:
        Names of the new folders, sorted.

    Raises:
        ValueError: `folder` is no data folder.
    """
    kinds = sorted({(row.task, row.src, row.tgt) for row in iter_rows(folder)})
    names = []
    for kind in kinds:
        task, src, tgt = kind
        name = f"{folder.name}_{task}_{src}" + ("" if src == tgt else f"_{tgt}")
        rows = (row for row in iter_rows(folder) if (row.task, row.src, row.tgt) == kind)
        write_datadir(folder.parent / name, rows)
        names.append(name)
    return names


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="data folder, e.g. dump/raw/digits_dev")
    args = parser.parse_args()
    try:
        print(" ".join(split_set(args.folder)))
    except ValueError as error:
        sys.exit(f"{parser.prog}: error: {error}")


if __name__ == "__main__":
    main()
