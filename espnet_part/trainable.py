"""The trainable policy: which parameters of encoder, adapter and LLM a phase trains.

One statement decides: names are resolved, then ``requires_grad`` is set for *every* parameter, so
the result never depends on what was trainable before. Frozen means eval mode as well.
"""

from __future__ import annotations

import difflib
import fnmatch

import torch
from torch import nn

PARTS = ("encoder", "adapter", "llm")


def select_names(model: nn.Module, policy: dict) -> set[str]:
    """Names of the parameters that `policy` trains.

    Args:
        model: Has attributes encoder, adapter, llm; its encoder has `layers` and `tail`.
        policy: ``{part: selector}``; a selector is ``none``, ``all``, ``last:N`` (the encoder's
            last N blocks in order of computation and what follows them), ``lora`` (the LLM's LoRA
            tensors), or a list of globs on the parameter names within the part.

    Returns:
        Full names such as ``encoder.layers.9.mlp.fc1.weight``.

    Raises:
        ValueError: An unknown part or selector, or one that matches nothing.
    """
    unknown = set(policy) - set(PARTS)
    if unknown:
        raise ValueError(f"trainable: unknown part {sorted(unknown)}; expected {' '.join(PARTS)}")
    names: set[str] = set()
    for part in PARTS:
        selector = policy.get(part, "none")
        inside = _select(part, getattr(model, part), selector)
        names |= {f"{part}.{name}" for name in inside}
    return names


def apply_policy(model: nn.Module, names: set[str]) -> None:
    """Makes exactly `names` trainable, in fp32, and freezes the rest in its own dtype.

    A master weight must be fp32: an update of 1e-5 is below bf16's resolution for most weights.
    What an earlier policy trained stays in fp32 when it is frozen: rounding would undo its updates.

    Args:
        model: With `own_dtypes`: name -> the dtype that its source was loaded in.
        names: Full parameter names.
    """
    for name, parameter in model.named_parameters():
        trains = name in names
        parameter.requires_grad_(trains)
        parameter.grad = None
        if trains and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
    for part in PARTS:
        _narrow_again(model, part, names)
    match_statistics(model)
    model.train(model.training)


def match_statistics(model: nn.Module) -> None:
    """Gives batch norms' statistics the dtype of their weights, which torch asks for."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.weight is not None:
            for buffer in module.buffers(recurse=False):
                if buffer.is_floating_point():
                    buffer.data = buffer.data.to(module.weight.dtype)


def set_modes(model: nn.Module, training: bool) -> None:
    """Sets train or eval mode; what is frozen stays in eval mode (dropout, norm statistics)."""
    nn.Module.train(model, False)
    if training:
        found: dict[nn.Module, bool | None] = {}
        _find_trained(model, found)
        _train_where_trainable(model, True, found)


def part_table(model: nn.Module, lr: dict[str, float]) -> list[dict]:
    """Rows part, parameters, trainable, per cent, learning rate, dtype; the last one is the sum."""
    rows = []
    for part in (*PARTS, "total"):
        module = model if part == "total" else getattr(model, part)
        parameters = list(module.parameters())
        total = sum(p.numel() for p in parameters)
        trains = sum(p.numel() for p in parameters if p.requires_grad)
        frozen = sorted({str(p.dtype)[6:] for p in parameters if not p.requires_grad})
        rows.append(
            {
                "part": part,
                "parameters": total,
                "trainable": trains,
                "per_cent": 100 * trains / max(total, 1),
                "lr": lr.get(part) if trains and part != "total" else None,
                "frozen_dtype": " ".join(frozen),
            }
        )
    return rows


def _narrow_again(model: nn.Module, part: str, names: set[str]) -> None:
    """Gives what is frozen in `part` its own dtype back, unless that would change a weight."""
    wide = [
        (parameter, model.own_dtypes[f"{part}.{name}"])
        for name, parameter in getattr(model, part).named_parameters()
        if f"{part}.{name}" not in names and parameter.dtype != model.own_dtypes[f"{part}.{name}"]
    ]
    if all(p.is_meta or torch.equal(p.to(own).to(p.dtype), p) for p, own in wide):
        for parameter, own in wide:
            parameter.data = parameter.data.to(own)


def _select(part: str, module: nn.Module, selector) -> set[str]:
    names = [name for name, _ in module.named_parameters()]
    if selector in (None, "none"):
        return set()
    if selector == "all":
        if any(".lora_" in name for name in names):
            raise ValueError(
                f"trainable.{part}: `all` on a model with LoRA would train the LoRA tensors and "
                "everything under them; use `lora`, or a model YAML without llm.lora"
            )
        return set(names)
    if selector == "lora":
        return _selected_lora(part, names)
    if isinstance(selector, str) and selector.startswith("last:"):
        return _last_layers(part, module, selector)
    if isinstance(selector, list):
        return _globs(part, names, selector)
    raise ValueError(
        f"trainable.{part}: found {selector!r}; expected none, all, last:N, "
        "a list of globs" + (", or lora" if part == "llm" else "")
    )


def _selected_lora(part: str, names: list[str]) -> set[str]:
    found = {name for name in names if ".lora_" in name}
    if part != "llm" or not found:
        raise ValueError(
            f"trainable.{part}: lora selects nothing; LoRA tensors exist in the LLM only, where "
            "the model YAML has `llm.lora: {r: ..., alpha: ..., dropout: ..., targets: [...]}`"
        )
    return found


def _last_layers(part: str, module: nn.Module, selector: str) -> set[str]:
    if part != "encoder":
        raise ValueError(f"trainable.{part}: {selector!r} is for the encoder; use all or globs")
    count = selector.removeprefix("last:")
    available = len(module.layers)
    if not count.isdigit() or not 0 < int(count) < available:
        raise ValueError(
            f"trainable.encoder: {selector!r}; N must be from 1 to {available - 1}, since the "
            f"encoder has {available} layers; to train the whole encoder use `all`"
        )
    chosen = [*module.layers[available - int(count) :], *module.tail]
    ids = {id(parameter) for layer in chosen for parameter in layer.parameters()}
    return {name for name, parameter in module.named_parameters() if id(parameter) in ids}


def _globs(part: str, names: list[str], globs: list[str]) -> set[str]:
    found: set[str] = set()
    if not globs:
        raise ValueError(f"trainable.{part}: the list of globs is empty; to freeze it set none")
    for glob in globs:
        matches = fnmatch.filter(names, glob)
        if not matches:
            nearest = difflib.get_close_matches(glob, names, n=3, cutoff=0.0)
            raise ValueError(
                f"trainable.{part}: {glob!r} matches no parameter; the nearest names are "
                f"{', '.join(nearest)}"
            )
        found.update(matches)
    return found


def _find_trained(module: nn.Module, found: dict[nn.Module, bool | None]) -> None:
    """Notes for a module and all in it whether anything trains there; None without parameters.

    From the leaves up: this runs in every step, and asking each module for all of its parameters
    would cost tens of milliseconds in a large model.
    """
    inside = [p.requires_grad for p in module._parameters.values() if p is not None]
    for child in module.children():
        _find_trained(child, found)
        inside += [] if found[child] is None else [bool(found[child])]
    found[module] = any(inside) if inside else None


def _train_where_trainable(
    module: nn.Module, parent: bool, found: dict[nn.Module, bool | None]
) -> None:
    trains = found[module]
    # A module without parameters (dropout, activation) does as the module it is part of.
    module.training = parent if trains is None else trains
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        # Batch statistics would make a clip depend on its batch mates and on their padding.
        module.training = False
    for child in module.children():
        _train_where_trainable(child, module.training, found)
