"""Parameter groups with their own learning rates, schedules as pure functions of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from espnet_part.trainable import PARTS


def build_optimizer(
    model: nn.Module, lr: dict[str, float], betas: list[float], weight_decay: float
) -> torch.optim.AdamW:
    """AdamW over what trains: per part one group of matrices (decayed) and one of the rest.

    Args:
        model: With its trainable policy applied.
        lr: Peak learning rate per part.
        betas: Of AdamW.
        weight_decay: Of matrices; vectors (norms, biases) have none.
    """
    groups = []
    for part in PARTS:
        named = [(n, p) for n, p in getattr(model, part).named_parameters() if p.requires_grad]
        for matrices in (True, False):
            parameters = [p for _, p in named if (p.dim() > 1) == matrices]
            if parameters:
                groups.append(
                    {
                        "params": parameters,
                        "part": part,
                        "peak_lr": lr[part],
                        "lr": lr[part],
                        "weight_decay": weight_decay if matrices else 0.0,
                    }
                )
    return torch.optim.AdamW(groups, betas=tuple(betas), eps=1e-8, fused=True)


def lr_factor(step: int, max_steps: int, warmup_steps: int, schedule: str, final: float) -> float:
    """Share of the peak rate at `step` (from 0): linear warm-up, then down to `final`."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    done = (step - warmup_steps) / max(1, max_steps - warmup_steps)
    done = min(1.0, done)
    fall = 0.5 * (1 + math.cos(math.pi * done)) if schedule == "cosine" else 1 - done
    return final + (1 - final) * fall


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Sets every group to its peak times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def gradient_norms(model: nn.Module) -> dict[str, float]:
    """Norm of the gradient per part that has one, before clipping."""
    norms = {}
    for part in PARTS:
        grads = [p.grad for p in getattr(model, part).parameters() if p.grad is not None]
        if grads:
            norms[part] = float(torch.nn.utils.get_total_norm(grads))
    return norms


def clip_gradients(model: nn.Module, norms: dict[str, float], limit: float) -> float:
    """Scales all gradients to a common norm of at most `limit`; returns the norm before."""
    total = math.sqrt(sum(norm**2 for norm in norms.values()))
    if math.isfinite(total) and total > limit:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(limit / total)
    return total
