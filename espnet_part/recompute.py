"""Activation checkpointing: layers form their activations anew in the backward pass.

transformers' own acts on layers in training mode only. A frozen LLM is in eval mode, and it is just
there, where gradients pass through on their way to the adapter, that memory is short.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

_KEEP: ContextVar[bool] = ContextVar("keep_activations", default=False)


@contextmanager
def keep_activations() -> Iterator[None]:
    """Layers that run inside keep their activations all the same."""
    token = _KEEP.set(True)
    try:
        yield
    finally:
        _KEEP.reset(token)


def recompute_activations(model: nn.Module) -> None:
    """Recomputes every layer of a transformers model, trained or frozen.

    Args:
        model: A `PreTrainedModel`.

    Raises:
        ValueError: The model has no layers that can be recomputed.
    """
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ValueError(
            f"gradient_checkpointing: {type(model).__name__} has no layers that can be recomputed; "
            "set it to false"
        )
    for layer in layers:
        layer.forward = partial(_recomputed, layer.forward)


def _recomputed(plain, *args, **kwargs):
    # Decoding has no gradient, and its cache must not be written twice.
    if not torch.is_grad_enabled() or _KEEP.get():
        return plain(*args, **kwargs)
    return checkpoint(partial(plain, **kwargs), *args, use_reentrant=False)
