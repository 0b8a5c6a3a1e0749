"""The batch plan: which rows make step s. A pure function of (manifests, weights, seed, s).

The plan knows nothing of processes until the last moment: the rows of a step are the same for any
number of them, and are then dealt out by cost. So the position in the data is one integer, resuming
is immediate, and one process and many train on the same updates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from espnet_part.audio import SAMPLE_RATE
from espnet_part.config import Config
from espnet_part.manifest import Manifest
from espnet_part.mixing import Source, mix, set_names
from espnet_part.permutation import permuted

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


class BatchPlan:
    """Says for every step which rows it trains on.

    Args:
        manifests: Opened manifests.
        tasks: Tasks to train on; rows of others are left out.
        batch_cost: Budget of one update over all processes, in `row_cost` units.
        task_shares: Share of each task's cost in the data, e.g. ``{"asr": 1, "st": 2}``; None
            leaves it as it is.
        seed: Of the order.
        temperature: How even the groups of a task are, see `mixing`.
        corpus_weights: Factors on the shares of training sets, by glob.
        language_weights: Factors on the shares of languages and pairs. Without any of these four,
            an epoch has every row once.

    Attributes:
        sources: What an epoch draws from.
        places: Row numbers of each source; None where it is all rows of its manifest.

    Raises:
        ValueError: No rows for one of the tasks, a share for a task not trained on, or a weight
            that matches nothing.
    """

    def __init__(
        self,
        manifests: list[Manifest],
        tasks: list[str],
        batch_cost: float,
        task_shares: dict[str, float] | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        corpus_weights: dict[str, float] | None = None,
        language_weights: dict[str, float] | None = None,
    ):
        self.manifests = manifests
        self.batch_cost = batch_cost
        self.seed = seed
        self.names = set_names([manifest.folder for manifest in manifests])
        self.sources = mix(
            self.names,
            [manifest.meta["totals"] for manifest in manifests],
            tasks,
            task_shares,
            temperature,
            corpus_weights,
            language_weights,
        )
        self.places = self._find_places()
        self.epoch_rows = sum(source.draws for source in self.sources)
        self._starts = np.cumsum([0] + [source.draws for source in self.sources])
        self.block_rows = min(self.epoch_rows, BLOCK_ROWS)
        epoch_cost = sum(source.draws * source.mean_cost for source in self.sources)
        self.mean_cost = epoch_cost / self.epoch_rows
        steps = round(self.block_rows * self.mean_cost / batch_cost)
        self.block_steps = min(max(1, steps), self.block_rows)
        self.steps_per_epoch = self.epoch_rows * self.block_steps / self.block_rows
        self._block: tuple[int, list] = (-1, [])

    def _find_places(self) -> list[np.ndarray | None]:
        places: list[np.ndarray | None] = [None] * len(self.sources)
        for number, manifest in enumerate(self.manifests):
            own = [i for i, source in enumerate(self.sources) if source.manifest == number]
            # A folder of one source needs no list of its rows; others take 4 bytes a row.
            if any(self.sources[i].size < len(manifest) for i in own):
                lists = _places(manifest, [self.sources[i] for i in own])
                for i, rows in zip(own, lists, strict=True):
                    places[i] = rows
        return places

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
                    rows = self.places[number]
                    row = row if rows is None else rows[row].astype(np.int64)
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
        """What an epoch holds, by task, language pair and set, and each one's share of the cost.

        ``times`` says how often a row comes.
        """
        table: list[dict] = []
        for source in self.sources:
            totals = self.manifests[source.manifest].meta["totals"]
            times = source.draws / source.size
            for key in source.keys:
                task, src, tgt = key.split()
                line = {"task": task, "src": src, "tgt": tgt, "set": self.names[source.manifest]}
                counts = ("rows", "hours", "target_tokens", "cost")
                drawn = {field: times * totals[key][field] for field in counts}
                table.append({**line, "times": times, **drawn})
        whole = sum(line["cost"] for line in table)
        table.sort(key=lambda line: (line["task"], line["src"], line["tgt"], line["set"]))
        return [{**line, "share": line["cost"] / whole} for line in table]


def plan_of(config: Config) -> BatchPlan:
    """The batch plan that a phase trains on."""
    return BatchPlan(
        [Manifest.open(folder) for folder in config.train],
        config.tasks,
        config.batch_cost,
        config.task_shares,
        config.seed,
        config.temperature,
        config.corpus_weights,
        config.language_weights,
    )


def _places(manifest: Manifest, sources: Sequence[Source]) -> list[np.ndarray]:
    """Row numbers of each source of a manifest, found in one pass; the lists alone take memory."""
    tasks, languages = manifest.meta["tasks"], manifest.meta["languages"]
    source_of = np.full((len(tasks), len(languages), len(languages)), -1, np.int16)
    for number, source in enumerate(sources):
        alone = [other.task for other in sources].count(source.task) == 1
        for task, src, tgt in (key.split() for key in source.keys):
            if alone:  # all that a task has needs no look at the languages
                source_of[tasks.index(task)] = number
            else:
                source_of[tasks.index(task), languages.index(src), languages.index(tgt)] = number
    small = np.uint32 if len(manifest) <= 1 << 32 else np.int64
    places = [np.empty(source.size, small) for source in sources]
    filled = [0] * len(sources)
    piece = 1 << 18  # looking up takes 32 bytes a row
    for start in range(0, len(manifest), piece):
        index = manifest.index[start : start + piece]
        found = source_of[index["task"], index["src"], index["tgt"]]
        for number, rows in enumerate(places):
            here = np.flatnonzero(found == number) + start
            rows[filled[number] : filled[number] + len(here)] = here
            filled[number] += len(here)
    assert filled == [source.size for source in sources], "totals are not those of the index"
    return places


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
