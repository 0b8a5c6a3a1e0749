"""Tables as corpora publish them: tab-separated, a header line, no quoting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from corpus import Bad

_BOM = b"\xef\xbb\xbf"


def read_tsv(
    path: Path, columns: Sequence[str], escapes: bool = False
) -> Iterator[tuple[str, ...] | Bad]:
    r"""Streams some columns of a table; its own header says where they are.

    Quotation marks are text. Lines end with a newline only: U+2028 and the like are text, too.

    Args:
        path: UTF-8, with or without a byte order mark.
        columns: Names of the columns to give, in this order.
        escapes: Whether a backslash makes a tab or a backslash after it part of the text.

    Returns:
        The values of `columns`, one tuple per line; `Bad` for a line with more or fewer fields than
        the header, or that is not UTF-8. Empty lines are passed over.

    Raises:
        ValueError: The header lacks a column.
    """
    with path.open("rb") as file:
        first = file.readline().removeprefix(_BOM)
        header = _fields(first.rstrip(b"\r\n").decode("utf-8", errors="replace"), escapes)
        missing = [name for name in columns if name not in header]
        if missing:
            raise ValueError(
                f"{path}: found the columns {' '.join(header)}, expected also {' '.join(missing)}"
            )
        places = [header.index(name) for name in columns]
        for number, line in enumerate(file, 2):
            line = line.rstrip(b"\r\n")
            if not line:
                continue
            where = f"{path.name}:{number}"
            try:
                fields = _fields(line.decode("utf-8"), escapes)
            except UnicodeDecodeError as err:
                yield Bad(where, "not UTF-8", f"line {number} of {path}: byte {err.start}")
                continue
            if len(fields) != len(header):
                found = f"line {number} of {path}: {len(fields)} fields, expected {len(header)}"
                yield Bad(where, "wrong number of fields", found)
                continue
            yield tuple(fields[place] for place in places)


def _fields(line: str, escapes: bool) -> list[str]:
    if not escapes or "\\" not in line:
        return line.split("\t")
    fields = [""]
    chars = iter(line)
    for char in chars:
        if char == "\t":
            fields.append("")
        else:
            fields[-1] += next(chars, "") if char == "\\" else char
    return fields
