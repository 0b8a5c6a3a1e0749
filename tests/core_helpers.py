"""What the tests of the training core share: a loop without files, and how tensors moved."""

import torch

from espnet_part.config import Config
from espnet_part.loop import Loop
from espnet_part.parallel import Processes
from espnet_part.schema import from_dict
from espnet_part.trainer import dummy_batch

# ESPnet's encoder with batch norms, tiny.
CONFORMER = dict(
    output_size=32,
    attention_heads=4,
    linear_units=64,
    num_blocks=2,
    cnn_module_kernel=7,
    selfattention_layer_type="rel_selfattn",
    pos_enc_layer_type="rel_pos",
    rel_pos_type="latest",
    macaron_style=True,
    use_cnn_module=True,
)


def wake(adapter) -> None:
    """Makes the transformer layers of a new adapter do something: they begin by adding nothing."""
    for layer in getattr(adapter, "layers", ()):
        for last in (layer.attention_out, layer.ffn_out):
            torch.nn.init.normal_(last.weight, std=last.in_features**-0.5)


def make_loop(model, values: dict, folder) -> Loop:
    """A loop whose `_update` the test feeds by hand; the policy must have been applied."""
    config = from_dict(Config, values)
    return Loop(
        model, config, None, None, dummy_batch(model), Processes(), folder, tensorboard=False
    )


def update(loop: Loop, *batches) -> dict:
    """One optimizer step over micro-batches."""
    out = loop._update(loop.model, list(batches))
    loop.step += 1
    return out


def snapshot(model) -> dict[str, torch.Tensor]:
    """Copies of all parameters and buffers."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in named}


def changed(model, before: dict) -> set[str]:
    """Names of the tensors that are not bit-identical to the snapshot."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name for name, tensor in named if not same(tensor, before[name])}


def same(a, b) -> bool:
    """Equal in dtype and in every bit."""
    return a.dtype == b.dtype and torch.equal(a.detach(), b.detach())


def gradients(model, part: str = "") -> dict[str, torch.Tensor]:
    """Copies of the gradients of `part` (all parts if empty)."""
    return {
        name: p.grad.clone()
        for name, p in model.named_parameters()
        if p.grad is not None and name.startswith(part)
    }


def difference(a: dict, b: dict) -> float:
    """Largest difference between two sets of tensors, as a share of the largest value."""
    assert a.keys() == b.keys()
    scale = max(float(t.abs().max()) for t in a.values())
    assert scale > 0
    return max(float((a[name] - b[name]).abs().max()) for name in a) / scale
