"""Reading the items of a JSON file that does not fit into memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ijson

BACKEND = "yajl2_c"
_BUFFER = 1 << 20
_EVERY_SEC = 20.0
log = logging.getLogger(__name__)


def stream_items(path: Path, prefix: str) -> Iterator[Any]:
    """Yields the items of one array of a JSON file, one in memory at a time.

    Args:
        path: The file.
        prefix: Where the items are, in ijson's notation, e.g. `audios.item`.

    Raises:
        ValueError: No such file, no JSON, one that breaks off, or without such an item.
    """
    reader = _reader()
    found = 0
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            start = last = time.monotonic()
            for item in reader.items(file, prefix, buf_size=_BUFFER, use_float=True):
                found += 1
                yield item
                if (now := time.monotonic()) - last >= _EVERY_SEC:
                    last = now
                    done = file.tell() / size
                    left = (now - start) * (1 / done - 1)
                    log.info("%s: %.0f %% read, %.0f s left", path.name, 100 * done, left)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except ijson.JSONError as err:
        detail = str(err).strip().splitlines()[0]
        raise ValueError(
            f"{path}: found damaged JSON after {found:,} items of {prefix} ({detail}), expected a "
            "whole file; fetch it again"
        ) from None
    if not found:
        raise ValueError(f"{path}: found no {prefix}, expected some; is this the right file?")


def _reader():
    """The C library of ijson; without it, whatever ijson has, with a word on what that costs."""
    try:
        return ijson.get_backend(BACKEND)
    except ImportError:
        log.warning(
            "ijson has no %s here, only %s: reading takes many times as long; "
            "`pip install --force-reinstall ijson` may bring it",
            *(BACKEND, ijson.backend_name),
        )
        return ijson
