"""Task-dependent activation: rows that must not update the LLM send gradients through it only.

The gate sits inside the weight gradient. Modules that own trainable parameters form it from the
tokens of the chosen rows; the gradient towards adapter and encoder is that of all tokens. There is
one forward, one backward, and the same graph on every rank. It survives activation checkpointing
because the chosen tokens are known to the gate until the next forward replaces them.

A zeroed gradient would still let AdamW move by momentum and decay: the loop sets the LLM's
gradients to None when no rank had a token of a chosen row.
"""

from __future__ import annotations

import types

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call


class Gate:
    """Which positions may form weight gradients; None lets all of them."""

    def __init__(self):
        self.chosen_M: Tensor | None = None

    def mask_like(self, x: Tensor) -> Tensor:
        """Mask over the flattened positions of x, (rows, 1), in x's dtype.

        x is (1, M, D) or (M, D), or with heads between: (1, M, heads, D / heads).

        Raises:
            ValueError: The module does not work position by position.
        """
        assert self.chosen_M is not None
        positions = len(self.chosen_M)
        lead = x.shape[1:-1] if x.shape[0] == 1 and x.dim() > 2 else x.shape[:-1]
        if not lead or lead[0] != positions:
            raise ValueError(
                f"llm_tasks: this LLM has a module that sees {tuple(x.shape)} where {positions} "
                "positions are expected; train it on all tasks (llm_tasks: all)"
            )
        rows = x.numel() // x.shape[-1]
        return self.chosen_M.to(x.dtype).repeat_interleave(rows // positions)[:, None]


class _GatedLinear(torch.autograd.Function):
    """F.linear whose weight and bias gradients come from the chosen positions."""

    @staticmethod
    def forward(ctx, x, weight, bias, gate):
        device = x.device.type
        if torch.is_autocast_enabled(device):
            compute = torch.get_autocast_dtype(device)
            x, cast = x.to(compute), weight.to(compute)
            bias = None if bias is None else bias.to(compute)
        else:
            cast = weight
        ctx.save_for_backward(x, cast, gate.mask_like(x))
        ctx.has_bias = bias is not None
        with torch.autocast(device, enabled=False):
            return F.linear(x, cast, bias)

    @staticmethod
    def backward(ctx, grad):
        x, weight, mask_M1 = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            grad_x = grad @ weight if ctx.needs_input_grad[0] else None
            chosen = grad.reshape(-1, grad.shape[-1]) * mask_M1
            grad_weight = grad_bias = None
            if ctx.needs_input_grad[1]:
                grad_weight = chosen.t() @ x.reshape(-1, x.shape[-1])
            if ctx.has_bias and ctx.needs_input_grad[2]:
                grad_bias = chosen.sum(0)
        return grad_x, grad_weight, grad_bias, None


class _GatedModule(torch.autograd.Function):
    """Any module that treats positions alike (norms, GPT-2's Conv1D): recomputed in backward."""

    @staticmethod
    def forward(ctx, x, module, forward, gate, names, *parameters):
        ctx.module, ctx.forward_of, ctx.names = module, forward, names
        device = x.device.type
        ctx.autocast = (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
        ctx.save_for_backward(x, gate.mask_like(x), *parameters)
        with torch.no_grad():
            return forward(x)

    @staticmethod
    def backward(ctx, grad):
        x, mask_M1, *parameters = ctx.saved_tensors
        enabled, dtype = ctx.autocast
        with torch.enable_grad(), torch.autocast(x.device.type, dtype=dtype, enabled=enabled):
            x = x.detach().requires_grad_()
            leaves = [parameter.detach().requires_grad_() for parameter in parameters]
            state = dict(zip(ctx.names, leaves, strict=True))
            out = functional_call(_Plain(ctx.module, ctx.forward_of), state, (x,))
            chosen = (grad.reshape(-1, grad.shape[-1]) * mask_M1.to(grad.dtype)).view_as(grad)
            (grad_x,) = torch.autograd.grad(out, [x], grad, retain_graph=True)
            grads = torch.autograd.grad(out, leaves, chosen)
        return grad_x, None, None, None, None, *grads


class _Plain(nn.Module):
    """Calls a module's forward as it was before gating, with the module's own parameter names."""

    def __init__(self, module: nn.Module, forward):
        super().__init__()
        self._modules["gated"] = module
        self._forward = forward

    def forward(self, x):
        return self._forward(x)


def gate_modules(root: nn.Module, gate_of) -> list[nn.Module]:
    """Puts a gate into every module of `root` that owns trainable parameters.

    Args:
        root: The LLM, with its policy applied.
        gate_of: Module name -> Gate.

    Returns:
        The gated modules, for `ungate_modules`.

    Raises:
        ValueError: A module with parameters that are not used position by position.
    """
    gated = []
    for name, module in root.named_modules():
        own = [key for key, p in module.named_parameters(recurse=False) if p.requires_grad]
        if own:
            if isinstance(module, nn.modules.conv._ConvNd):
                raise ValueError(
                    f"llm_tasks: {name} is a convolution over positions, whose gradient cannot be "
                    "split by rows; train it on all tasks (llm_tasks: all)"
                )
            module.forward = types.MethodType(_gated_forward(module, gate_of(name), own), module)
            gated.append(module)
    return gated


def ungate_modules(gated: list[nn.Module]) -> None:
    """Takes the gates out again."""
    for module in gated:
        module.__dict__.pop("forward", None)


def _gated_forward(module: nn.Module, gate: Gate, own: list[str]):
    plain = module.forward

    def forward(self, x, *args, **kwargs):
        if gate.chosen_M is None or not torch.is_grad_enabled():
            return plain(x, *args, **kwargs)
        if args or kwargs:
            raise ValueError(
                f"llm_tasks: {type(module).__name__} takes more than one input, so its gradient "
                "cannot be split by rows; train it on all tasks (llm_tasks: all)"
            )
        if isinstance(module, nn.Embedding):
            out = plain(x)
            return torch.where(gate.chosen_M.view(*x.shape, 1), out, out.detach())
        if type(module) is nn.Linear:
            return _GatedLinear.apply(x, module.weight, module.bias, gate)
        names = tuple(f"gated.{key}" for key in own)
        parameters = [getattr(module, key) for key in own]
        return _GatedModule.apply(x, module, plain, gate, names, *parameters)

    return forward
