"""Attention over packed rows, registered with transformers: all LLMs that use its interface gain.

A packed forward passes ``packed_lengths`` (the rows' lengths) as a keyword; each row then attends
to itself alone, causally. Without it (decoding with a KV cache) the call is transformers' own SDPA.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "part_packed"


def packed_attention(
    module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    packed_lengths: list[int] | None = None,
    **kwargs,
):
    """Attention for one packed batch entry; arguments and result as in transformers' interface.

    Args:
        module: The attention module (its head groups and causality are read).
        query: (1, heads, M, head size).
        key: (1, key-value heads, M, head size).
        value: As `key`.
        attention_mask: Not read in a packed call.
        scaling: Factor on the scores; 1/sqrt(head size) if None.
        dropout: Probability for attention weights.
        sliding_window: How many positions, itself included, a query sees; None for all.
        softcap: As in Gemma: scores become softcap * tanh(scores / softcap).
        packed_lengths: Lengths of the rows; None makes this transformers' SDPA.
        kwargs: What other models hand to their attention.

    Returns:
        Output (1, M, heads, head size), and None for the weights.
    """
    if packed_lengths is None:
        if softcap is not None:
            raise ValueError("this LLM caps attention scores, which SDPA decoding cannot do")
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if kwargs.get("s_aux") is not None:
        raise ValueError("attention sinks are not supported in the packed layout")
    grouped = query.shape[1] != key.shape[1]
    rows = []
    for q, k, v in zip(*(x.split(packed_lengths, dim=2) for x in (query, key, value)), strict=True):
        if softcap is None and (sliding_window is None or q.shape[2] <= sliding_window):
            row = F.scaled_dot_product_attention(
                q, k, v, is_causal=True, scale=scaling, dropout_p=dropout, enable_gqa=grouped
            )
        else:
            row = _explicit(q, k, v, scaling, dropout, sliding_window, softcap)
        rows.append(row)
    return torch.cat(rows, dim=2).transpose(1, 2).contiguous(), None


def _explicit(q, k, v, scaling, dropout, sliding_window, softcap):
    """One row with a window or a soft cap, written out."""
    groups = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    scores = q @ k.transpose(2, 3) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    at = torch.arange(q.shape[2], device=q.device)
    hidden = at[None, :] > at[:, None]
    if sliding_window is not None:
        hidden = hidden | (at[:, None] - at[None, :] >= sliding_window)
    weights = scores.masked_fill(hidden, float("-inf")).softmax(-1, dtype=torch.float32).to(q.dtype)
    return F.dropout(weights, dropout) @ v


def packed_inputs(embeds_MD: Tensor, position_M: Tensor, row_lengths: list[int]) -> dict:
    """Keyword arguments that make a causal LM's forward a packed one.

    The four-dimensional mask is never read: it tells transformers not to build one of M x M.
    """
    return {
        "inputs_embeds": embeds_MD[None],
        "position_ids": position_M[None],
        "attention_mask": embeds_MD.new_empty(1, 1, 1, 1),
        "packed_lengths": row_lengths,
        "use_cache": False,
    }


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
