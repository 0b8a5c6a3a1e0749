"""Steps loaded ahead of need by processes of their own; their number changes nothing.

What comes back through shared memory costs a file descriptor per tensor. A step has a dozen of them
per micro-batch, many steps are under way, and where the limit (often 1024) is reached, the run
stands still without a word. So a step's waveforms travel as one tensor, and all else by value.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator

import torch
from torch import Tensor

from espnet_part.dataset import StepDataset

PREFETCHED_STEPS = 4  # per worker
Step = tuple[list[dict | None], list[str]]


def step_loader(dataset: StepDataset, first: int, last: int, workers: int) -> Iterator[Step]:
    """Yields ``dataset[step]`` for the steps first .. last - 1 in order.

    Args:
        dataset: Loads a step.
        first: Where to begin.
        last: Where to end, exclusive.
        workers: Processes that load ahead; 0 loads each step when it is asked for.
    """
    if not workers:
        return (dataset[step] for step in range(first, last))
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=None,
        sampler=range(first, last),
        collate_fn=_pack,
        num_workers=workers,
        prefetch_factor=PREFETCHED_STEPS,
        worker_init_fn=_start_worker,
    )
    return map(_unpack, loader)


def _start_worker(_: int) -> None:
    # One thread each: the workers must not fight the training process for its cores.
    torch.set_num_threads(1)
    logging.getLogger().setLevel(logging.WARNING)
    # Schedulers send SIGTERM to every process of a job. The training process saves and then ends
    # its workers; should they die before, it could not finish the step.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _pack(step: Step) -> tuple[Tensor, list[dict | None], list[str]]:
    batches, skipped = step
    speech = [batch["speech"].flatten() for batch in batches if batch is not None]
    rest: list[dict | None] = []
    for batch in batches:
        if batch is None:
            rest.append(None)
            continue
        values = {key: value.numpy() for key, value in batch.items() if key != "speech"}
        rest.append({**values, "speech": tuple(batch["speech"].shape)})
    return torch.cat(speech) if speech else torch.zeros(0), rest, skipped


def _unpack(packed: tuple[Tensor, list[dict | None], list[str]]) -> Step:
    flat, rest, skipped = packed
    batches: list[dict | None] = []
    for values in rest:
        if values is None:
            batches.append(None)
            continue
        rows, samples = values["speech"]
        speech, flat = flat[: rows * samples].view(rows, samples), flat[rows * samples :]
        tensors = {k: torch.from_numpy(v) for k, v in values.items() if k != "speech"}
        batches.append({**tensors, "speech": speech})
    return batches, skipped
