"""Augmentation on the fly, seeded by (seed, step, utterance): repeatable, whatever the workers."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def utterance_seed(seed: int, step: int, utt_id: str) -> int:
    """One number for all random choices about an utterance in a step."""
    return int(
        np.random.SeedSequence([seed, step, zlib.crc32(utt_id.encode())]).generate_state(1)[0]
    )


class SpecAugment:
    """Masks spans of time and of frequency with the utterance's mean (arXiv 1904.08779).

    Args:
        time_masks: Number of time spans.
        time_width: Longest one, as a share of the clip.
        freq_masks: Number of frequency spans.
        freq_width: Widest one, as a share of the feature dimension.
    """

    def __init__(
        self,
        time_masks: int = 2,
        time_width: float = 0.1,
        freq_masks: int = 2,
        freq_width: float = 0.2,
    ):
        self.time_masks, self.time_width = time_masks, time_width
        self.freq_masks, self.freq_width = freq_masks, freq_width

    def __call__(
        self, features_BTF: Tensor, lengths_B: Tensor, seeds: Sequence[int], stacked: int = 1
    ) -> Tensor:
        """Returns a masked copy of (B, T, F); clip b is masked by `seeds[b]` alone.

        Args:
            features_BTF: Features, F = stacked * bins.
            lengths_B: Valid frames.
            seeds: One per clip.
            stacked: Frames that the encoder stacks into one; a bin is masked in all of them.
        """
        batch, frames, width = features_BTF.shape
        bins = width // stacked
        masked_BT = np.zeros((batch, frames), dtype=bool)
        masked_BF = np.zeros((batch, bins), dtype=bool)
        for b, (length, seed) in enumerate(zip(lengths_B.tolist(), seeds, strict=True)):
            rng = np.random.default_rng(int(seed))
            for _ in range(self.time_masks):
                width = int(rng.integers(0, int(self.time_width * length) + 1))
                start = int(rng.integers(0, length - width + 1))
                masked_BT[b, start : start + width] = True
            for _ in range(self.freq_masks):
                width = int(rng.integers(0, int(self.freq_width * bins) + 1))
                start = int(rng.integers(0, bins - width + 1))
                masked_BF[b, start : start + width] = True
        device = features_BTF.device
        masked = (
            torch.from_numpy(masked_BT).to(device)[:, :, None]
            | torch.from_numpy(np.tile(masked_BF, stacked)).to(device)[:, None, :]
        )
        valid_BT1 = (torch.arange(frames, device=device) < lengths_B[:, None])[..., None]
        total = (features_BTF * valid_BT1).sum(1, keepdim=True)
        mean = total / lengths_B.clamp(min=1)[:, None, None]
        return torch.where(masked, mean.to(features_BTF.dtype), features_BTF)
