"""What the scripts that prepare corpora share: from a corpus's own files to data folders.

A script `prepare_<corpus>.py` says which sets there are and reads their rows (`CorpusSet`); here
the headers of the audio files are checked by several threads, bad rows counted and listed, rows
sorted by id in bounded memory, and folders written as a whole or not at all. A set whose sources
and settings have not changed is left as it is.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from sorted_rows import sort_rows

from espnet_part.audio import SAMPLE_RATE, AudioError
from espnet_part.datadir import ALL_FILES, Row
from espnet_part.filtering import listing, write_kept
from espnet_part.publish import read_stamp, write_stamp
from espnet_part.rowpass import Progress, Skipped, blocks, read_headers, row_samples

VERSION = 1  # of what is made of a corpus: another one makes all sets again
# The paper's thirteen directions (section 3.1), source before target.
DIRECTIONS = tuple(
    [(src, "en") for src in ("zh", "ja", "de", "fr", "es", "it", "ru")]
    + [("en", tgt) for tgt in ("zh", "ja", "de", "sv", "id", "ar")]
)


@dataclass(frozen=True)
class Bad:
    """A row that the corpus's own tables show to be unusable.

    Attributes:
        utt_id: Of the row, or what comes nearest to an id, such as `test.tsv:17`.
        reason: A few words to count by, without names or numbers.
        detail: What was found.
    """

    utt_id: str
    reason: str
    detail: str


@dataclass(frozen=True)
class CorpusSet:
    """One data folder that a corpus gives.

    Attributes:
        name: Folder under OUT: `train*`, `dev*`, or `<corpus>_test*_<task>_<src>[_<tgt>]`.
        sources: Tables and lists read; where one of them changes, the set is made again.
        read: Gives the rows, in any order, and the bad ones.
        total: Gives about how many rows there are, for the time left; None: not known.
        settings: Whatever else the rows hang on.
    """

    name: str
    sources: Sequence[Path]
    read: Callable[[], Iterable[Row | Bad]]
    total: Callable[[], int] | None = None
    settings: Mapping[str, object] = field(default_factory=dict)


def count_lines(*paths: Path) -> int:
    """Lines of some text files: what `CorpusSet.total` mostly is."""
    lines = 0
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                lines += block.count(b"\n")
    return lines


def write_set(out: Path, corpus_set: CorpusSet, jobs: int) -> dict:
    """Writes one set, or finds that it is up to date.

    Args:
        out: The corpus's folder, e.g. data/fleurs; the set goes to `out`/<name>, and what was
            skipped is listed in `skipped.tsv` there.
        corpus_set: What to write.
        jobs: Threads that read audio headers.

    Returns:
        {"rows": rows read, "kept": rows written, "hours": of audio, "skipped": {reason: rows}}.

    Raises:
        ValueError: No row is left, or a source is missing or not what it should be.
    """
    folder = out / corpus_set.name
    job = {
        "version": VERSION,
        "sources": {str(path): _state(path) for path in corpus_set.sources},
        "settings": dict(corpus_set.settings),
    }
    if (result := read_stamp(folder, job, ALL_FILES)) is not None:
        return result
    total = corpus_set.total() if corpus_set.total else None
    with listing(folder) as file, contextlib.ExitStack() as stack:
        skipped = Skipped(str(folder), file)
        pool = stack.enter_context(ThreadPoolExecutor(max(1, jobs)))
        progress = stack.enter_context(Progress(str(folder), total))
        checked = _checked(corpus_set.read(), pool, skipped, progress)
        kept = _Kept()
        ordered = stack.enter_context(contextlib.closing(sort_rows(checked, folder)))
        rows = write_kept(folder, kept.count(_unique(ordered, skipped)), skipped)
    hours = round(kept.samples / SAMPLE_RATE / 3600, 4)
    result = {"rows": progress.done, "kept": rows, "hours": hours, "skipped": skipped.counts}
    write_stamp(folder, job, ALL_FILES, result)
    return result


def _state(path: Path) -> list[int]:
    try:
        stat = path.stat()
    except OSError:
        raise ValueError(f"{path}: no such file; is the corpus complete?") from None
    return [stat.st_size, stat.st_mtime_ns]


class _Kept:
    """Adds up the audio of the rows that pass."""

    def __init__(self):
        self.samples = 0

    def count(self, rows: Iterable[tuple[Row, int]]) -> Iterator[Row]:
        for row, samples in rows:
            self.samples += samples
            yield row


def _checked(
    found: Iterable[Row | Bad], pool: ThreadPoolExecutor, skipped: Skipped, progress: Progress
) -> Iterator[tuple[Row, int]]:
    """Rows that can be used, with their samples at 16 kHz."""
    for block in blocks(found):
        headers = read_headers([row for row in block if isinstance(row, Row)], pool)
        for row in block:
            if isinstance(row, Bad):
                skipped.add(row.utt_id, row.reason, row.detail)
            elif not row.target.strip():
                skipped.add(row.utt_id, "empty text", "no target text")
            elif row.path is None and not (row.source or "").strip():
                skipped.add(row.utt_id, "empty source", "no source text")
            else:
                try:
                    yield row, row_samples(row, headers)
                except AudioError as err:
                    skipped.add(row.utt_id, err.reason, str(err))
        progress.add(len(block))


def _unique(rows: Iterable[tuple[Row, int]], skipped: Skipped) -> Iterator[tuple[Row, int]]:
    """Sorted rows without those whose id was there already; the first one read stays."""
    last = None
    for row, samples in rows:
        if row.utt_id == last:
            skipped.add(row.utt_id, "id twice", "an earlier row has this id")
        else:
            last = row.utt_id
            yield row, samples


def write_sets(sets: Sequence[CorpusSet], out: Path, jobs: int) -> None:
    """Writes all sets and prints what came of each; one that fails does not stop the others.

    Raises:
        ValueError: There is none, or some could not be written, with the message of each.
    """
    if not sets:
        raise ValueError("no set is left to write; see --langs and --splits")
    problems = []
    for corpus_set in sets:
        try:
            result = write_set(out, corpus_set, jobs)
        except ValueError as err:
            problems.append(str(err))
            continue
        hours = f", {result['hours']:,.2f} h" if result["hours"] else ""
        print(f"{out / corpus_set.name}: {result['kept']:,} of {result['rows']:,} rows{hours}")
        for reason, rows in sorted(result["skipped"].items()):
            print(f"  skipped {rows:,}: {reason}")
        if result["skipped"]:
            print(f"  listed in {out / corpus_set.name / 'skipped.tsv'}", flush=True)
    if problems:
        raise ValueError("\n".join(problems))


def chosen(known: Sequence[str], wanted: Sequence[str] | None, option: str) -> list[str]:
    """Those of `known` that an option names; all of them where it is not given.

    Raises:
        ValueError: Something unknown is wanted.
    """
    for name in wanted or []:
        if name not in known:
            raise ValueError(f"{option}: found {name!r}, expected some of {' '.join(known)}")
    return [name for name in known if wanted is None or name in wanted]


def need_folder(folder: Path, card: str) -> Path:
    """Returns `folder`; if it is missing, raises ValueError that says where to get the corpus."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder. {card}")
    return folder


