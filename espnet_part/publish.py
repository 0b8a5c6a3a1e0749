"""Folders of files that appear as a whole or not at all, and are not made twice."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

_STAMP = ".stamp.json"
log = logging.getLogger(__name__)


def make_staging(folder: Path) -> Path:
    """An empty folder inside `folder` for files to be published; what a killed run left goes."""
    staging = folder / ".staging"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    return staging


def publish(staging: Path, folder: Path, anchor: str, owned: Iterable[str]) -> None:
    """Moves the files of `staging` into `folder` so that a kill never leaves old and new mixed.

    Args:
        staging: Folder with the new files, on the same file system.
        folder: Where they go.
        anchor: Name of the file without which readers refuse the folder: it goes first, comes last.
        owned: Names that belong to the set: those in `folder` and not in `staging` are removed.
    """
    (folder / anchor).unlink(missing_ok=True)
    for name in owned:
        if not (staging / name).exists():
            (folder / name).unlink(missing_ok=True)
    names = sorted(entry.name for entry in staging.iterdir())
    for name in sorted(names, key=lambda name: name == anchor):
        os.replace(staging / name, folder / name)


def fingerprint(folder: Path, names: Iterable[str]) -> dict[str, list[int]]:
    """Size and modification time (ns) of those of the named files that are there."""
    stats = {}
    for name in names:
        if (folder / name).exists():
            stat = (folder / name).stat()
            stats[name] = [stat.st_size, stat.st_mtime_ns]
    return stats


def write_stamp(folder: Path, job: dict, names: Iterable[str], result: dict) -> None:
    """Notes in `folder` that `job` has made it as it is now, with `result`."""
    stamp = {"job": job, "made": fingerprint(folder, names), "result": result}
    temporary = folder / (_STAMP + ".tmp")
    temporary.write_text(json.dumps(stamp, indent=1, ensure_ascii=False), encoding="utf-8")
    os.replace(temporary, folder / _STAMP)


def read_stamp(folder: Path, job: dict, names: Iterable[str]) -> dict | None:
    """The result of `job` if it has made `folder` already and nothing was touched since."""
    try:
        stamp = json.loads((folder / _STAMP).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    wanted = {"job": json.loads(json.dumps(job)), "made": fingerprint(folder, names)}
    found = {"job": stamp.get("job"), "made": stamp.get("made")}
    if wanted != found:
        return None
    log.info("%s: up to date, nothing to do", folder)
    return stamp["result"]
