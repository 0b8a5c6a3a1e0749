"""Fetching corpora: downloads that show progress, go on where they broke off, and are checked."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

BLOCK = 1 << 20


@dataclass(frozen=True)
class Archive:
    """A file that the publisher of a corpus offers.

    Attributes:
        url: Where it lies.
        gives: What it leaves in the corpus's folder once unpacked; where that is, nothing is done.
        checksum: Hexadecimal, MD5 (32 digits) or SHA-256 (64); None where none is published.
        into: Folder in the corpus's folder that it is unpacked into.
    """

    url: str
    gives: str
    checksum: str | None = None
    into: str = "."

    @property
    def name(self) -> str:
        """Its file name."""
        return self.url.split("?")[0].rsplit("/", 1)[-1]


def fetch_archives(archives: Iterable[Archive], folder: Path) -> None:
    """Fetches and unpacks what `folder` lacks; an archive is deleted once it is unpacked.

    Raises:
        ValueError: No connection, the server refuses, or an archive is damaged.
    """
    for archive in archives:
        if (folder / archive.gives).exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / archive.name
        if not path.exists():
            print(f"Fetching {archive.url}", flush=True)
            download(archive.url, path, archive.checksum)
        unpack(path, folder, archive)
        path.unlink()


def download(url: str, path: Path, checksum: str | None = None, timeout_sec: float = 30.0) -> None:
    """Downloads to a file, going on where an earlier try broke off.

    Args:
        url: What to fetch.
        path: Where it goes; `<path>.part` holds an unfinished download.
        checksum: MD5 or SHA-256 that it must have.
        timeout_sec: How long one read may stay silent.

    Raises:
        ValueError: No connection, the server refuses, or the file is not what it should be.
    """
    part = path.with_name(path.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with contextlib.closing(_open(request, timeout_sec, have)) as answer:
            if answer is not None:
                _read(answer, part, have if getattr(answer, "status", None) == 206 else 0)
    except (urllib.error.URLError, OSError) as error:
        raise ValueError(
            f"could not fetch {url} ({error}). Call again to go on; without a network, fetch it "
            f"elsewhere and put it at {path}"
        ) from error
    if checksum is not None:
        found = _digest(part, "md5" if len(checksum) == 32 else "sha256")
        if found != checksum:
            part.unlink()
            raise ValueError(
                f"{url}: checksum {found}, expected {checksum}: damaged on the way, or changed by "
                "its publisher; it is deleted: call again"
            )
    os.replace(part, path)


class _Nothing:
    """An answer that holds nothing more: the part is whole already."""

    status = 206
    headers: dict[str, str] = {}

    def read(self, size: int) -> bytes:
        return b""

    def close(self) -> None:
        pass


def _open(request: urllib.request.Request, timeout_sec: float, have: int):
    try:
        return urllib.request.urlopen(request, timeout=timeout_sec)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # asked for what comes after the end
            return _Nothing()
        raise


def _read(answer, part: Path, have: int) -> None:
    """Appends an answer to what is there; a server that does not resume sends all of it."""
    length = answer.headers.get("Content-Length")
    total = have + int(length) if length else None
    start, first, shown = time.monotonic(), have, 0.0
    with part.open("ab" if have else "wb") as file:
        while block := answer.read(BLOCK):
            file.write(block)
            have += len(block)
            now = time.monotonic()
            if now - shown > 1:
                shown = now
                print(f"\r{_progress(have, total, (have - first) / (now - start + 1e-9))}", end="")
    print(f"\r{have / 1e6:,.1f} MB{'':40}", flush=True)
    if total is not None and have < total:
        raise OSError(f"the connection broke off after {have:,} of {total:,} bytes")


def _progress(have: int, total: int | None, rate: float) -> str:
    line = f"{have / 1e6:,.1f}" + (f" of {total / 1e6:,.1f}" if total else "") + " MB"
    line += f", {rate / 1e6:.1f} MB/s"
    return f"{line}, {(total - have) / max(rate, 1):,.0f} s left   " if total else line


def _digest(path: Path, kind: str) -> str:
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def unpack(path: Path, folder: Path, archive: Archive) -> None:
    """Unpacks a tar or zip file so that `archive.gives` appears as a whole.

    Raises:
        ValueError: No archive, damaged, or without what it should hold.
    """
    print(f"Unpacking {path}", flush=True)
    staging = folder / f".unpacking-{archive.name}"
    shutil.rmtree(staging, ignore_errors=True)
    target = staging / archive.into
    target.mkdir(parents=True)
    try:
        if tarfile.is_tarfile(path):
            if not hasattr(tarfile, "data_filter"):
                raise ValueError(
                    f"{path}: this Python cannot unpack archives safely; expected 3.10.12, 3.11.4 "
                    f"or newer; or unpack it yourself into {folder}"
                )
            with tarfile.open(path) as tar:
                # Nothing lands outside: no absolute names, no links that lead out, no devices.
                tar.extractall(target, filter="data")
        else:
            with zipfile.ZipFile(path) as zipped:
                zipped.extractall(target)  # drops ".." and absolute names by itself
        if not (staging / archive.gives).exists():
            raise ValueError(f"{path} does not hold {archive.gives}: delete it and fetch again")
        _move(staging, folder, Path(archive.gives))
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it and fetch again") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _move(staging: Path, folder: Path, last: Path) -> None:
    """Moves what was unpacked to where it is not there yet; `last` comes last: it says "done"."""
    for path in sorted(p for p in staging.rglob("*") if not p.is_dir()):
        name = path.relative_to(staging)
        if last != name and last not in name.parents and not (folder / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, folder / name)
    (folder / last).parent.mkdir(parents=True, exist_ok=True)
    os.replace(staging / last, folder / last)