def get_parser(
    doc: str, langs: Sequence[str], splits: Sequence[str], fetchable: bool
) -> argparse.ArgumentParser:
    """The options that every corpus has.

    Args:
        doc: The script's docstring, the corpus's card.
        langs: Languages, or directions such as de-en.
        splits: Of the corpus.
        fetchable: Whether the script can fetch the corpus.
    """
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=doc, formatter_class=raw)
    parser.add_argument("corpus", type=Path, help="folder of the corpus as it was published")
    parser.add_argument("out", type=Path, help="where the data folders go, e.g. data/<corpus>")
    if len(langs) > 1:
        parser.add_argument("--langs", nargs="+", help=f"some of: {' '.join(langs)} (all)")
    parser.add_argument("--splits", nargs="+", help=f"some of: {' '.join(splits)} (all)")
    parser.add_argument("--nj", type=int, default=8, help="threads that read audio headers (8)")
    # Always understood: without a way to fetch it, the missing folder's message says what to do.
    hint = "fetch what CORPUS lacks" if fetchable else argparse.SUPPRESS
    parser.add_argument("--fetch", action="store_true", help=hint)
    return parser


def run(
    parser: argparse.ArgumentParser,
    make_sets: Callable[[argparse.Namespace], Sequence[CorpusSet]],
    argv: Sequence[str] | None = None,
) -> int:
    """Runs a corpus's command; returns the exit status."""
    args = parser.parse_args(argv)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s (%(module)s:%(lineno)d) %(levelname)s: %(message)s"
    )
    try:
        if args.nj < 1:
            raise ValueError(f"--nj: found {args.nj}, expected 1 or more")
        write_sets(make_sets(args), args.out, args.nj)
    except (ValueError, OSError) as err:
        print(f"{parser.prog}: error: {err}", file=sys.stderr)
        return 1
    return 0
