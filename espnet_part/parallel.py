"""Several processes: what the loop needs of them, and nothing where there is one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Processes:
    """The processes of a run.

    Attributes:
        rank: This one.
        world_size: How many.
        device: Where this one computes.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def first(self) -> bool:
        """Whether this process writes logs and files."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the processes, on every one of them."""
        if self.world_size > 1:
            values = values.clone().to(self.device)
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any process."""
        if self.world_size == 1:
            return flag
        return bool(self.sum(torch.tensor([float(flag)])).item())

    def barrier(self) -> None:
        """Waits for all."""
        if self.world_size > 1:
            dist.barrier()

    def wrap(self, model: nn.Module, some_unused: bool = False) -> nn.Module:
        """The model as one whose backward averages gradients over the processes.

        Args:
            model: On its device.
            some_unused: Whether a step may leave parameters without a gradient; looking for them
                takes a walk over the graph in every step.
        """
        if self.world_size == 1:
            return model
        on_gpu = self.device.type == "cuda"
        return nn.parallel.DistributedDataParallel(
            model,
            device_ids=[self.device.index] if on_gpu else None,
            broadcast_buffers=False,  # frozen statistics do not move
            gradient_as_bucket_view=True,
            find_unused_parameters=some_unused,
        )


def unused_parameters(model: nn.Module, batch: dict) -> list[str]:
    """Names of trainable parameters that get no gradient from a batch that runs every part.

    Some models own such parameters (an embedding for masked spans), mixtures of experts choose
    among theirs. The processes would wait for gradients that never come.
    """
    loss, _, _ = model(**batch)
    loss.backward()
    trainable = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    unused = [name for name, parameter in trainable if parameter.grad is None]
    model.zero_grad(set_to_none=True)
    return unused


def no_sync(model: nn.Module, skip: bool):
    """Context in which a wrapped model's backward does not talk to the others, if `skip`."""
    import contextlib

    if skip and isinstance(model, nn.parallel.DistributedDataParallel):
        return model.no_sync()
    return contextlib.nullcontext()
