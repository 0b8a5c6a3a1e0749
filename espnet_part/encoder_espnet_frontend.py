"""ESPnet's default frontend and normalizations, exact for every clip of a padded batch.

Shapes: B clips, T samples or frames, K spectrum bins, F mel bins.
"""

from __future__ import annotations

import torch
from torch import Tensor

from espnet_part.encoder import Constants
from espnet_part.fbank import reflect_clips


class LogMelFrontend(Constants):
    """ESPnet's default frontend: short-time spectrum, mel filters, natural logarithm.

    Args:
        mel_KF: Filters (n_fft // 2 + 1, bins).
        n_fft: Samples per transform.
        win_length: Samples under the window.
        hop_length: Samples from one frame to the next.
        window: Name of torch's window, or None.
        center: Whether frame t is centered at sample t * hop, with clips mirrored at both ends.
    """

    melmat: Tensor

    def __init__(
        self,
        mel_KF: Tensor,
        n_fft: int,
        win_length: int,
        hop_length: int,
        window: str | None,
        center: bool,
    ):
        super().__init__()
        self.register_buffer("melmat", mel_KF)
        self.n_fft, self.win_length, self.hop_length = n_fft, win_length, hop_length
        self.window, self.center = window, center

    def forward(self, speech_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Waveforms to log-mel (B, T, F) and lengths."""
        counts_B = lengths_B
        if self.center:
            pad = self.n_fft // 2
            speech_BT = reflect_clips(speech_BT, lengths_B, pad)
            counts_B = lengths_B + 2 * pad
        window = None
        if self.window is not None:
            window = getattr(torch, f"{self.window}_window")(
                self.win_length, device=speech_BT.device
            )
        spectrum = torch.stft(
            speech_BT,
            self.n_fft,
            self.hop_length,
            self.win_length,
            window,
            center=False,
            return_complex=True,
        ).transpose(1, 2)
        power = spectrum.real.square() + spectrum.imag.square()
        log_mel = (power @ self.melmat).clamp(min=1e-10).log()
        return log_mel, ((counts_B - self.n_fft) // self.hop_length + 1).clamp(min=0)


class Normalize(Constants):
    """ESPnet's ``global_mvn`` (with statistics), ``utterance_mvn`` (without) or nothing.

    Args:
        kind: One of the two names or None.
        mean_F: Global mean.
        std_F: Global standard deviation.
        norm_means: Whether to subtract the mean.
        norm_vars: Whether to divide by the standard deviation.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self,
        kind: str | None,
        mean_F: Tensor | None,
        std_F: Tensor | None,
        norm_means: bool,
        norm_vars: bool,
    ):
        super().__init__()
        self.kind, self.norm_means, self.norm_vars = kind, norm_means, norm_vars
        self.register_buffer("mean", mean_F)
        self.register_buffer("std", std_F)

    def forward(self, features_BTF: Tensor, valid_BT1: Tensor) -> Tensor:
        """Normalized features, zero past the clips' ends."""
        features_BTF = features_BTF.masked_fill(~valid_BT1, 0.0)
        if self.kind is None:
            return features_BTF
        mean, std = self.mean, self.std
        if self.kind == "utterance_mvn":
            counts = valid_BT1.sum(1, keepdim=True).clamp(min=1)
            mean = features_BTF.sum(1, keepdim=True) / counts
            centered = (features_BTF - mean).masked_fill(~valid_BT1, 0.0)
            std = (centered.square().sum(1, keepdim=True) / counts).sqrt().clamp(min=1e-20)
        assert mean is not None and std is not None, self.kind
        if self.norm_means:
            features_BTF = features_BTF - mean
        if self.norm_vars:
            features_BTF = features_BTF / std
        return features_BTF.masked_fill(~valid_BT1, 0.0)
