"""Work logs of translation: what has been translated, one JSON line each, safe against kills.

A log is begun by a line with the settings it was made with. Lines are appended and flushed batch by
batch; of a process killed while writing the last line may be torn, which is cut off when the log
is opened again. A log that is through ends in `{"done": ...}`. Logs of one folder that were made
with other numbers of parts count too: nothing that has been translated is translated again.
"""

import hashlib
import json
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from translator_models import Translation

FOLDER = ".translate"
_INDEX = np.dtype([("high", "<u8"), ("low", "<u8"), ("place", "<i8")])


def work_key(src: str, tgt: str, text: str) -> bytes:
    """Sixteen bytes that stand for a text and what to do with it."""
    return hashlib.blake2b(f"{src} {tgt} {text}".encode(), digest_size=16).digest()


def log_path(out: Path, part: int, parts: int) -> Path:
    """The log of part `part` (from 1) of `parts`."""
    return out / FOLDER / f"part-{part}-of-{parts}.jsonl"


def list_logs(out: Path) -> list[Path]:
    """All logs of an output folder."""
    return sorted((out / FOLDER).glob("part-*-of-*.jsonl"))


def remove_logs(out: Path) -> None:
    """Remove all logs, so that everything is done again."""
    for path in list_logs(out):
        path.unlink()


def read_lines(path: Path) -> Iterator[tuple[int, dict]]:
    """Read a log: (position in bytes, line), a torn last line left out.

    Raises:
        ValueError: a line within the log is damaged.
    """
    place = 0
    with path.open("rb", buffering=1 << 20) as file:
        for line in file:
            if not line.endswith(b"\n"):
                return  # torn
            try:
                values = json.loads(line)
            except ValueError:
                raise ValueError(
                    f"{path}: damaged at byte {place}; remove the file (or give --restart to do "
                    "all of it again)"
                ) from None
            yield place, values
            place += len(line)


def check_settings(path: Path, settings: dict) -> None:
    """Check that a log was made with the same settings; one without a whole line fits all.

    Raises:
        ValueError: it was not; names what differs.
    """
    _, first = next(read_lines(path), (0, None))
    if first is None:
        return
    found = first.get("settings", {})
    wanted = json.loads(json.dumps(settings))
    for key in wanted:
        if found.get(key) != wanted[key]:
            raise ValueError(
                f"{path.parent}: translations made with {key} {_short(found.get(key))}, now "
                f"{_short(wanted[key])}; give --restart to do all again, another output folder, or "
                "the settings as they were"
            )


def _short(value) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:120] + "..."


def is_done(path: Path) -> bool:
    """Whether a log says that its part is through."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 100))
        last = file.read().splitlines(keepends=True)[-1:]
    return bool(last) and last[0].endswith(b"\n") and last[0].startswith(b'{"done"')


class WorkLog:
    """The log of one part, open for appending.

    Args:
        file: of `publish.lock`.
        path: of the log.
        settings: what it is bound to.
    """

    def __init__(self, file: BinaryIO, path: Path, settings: dict):
        check_settings(path, settings)
        end = 0
        for place, _ in read_lines(path):
            end = place
        with path.open("rb") as whole:
            whole.seek(end)
            line = whole.readline()
        end += len(line) if line.endswith(b"\n") else 0
        os.truncate(path, end)
        self._file = file
        if end == 0:
            self._write([{"settings": settings}])

    def add(self, batch: list[tuple[bytes, str, Translation | None]]) -> None:
        """Note a batch: key, source, translation (None: the model cannot take the source)."""
        lines = []
        for key, source, found in batch:
            line = {"key": key.hex(), "source": source}
            lines.append(line | ({"text": found.text, "cut": found.cut} if found else {}))
        self._write(lines)

    def finish(self, texts: int) -> None:
        """Note that the part is through."""
        self._write([{"done": texts}])

    def _write(self, lines: list[dict]) -> None:
        data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        self._file.write(data.encode())
        self._file.flush()


class WorkIndex:
    """Finds translations in logs by key: 24 bytes of memory each, texts stay on disk.

    Args:
        paths: the logs.
    """

    def __init__(self, paths: list[Path]):
        keys, places = bytearray(), array("q")
        self._starts, start = [], 0
        self._files = []
        for path in paths:
            for place, line in read_lines(path):
                if "key" in line:
                    keys += bytes.fromhex(line["key"])
                    places.append(start + place)
            self._starts.append(start)
            self._files.append(path.open("rb"))
            start += path.stat().st_size
        table = np.empty(len(places), _INDEX)
        halves = np.frombuffer(bytes(keys), "<u8").reshape(-1, 2)
        table["high"], table["low"], table["place"] = halves[:, 0], halves[:, 1], np.array(places)
        table.sort(order=["high", "place"])
        self._table, self._high = table, np.ascontiguousarray(table["high"])

    def get(self, key: bytes) -> dict | None:
        """The line with a key; None if there is none."""
        high, low = np.frombuffer(key, "<u8")
        at = int(np.searchsorted(self._high, high))
        while at < len(self._table) and self._table["high"][at] == high:
            if self._table["low"][at] == low:
                return self._read(int(self._table["place"][at]))
            at += 1
        return None

    def _read(self, place: int) -> dict:
        number = int(np.searchsorted(self._starts, place, side="right")) - 1
        self._files[number].seek(place - self._starts[number])
        return json.loads(self._files[number].readline())

    def close(self) -> None:
        """Close the logs."""
        for file in self._files:
            file.close()
