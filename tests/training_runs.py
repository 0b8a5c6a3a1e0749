"""Training runs for the tests, in forked processes: they start in no time, and may be killed."""

import hashlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import matplotlib
import torch

from espnet_part.batching import plan_of
from espnet_part.config import Config
from espnet_part.dataset import ExampleLoader, StepDataset
from espnet_part.inner_alignment import build_alignment
from espnet_part.layer_choice import LayerChoice
from espnet_part.loop import Loop
from espnet_part.manifest import Manifest
from espnet_part.parallel import Processes
from espnet_part.schema import from_dict
from espnet_part.task import build_model
from espnet_part.trainer import dummy_batch
from espnet_part.validation import Validation

matplotlib.use("Agg")
import matplotlib.pyplot  # noqa: E402, F401  # here, once, and not in every process
import torch.utils.tensorboard  # noqa: E402, F401

FORK = multiprocessing.get_context("fork")


def no_dropout(model):
    """Rows that fall to another process meet other random numbers: equal runs need none."""
    for module in model.modules():
        for holder in (module, getattr(module, "config", None)):
            for name, value in vars(holder).items() if holder is not None else ():
                if "dropout" in name and isinstance(value, float):
                    setattr(holder, name, 0.0)
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def make_loop(values, folder, processes=None, dataset=None, dropout=True, workers=0, **changes):
    """A `Loop` as `PARTTrainer.run` makes it; `dataset` replaces (plan, loader, processes)."""
    config = from_dict(Config, {**values, **changes})
    processes = processes or Processes()
    torch.manual_seed(config.seed)
    model = build_model(config)
    if not dropout:
        no_dropout(model)
    model.set_trainable(config.trainable, config.llm_tasks)
    model.task_weights |= config.task_weights or {}
    options = config.alignment
    model.alignment = build_alignment(options, model.llm.config.num_hidden_layers)
    aligned = options is not None
    plan = plan_of(config)
    loader = ExampleLoader(
        model.prompter,
        config.seed,
        config.source_dropout,
        config.speed_perturb,
        transcripts=aligned,
    )
    make = dataset or (
        lambda plan, loader, processes: StepDataset(
            plan, loader, processes.rank, processes.world_size, config.micro_cost
        )
    )
    dev = [Manifest.open(path) for path in config.valid]
    dev_loader = ExampleLoader(model.prompter, config.seed, transcripts=aligned)
    validation = Validation(
        dev,
        config.tasks,
        dev_loader,
        config.micro_cost,
        config.listen_rows,
        processes,
        config.valid_rows,
    )
    Path(folder).mkdir(parents=True, exist_ok=True)
    loop = Loop(
        model,
        config,
        make(plan, loader, processes),
        validation,
        dummy_batch(model),
        processes,
        Path(folder),
        workers,
        tensorboard=False,
    )
    if options is not None and options.layers == "adaptive":
        settings = options.adapt_interval, options.max_layers, options.adapt_rows
        loop.layer_choice = LayerChoice(dev, dev_loader, config.micro_cost, processes, *settings)
    return loop


def digest(tensors) -> str:
    """One string for the bits of some tensors."""
    out = hashlib.sha1()
    for tensor in tensors:
        out.update(tensor.detach().contiguous().numpy().tobytes())
    return out.hexdigest()


def fork_all(functions, seconds: float) -> list[int]:
    """Runs each function in a process of its own; exit codes (negative: killed by that signal).

    A watchdog kills all of them when the time is up, or when one of them has failed: the others
    would wait for it for ever. Whoever is killed so has the exit code -9.
    """
    children = [FORK.Process(target=_guarded, args=(function,)) for function in functions]
    for child in children:
        child.start()
    end = time.monotonic() + seconds
    try:
        while any(child.is_alive() for child in children) and time.monotonic() < end:
            if any(child.exitcode for child in children):
                break
            time.sleep(0.02)
    finally:
        for child in children:
            child.join(1 if any(c.exitcode for c in children) else 0)
            if child.is_alive():
                os.kill(child.pid, signal.SIGKILL)
            child.join()
    return [child.exitcode for child in children]


def _guarded(function) -> None:
    torch.set_num_threads(1)
    try:
        function()
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def with_group(function, rank: int, world_size: int, store: Path):
    """`function(Processes)` as one rank of a gloo group that meets in the file `store`."""

    def run():
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=world_size
        )
        function(Processes(rank, world_size))
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()

    return run


def fork_group(function, world_size: int, folder: Path, seconds: float) -> None:
    """`function(Processes)` in every rank of a group, or alone; fails where one of them fails."""
    store = folder / f"store{time.monotonic_ns()}"
    if world_size == 1:
        functions = [lambda: function(Processes())]
    else:
        functions = [with_group(function, rank, world_size, store) for rank in range(world_size)]
    codes = fork_all(functions, seconds)
    assert codes == [0] * world_size, f"exit codes {codes}; -9 is the watchdog's"
