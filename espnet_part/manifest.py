"""The manifest: what the batch plan needs to know of every row, memory-mapped.

A manifest is a folder with `index.npy` (one record of numbers per row), `rows.jsonl` (the rows,
read one at a time by byte offset) and `meta.json`. It is made from audio headers and a tokenizer,
without the model; in reading and writing it nothing but the files grows with the number of rows.
"""

from __future__ import annotations

import json
import os
from dataclasses import fields
from pathlib import Path

import numpy as np

from espnet_part.datadir import Row

FORMAT = 1
INDEX_DTYPE = np.dtype(
    [
        ("offset", "<u8"),  # byte offset of the row in rows.jsonl
        ("samples", "<u4"),  # at 16 kHz; 0: text row
        ("n_source", "<u4"),  # tokens of the source text or transcript
        ("n_target", "<u4"),  # tokens of the target text, end token excluded
        ("task", "u1"),  # position in meta["tasks"]
        ("src", "u1"),  # positions in meta["languages"]
        ("tgt", "u1"),
    ]
)
FILES = ("index.npy", "rows.jsonl", "meta.json")
_FIELDS = tuple(field.name for field in fields(Row))


class Manifest:
    """A manifest on disk. Cheap to open, to pickle (the folder's name) and to share over forks.

    Attributes:
        folder: Where it is.
        meta: Content of meta.json.
        index: Memory-mapped structured array (rows,) of INDEX_DTYPE, read-only.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        try:
            with (self.folder / "meta.json").open(encoding="utf-8") as file:
                self.meta = json.load(file)
            self.index = np.load(self.folder / "index.npy", mmap_mode="r")
            self._rows = os.open(self.folder / "rows.jsonl", os.O_RDONLY)
        except FileNotFoundError as err:
            raise ValueError(
                f"{err.filename}: no such file, expected in a manifest; stage 10 makes it: "
                f"python -m espnet_part.bin.manifest --data_dir ... --out {self.folder} ..."
            ) from None
        self._end = os.fstat(self._rows).st_size
        found = self.meta.get("format"), len(self.index), self.index.dtype
        if found != (FORMAT, self.meta.get("rows"), INDEX_DTYPE):
            raise ValueError(
                f"{self.folder}: found a manifest of format {found[0]} with {found[1]} rows, "
                f"expected format {FORMAT} with {self.meta.get('rows')}; remove it and run stage 10"
            )

    @classmethod
    def open(cls, folder: str | Path) -> Manifest:
        """Opens a manifest folder.

        Raises:
            ValueError: A file is missing, or the manifest is of another format.
        """
        return cls(folder)

    def __len__(self) -> int:
        return len(self.index)

    def row(self, i: int) -> Row:
        """Row `i` (0 <= i < len), read from disk; safe in threads and forked workers."""
        if not 0 <= i < len(self.index):
            raise IndexError(f"{self.folder}: row {i} of {len(self.index)}")
        begin = int(self.index["offset"][i])
        end = int(self.index["offset"][i + 1]) if i + 1 < len(self.index) else self._end
        # pread has no position, which threads and forked workers would share.
        return Row(**json.loads(os.pread(self._rows, end - begin, begin)))

    def __reduce__(self):
        return Manifest, (self.folder,)

    def __del__(self):
        if hasattr(self, "_rows"):
            os.close(self._rows)


def row_to_json(row: Row) -> bytes:
    """One line of rows.jsonl; fields that are None are left out."""
    kept = {name: value for name in _FIELDS if (value := getattr(row, name)) is not None}
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def write_manifest(data_dir: str | Path, out: str | Path, tokenizer, jobs: int = 1) -> dict:
    """Makes the manifest of a data folder; see `manifest_writer.write_manifest`."""
    from espnet_part.manifest_writer import write_manifest as write

    return write(data_dir, out, tokenizer, jobs)
