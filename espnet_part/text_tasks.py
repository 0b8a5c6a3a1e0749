"""An LLM's answers to text prompts, greedily and in batches: no encoder, no adapter, no audio.

What a trained model's LLM, the LLM before training, and the base models of the recipe's own corpora
have in common. LoRA tensors, where there are any, are inside the LLM.

Shapes: B rows, L prompt positions, M packed positions, D width of the LLM.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from espnet_part.generation import generate
from espnet_part.prompt import Prompter, RenderedPrompt
from espnet_part.row import Row
from espnet_part.splice import pad_left

BATCH_SIZE = 64
# A byte-level tokenizer that learned English spends several times as many tokens on other scripts;
# a loop ends here.
TOKENS_PER_SOURCE_TOKEN, MORE_TOKENS = 4, 32


def text_limit(n_source: int) -> int:
    """Most tokens of a translation of `n_source` source tokens."""
    return TOKENS_PER_SOURCE_TOKEN * n_source + MORE_TOKENS


@torch.no_grad()
def answer(
    llm: nn.Module,
    prompter: Prompter,
    prompts: Sequence[RenderedPrompt],
    limits: Sequence[int],
    batch_size: int = BATCH_SIZE,
) -> list[str]:
    """Answers prompts without speech; equal prompts of equal limits are answered once.

    Args:
        llm: Any causal LM of transformers.
        prompter: Of its tokenizer.
        prompts: Rendered text prompts.
        limits: Most new tokens of each.
        batch_size: Most rows at once; prompts of like length go together.

    Returns:
        One text per prompt, on one line.
    """
    assert not any(prompt.has_speech for prompt in prompts), "speech is for PARTModel.generate"
    asked = list(zip((prompt.before for prompt in prompts), limits, strict=True))
    # Longest first: memory runs out at once or never.
    order = sorted(dict.fromkeys(asked), key=lambda one: (-len(one[0]), one))
    embeddings = llm.get_input_embeddings()
    found: dict[tuple, str] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        ids_M = torch.tensor([token for ids, _ in batch for token in ids])
        embeds_MD = embeddings(ids_M.to(embeddings.weight.device))
        embeds_BLD, mask_BL = pad_left(embeds_MD, [len(ids) for ids, _ in batch])
        answers = generate(
            llm, embeds_BLD, mask_BL, [limit for _, limit in batch], prompter.end_token_ids
        )
        for one, hypothesis in zip(batch, answers, strict=True):
            found[one] = prompter.decode(hypothesis.token_ids)
    return [found[one] for one in asked]


def mt_prompt(prompter: Prompter, row: Row, source: str) -> RenderedPrompt:
    """The prompt that asks for the translation of a text in a row's languages."""
    return prompter.prompt("mt", row.src, row.tgt, source_text=source)


def translate(
    llm: nn.Module,
    prompter: Prompter,
    rows: Sequence[Row],
    sources: Sequence[str] | None = None,
    batch_size: int = BATCH_SIZE,
) -> list[str]:
    """Translates texts in the languages of rows; audio is never read.

    Args:
        llm: The LLM.
        prompter: Of its tokenizer.
        rows: Of st or mt.
        sources: A text per row, such as a recognizer's; None: the rows' own transcripts or sources.
            Of an empty text the translation is empty.
        batch_size: Most rows at once.

    Returns:
        One translation per row.

    Raises:
        ValueError: A row has no source text, and `sources` is None.
    """
    if sources is None:
        if lacking := next((row for row in rows if not row.source), None):
            raise ValueError(
                f"id {lacking.utt_id}: no text to translate; expected a line in `transcript` (st) "
                "or `source` (mt)"
            )
        sources = [row.source or "" for row in rows]
    # A recognizer may hear nothing, and there is no prompt without a text.
    said = [i for i, source in enumerate(sources) if source.strip()]
    prompts = [mt_prompt(prompter, rows[i], sources[i]) for i in said]
    limits = [text_limit(len(prompter.encode(sources[i]))) for i in said]
    found = dict(zip(said, answer(llm, prompter, prompts, limits, batch_size), strict=True))
    return [found.get(i, "") for i in range(len(rows))]
