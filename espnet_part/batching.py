"""The batch plan: which rows make step s. A pure function of (manifests, weights, seed, s).

The plan knows nothing of processes until the last moment: the rows of a step are the same for any
number of them, and are then dealt out by cost. So the position in the data is one integer, resuming
is immediate, and one process and many train on the same updates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from espnet_part.audio import SAMPLE_RATE
from espnet_part.manifest import Manifest
from espnet_part.permutation import permuted
from espnet_part.prompt import TASKS

COST_PER_SECOND = 25  # encoder and LLM work of a second of speech, counted in LLM tokens
COST_PER_ROW = 16  # the prompt
BLOCK_ROWS = 1 << 16  # rows sorted by cost at a time; bounds memory, large enough for even batches


def row_cost(samples, n_source, n_target):
    """The cost of a row in LLM tokens: the one definition that plans, budgets and statistics use.

    Args:
        samples: 16 kHz samples, 0 for text rows; a number or an array.
        n_source: Tokens of the source text; counted for text rows only.
        n_target: Tokens of the target text.
    """
    speech = COST_PER_SECOND * np.asarray(samples, dtype=np.float64) / SAMPLE_RATE
    text = np.where(np.asarray(samples) > 0, 0, n_source)
    return speech + text + n_target + COST_PER_ROW


@dataclass(frozen=True)
class _Source:
    """Rows of one task in one manifest, and how many of them an epoch draws."""

    manifest: int
    rows: np.ndarray | None  # None: all rows of the manifest
    size: int
    draws: int
    mean_cost: float


class BatchPlan:
    """Says for every step which rows it trains on.

    Args:
        manifests: Opened manifests.
        tasks: Tasks to train on; rows of others are left out.
        batch_cost: Budget of one update over all processes, in `row_cost` units.
        task_shares: Share of each task's cost in the data, e.g. ``{"asr": 1, "st": 2}``; None
            takes every row once per epoch.
        seed: Of the order.

    Raises:
        ValueError: No rows for one of the tasks, or a share for a task not trained on.
    """

    def __init__(
        self,
        manifests: list[Manifest],
        tasks: list[str],
        batch_cost: float,
        task_shares: dict[str, float] | None = None,
        seed: int = 0,
    ):
        self.manifests = manifests
        self.batch_cost = batch_cost
        self.seed = seed
        self.sources = self._make_sources(tasks, task_shares)
        self.epoch_rows = sum(source.draws for source in self.sources)
        self._starts = np.cumsum([0] + [source.draws for source in self.sources])
        self.block_rows = min(self.epoch_rows, BLOCK_ROWS)
        epoch_cost = sum(source.draws * source.mean_cost for source in self.sources)
        self.mean_cost = epoch_cost / self.epoch_rows
        steps = round(self.block_rows * self.mean_cost / batch_cost)
        self.block_steps = min(max(1, steps), self.block_rows)
        self.steps_per_epoch = self.epoch_rows * self.block_steps / self.block_rows
        self._block: tuple[int, list] = (-1, [])

    def _make_sources(self, tasks, task_shares) -> list[_Source]:
        for task in task_shares or {}:
            if task not in tasks:
                raise ValueError(f"task_shares names {task!r}, but the phase trains on {tasks}")
        found: list[tuple[str, _Source]] = []
        for number, manifest in enumerate(self.manifests):
            index = manifest.index
            names = manifest.meta["tasks"]
            present = sorted({key.split()[0] for key in manifest.meta["totals"]})
            for task in (task for task in present if task in tasks):
                totals = [v for k, v in manifest.meta["totals"].items() if k.split()[0] == task]
                size = sum(total["rows"] for total in totals)
                # A folder of one task needs no list of its rows; others take 4 bytes a row.
                rows = None if size == len(index) else _places(index["task"], names.index(task))
                cost = sum(total["cost"] for total in totals) / size
                found.append((task, _Source(number, rows, size, size, cost)))
        for task in tasks:
            if task not in {name for name, _ in found}:
                raise ValueError(
                    f"the phase trains on {task!r}, but no row of the training data has that task"
                )
        if task_shares:
            found = _weighted(found, {task: task_shares.get(task, 1.0) for task in tasks})
        return [source for _, source in found]

    def rows(self, step: int) -> list[tuple[int, int]]:
        """Rows of step `step` (from 0), as (manifest number, row number), most expensive first."""
        block, within = divmod(step, self.block_steps)
        if self._block[0] != block:
            self._block = (block, self._make_block(block))
        return self._block[1][within]

    def _make_block(self, block: int) -> list[list[tuple[int, int]]]:
        draws = np.arange(block * self.block_rows, (block + 1) * self.block_rows, dtype=np.int64)
        epochs, within = np.divmod(draws, self.epoch_rows)
        manifest_of = np.empty(len(draws), dtype=np.int64)
        row_of = np.empty(len(draws), dtype=np.int64)
        cost = np.empty(len(draws))
        for epoch in np.unique(epochs):
            chosen = np.flatnonzero(epochs == epoch)
            position = permuted(within[chosen], self.epoch_rows, self._key(1, epoch))
            source_of = np.searchsorted(self._starts, position, side="right") - 1
            for number in np.unique(source_of):
                source = self.sources[number]
                here = chosen[source_of == number]
                # The source's own endless stream: its k-th pass is its k-th permutation.
                stream = position[source_of == number] - self._starts[number]
                passes, place = np.divmod(stream + epoch * source.draws, source.size)
                for turn in np.unique(passes):
                    these = here[passes == turn]
                    row = permuted(place[passes == turn], source.size, self._key(2, number, turn))
                    row = row if source.rows is None else source.rows[row].astype(np.int64)
                    entry = self.manifests[source.manifest].index[row]
                    manifest_of[these], row_of[these] = source.manifest, row
                    cost[these] = row_cost(entry["samples"], entry["n_source"], entry["n_target"])
        rng = np.random.default_rng(self._key(3, block))
        # Like lengths together, but not always the same neighbors.
        order = np.argsort(cost * rng.uniform(0.9, 1.1, len(cost)), kind="stable")[::-1]
        # Cut at equal shares of the block's cost: always `block_steps` batches, none of them empty.
        share = (np.cumsum(cost[order]) - cost[order] / 2) / cost.sum() * self.block_steps
        count = np.arange(1, self.block_steps)
        cuts = np.searchsorted(share, count)
        # A row dearer than the whole budget moves the cuts behind it on, so that none coincide.
        cuts = np.maximum.accumulate(np.maximum(cuts, count) - count) + count
        batches = np.split(order, np.minimum(cuts, len(order) - self.block_steps + count))
        turn = rng.permutation(self.block_steps)
        return [[(int(manifest_of[i]), int(row_of[i])) for i in batches[j]] for j in turn]

    def _key(self, *parts) -> int:
        return int(np.random.SeedSequence([self.seed, *map(int, parts)]).generate_state(1)[0])

    def micro_batches(
        self, step: int, rank: int, world_size: int, micro_cost: float
    ) -> list[list[tuple[int, int]]]:
        """The rows of step `step` for one process, in pieces of at most `micro_cost`.

        Every process gets the same number of pieces; a process that has no rows left gets empty
        ones. A row dearer than `micro_cost` is a piece of its own.
        """
        rows = self.rows(step)
        cost = [self.cost(row) for row in rows]
        shares: list[list[int]] = [[] for _ in range(world_size)]
        loads = [0.0] * world_size
        for i in sorted(range(len(rows)), key=lambda i: -cost[i]):
            least = loads.index(min(loads))
            shares[least].append(i)
            loads[least] += cost[i]
        pieces = [fill(share, cost, micro_cost) for share in shares]
        count = max(len(piece) for piece in pieces)
        mine = pieces[rank] + [[]] * (count - len(pieces[rank]))
        return [[rows[i] for i in piece] for piece in mine]

    def cost(self, row: tuple[int, int]) -> float:
        """`row_cost` of one row of the manifests."""
        entry = self.manifests[row[0]].index[row[1]]
        return float(row_cost(entry["samples"], entry["n_source"], entry["n_target"]))

    def epoch_table(self) -> list[dict]:
        """What an epoch holds, by task and language pair, and each one's share of the cost."""
        table: dict[str, dict] = {}
        for source in self.sources:
            manifest = self.manifests[source.manifest]
            factor = source.draws / source.size
            for key, total in manifest.meta["totals"].items():
                task, src, tgt = key.split()
                rows_task = manifest.meta["tasks"]
                assert task in rows_task and task in TASKS
                if not self._covers(source, manifest, task):
                    continue
                line = table.setdefault(
                    key,
                    {
                        "task": task,
                        "src": src,
                        "tgt": tgt,
                        "rows": 0.0,
                        "hours": 0.0,
                        "target_tokens": 0.0,
                        "cost": 0.0,
                    },
                )
                for field in ("rows", "hours", "target_tokens", "cost"):
                    line[field] += factor * total[field]
        whole = sum(line["cost"] for line in table.values())
        return [{**line, "share": line["cost"] / whole} for _, line in sorted(table.items())]

    def _covers(self, source: _Source, manifest: Manifest, task: str) -> bool:
        if source.rows is None:
            return True
        return manifest.meta["tasks"][int(manifest.index["task"][source.rows[0]])] == task


