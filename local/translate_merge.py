"""Making the data folder of st rows out of transcripts and finished work logs.

Memory: 24 bytes per translation (48 while they are sorted), whatever the size of the data folder.
"""

import heapq
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from translate_filter import EMPTY_SOURCE, SOURCE_TOO_LONG, VERSION, find_fault
from translate_log import FOLDER, WorkIndex, check_settings, is_done, list_logs, work_key
from translate_work import Work, iter_work

from espnet_part.datadir import ALL_FILES, Row, count_rows, normalize_text
from espnet_part.filtering import listing, write_kept
from espnet_part.hypotheses import is_empty
from espnet_part.publish import lock, read_stamp, write_stamp
from espnet_part.rowpass import Progress, Skipped

_SUFFIX = "-asr"
_SHOWN_CHARS = 120


def merge_job(work: Work) -> dict:
    """What an output folder is stamped with."""
    return {"command": "translate", "settings": work.settings, "filters": VERSION}


def find_made(work: Work) -> dict | None:
    """The result of an earlier call, if it has made the folder just so."""
    return read_stamp(work.out, merge_job(work), ALL_FILES)


def is_complete(out: Path) -> bool:
    """Whether all parts of some number of parts are through."""
    return not _unfinished(out)


def check_complete(out: Path) -> None:
    """Raise ValueError, naming what is missing, unless `is_complete`."""
    missing = _unfinished(out)
    if missing:
        raise ValueError(
            f"{out}: not translated to the end yet: {', '.join(missing)}; run these parts (again), "
            "they go on where they ended"
        )


def _unfinished(out: Path) -> list[str]:
    """Parts that are missing of the numbers of parts tried; none if one of these is complete."""
    tried = {int(re.split(r"[-.]", path.name)[3]) for path in list_logs(out)}
    missing = []
    for parts in sorted(tried):
        paths = [out / FOLDER / f"part-{part}-of-{parts}.jsonl" for part in range(1, parts + 1)]
        unfinished = [path.stem.replace("-", " ") for path in paths if not is_done(path)]
        if not unfinished:
            return []
        missing += unfinished
    return missing or ["everything"]


def merge(work: Work) -> dict:
    """Write the st rows whose translations pass the filters.

    Args:
        work: what was translated; its logs are complete.

    Returns:
        {"rows": rows read, "asr": of these asr, "kept": st rows written, "skipped": {reason: rows},
        a row counted once per target language}.

    Raises:
        ValueError: logs are incomplete or were made with other settings, or no row is left.
    """
    check_complete(work.out)
    logs = list_logs(work.out)
    for path in logs:
        check_settings(path, work.settings)
    # Parts that are through at the same moment both come here: the second finds all made.
    with lock(work.out / FOLDER / "merge.lock", str(work.out), wait=True):
        if (made := find_made(work)) is not None:
            return made
        index = WorkIndex(logs)
        counts = {"rows": 0, "asr": 0}
        total = count_rows(work.data_dir)
        with listing(work.out) as file, Progress(f"write {work.out}", total) as progress:
            skipped = Skipped(str(work.out), file)
            rows = in_order(_translated(work, index, skipped, counts, progress))
            kept = write_kept(work.out, rows, skipped)
        index.close()
        result = {**counts, "kept": kept, "skipped": skipped.counts}
        write_stamp(work.out, merge_job(work), ALL_FILES, result)
    return result


def _translated(
    work: Work, index: WorkIndex, skipped: Skipped, counts: dict, progress: Progress
) -> Iterator[tuple[str, list[Row]]]:
    """For every row read: the rows' hold (see `in_order`) and its st rows."""
    for row, targets in iter_work(work.data_dir, work.targets):
        counts["rows"] += 1
        counts["asr"] += row.task == "asr"
        rows = []
        for tgt in sorted(targets):
            utt_id = f"{row.utt_id.removesuffix(_SUFFIX)}-st-{tgt}"
            fault, translation = _look_up(index, row, tgt, work.out)
            if fault is not None:
                shown = f"{row.target[:_SHOWN_CHARS]} -> {translation[:_SHOWN_CHARS]}"
                skipped.add(utt_id, fault, shown)
                continue
            rows.append(
                Row(
                    utt_id=utt_id,
                    task="st",
                    src=row.src,
                    tgt=tgt,
                    target=translation,
                    path=row.path,
                    start_sec=row.start_sec,
                    end_sec=row.end_sec,
                    source=row.target,
                    speaker=row.speaker,
                )
            )
        yield row.utt_id, rows
        progress.add(1)


def _look_up(index: WorkIndex, row: Row, tgt: str, out: Path) -> tuple[str | None, str]:
    """What is wrong with a translation (None: nothing), and the translation."""
    if is_empty(row.target):
        return EMPTY_SOURCE, ""
    found = index.get(work_key(row.src, tgt, row.target))
    if found is None:
        raise ValueError(
            f"{out}: the logs lack the translation of {row.utt_id} into {tgt}; remove "
            f"{out / FOLDER} or give --restart"
        )
    if "text" not in found:
        return SOURCE_TOO_LONG, ""
    text = normalize_text(found["text"])
    return find_fault(row.target, text, row.src, tgt, found["cut"]), text


def in_order(groups: Iterator[tuple[str, list[Row]]]) -> Iterator[Row]:
    """Put rows into the order of their own ids.

    Ids rise on the way in, but `a-asr < a-b-asr` gives `a-st-de > a-b-st-de`. Only a clip whose id
    begins like another's can come before that one's rows: these are held as long as such ids come.

    Args:
        groups: (id of the row read, rows made of it), ids rising.
    """
    held: list[tuple[bytes, int, str, Row]] = []
    number = itertools.count()  # rows themselves have no order
    for utt_id, rows in groups:
        while held and not utt_id.startswith(held[0][2]):
            yield heapq.heappop(held)[3]
        clip = utt_id.removesuffix(_SUFFIX)
        begin = f"{clip}-" if clip != utt_id else clip
        for row in rows:
            heapq.heappush(held, (row.utt_id.encode(), next(number), begin, row))
    while held:
        yield heapq.heappop(held)[3]
