"""The gradient of each task's loss at a checkpoint, per part: its norm, and whether tasks agree.

All parts are made trainable for the measurement, whatever the phase trained: the norm on a frozen
part says how much the task would like to move it. Dropout and augmentation are off; no step is
taken and no weight changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from espnet_part.batching import fill, row_cost
from espnet_part.dataset import ExampleLoader, collate, load_rows
from espnet_part.manifest import Manifest
from espnet_part.trainable import PARTS
from espnet_part.validation import spread


def task_rows(
    manifests: Sequence[Manifest], tasks: Sequence[str], most: int
) -> dict[str, list[tuple[int, int]]]:
    """About `most` rows (manifest, position) of each task, spread evenly over language pairs.

    Tasks without any row are left out.
    """
    out: dict[str, list[tuple[int, int]]] = {}
    for task in tasks:
        found = [_rows_of(manifest, task) for manifest in manifests]
        total = sum(map(len, found))
        rows: list[tuple[int, int]] = []
        for number, (manifest, own) in enumerate(zip(manifests, found, strict=True)):
            share = round(most * len(own) / total) if total else 0
            if share:
                rows += [(number, int(i)) for i in spread(manifest.index, own, share)]
        if rows:
            out[task] = rows
    return out


def task_batches(
    model: Any,
    manifests: list[Manifest],
    rows: Mapping[str, list[tuple[int, int]]],
    micro_cost: float,
) -> dict[str, list[dict]]:
    """Task -> collated batches within the budget of a forward; unreadable rows are left out."""
    limits = model.encoder.min_samples, model.encoder.max_samples
    loader = ExampleLoader(model.prompter, 0, 0.0, None, *limits)
    out = {}
    for task, places in rows.items():
        index = np.concatenate([manifests[m].index[i : i + 1] for m, i in places])
        costs = row_cost(index["samples"], index["n_source"], index["n_target"])
        order = np.argsort(costs, kind="stable").tolist()
        batches = []
        for piece in fill(order, costs, micro_cost):
            examples = load_rows(manifests, [places[i] for i in piece], loader, 0, [])
            batches += [collate(examples)] if examples else []
        if batches:
            out[task] = batches
    return out


def task_gradients(model: Any, batches: Mapping[str, list[dict]]) -> tuple[list[dict], list[dict]]:
    """Gradient norms per task and part, and the cosines between tasks' gradients.

    The loss is that of training: the mean over target tokens (weights of tasks are left at 1).
    One copy of the gradient per task is kept in memory.

    Args:
        model: A `PARTModel`; its trainable policy is another one afterwards, its weights are not.
        batches: From `task_batches`.

    Returns:
        Rows ``task, part, norm, weights`` (norm of the part's trained weights), ``loss`` (nats per
        token), ``tokens``; and rows ``tasks`` (two), ``part``, ``cosine``.
    """
    lora = {"llm": "lora"} if model.lora is not None else {}
    model.set_trainable({**dict.fromkeys(PARTS, "all"), **lora})
    model.task_weights = dict.fromkeys(model.task_weights, 1.0)
    model.eval()
    device = next(model.parameters()).device
    norms, kept = [], {}
    for task, own in batches.items():
        model.zero_grad(set_to_none=True)
        tokens, total = 0, 0.0
        for batch in own:
            loss, _, weight = model(**{key: value.to(device) for key, value in batch.items()})
            (loss * weight).backward()  # a sum, so that batches add up to the mean below
            tokens += int(weight)
            total += float(loss.detach() * weight)
        gradients = {part: _gradients(model, part, tokens) for part in PARTS}
        for part, grads in gradients.items():
            # A part that a task does not run (the encoder of a text row) has none, or zeros.
            norm = float(_dot(grads, grads)) ** 0.5
            weights = [p for p in getattr(model, part).parameters() if p.requires_grad]
            size = float(torch.stack([w.detach().double().norm() for w in weights]).norm())
            norms.append(
                {
                    "task": task,
                    "part": part,
                    "norm": norm,
                    "weights": size,
                    "loss": total / tokens,
                    "tokens": tokens,
                }
            )
        kept[task] = gradients
    model.zero_grad(set_to_none=True)
    model.requires_grad_(False)
    cosines = []
    for a, b in combinations(kept, 2):
        for part in PARTS:
            sizes = [float(_dot(kept[task][part], kept[task][part])) for task in (a, b)]
            if min(sizes) > 0:
                dot = float(_dot(kept[a][part], kept[b][part]))
                cosine = dot / (sizes[0] * sizes[1]) ** 0.5
                cosines.append({"tasks": [a, b], "part": part, "cosine": cosine})
    return norms, cosines


def _rows_of(manifest: Manifest, task: str) -> np.ndarray:
    if task not in manifest.meta["tasks"]:
        return np.zeros(0, dtype=np.int64)
    return np.flatnonzero(manifest.index["task"] == manifest.meta["tasks"].index(task))


def _gradients(model: Any, part: str, tokens: int) -> dict[str, Tensor]:
    named = getattr(model, part).named_parameters()
    return {name: p.grad / tokens for name, p in named if p.grad is not None}


def _dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    products = [(a[name] * b[name]).double().sum() for name in a if name in b]
    return torch.stack(products).sum() if products else torch.zeros(())
