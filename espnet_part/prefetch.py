"""Steps loaded ahead of need by processes of their own; their number changes nothing.

What comes back through shared memory costs a file descriptor per tensor. A step has a dozen of them
per micro-batch, many steps are under way, and where the limit (often 1024) is reached, the run
stands still without a word. So a step's waveforms travel as one tensor (cached frames as another),
and all else by value.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import signal
from collections.abc import Generator

import torch
from torch import Tensor

from espnet_part.dataset import StepDataset

PREFETCHED_STEPS = 4  # per worker
LARGE = ("speech", "frames")
Step = tuple[list[dict | None], list[str]]


def step_loader(
    dataset: StepDataset, first: int, last: int, workers: int
) -> Generator[Step, None, None]:
    """Yields ``dataset[step]`` for the steps first .. last - 1 in order.

    Who does not read to the end must close it: the processes end there.

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
    return _load(loader)


def _load(loader: torch.utils.data.DataLoader) -> Generator[Step, None, None]:
    before = set(multiprocessing.active_children())
    iterator = iter(loader)
    workers = set(multiprocessing.active_children()) - before
    try:
        yield from map(_unpack, iterator)
    finally:
        del iterator  # asks them to end, and waits some seconds
        # They ignore SIGTERM, which is all that Python would send them before it waits forever.
        for worker in workers:
            if worker.is_alive():
                worker.kill()
            worker.join()


def _start_worker(_: int) -> None:
    # One thread each: the workers must not fight the training process for its cores.
    torch.set_num_threads(1)
    logging.getLogger().setLevel(logging.WARNING)
    # Schedulers send SIGTERM to every process of a job. The training process saves and then ends
    # its workers; should they die before, it could not finish the step.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _pack(step: Step) -> tuple[dict[str, Tensor], list[dict | None], list[str]]:
    batches, skipped = step
    rest: list[dict | None] = []
    for batch in batches:
        if batch is None:
            rest.append(None)
            continue
        values = {key: value.numpy() for key, value in batch.items() if key not in LARGE}
        shapes = {key: tuple(batch[key].shape) for key in LARGE if key in batch}
        rest.append({**values, **shapes})
    flat = {
        key: torch.cat([batch[key].flatten() for batch in batches if batch and key in batch])
        for key in LARGE
        if any(batch and key in batch for batch in batches)
    }
    return flat, rest, skipped


def _unpack(packed: tuple[dict[str, Tensor], list[dict | None], list[str]]) -> Step:
    flat, rest, skipped = packed
    batches: list[dict | None] = []
    for values in rest:
        if values is None:
            batches.append(None)
            continue
        batch = {k: torch.from_numpy(v) for k, v in values.items() if k not in LARGE}
        for key in LARGE:
            if key in values:
                size = math.prod(values[key])
                batch[key] = flat[key][:size].view(values[key])
                flat[key] = flat[key][size:]
        batches.append(batch)
    return batches, skipped
