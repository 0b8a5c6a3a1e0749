"""The model's share of a checkpoint, and the coverage report on loading.

A checkpoint holds what differs from the pre-trained sources: every tensor that trained in this
phase or an earlier one, never a copy of a frozen LLM. Loading fails on any gap that was not
declared.
"""

from __future__ import annotations

import difflib
import zlib

import torch
from torch import nn

from espnet_part.checkpoint import FORMAT
from espnet_part.trainable import PARTS, match_statistics


def model_state(model: nn.Module) -> dict:
    """The model's share of a checkpoint: trimmed tensors and what they belong to."""
    names = set(model.trained_ever)
    names |= {n for part in model.unsourced for n, _ in model.named_parameters() if _in(n, part)}
    tensors = {n: p.detach() for n, p in model.named_parameters() if n in names}
    buffers = dict(model.named_buffers())
    tensors |= {name: buffers[name] for name in _moving_buffers(model, names)}
    return {
        "format": FORMAT,
        "model": {name: tensor.cpu().clone() for name, tensor in tensors.items()},
        "trained": sorted(names),
        "sources": model.fingerprint(),
        "lora": model.lora,
    }


def _moving_buffers(model: nn.Module, names: set[str]) -> list[str]:
    """Saved buffers (norm statistics) of the modules that own `names`.

    A module without parameters goes by the module that it is part of.
    """
    persistent = model.state_dict().keys()
    found = []
    for name in (name for name, _ in model.named_buffers() if name in persistent):
        owner = name.rpartition(".")[0]
        while owner and next(model.get_submodule(owner).parameters(), None) is None:
            owner = owner.rpartition(".")[0]
        if any(trained.startswith(owner + ".") for trained in names):
            found.append(name)
    return found


def load_model_state(model: nn.Module, payload: dict, where: str) -> list[dict]:
    """Loads a trimmed state into a freshly built model.

    LoRA: a file with LoRA tensors is merged into a model without; a file without leaves a model's
    LoRA tensors as initialized, and the report says so.

    Args:
        model: Built from its sources.
        payload: From `read_checkpoint`.
        where: The file's name, for messages.

    Returns:
        A report, one row per part: part, loaded tensors, from_source (left as the source has them),
        fresh (left as initialized).

    Raises:
        ValueError: Another encoder or LLM, a tensor missing, unknown, or of another shape.
    """
    _check_sources(model, payload["sources"], where)
    buffers = dict(model.named_buffers())
    own = dict(model.named_parameters()) | buffers
    _check_whole(payload, buffers, where)
    tensors = _fit_lora(model, payload, own, where)
    for name in sorted(tensors):
        if name not in own:
            near = difflib.get_close_matches(name, own, n=1, cutoff=0.0)[0]
            raise ValueError(f"{where}: unexpected tensor {name!r}; the nearest one is {near!r}")
        if tensors[name].shape != own[name].shape:
            raise ValueError(
                f"{where}: {name} has shape {tuple(tensors[name].shape)}, the model expects "
                f"{tuple(own[name].shape)}"
            )
    fresh = _undeclared_gap(model, payload, tensors, where)
    with torch.no_grad():
        for name, tensor in tensors.items():
            if own[name].is_floating_point() and tensor.dtype == torch.float32:
                own[name].data = own[name].data.float()  # trained in fp32: keep it so
            own[name].copy_(tensor)
    match_statistics(model)
    model.trained_ever |= {name for name, _ in model.named_parameters() if name in tensors}
    report = []
    for part in PARTS:
        names = [name for name, _ in model.named_parameters() if _in(name, part)]
        loaded = sum(name in tensors for name in names)
        new = sum(name in fresh for name in names)
        report.append(
            {
                "part": part,
                "loaded": loaded,
                "from_source": len(names) - loaded - new,
                "fresh": new,
                "source": model.sources.get(part) or "(random weights)",
            }
        )
    return report


def _in(name: str, part: str) -> bool:
    return name.startswith(part + ".")


def _check_sources(model: nn.Module, found: dict, where: str) -> None:
    expected = model.fingerprint()
    for part in PARTS:
        for key in sorted(set(expected[part]) | set(found.get(part, {}))):
            a, b = found.get(part, {}).get(key), expected[part].get(key)
            if a != b:
                raise ValueError(
                    f"{where} belongs to another {part}: its {key} is {a!r}, this model's is "
                    f"{b!r}; use the {part} that the checkpoint was trained with, or another "
                    "checkpoint"
                )


