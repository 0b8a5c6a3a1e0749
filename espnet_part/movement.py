"""How far the weights moved between two states of a model, block by block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from espnet_part.encoder_probe import find_layers
from espnet_part.trainable import PARTS

REST = "rest"  # of a part: what belongs to no block (frontend, final norm, output head)


@torch.no_grad()
def plain_weights(model: Any) -> dict[str, Tensor]:
    """Copies of all parameters in fp32 on the CPU, LoRA folded into the weights under it.

    So a model with LoRA tensors can be held against the one without that it started from.
    """
    named = {name: p.detach().float().cpu().clone() for name, p in model.named_parameters()}
    out = {_plain_name(name): tensor for name, tensor in named.items() if ".lora_" not in name}
    if model.lora is not None:
        scale = model.lora["alpha"] / model.lora["r"]
        for name in [name for name in named if ".lora_A." in name]:
            target = name.partition(".lora_A.")[0] + ".weight"
            out[target] += scale * (named[name.replace(".lora_A.", ".lora_B.")] @ named[name])
    return out


def block_names(model: Any) -> dict[tuple[str, str], list[str]]:
    """(part, block) -> names of its parameters as in `plain_weights`, in order of computation.

    Blocks are numbered from 1; the adapter's transformer layers are blocks, its CNN the rest.
    """
    stacks: dict[str, list[nn.Module]] = {
        "encoder": list(model.encoder.layers),
        "adapter": list(getattr(model.adapter, "layers", [])),
        "llm": list(find_layers(model.llm, model.llm.config.num_hidden_layers)),
    }
    out: dict[tuple[str, str], list[str]] = {}
    for part in PARTS:
        module = getattr(model, part)
        block_of = {
            id(parameter): str(number)
            for number, block in enumerate(stacks[part], 1)
            for parameter in block.parameters()
        }
        if part == "llm":
            block_of |= {id(p): "embeddings" for p in module.get_input_embeddings().parameters()}
        found: dict[str, list[str]] = {}
        for name, parameter in module.named_parameters():
            if ".lora_" not in name:
                block = block_of.get(id(parameter), REST)
                found.setdefault(block, []).append(_plain_name(f"{part}.{name}"))
        for block in sorted(found, key=lambda b: (not b.isdigit(), int(b) if b.isdigit() else 0)):
            out[part, block] = found[block]
        if found:
            out[part, "all"] = [name for names in found.values() for name in names]
    return out


def movement(
    before: dict[str, Tensor],
    after: dict[str, Tensor],
    blocks: dict[tuple[str, str], list[str]],
) -> list[dict]:
    """Relative movement of each block: ||after - before|| / ||before||, Frobenius norms.

    Args:
        before: From `plain_weights`.
        after: The same parameters later.
        blocks: From `block_names`.

    Returns:
        Rows with ``part``, ``block`` (its number, ``embeddings``, ``rest`` or ``all``), ``moved``
        (the ratio; None for a block of zeros) and ``parameters``.

    Raises:
        ValueError: The two are not of the same model.
    """
    rows = []
    for (part, block), names in blocks.items():
        wrong = [n for n in names if n not in before or before[n].shape != after[n].shape]
        if wrong:
            raise ValueError(
                f"movement of {part} {block}: {wrong[0]} is missing at the phase's start, or of "
                "another shape; expected a phase and its own start"
            )
        moved = sum(float((after[n] - before[n]).double().square().sum()) for n in names)
        size = sum(float(before[n].double().square().sum()) for n in names)
        rows.append(
            {
                "part": part,
                "block": block,
                "moved": (moved / size) ** 0.5 if size > 0 else None,
                "parameters": sum(after[n].numel() for n in names),
            }
        )
    return rows


def _plain_name(name: str) -> str:
    """The name that a parameter has in a model without LoRA."""
    return name.replace(".base_layer.", ".")
