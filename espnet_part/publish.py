"""Folders of files that appear as a whole or not at all, made once and by one run at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

_STAMP, _LOCK = ".stamp.json", ".lock"
# What flock says where the file system has no locks (Lustre without -o flock, some FUSE).
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
log = logging.getLogger(__name__)


@contextlib.contextmanager
def lock(path: Path, what: str, wait: bool = False) -> Iterator[BinaryIO]:
    """Holds a file for this process; it is free again when the process ends, however it does.

    Where the file system has no locks, a warning is logged and nothing is held.

    Args:
        path: The file, opened for appending; made if missing.
        what: What is worked on, for the messages.
        wait: Wait for another process to end, and say so, instead of complaining.

    Raises:
        ValueError: Another process holds it, or it cannot be written or locked.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError as err:
        raise ValueError(
            f"{path.parent}: found no folder that can be written ({err.strerror}), expected one: "
            "name another folder, or mend this one's rights or disk"
        ) from None
    with file:
        try:
            _hold(file, path, what, wait)
        except OSError as err:
            if err.errno not in _NO_LOCKS:
                raise ValueError(
                    f"{path}: cannot be locked ({err.strerror}); name a folder on another disk"
                ) from None
            log.warning(
                "%s: no locks on this file system (%s): start no second run that writes it",
                *(path.parent, err.strerror),
            )
        yield file


def _hold(file: BinaryIO, path: Path, what: str, wait: bool) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not wait:
            raise ValueError(
                f"{path}: another process is working on {what}; wait for it or end it"
            ) from None
        holder = path.read_text(errors="replace").strip() if path.exists() else ""
        log.info("%s: waits for another run (%s) to end", what, holder or f"it holds {path}")
        fcntl.flock(file, fcntl.LOCK_EX)


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Holds a folder for writing, after waiting for whoever writes it; not to be nested.

    Its lock file, which names the process, goes at the end; one that a killed run left is in
    nobody's way.

    Args:
        folder: Made if missing.

    Raises:
        ValueError: It cannot be written or locked.
    """
    path = folder / _LOCK
    while True:
        with lock(path, str(folder), wait=True) as file:
            if not (path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())):
                continue  # the run that was waited for removed it: this is no lock by now
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            file.flush()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def make_once(
    folder: Path,
    job: dict,
    names: Iterable[str],
    make: Callable[[], dict],
    outdated: Callable[[dict], str] = lambda result: "",
) -> dict:
    """Makes a folder, unless `job` has made it already; a second run waits for the first one.

    Args:
        folder: Where the files go.
        job: All that they hang on.
        names: Files that belong to the folder.
        make: Writes them and gives a result, which is noted in the folder's stamp.
        outdated: From the result noted to why it no longer holds; empty: it does.

    Returns:
        The result, now or then.

    Raises:
        ValueError: `folder` cannot be written, or what `make` raises.
    """
    names = tuple(names)
    result = _stamped(folder, job, names)
    if result is None or outdated(result):
        with lock_folder(folder):
            result = _stamped(folder, job, names)
            if result is None or (why := outdated(result)):
                if result is not None:
                    log.info("%s: made again: %s", folder, why)
                result = make()
                write_stamp(folder, job, names, result)
                return result
    log.info("%s: up to date, nothing to do", folder)
    return result


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
    result = _stamped(folder, job, names)
    if result is not None:
        log.info("%s: up to date, nothing to do", folder)
    return result


def _stamped(folder: Path, job: dict, names: Iterable[str]) -> dict | None:
    try:
        stamp = json.loads((folder / _STAMP).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    wanted = {"job": json.loads(json.dumps(job)), "made": fingerprint(folder, names)}
    found = {"job": stamp.get("job"), "made": stamp.get("made")}
    return stamp["result"] if wanted == found else None
