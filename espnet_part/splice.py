"""Puts speech embeddings among token embeddings, in the packed layout. Pure functions.

Shapes: N text tokens of all rows, S speech frames of all rows, M = N + S packed positions, B rows,
A clips, T frames of the longest clip, D width of the LLM.

A row is `before` text, then its speech (none in a text row), then `after` text and the target:

    row 0:  t t t s s s s t t t t | row 1:  t t t t t | row 2:  t s s t t t
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Where everything stands in a pack.

    Attributes:
        row_lengths: Text and speech positions of each row, B python integers.
        position_M: Position within the row, from 0.
        row_M: Row of each packed position.
        text_at_N: Packed position of each text token.
        speech_at_S: Packed position of each speech frame, in row order.
    """

    row_lengths: list[int]
    position_M: Tensor
    row_M: Tensor
    text_at_N: Tensor
    speech_at_S: Tensor


def packed_layout(token_lengths: Tensor, speech_place: Tensor, speech_lengths: Tensor) -> Layout:
    """Lays out rows one behind the other.

    Args:
        token_lengths: Text tokens of each row, (B,).
        speech_place: How many of them stand before the speech, (B,).
        speech_lengths: Speech frames of each row, 0 for text rows, (B,).

    Raises:
        ValueError: A speech place outside its row.
    """
    if bool(((speech_place < 0) | (speech_place > token_lengths)).any()):
        raise ValueError(
            f"speech must stand within its row: places {speech_place.tolist()}, "
            f"text tokens {token_lengths.tolist()}"
        )
    device = token_lengths.device
    lengths = token_lengths + speech_lengths
    starts = torch.cumsum(lengths, 0) - lengths
    row_lengths = lengths.tolist()
    rows = torch.arange(len(row_lengths), device=device)

    row_M = torch.repeat_interleave(rows, lengths)
    position_M = torch.arange(len(row_M), device=device) - starts[row_M]

    row_N = torch.repeat_interleave(rows, token_lengths)
    within_N = _within(row_N, token_lengths)
    behind = within_N >= speech_place[row_N]
    text_at_N = starts[row_N] + within_N + behind * speech_lengths[row_N]

    row_S = torch.repeat_interleave(rows, speech_lengths)
    speech_at_S = starts[row_S] + speech_place[row_S] + _within(row_S, speech_lengths)
    return Layout(row_lengths, position_M, row_M, text_at_N, speech_at_S)


def splice(token_embeds_ND: Tensor, speech_embeds_SD: Tensor, layout: Layout) -> Tensor:
    """Interleaves text and speech embeddings as `layout` says.

    Returns:
        Packed embeddings (M, D), in the token embeddings' dtype.

    Raises:
        ValueError: Counts that do not fit the layout; splicing anyway would shift all that follows.
    """
    found = (len(token_embeds_ND), len(speech_embeds_SD))
    expected = (len(layout.text_at_N), len(layout.speech_at_S))
    if found != expected:
        raise ValueError(
            f"found {found[0]} text and {found[1]} speech embeddings; the layout has places for "
            f"{expected[0]} and {expected[1]}"
        )
    both = torch.cat([token_embeds_ND, speech_embeds_SD.to(token_embeds_ND.dtype)])
    order = torch.empty(len(both), dtype=torch.long, device=both.device)
    order[torch.cat([layout.text_at_N, layout.speech_at_S])] = torch.arange(
        len(both), device=both.device
    )
    return both[order]


def flatten(frames_ATD: Tensor, lengths_A: Tensor) -> Tensor:
    """Takes the valid frames of padded clips, one clip after the other: (S, D)."""
    valid_AT = torch.arange(frames_ATD.shape[1], device=frames_ATD.device) < lengths_A[:, None]
    return frames_ATD[valid_AT]


def pad_left(packed_MD: Tensor, row_lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Unpacks to rows that end together, for decoding.

    Returns:
        Embeddings (B, L, D) and the mask of real positions (B, L), long.
    """
    longest = max(row_lengths)
    embeds_BLD = packed_MD.new_zeros(len(row_lengths), longest, packed_MD.shape[1])
    mask_BL = torch.zeros(len(row_lengths), longest, dtype=torch.long, device=packed_MD.device)
    for i, row_LD in enumerate(packed_MD.split(row_lengths)):
        embeds_BLD[i, longest - len(row_LD) :] = row_LD
        mask_BL[i, longest - len(row_LD) :] = 1
    return embeds_BLD, mask_BL


def pad_waves(waves: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Waveforms to (A, T) float32 with zeros behind, and lengths (A,)."""
    lengths = torch.tensor([len(wave) for wave in waves])
    padded = torch.zeros(len(waves), int(lengths.max()))
    for i, wave in enumerate(waves):
        padded[i, : len(wave)] = torch.from_numpy(np.ascontiguousarray(wave, dtype=np.float32))
    return padded, lengths


def _within(row_N: Tensor, counts_B: Tensor) -> Tensor:
    """Index of each element within its row, for elements listed row by row."""
    starts_B = torch.cumsum(counts_B, 0) - counts_B
    return torch.arange(len(row_N), device=row_N.device) - starts_B[row_N]
