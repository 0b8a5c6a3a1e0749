"""What a checkpoint holds, atomic writing, and the coverage report on loading.

A checkpoint holds what differs from the pre-trained sources: every tensor that trained in this phase
or an earlier one, never a copy of a frozen LLM. Loading fails on any gap that was not declared.
"""

from __future__ import annotations

import difflib
import os
import pickle
import zlib
from pathlib import Path

import torch
from torch import nn

from espnet_part.trainable import PARTS

FORMAT = 1


def write_atomically(path: Path, payload: dict) -> None:
    """Saves so that `path` is either the old file or the whole new one, also after a crash."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(payload, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def read_checkpoint(path: Path, device: str = "cpu") -> dict:
    """Reads a checkpoint without unpickling anything but tensors and plain values.

    Raises:
        ValueError: No such file, not readable so, or not a checkpoint of this project.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no checkpoint {path}; train the phase before, or name another file")
    try:
        payload = torch.load(path, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{path} cannot be read as tensors and plain values: damaged, or not written by "
            f"espnet_part ({reason})"
        ) from error
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        found = list(payload)[:4] if isinstance(payload, dict) else type(payload).__name__
        raise ValueError(
            f"{path} is no espnet_part checkpoint of format {FORMAT}: found {found}; "
            "expected a file such as exp/<tag>/<curriculum>/phase1/latest.pth"
        )
    return payload


def model_state(model: nn.Module) -> dict:
    """The model's share of a checkpoint: trimmed tensors and what they belong to."""
    names = model.trained_ever | {n for n, p in model.named_parameters() if p.requires_grad}
    names |= {n for part in model.unsourced for n, _ in model.named_parameters() if _in(n, part)}
    owners = {name.rpartition(".")[0] for name in names}
    tensors = {n: p.detach() for n, p in model.named_parameters() if n in names}
    persistent = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        # Statistics move where the module trains; a module without parameters goes by its part.
        if name in persistent and name.rpartition(".")[0] in owners:
            tensors[name] = buffer
    return {
        "format": FORMAT,
        "model": {name: tensor.cpu().clone() for name, tensor in tensors.items()},
        "trained": sorted(names),
        "sources": model.fingerprint(),
        "lora": model.lora,
    }


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
    own = dict(model.named_parameters()) | dict(model.named_buffers())
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
                    f"{where} belongs to another {part}: its {key} is {a!r}, this model's is {b!r}; "
                    f"use the {part} that the checkpoint was trained with, or another checkpoint"
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
        if theirs != ours:
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


def _plain_name(name: str) -> str:
    return name.replace(".base_layer.", ".")


def _base_name(name: str, own) -> str:
    stem, _, last = name.rpartition(".")
    wrapped = f"{stem}.base_layer.{last}"
    return wrapped if name not in own and wrapped in own else name


def weights_id(module: nn.Module) -> str:
    """A short number that tells two sources of the same shape apart: CRC of samples of each tensor."""
    crc = 0
    named = {_plain_name(n): p for n, p in module.named_parameters() if ".lora_" not in n}
    for _, parameter in sorted(named.items()):
        if parameter.device.type == "meta":
            return "meta"
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(1, len(flat) // 16)][:16].to(torch.bfloat16).float().cpu().numpy()
        crc = zlib.crc32(sample.tobytes(), crc)
    return f"{crc:08x}"
