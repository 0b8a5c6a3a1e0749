"""Dev losses, and how much the model listens.

The probe repeats dev rows with another clip's audio. A model that ignores its ears loses nothing by
that; a model that listens loses much. It tells early whether the path through the adapter works.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor

from espnet_part.batching import fill, row_cost
from espnet_part.dataset import Example, ExampleLoader, collate, load_rows
from espnet_part.loss import new_table
from espnet_part.manifest import Manifest
from espnet_part.model import PARTModel
from espnet_part.parallel import Processes
from espnet_part.progress import by_task
from espnet_part.prompt import TASKS


class Validation:
    """Computes losses over dev manifests.

    Args:
        manifests: Of the dev sets.
        tasks: Tasks whose rows are read: those that the phase trains on.
        loader: Without augmentation.
        micro_cost: Budget of a forward.
        listen_rows: About how many rows to repeat with the wrong audio.
        processes: The run's processes.
        valid_rows: Rows read of each dev set, spread evenly; 0: all.
    """

    def __init__(
        self,
        manifests: list[Manifest],
        tasks: list[str],
        loader: ExampleLoader,
        micro_cost: float,
        listen_rows: int,
        processes: Processes,
        valid_rows: int = 0,
    ):
        self.manifests, self.tasks = manifests, tasks
        self.loader, self.micro_cost = loader, micro_cost
        self.listen_rows, self.processes = listen_rows, processes
        self.valid_rows = valid_rows

    @torch.no_grad()
    def run(self, model: PARTModel) -> dict[str, float]:
        """Means over all processes: loss, acc, by task and language, ``listen``; {} if no rows.

        With inner alignment ``transport`` too.
        """
        processes = self.processes
        model.eval()
        table = new_table(processes.device, self.loader.transcripts)
        probe = torch.zeros(3, dtype=torch.float64, device=processes.device)  # right, wrong, tokens
        left = self.listen_rows / processes.world_size
        batches = valid_batches(
            self.manifests,
            self.tasks,
            self.loader,
            self.micro_cost,
            processes.rank,
            processes.world_size,
            self.valid_rows,
        )
        for batch, examples in batches:
            if batch is None:
                continue
            batch = {key: value.to(processes.device) for key, value in batch.items()}
            loss, stats, weight = model(**batch)
            table += stats["table"]
            wrong = _wrong_clips(examples) if left > 0 else None
            if wrong is not None:
                left -= len(wrong)
                probe += self._probe(model, batch, stats["table"], torch.tensor(wrong))
        table, probe = processes.sum(table), processes.sum(probe)
        values = by_task(table)
        if probe[2] > 0:
            values["listen"] = float((probe[1] - probe[0]) / probe[2])
        return values

    def _probe(self, model, batch: dict, right: Tensor, wrong: Tensor) -> Tensor:
        swapped = dict(batch)
        for key in ("speech", "speech_lengths"):
            swapped[key] = batch[key][wrong.to(batch[key].device)]
        _, stats, _ = model(**swapped)
        speech = [TASKS.index("asr"), TASKS.index("st")]
        before, after = right[speech].sum((0, 1)), stats["table"][speech].sum((0, 1))
        return torch.stack([before[0], after[0], before[2]])


def _wrong_clips(examples: list[Example]) -> list[int] | None:
    """For each clip of a batch, one with other words; None if more than half say the same."""
    said = [ex.row.source or ex.row.target for ex in examples if ex.wave is not None]
    # In the order of what is said, half the clips further on others speak of something else.
    order = sorted(range(len(said)), key=lambda i: said[i])
    half = len(order) // 2
    wrong = [0] * len(order)
    for place, i in enumerate(order):
        wrong[i] = order[(place + half) % len(order)]
    return wrong if all(said[i] != said[j] for i, j in enumerate(wrong)) and wrong else None


def valid_batches(
    manifests: list[Manifest],
    tasks: list[str],
    loader: ExampleLoader,
    micro_cost: float,
    rank: int,
    world_size: int,
    most: int = 0,
):
    """Yields (batch, examples) over the dev rows of some tasks, dealt out to the processes.

    Every process yields the same number; what it has no rows for is None. Of a manifest at most
    `most` rows are read, where that is above 0.
    """
    for manifest in manifests:
        index = manifest.index
        costs = row_cost(index["samples"], index["n_source"], index["n_target"])
        wanted = [i for i, task in enumerate(manifest.meta["tasks"]) if task in tasks]
        rows = spread(index, np.flatnonzero(np.isin(index["task"], wanted)), most)
        rows = rows[np.argsort(costs[rows], kind="stable")]
        pieces = fill(rows.tolist(), costs, micro_cost)
        for start in range(0, len(pieces), world_size):
            mine = start + rank
            piece = pieces[mine] if mine < len(pieces) else []
            skipped: list[str] = []
            examples = load_rows([manifest], [(0, i) for i in piece], loader, 0, skipped)
            for line in skipped:
                logging.warning("dev row left out: %s", line)
            yield (collate(examples), examples) if examples else (None, [])


def spread(index: np.ndarray, rows: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of some rows, always the same: each task and pair keeps its share of them.

    Args:
        index: Of the manifest.
        rows: Row numbers (N,).
        most: How many to keep; 0 keeps all.
    """
    if not 0 < most < len(rows):
        return rows
    # Evenly over rows in order of the file would meet the same task each time, where every clip has
    # as many rows as the others; so the order is by task and pair first, then that of the file.
    few = index[rows]
    order = np.lexsort((few["tgt"], few["src"], few["task"]))
    return np.sort(rows[order[np.arange(most) * len(rows) // most]])
