"""What the scripts that prepare corpora share: from a corpus's own files to data folders.

A script `prepare_<corpus>.py` says which sets there are and reads their rows (`CorpusSet`); here
the headers of the audio files are checked by several threads, bad rows counted and listed, rows
sorted by id in bounded memory, and folders written as a whole or not at all. A set whose sources
and settings have not changed is left as it is, unless audio that was missing has come, or damaged
audio was replaced.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG

from corpus_rows import Bad, checked_rows, unique_rows
from sorted_rows import sort_rows

from espnet_part.audio import SAMPLE_RATE
from espnet_part.datadir import ALL_FILES, Row
from espnet_part.filtering import LISTING, listing, write_kept
from espnet_part.publish import make_once
from espnet_part.rowpass import Progress, Skipped

__all__ = [
    "DIRECTIONS",
    "Bad",
    "CorpusSet",
    "chosen",
    "count_lines",
    "get_parser",
    "need_folder",
    "run",
    "write_set",
    "write_sets",
]

VERSION = 1  # of what is made of a corpus: another one makes all sets again
# The paper's thirteen directions (section 3.1), source before target.
DIRECTIONS = tuple(
    [(src, "en") for src in ("zh", "ja", "de", "fr", "es", "it", "ru")]
    + [("en", tgt) for tgt in ("zh", "ja", "de", "sv", "id", "ar")]
)


@dataclass(frozen=True)
class CorpusSet:
    """One data folder that a corpus gives.

    Attributes:
        name: Folder under OUT: `train*`, `dev*`, or `<corpus>_test*_<task>_<src>[_<tgt>]`.
        sources: Tables and lists read; where one of them changes, the set is made again.
        read: Gives the rows, in any order, and the bad ones.
        total: Gives about how many rows there are, for the time left; None: not known.
        settings: Whatever else the rows hang on.
        expected: Rows of the published set, where known: another number is told at the end.
    """

    name: str
    sources: Sequence[Path]
    read: Callable[[], Iterable[Row | Bad]]
    total: Callable[[], int] | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    expected: int | None = None


def count_lines(*paths: Path) -> int:
    """Lines of some text files: what `CorpusSet.total` mostly is."""
    lines = 0
    for path in paths:
        with path.open("rb") as file:
            last = b"\n"
            while block := file.read(1 << 20):
                lines += block.count(b"\n")
                last = block[-1:]
            lines += last != b"\n"
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

    def make() -> dict:
        began_ns = time.time_ns()
        result = _write_rows(folder, corpus_set, jobs)
        return result | {"skipped_audio": _skipped_audio(folder, began_ns)}

    def outdated(result: dict) -> str:
        same = result.get("skipped_audio", "") == _skipped_audio(folder)
        return "" if same else "audio that was missing or damaged has come or changed"

    result = make_once(folder, job, ALL_FILES, make, outdated)
    return {key: value for key, value in result.items() if key != "skipped_audio"}


def _write_rows(folder: Path, corpus_set: CorpusSet, jobs: int) -> dict:
    total = corpus_set.total() if corpus_set.total else None
    with listing(folder) as file, contextlib.ExitStack() as stack:
        skipped = Skipped(str(folder), file)
        pool = stack.enter_context(ThreadPoolExecutor(max(1, jobs)))
        progress = stack.enter_context(Progress(str(folder), total))
        checked = checked_rows(corpus_set.read(), pool, skipped, progress)
        kept = _Kept()
        ordered = stack.enter_context(contextlib.closing(sort_rows(checked, folder)))
        rows = write_kept(folder, kept.count(unique_rows(ordered, skipped)), skipped)
    hours = round(kept.samples / SAMPLE_RATE / 3600, 4)
    return {"rows": progress.done, "kept": rows, "hours": hours, "skipped": skipped.counts}


def _skipped_audio(folder: Path, began_ns: int | None = None) -> str:
    """A digest of the audio files whose rows were skipped, as far as they are there.

    One that comes, or is replaced, changes it: then the set is made again.

    Args:
        folder: Of the set, with its listing of skipped rows.
        began_ns: When it began to be made: what has changed since may have been read before, and
            counts as changed at the next call.
    """
    digest, last = hashlib.sha1(), None
    if not (folder / LISTING).exists():  # somebody has removed it
        return ""
    with (folder / LISTING).open(encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            found = _file_named(line.rstrip("\n").split("\t")[-1])
            if found is None or found[0] == last:
                continue
            last, stat = found
            state = [stat.st_size, stat.st_mtime_ns]
            if began_ns is not None and stat.st_ctime_ns >= began_ns:
                state = ["changed meanwhile"]
            digest.update(f"{last} {state}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest() if last is not None else ""


def _file_named(detail: str) -> tuple[str, os.stat_result] | None:
    """The file that a message begins with ("a.wav: truncated: ..."), if it is there."""
    end = detail.find(": ")
    while end >= 0:
        with contextlib.suppress(OSError, ValueError):
            if S_ISREG((stat := os.stat(detail[:end])).st_mode):
                return detail[:end], stat
        end = detail.find(": ", end + 1)
    return None


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


def write_sets(sets: Sequence[CorpusSet], out: Path, jobs: int) -> None:
    """Writes all sets and prints what came of each; one that fails does not stop the others.

    Raises:
        ValueError: There is none, or some could not be written, with the message of each.
    """
    if not sets:
        raise ValueError("no set is left to write; see --langs and --splits")
    problems, warnings = [], []
    for corpus_set in sets:
        try:
            result = write_set(out, corpus_set, jobs)
        except UnicodeDecodeError as err:
            problems.append(f"{out / corpus_set.name}: one of its tables is not UTF-8: {err}")
            continue
        except (ValueError, OSError) as err:
            problems.append(str(err))
            continue
        hours = f", {result['hours']:,.2f} h" if result["hours"] else ""
        print(f"{out / corpus_set.name}: {result['kept']:,} of {result['rows']:,} rows{hours}")
        for reason, rows in sorted(result["skipped"].items()):
            print(f"  skipped {rows:,}: {reason}")
        if result["skipped"]:
            print(f"  listed in {out / corpus_set.name / 'skipped.tsv'}", flush=True)
        if corpus_set.expected is not None and corpus_set.expected != result["kept"]:
            warnings.append(_other_size(out / corpus_set.name, result["kept"], corpus_set.expected))
    for warning in warnings:  # last, where they are seen
        print(warning, flush=True)
    if problems:
        raise ValueError("\n".join(dict.fromkeys(problems)))  # sets may share a bad table


def _other_size(folder: Path, kept: int, expected: int) -> str:
    line = f"WARNING: {folder}: {kept:,} rows, {expected:,} were published"
    return f"{line}: its scores do not compare with others'" if "_test_" in folder.name else line


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
    make_sets: Callable[[argparse.Namespace], Iterable[CorpusSet]],
    argv: Sequence[str] | None = None,
    out: Callable[[argparse.Namespace], Path] | None = None,
) -> int:
    """Runs a corpus's command.

    Args:
        parser: Of `get_parser`, or one that gives `nj` and what `make_sets` and `out` read.
        make_sets: From what was given to the sets to write.
        argv: Arguments; None: the command line's.
        out: Gives the folder that the sets go to, which other calls may share. None: `args.out`,
            the corpus's own, whose other data folders are told: the recipe would use them, too.

    Returns:
        The exit status: 0 if all sets are there.
    """
    args = parser.parse_args(argv)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s (%(module)s:%(lineno)d) %(levelname)s: %(message)s"
    )
    try:
        if args.nj < 1:
            raise ValueError(f"--nj: found {args.nj}, expected 1 or more")
        sets = list(make_sets(args))
        write_sets(sets, args.out if out is None else out(args), args.nj)
        if out is None:
            _tell_others(args.out, {corpus_set.name for corpus_set in sets})
    except (ValueError, OSError) as err:
        print(f"{parser.prog}: error: {err}", file=sys.stderr)
        return 1
    return 0


def _tell_others(out: Path, made: set[str]) -> None:
    """Prints which data folders of `out` this call did not make."""
    others = sorted({path.parent.name for path in out.glob("*/utt2task")} - made)
    if others:
        print(
            f"{out}: left from an earlier call: {' '.join(others)}; the recipe uses every set "
            "there: remove them, or name those to use by --train_set, --valid_set and --test_sets"
        )
