"""Fetching corpora: downloads that show progress, go on where they broke off, and are checked."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import lzma
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

BLOCK = 1 << 20
TRIES = 5  # so many in a row that bring nothing end a download
PAUSE_SEC = 5.0
TRY_AGAIN = (408, 429)  # not a refusal: too slow, too many
_OUTSIDE = getattr(tarfile, "FilterError", ())  # older Pythons know none, and unpack no tar here
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError)


@dataclass(frozen=True)
class Archive:
    """A file that the publisher of a corpus offers.

    Attributes:
        url: Where it lies.
        gives: What it leaves in the corpus's folder once unpacked; where that is, nothing is done.
        checksum: Hexadecimal, MD5 (32 digits) or SHA-256 (64); None where we pin none.
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
    """Fetches and unpacks what `folder` lacks; what was fetched is deleted once it is unpacked.

    Raises:
        ValueError: No connection, the server refuses, or an archive is damaged.
    """
    for archive in archives:
        if (folder / archive.gives).exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / archive.name
        placed = path.exists()  # by hand: checked like the others, and kept
        if placed and archive.checksum is not None:
            _check(path, path, archive.checksum)
        elif not placed:
            print(f"Fetching {archive.url}", flush=True)
            download(archive.url, path, archive.checksum)
        unpack(path, folder, archive)
        if not placed:
            path.unlink()


def download(url: str, path: Path, checksum: str | None = None, timeout_sec: float = 30.0) -> None:
    """Downloads to a file, going on where it broke off, in this call or an earlier one.

    Args:
        url: What to fetch.
        path: Where it goes; `<path>.part` holds an unfinished download.
        checksum: MD5 or SHA-256 that it must have.
        timeout_sec: How long one read may stay silent.

    Raises:
        ValueError: No connection, the server refuses, or the file is not what it should be.
    """
    part = path.with_name(path.name + ".part")
    tries = TRIES
    while True:
        had = _size(part)
        try:
            _fetch_rest(url, part, timeout_sec)
            break
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            tries = TRIES if _size(part) > had else tries - 1
            code = error.code if isinstance(error, urllib.error.HTTPError) else 0
            refused = code in range(400, 500) and code not in TRY_AGAIN
            if refused or tries == 0 or not url.startswith("http"):
                raise ValueError(
                    f"could not fetch {url} ({error}). Call again to go on; without a network, "
                    f"fetch it elsewhere and put it at {path}"
                ) from error
            print(f"{error}; going on", flush=True)
            time.sleep(PAUSE_SEC)
    if checksum is not None:
        try:
            _check(part, url, checksum)
        except ValueError as error:
            part.unlink()
            raise ValueError(f"{error}; it is deleted: call again") from None
    os.replace(part, path)


def _check(path: Path, name: object, checksum: str) -> None:
    """Raises ValueError if a file has another checksum."""
    found = _digest(path, "md5" if len(checksum) == 32 else "sha256")
    if found != checksum.lower():
        raise ValueError(
            f"{name}: checksum {found}, expected {checksum}: damaged on the way, or changed by its "
            "publisher"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _fetch_rest(url: str, part: Path, timeout_sec: float) -> None:
    """Fetches what `part` lacks.

    Raises:
        OSError, HTTPException: It could not be fetched, or not all of it.
    """
    have = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with contextlib.closing(urllib.request.urlopen(request, timeout=timeout_sec)) as answer:
            # A server that does not resume sends all of it.
            _read(answer, part, have if getattr(answer, "status", None) == 206 else 0)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        # There is nothing after what we have: it is whole, or of a longer file than is there now.
        total = (error.headers.get("Content-Range") or "").rpartition("/")[2]
        if total.isdigit() and int(total) != have:
            part.unlink()
            _fetch_rest(url, part, timeout_sec)


def _read(answer, part: Path, have: int) -> None:
    """Writes an answer after the first `have` bytes."""
    length = answer.headers.get("Content-Length")
    total = have + int(length) if length else None
    start, first, shown = time.monotonic(), have, 0.0
    with part.open("ab" if have else "wb") as file:
        # What has come: a full read would lose the last block where the connection breaks off.
        while block := answer.read1(BLOCK):
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
    hint = "delete it and fetch again"
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
                # Checksums of the compressed stream are at its end, after the tar's own.
                while tar.fileobj.read(BLOCK):  # type: ignore[union-attr]
                    pass
        else:
            with zipfile.ZipFile(path) as zipped:
                zipped.extractall(target)  # drops ".." and absolute names by itself
        if not (staging / archive.gives).exists():
            raise ValueError(f"{path} does not hold {archive.gives}: {hint}")
        _move(staging, folder, Path(archive.gives))
    except _OUTSIDE as error:
        raise ValueError(f"{path} is not unpacked: it would write outside ({error})") from error
    except _DAMAGED as error:
        raise ValueError(f"{path} is damaged ({error}): {hint}") from error
    except OSError as error:
        if error.errno is None:  # gzip's and bz2's way of saying so
            raise ValueError(f"{path} is damaged ({error}): {hint}") from error
        raise ValueError(f"could not unpack {path} ({error})") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _move(staging: Path, folder: Path, last: Path) -> None:
    """Moves what was unpacked to where it is not there yet; `last` comes last: it says "done"."""
    for path in sorted(p for p in staging.rglob("*") if p.is_symlink() or not p.is_dir()):
        name = path.relative_to(staging)
        if last != name and last not in name.parents and not (folder / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, folder / name)
    (folder / last).parent.mkdir(parents=True, exist_ok=True)
    os.replace(staging / last, folder / last)
