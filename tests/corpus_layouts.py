"""What the tests of corpora share: made audio, and the rows that a script writes."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "local"))

from espnet_part.datadir import iter_rows  # noqa: E402


def make_audio(path: Path, seconds: float = 0.5, rate: int = 16000, channels: int = 1, **options):
    """Writes a tone in the format that the file's name says (soundfile's options may follow)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(int(seconds * rate)) / rate
    wave = 0.1 * np.sin(2 * np.pi * 440 * times)
    soundfile.write(path, np.stack([wave] * channels, axis=1), rate, **options)
    return path


def rows_of(folder: Path) -> dict:
    """{id: Row} of a data folder."""
    return {row.utt_id: row for row in iter_rows(folder)}


def skipped(folder: Path) -> Counter:
    """Rows by reason, from the list that a script leaves."""
    lines = (folder / "skipped.tsv").read_text(encoding="utf-8").splitlines()
    assert all(len(line.split("\t")) == 3 for line in lines)
    return Counter(line.split("\t")[1] for line in lines)


def state(folder: Path) -> dict:
    """Name -> (content, modification time) of all files: what "untouched" means."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in files
    }