def _places(tasks: np.ndarray, wanted: int) -> np.ndarray:
    """Where `tasks` (rows,) has `wanted`, scanned in pieces: the list alone takes memory."""
    piece = 1 << 20
    small = np.uint32 if len(tasks) <= 1 << 32 else np.int64
    found = [
        (np.flatnonzero(tasks[start : start + piece] == wanted) + start).astype(small)
        for start in range(0, len(tasks), piece)
    ]
    return np.concatenate(found)


def fill(share: list[int], cost, limit: float) -> list[list[int]]:
    """Cuts rows, in order, into pieces whose cost stays within `limit`."""
    pieces: list[list[int]] = []
    room = 0.0
    for i in share:
        if not pieces or cost[i] > room:
            pieces.append([])
            room = limit
        pieces[-1].append(i)
        room -= cost[i]
    return pieces


def _weighted(found: list[tuple[str, _Source]], shares: dict[str, float]):
    """Sets draws so that each task's cost has its share; the epoch's cost stays about the same."""
    cost = {t: sum(s.size * s.mean_cost for name, s in found if name == t) for t in shares}
    whole, weight = sum(cost.values()), sum(shares.values())
    out = []
    for task, source in found:
        factor = shares[task] / weight * whole / cost[task]
        draws = max(1, round(source.size * factor)) if shares[task] > 0 else 0
        if draws:
            out.append(
                (task, _Source(source.manifest, source.rows, source.size, draws, source.mean_cost))
            )
    return out
