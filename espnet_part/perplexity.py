"""How probable an LLM finds texts: loss per token, perplexity, bits per character.

Of each text the loss of its own tokens is kept apart from that of the end token behind it: an end
token belongs to an answer, not to a plain text, and perplexities are to be of the same tokens.

Shapes: M packed positions, K target tokens, D width of the LLM, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from espnet_part.attention import packed_inputs
from espnet_part.prompt import Prompter
from espnet_part.significance import BOOTSTRAP_SAMPLES, bootstrap

# Positions of one forward pass. All may be targets, and each has a logit per word of a vocabulary
# of up to 250,000.
PACK_POSITIONS = 2048


@dataclass(frozen=True)
class TextLoss:
    """Negative log probabilities of one text, in nats.

    Attributes:
        nats: Sum over the text's tokens.
        end_nats: Of the end token behind them.
        n_tokens: Tokens of the text, without the end token.
    """

    nats: float
    end_nats: float
    n_tokens: int


def plain_context(prompter: Prompter) -> tuple[int, ...]:
    """What stands before a plain text: the token that begins texts, else the one that ends them.

    Without any, nothing could be said of a text's first token.
    """
    tokenizer = prompter.tokenizer
    token = tokenizer.bos_token_id
    return (prompter.end_token_ids[-1] if token is None else token,)


@torch.no_grad()
def text_losses(
    llm: nn.Module,
    end_token_id: int,
    contexts: Sequence[Sequence[int]],
    texts: Sequence[Sequence[int]],
    positions: int = PACK_POSITIONS,
) -> list[TextLoss]:
    """Losses of texts behind their contexts, by the forward pass that training uses.

    Args:
        llm: From `build_llm`: rows are packed, so nothing is padded. In eval mode.
        end_token_id: What ends an answer.
        contexts: Ids before each text, at least one.
        texts: Ids of each text.
        positions: Most positions of a forward pass; a longer text goes alone.

    Returns:
        One per text; equal ones are computed once.
    """
    assert all(contexts), "the first token of a text needs one before it"
    asked = [(tuple(c), tuple(t)) for c, t in zip(contexts, texts, strict=True)]
    found: dict[tuple, TextLoss] = {}
    for pack in _packs(
        sorted(dict.fromkeys(asked), key=lambda one: -sum(map(len, one))), positions
    ):
        found.update(zip(pack, _pack_losses(llm, end_token_id, pack), strict=True))
    return [found[one] for one in asked]


def _packs(asked: Sequence[tuple], positions: int) -> Iterator[list[tuple]]:
    pack: list[tuple] = []
    n_positions = 0
    for one in asked:
        length = sum(map(len, one)) + 1
        if pack and n_positions + length > positions:
            yield pack
            pack, n_positions = [], 0
        pack.append(one)
        n_positions += length
    if pack:
        yield pack


def _pack_losses(llm: nn.Module, end: int, pack: Sequence[tuple]) -> list[TextLoss]:
    embeddings = llm.get_input_embeddings()
    device = embeddings.weight.device
    rows = [(*context, *text, end) for context, text in pack]
    lengths = [len(row) for row in rows]
    ids_M = torch.tensor([token for row in rows for token in row], device=device)
    position_M = torch.cat([torch.arange(length, device=device) for length in lengths])
    starts = np.cumsum([0, *lengths[:-1]])
    target_K = torch.tensor(
        [
            start + i
            for start, length, (context, _) in zip(starts, lengths, pack, strict=True)
            for i in range(len(context), length)
        ],
        device=device,
    )
    # A token is predicted from the position before it.
    logits_KV = llm(
        **packed_inputs(embeddings(ids_M), position_M, lengths), logits_to_keep=target_K - 1
    ).logits[0]
    loss_K = F.cross_entropy(logits_KV.float(), ids_M[target_K], reduction="none").double().cpu()
    parts = loss_K.split([len(text) + 1 for _, text in pack])
    return [TextLoss(float(p[:-1].sum()), float(p[-1]), len(p) - 1) for p in parts]


def summarize(
    losses: Sequence[TextLoss], texts: Sequence[str], samples: int = BOOTSTRAP_SAMPLES
) -> dict[str, Any]:
    """Perplexity per token and bits per character of a test set, with 95 % intervals.

    Args:
        losses: Of each text.
        texts: The texts: bits per character do not depend on the tokenizer.
        samples: Resamples of the bootstrap over texts; 0: no intervals.

    Returns:
        ``perplexity``, ``bits_per_char``, each with ``.._ci95``, ``loss`` (nats per token, the end
        token among them, as in training), ``n_texts``, ``n_tokens``, ``n_chars``.

    Raises:
        ValueError: There is no text.
    """
    sums_NK = np.array(
        [(x.nats, x.n_tokens, len(text)) for x, text in zip(losses, texts, strict=True)], float
    )
    nats, n_tokens, n_chars = sums_NK.sum(0)
    if not n_tokens or not n_chars:
        raise ValueError(f"found {len(texts)} texts without a letter, expected some to measure")

    def perplexity(sums: np.ndarray) -> np.ndarray:
        return np.exp(sums[:, 0] / np.maximum(sums[:, 1], 1))

    def bits(sums: np.ndarray) -> np.ndarray:
        return sums[:, 0] / np.maximum(sums[:, 2], 1) / math.log(2)

    whole = sums_NK.sum(0, keepdims=True)
    return {
        "perplexity": float(perplexity(whole)[0]),
        "perplexity_ci95": bootstrap(sums_NK, perplexity, samples),
        "bits_per_char": float(bits(whole)[0]),
        "bits_per_char_ci95": bootstrap(sums_NK, bits, samples),
        "loss": float((nats + sum(x.end_nats for x in losses)) / (n_tokens + len(losses))),
        "n_texts": len(losses),
        "n_tokens": int(n_tokens),
        "n_chars": int(n_chars),
    }
