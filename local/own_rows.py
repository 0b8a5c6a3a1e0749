"""What the importers of anyone's own data share: options, ids, and which folder a row goes to."""

from __future__ import annotations

import argparse
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from corpus import Bad, CorpusSet
from languages import language_code

from espnet_part.datadir import Row
from espnet_part.prompt import LANGUAGES

Read = Callable[[], Iterable[Row | Bad]]
Kind = tuple[str, str, str]  # task, source, target


class RowError(ValueError):
    """A row that cannot be used.

    Attributes:
        reason: A few words to count by.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


def need_language(name: object, key: str) -> str:
    """The code of a language that a row names.

    Raises:
        RowError: None is named, or an unknown one.
    """
    if name is None or name == "":
        raise RowError("no language", f"no {key}; name it in the row, or for all rows by --{key}")
    code = language_code(name) if isinstance(name, str) else None
    if code is None:
        raise RowError(f"unknown {key}", f"{key} {name!r}; expected {' '.join(LANGUAGES)}")
    return code


def seconds(value: object, key: str) -> float | None:
    """A time in seconds; None where it is not given, or is Python's word for that in a string.

    Raises:
        RowError: No number, or one below zero.
    """
    if value is None or value == "None":
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise RowError("bad time", f"{key} {value!r}; expected seconds, 0 or more")
    return number


def row_id(clip: str, task: str, tgt: str) -> str:
    """`<clip>-asr` or `<clip>-<task>-<tgt>`; a clip that has it already keeps it."""
    ending = "-asr" if task == "asr" else f"-{task}-{tgt}"
    clip = "_".join(clip.split())
    return clip if clip.endswith(ending) else clip + ending


def derived_clip(name: str, *parts: object) -> str:
    """A name for what has none: the same in every run and on every machine.

    Args:
        name: What is readable of it, e.g. the stem of a file.
        parts: What tells it from others, as it stands in the user's own file.
    """
    digest = hashlib.sha1("\n".join(map(str, parts)).encode("utf-8", "surrogatepass"))
    return f"{name}-{digest.hexdigest()[:12]}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that all importers have."""
    parser.add_argument("out", type=Path, help="data folder, e.g. data/mine/train")
    parser.add_argument(
        "--test_sets",
        metavar="NAME",
        help="OUT is a corpus, e.g. data/mine, and gets one set per task and language pair: "
        "NAME_test_asr_de, NAME_test_st_de_en ...",
    )
    parser.add_argument(
        "--audio_root", type=Path, help="folder that relative audio paths start from"
    )
    parser.add_argument("--nj", type=int, default=8, help="threads that read audio headers (8)")


def out_folder(args: argparse.Namespace) -> Path:
    """Folder that the sets of `split_sets` go to."""
    return args.out if args.test_sets else args.out.parent


def split_sets(
    args: argparse.Namespace, read: Read, sources: Sequence[Path], settings: Mapping[str, object]
) -> list[CorpusSet]:
    """The sets that rows of all kinds need; reads all rows once to see what there is.

    Without --test_sets: OUT for speech, OUT_text for text rows (OUT, where there are only those).
    Rows that are bad before it is known where they belong are listed with the first set.

    Args:
        args: Of `add_options`.
        read: Gives the rows.
        sources: Files they hang on.
        settings: Options they hang on.
    """
    kinds: Counter[Kind | None] = Counter(
        _kind(row) if isinstance(row, Row) else None for row in read()
    )
    bad = kinds.pop(None, 0)
    mixed = len({_is_text(kind) for kind in kinds if kind}) == 2

    def set_of(kind: Kind) -> str:
        task, src, tgt = kind
        if args.test_sets:
            return f"{args.test_sets}_test_{task}_{src}" + ("" if src == tgt else f"_{tgt}")
        return args.out.name + ("_text" if mixed and _is_text(kind) else "")

    rows: Counter[str] = Counter()
    for kind, number in kinds.items():
        if kind is not None:
            rows[set_of(kind)] += number
    # Where nothing can be used, one set remains, whose error says why.
    names = sorted(rows) or [args.test_sets or args.out.name]
    rows[names[0]] += bad

    def read_set(name: str) -> Iterator[Row | Bad]:
        for row in read():
            if name == (set_of(_kind(row)) if isinstance(row, Row) else names[0]):
                yield row

    def make_set(name: str) -> CorpusSet:
        return CorpusSet(name, sources, lambda: read_set(name), lambda: rows[name], settings)

    return [make_set(name) for name in names]


def _kind(row: Row) -> Kind:
    return row.task, row.src, row.tgt


def _is_text(kind: Kind) -> bool:
    return kind[0] in ("mt", "instruct")
