"""Stage 4: mt rows out of st rows: what was said, in writing, and its translation."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from espnet_part.datadir import ALL_FILES, Row, count_rows, is_speech_folder, iter_rows
from espnet_part.datadir_writer import ANCHOR, write_datadir
from espnet_part.filtering import check_other_folder, listing
from espnet_part.publish import fingerprint, make_once, make_staging, publish
from espnet_part.rowpass import Progress, Skipped, blocks

# Copies at another speed, by Kaldi's and our naming, say what their original says.
_SPEED_COPY = re.compile(r"sp[01]\.[0-9]+-")


def derive_mt(data_dir: str | Path, out: str | Path) -> dict:
    """Writes a text folder with an mt row for each st row that has a transcript.

    Ids start with "mt-": a prefix keeps the order of the rows, so that one pass does, whatever the
    size of the folder. Rows of speed-perturbed copies ("sp0.9-...") are passed over. Equal
    sentences stay: several speakers who read one count as often here as among the st rows.

    Args:
        data_dir: Data folder of speech.
        out: Another folder; `skipped.tsv` in it lists the st rows left out. Where no row is left,
            it holds no data folder, not even that of an earlier call.

    Returns:
        {"rows": st rows read, "kept": rows written, "skipped": {reason: rows}}.

    Raises:
        ValueError: The data folder is bad, or one of text, or `out` is the same folder.
    """
    data_dir, out = Path(data_dir), Path(out)
    check_other_folder(data_dir, out)
    if not is_speech_folder(data_dir):
        raise ValueError(
            f"{data_dir}: found a text folder, expected one of speech (wav.scp) with st rows"
        )
    job = {
        "command": "mt",
        "data_dir": str(data_dir),
        "files": fingerprint(data_dir, ALL_FILES),
    }
    return make_once(out, job, ALL_FILES, lambda: _derive(data_dir, out))


def _derive(data_dir: Path, out: Path) -> dict:
    with listing(out) as file, Progress(f"mt of {data_dir}", count_rows(data_dir)) as progress:
        skipped = Skipped(str(data_dir), file)
        rows = _mt_rows(data_dir, skipped, progress)
        first = next(rows, None)
        if first is None:
            kept = 0
            _remove_rows(out)
        else:
            kept = write_datadir(out, itertools.chain([first], rows))
    read = kept + sum(skipped.counts.values())
    return {"rows": read, "kept": kept, "skipped": skipped.counts}


def _mt_rows(data_dir: Path, skipped: Skipped, progress: Progress) -> Iterator[Row]:
    for block in blocks(iter_rows(data_dir)):
        for row in block:
            if row.task != "st" or _SPEED_COPY.match(row.utt_id):
                continue
            if not row.source:
                skipped.add(row.utt_id, "no transcript", "no line in transcript, or an empty one")
            elif not row.target:
                skipped.add(row.utt_id, "empty text", "no target text")
            else:
                utt_id = f"mt-{row.utt_id}"
                yield Row(utt_id, "mt", row.src, row.tgt, row.target, source=row.source)
        progress.add(len(block))


def _remove_rows(out: Path) -> None:
    staging = make_staging(out)
    try:
        publish(staging, out, ANCHOR, ALL_FILES)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
