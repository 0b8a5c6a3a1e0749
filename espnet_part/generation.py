"""Batched decoding with a KV cache over left-padded prompts: greedy or beam search.

Shapes: B rows, L prompt positions, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from espnet_part.prompt import RenderedPrompt
from espnet_part.splice import flatten, packed_layout, pad_left, pad_waves, splice


@dataclass(frozen=True)
class Hypothesis:
    """A decoded answer: token ids, end token excluded, and its log probability."""

    token_ids: list[int]
    score: float


class GreedyScores(LogitsProcessor):
    """Notes the log probability of each step's best token; changes nothing."""

    def __init__(self):
        self.steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(B, V) scores in and out."""
        self.steps.append(scores.float().log_softmax(-1).amax(-1))
        return scores


class RowLimits(StoppingCriteria):
    """Stops each row at its own number of new tokens."""

    def __init__(self, limits: list[int]):
        self.limits = torch.tensor(limits)

    def __call__(self, input_ids: Tensor, scores, **kwargs) -> Tensor:
        """Which sequences (B * candidates,) have reached the limit of their row."""
        # Beam search asks about more candidates than it has beams.
        candidates = input_ids.shape[0] // len(self.limits)
        return input_ids.shape[1] >= self.limits.repeat_interleave(candidates).to(input_ids.device)


def prompt_embeddings(
    model: nn.Module, speech: list[np.ndarray | None], prompts: list[RenderedPrompt]
) -> tuple[Tensor, Tensor]:
    """What the LLM reads of a batch: text and speech embeddings, left-padded.

    Args:
        model: A `PARTModel`.
        speech: A 16 kHz waveform per row, None for text rows.
        prompts: One per row.

    Returns:
        Embeddings (B, L, D) and the mask of real positions (B, L).
    """
    embeddings = model.llm.get_input_embeddings()
    device = embeddings.weight.device
    token_ids = [i for prompt in prompts for i in (*prompt.before, *prompt.after)]
    token_lengths = torch.tensor([len(p.before) + len(p.after) for p in prompts], device=device)
    place = torch.tensor([len(p.before) for p in prompts], device=device)
    embeds_ND = embeddings(torch.tensor(token_ids, device=device))
    speech_lengths = torch.zeros_like(token_lengths)
    speech_SD = embeds_ND.new_zeros(0, embeds_ND.shape[1])
    clips = [wave for wave in speech if wave is not None]
    if clips:
        wave_AT, lengths_A = pad_waves(clips)
        frames_ATD, frame_lengths = model.speech_frames(wave_AT.to(device), lengths_A.to(device))
        rows = torch.tensor([wave is not None for wave in speech], device=device)
        speech_lengths[rows] = frame_lengths
        speech_SD = flatten(frames_ATD, frame_lengths)
    layout = packed_layout(token_lengths, place, speech_lengths)
    return pad_left(splice(embeds_ND, speech_SD, layout), layout.row_lengths)


@torch.no_grad()
def generate(
    llm: nn.Module,
    embeds_BLD: Tensor,
    mask_BL: Tensor,
    max_new_tokens: list[int],
    end_token_ids: list[int],
    num_beams: int = 1,
):
    """Continues prompts given as embeddings.

    Args:
        llm: The causal LM, in eval mode.
        embeds_BLD: Prompts, left-padded.
        mask_BL: 1 at real positions.
        max_new_tokens: Limit of each row.
        end_token_ids: Ids that end a row.
        num_beams: 1 is greedy search.

    Returns:
        One `Hypothesis` per row. The score is the sum of log probabilities, the end token's
        included (for beam search divided by the length, as the search ranks them).
    """
    was_training = llm.training
    llm.eval()
    config = GenerationConfig(
        do_sample=False,
        num_beams=num_beams,
        max_new_tokens=max(max_new_tokens),
        eos_token_id=end_token_ids,
        # What stands behind an end is cut off below, whatever its id.
        pad_token_id=end_token_ids[0],
        return_dict_in_generate=True,
        output_scores=num_beams > 1,
        use_cache=True,
    )
    # The LLM's own generation settings (repetition penalties, sampling) are not ours.
    own, llm.generation_config = llm.generation_config, config
    greedy = GreedyScores()
    try:
        out = llm.generate(
            inputs_embeds=embeds_BLD,
            attention_mask=mask_BL,
            generation_config=config,
            logits_processor=LogitsProcessorList([greedy] if num_beams == 1 else []),
            stopping_criteria=StoppingCriteriaList([RowLimits(max_new_tokens)]),
        )
    finally:
        llm.generation_config = own
        llm.train(was_training)
    if num_beams == 1:
        scores = torch.stack(greedy.steps, 1).tolist()
    else:
        scores = out.sequences_scores.tolist()
    hypotheses = []
    for ids, limit, score in zip(out.sequences.tolist(), max_new_tokens, scores, strict=True):
        ids = ids[:limit]
        ends = [i for i, token in enumerate(ids) if token in end_token_ids]
        steps = ends[0] + 1 if ends else len(ids)
        total = sum(score[:steps]) if num_beams == 1 else score
        hypotheses.append(Hypothesis(ids[: ends[0]] if ends else ids, float(total)))
    return hypotheses
