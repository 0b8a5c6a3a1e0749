"""Fetch the Free Spoken Digit Dataset (CC BY-SA 4.0): `python local/digits_fetch.py FOLDER`."""

import argparse
import os
import shutil
import sys
import zipfile
from pathlib import Path

from fetch import download

COMMIT = "26eb9aaf76e81b692f806f9140c2d2777410d7a1"  # what the figures in RESULTS.md were made with
URL = f"https://github.com/Jakobovski/free-spoken-digit-dataset/archive/{COMMIT}.zip"


def unpack(archive: Path, folder: Path) -> None:
    """Take the recordings out of the archive into `folder`/recordings.

    Raises:
        ValueError: not a zip file, or one without recordings.
    """
    try:
        with zipfile.ZipFile(archive) as zipped:
            names = [n for n in zipped.namelist() if "/recordings/" in n and n.endswith(".wav")]
            if not names:
                raise ValueError(f"{archive} holds no recordings/*.wav: delete it and fetch again.")
            half = folder / "recordings.part"
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir(parents=True)
            for name in names:  # by base name only: nothing can land outside the folder
                (half / Path(name).name).write_bytes(zipped.read(name))
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive} is damaged ({error}): delete it and fetch again.") from error
    shutil.rmtree(folder / "recordings", ignore_errors=True)
    os.replace(half, folder / "recordings")


def fetch_fsdd(folder: Path, url: str = URL) -> None:
    """Make sure that `folder`/recordings is there, from the network if need be.

    Args:
        folder: the dataset's folder.
        url: archive to fetch.

    Raises:
        ValueError: it is not there and cannot be fetched.
    """
    if (folder / "recordings").is_dir():
        print(f"{folder}/recordings is there: nothing to fetch.")
        return
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / "fsdd.zip"
    if not archive.exists():
        print(f"Fetching the Free Spoken Digit Dataset (CC BY-SA 4.0): {url}")
        try:
            download(url, archive)
        except ValueError as error:
            raise ValueError(
                f"{error}. Or name a folder that holds its recordings/ (3,000 wav files) in db.sh "
                "(FSDD=...)"
            ) from error
    unpack(archive, folder)
    archive.unlink()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where recordings/ goes")
    args = parser.parse_args()
    try:
        fetch_fsdd(args.folder)
    except ValueError as error:
        sys.exit(f"{parser.prog}: error: {error}")


if __name__ == "__main__":
    main()