def _check_whole(payload: dict, buffers: dict, where: str) -> None:
    """Raises if the file does not hold exactly the parameters that it declares as trained."""
    held, declared = set(payload["model"]), set(payload["trained"])
    lacking = sorted(declared - held)
    if lacking:
        raise ValueError(
            f"{where} lacks {len(lacking)} tensor(s) that were trained: {', '.join(lacking[:5])}"
        )
    surplus = sorted(held - declared - set(buffers))
    if surplus:
        near = difflib.get_close_matches(surplus[0], [*declared, *buffers], n=1, cutoff=0.0)
        raise ValueError(
            f"{where}: unexpected tensor {surplus[0]!r}, not among those that were trained"
            + (f"; the nearest one is {near[0]!r}" if near else "")
        )


def _undeclared_gap(model, payload, tensors, where) -> set[str]:
    """Names left as initialized; raises if one of them should have been in the file."""
    parameters = [name for name, _ in model.named_parameters()]
    lora = {name for name in parameters if ".lora_" in name}
    fresh = lora - set(tensors) if payload["lora"] is None else set()
    needed = set(payload["trained"])
    needed |= {name for name in parameters for part in model.unsourced if _in(name, part)}
    if payload["lora"] is not None and model.lora is not None:
        needed |= lora
    if payload["lora"] is None and model.lora is not None:
        needed = {_base_name(name, set(parameters)) for name in needed}
    if payload["lora"] is not None and model.lora is None:
        needed = {_plain_name(name) for name in needed if ".lora_" not in name}
    needed |= set(_moving_buffers(model, needed))
    missing = sorted(needed - set(tensors) - fresh)
    if missing:
        raise ValueError(
            f"{where} lacks {len(missing)} tensor(s) that were trained: {', '.join(missing[:5])}"
        )
    return fresh


def _fit_lora(model, payload, own, where) -> dict:
    """The file's tensors under this model's names, LoRA merged where the model has none."""
    tensors, theirs, ours = dict(payload["model"]), payload["lora"], model.lora
    if theirs is not None and ours is not None:
        if _lora_shape(theirs) != _lora_shape(ours):
            raise ValueError(f"{where} was trained with LoRA {theirs}, the model has {ours}")
        return tensors
    if theirs is None and ours is None:
        return tensors
    if theirs is None:
        return {_base_name(name, own): tensor for name, tensor in tensors.items()}
    scale = theirs["alpha"] / theirs["r"]
    merged = {_plain_name(n): t for n, t in tensors.items() if ".lora_" not in n}
    for name_a in [name for name in tensors if ".lora_A." in name]:
        name_b = name_a.replace(".lora_A.", ".lora_B.")
        target = name_a.partition(".lora_A.")[0] + ".weight"
        if name_b not in tensors or target not in own:
            missing = name_b if name_b not in tensors else target
            raise ValueError(f"{where}: cannot merge LoRA tensor {name_a}: {missing} is missing")
        base = merged.get(target, own[target].detach())
        merged[target] = base.float().cpu() + scale * (tensors[name_b] @ tensors[name_a]).float()
    return merged


def _lora_shape(lora: dict) -> dict:
    """What two LoRA settings must share to hold the same tensors: dropout may differ."""
    return {"r": lora["r"], "alpha": lora["alpha"], "targets": sorted(lora["targets"])}


def _plain_name(name: str) -> str:
    return name.replace(".base_layer.", ".")


def _base_name(name: str, own) -> str:
    stem, _, last = name.rpartition(".")
    wrapped = f"{stem}.base_layer.{last}"
    return wrapped if name not in own and wrapped in own else name


def weights_id(module: nn.Module) -> str:
    """A number that tells sources of the same shape apart: CRC over samples of each tensor."""
    crc = 0
    named = {_plain_name(n): p for n, p in module.named_parameters() if ".lora_" not in n}
    for _, parameter in sorted(named.items()):
        if parameter.device.type == "meta":
            return "meta"
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(1, len(flat) // 16)][:16].to(torch.bfloat16).float().cpu().numpy()
        crc = zlib.crc32(sample.tobytes(), crc)
    return f"{crc:08x}"
