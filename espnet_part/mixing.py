"""What an epoch is made of: how often the rows of a task, training set and language pair come.

A *group* is the rows of one task and one language pair in one training set. Within its task, a
group of cost n has a share of n^(1/temperature), times the factors of its set and its languages.
How the tasks share the whole is `task_shares`' business alone: the rest moves cost within a task.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath

Totals = Mapping[str, Mapping[str, float]]  # of a manifest's meta.json, by "task src tgt"
Factors = Mapping[str, float] | None


@dataclass(frozen=True)
class Source:
    """Rows of one task in one manifest that come equally often in an epoch.

    Attributes:
        manifest: Its number.
        task: Of all these rows.
        keys: Their groups, as in the manifest's totals.
        size: How many rows there are.
        mean_cost: Of a row.
        draws: How many rows an epoch draws.
    """

    manifest: int
    task: str
    keys: tuple[str, ...]
    size: int
    mean_cost: float
    draws: int


def mix(
    names: Sequence[str],
    totals: Sequence[Totals],
    tasks: Sequence[str],
    task_shares: Factors = None,
    temperature: float = 1.0,
    corpus_weights: Factors = None,
    language_weights: Factors = None,
) -> list[Source]:
    """Decides how many rows an epoch draws of what; its cost stays about that of the data.

    Args:
        names: Of the training sets, see `set_names`.
        totals: Of the training sets.
        tasks: Tasks to train on; rows of others are left out.
        task_shares: Share of each task's cost, 1 for tasks it does not name; None: as in the data.
        temperature: 1 leaves groups their share of the data, more evens them out.
        corpus_weights: Glob over sets -> factor on their groups' shares.
        language_weights: ``"yue"`` or ``"en-ar"`` -> factor on their groups' shares.

    Returns:
        Sources, one per manifest and task where its groups come equally often.

    Raises:
        ValueError: No rows of one of the tasks, a share of a task not trained on, or a weight that
            nothing in the data matches.
    """
    for task in task_shares or {}:
        if task not in tasks:
            raise ValueError(f"task_shares names {task!r}, but the phase trains on {list(tasks)}")
    check_weights(names, totals, corpus_weights, language_weights)
    cost_of: dict[str, list[float]] = {task: [] for task in tasks}
    for total in totals:
        for key, counts in total.items():
            if task_of(key) in cost_of:
                cost_of[task_of(key)].append(counts["cost"])
    for task, costs in cost_of.items():
        if not costs:
            raise ValueError(
                f"the phase trains on {task!r}, but no row of the training data has that task"
            )

    def weight(name: str, key: str, cost: float) -> float:
        """How much oftener than in the data, relative to the other groups of the task."""
        flat = (cost / max(cost_of[task_of(key)])) ** (1 / temperature - 1)
        return flat * set_factor(name, corpus_weights) * (language_weights or {}).get(pair(key), 1)

    sources: list[tuple[float, Source]] = []
    for number, (name, total) in enumerate(zip(names, totals, strict=True)):
        for task in sorted({task_of(key) for key in total} & set(tasks)):
            alike: dict[float, list[str]] = {}
            for key in (key for key in total if task_of(key) == task):
                alike.setdefault(weight(name, key, total[key]["cost"]), []).append(key)
            for value, keys in alike.items():
                size = int(sum(total[key]["rows"] for key in keys))
                mean_cost = sum(total[key]["cost"] for key in keys) / size
                sources.append((value, Source(number, task, tuple(keys), size, mean_cost, size)))
    return _with_draws(sources, task_shares and {task: task_shares.get(task, 1) for task in tasks})


def _with_draws(sources: list[tuple[float, Source]], shares: Factors) -> list[Source]:
    """Sets draws from the weights and the tasks' shares."""
    tasks = shares or dict.fromkeys(source.task for _, source in sources)
    cost, weighted = dict.fromkeys(tasks, 0.0), dict.fromkeys(tasks, 0.0)
    for weight, source in sources:
        cost[source.task] += source.size * source.mean_cost
        weighted[source.task] += weight * (source.size * source.mean_cost)
    whole = sum(cost.values())
    out = []
    for weight, s in sources:
        factor = weight * (cost[s.task] / weighted[s.task])
        if shares:
            factor *= shares[s.task] / sum(shares.values()) * whole / cost[s.task]
        draws = max(1, round(s.size * factor))
        out.append(Source(s.manifest, s.task, s.keys, s.size, s.mean_cost, draws))
    return out


def task_of(key: str) -> str:
    """Task of a key of totals, ``"task src tgt"``."""
    return key.split()[0]


def pair(key: str) -> str:
    """Languages of a key of totals, as `language_weights` names them: ``yue``, ``en-ar``."""
    _, src, tgt = key.split()
    return src if src == tgt else f"{src}-{tgt}"


def set_names(folders: Sequence[str | Path]) -> list[str]:
    """Names of training sets: their manifests' folders, from where these part on.

    ``exp/part_stats/a`` and ``exp/part_stats/mt/a`` are ``a`` and ``mt/a``.
    """
    paths = [os.path.abspath(folder) for folder in folders]
    if not paths:
        return []
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [Path(path).relative_to(root).as_posix() for path in paths]


def set_factor(name: str, corpus_weights: Factors) -> float:
    """The product of the factors of all globs that match a set.

    A glob is matched from the end of the name, folder by folder, as in `pathlib`: ``cv_*`` has
    ``cv_train`` and, made of its rows, ``mt/cv_train``; ``mt/*`` has the second alone.
    """
    weights = (corpus_weights or {}).items()
    return prod(factor for glob, factor in weights if PurePosixPath(name).match(glob))


def check_weights(
    names: Sequence[str],
    totals: Sequence[Totals],
    corpus_weights: Factors,
    language_weights: Factors,
) -> None:
    """Makes sure that every weight is of something that the training sets have, in any task.

    Raises:
        ValueError: A key that matches nothing; names the nearest there are.
    """
    pairs = sorted({pair(key) for total in totals for key in total})
    for glob in corpus_weights or {}:
        if not any(PurePosixPath(name).match(glob) for name in names):
            raise ValueError(
                f"corpus_weights: no training set matches {glob!r}; {_nearest(glob, names)}"
            )
    for key in language_weights or {}:
        if key not in pairs:
            raise ValueError(
                f"language_weights: no training set has rows of {key!r}; {_nearest(key, pairs)}"
            )


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
    return f"the nearest of {len(known)} there are: {', '.join(near)}"
