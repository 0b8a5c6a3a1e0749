"""Two-column text files sorted by id: read in order, or looked up by bisection.

Files are read as bytes: only newline ends a line and only space or tab ends the id, so that
characters such as U+3000 or U+2028, which Python's str.split and str.splitlines take for breaks,
stay part of the text.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path


def iter_pairs(path: Path) -> Iterator[tuple[str, str]]:
    """Yields (id, rest of the line) of a sorted file; the rest is "" where there is none.

    Raises:
        ValueError: Not UTF-8, an empty line, an id that repeats or is out of order.
    """
    last = b""
    with path.open("rb", buffering=1 << 18) as file:
        for number, line in enumerate(file, 1):
            key, value = split_line(line)
            if key <= last:
                raise ValueError(_order_problem(path, number, key, last))
            last = key
            try:
                yield key.decode("utf-8"), value.decode("utf-8")
            except UnicodeDecodeError as err:
                raise ValueError(
                    f"{path}, line {number}: not UTF-8 ({err.reason} at byte {err.start}); "
                    "convert the file with iconv"
                ) from None


def split_line(line: bytes) -> tuple[bytes, bytes]:
    """Splits at the first space or tab; both ends of the value are stripped of blanks."""
    line = line.strip(b" \t\r\n")
    space = line.find(b" ")
    tab = line.find(b"\t", 0, space if space >= 0 else len(line))
    at = tab if tab >= 0 else space
    if at < 0:
        return line, b""
    return line[:at], line[at:].lstrip(b" \t")


def _order_problem(path: Path, number: int, key: bytes, last: bytes) -> str:
    where = f"{path}, line {number}"
    if not key:
        return f"{where}: found an empty line, expected `<id> <value>`; remove it"
    shown = key.decode("utf-8", "replace")
    if key == last:
        return f"{where}: the id {shown!r} is there twice; expected unique ids"
    if last.startswith(b"\xef\xbb\xbf"):
        return f"{path}: starts with a byte order mark; save it as UTF-8 without one"
    return (
        f"{where}: not sorted: {shown!r} comes after {last.decode('utf-8', 'replace')!r}; "
        f"sort by bytes: `LC_ALL=C sort -k1,1 {path.name}`"
    )


class SortedLookup:
    """Values by id from a sorted file, by bisection in a memory map: nothing is loaded.

    Needed where the ids asked for do not rise, as the recordings of `segments` do not have to.
    """

    def __init__(self, path: Path):
        if not path.exists():
            raise ValueError(f"{path}: no such file; expected beside `segments`")
        self._path = path
        self._last: tuple[str, str | None] = ("", None)
        with path.open("rb") as file:
            try:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError:  # an empty file cannot be mapped
                raise ValueError(f"{path}: found an empty file, expected `<id> <path>`") from None

    def get(self, key: str) -> str | None:
        """The value of `key`, None if the file lacks it.

        Raises:
            ValueError: The file is not sorted (found out when a key seems to be missing).
        """
        if key != self._last[0]:  # neighbors in `segments` mostly share their recording
            self._last = (key, self._find(key.encode()))
        return self._last[1]

    def _find(self, key: bytes) -> str | None:
        low, high = 0, len(self._map)
        while low < high:
            middle = (low + high) // 2
            start = self._map.rfind(b"\n", low, middle) + 1 or low
            end = self._map.find(b"\n", middle)
            end = len(self._map) if end < 0 else end
            found, value = split_line(self._map[start:end])
            if found == key:
                return value.decode("utf-8")
            if found < key:
                low = end + 1
            else:
                high = start
        for _ in iter_pairs(self._path):  # raises where bisection was misled by a wrong order
            pass
        return None
