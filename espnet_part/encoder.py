"""The speech encoder: what every kind of encoder keeps to, and how one is built.

Shapes: B clips, T samples or frames, F feature bins, D encoder width.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

SAMPLE_RATE = 16000
KINDS = {
    "whisper": "encoder_whisper",
    "sensevoice": "encoder_sensevoice",
    "transformers": "encoder_transformers",
    "espnet": "encoder_espnet",
}
Augment = Callable[[Tensor, Tensor], Tensor]


class SpeechEncoder(nn.Module, ABC):
    """Waveforms to frames. A clip in a padded batch gives what it gives alone.

    Any chain of unpadded windows, convolutions and strides turns n samples into
    ``(n - receptive) // hop + 1`` frames, so two integers describe the time axis of every kind.
    Clips shorter than one receptive field count as filled up with silence.

    Attributes:
        kind: Name in the model YAML.
        hop: Samples from one output frame to the next.
        receptive: Samples that the first output frame needs.
        output_size: Width D of the frames.
        min_samples: Shorter clips mean nothing; the data side refuses them.
        max_samples: Longest clip that the model takes; None without a limit.
        stacked_frames: Frames that one feature vector holds side by side; SpecAugment masks a mel
            bin in all of them.
    """

    kind: str
    hop: int
    receptive: int
    output_size: int
    min_samples: int = 400
    max_samples: int | None = None
    stacked_frames: int = 1

    @property
    def frame_rate_hz(self) -> float:
        """Output frames per second."""
        return SAMPLE_RATE / self.hop

    @property
    def max_sec(self) -> float | None:
        """Longest clip in seconds; None without a limit."""
        return None if self.max_samples is None else self.max_samples / SAMPLE_RATE

    @property
    @abstractmethod
    def layers(self) -> list[nn.Module]:
        """The blocks, in order of computation."""

    @property
    def tail(self) -> list[nn.Module]:
        """What follows the last block (a final norm); may be empty."""
        return []

    @property
    def weight_dtype(self) -> torch.dtype:
        """Data type of what the features meet first, to which they are cast."""
        return next(self.parameters()).dtype

    def frame_lengths(self, lengths):
        """Exact number of output frames for numbers of 16 kHz samples (int, array or tensor)."""
        if isinstance(lengths, Tensor):
            long = lengths.long()
            return ((long - self.receptive) // self.hop + 1).clamp(min=1) * (long > 0)
        # Manifests hold unsigned lengths, which would wrap around below zero.
        samples = np.asarray(lengths).astype(np.int64)
        frames = np.maximum((samples - self.receptive) // self.hop + 1, 1) * (samples > 0)
        return frames if frames.ndim else int(frames)

    @torch.no_grad()
    def features(self, speech_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Features in float32, whatever the weights' type and autocast say.

        Args:
            speech_BT: 16 kHz waveforms (B, T) in [-1, 1]; what lies past a length is ignored.
            lengths_B: Numbers of samples (B,). On the CPU they cost no synchronization.

        Returns:
            Features (B, T_features, F) and their lengths (B,).

        Raises:
            ValueError: A clip is longer than the model takes.
        """
        speech_BT, lengths_B = self._clean(speech_BT, lengths_B)
        with torch.autocast(speech_BT.device.type, enabled=False):
            return self._features(speech_BT, lengths_B)

    @abstractmethod
    def encode(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, T_features, F) and lengths to frames (B, T_frames, D) and lengths."""

    def forward(
        self, speech_BT: Tensor, lengths_B: Tensor, augment: Augment | None = None
    ) -> tuple[Tensor, Tensor]:
        """Waveforms to frames.

        Args:
            speech_BT: 16 kHz waveforms (B, T).
            lengths_B: Numbers of samples (B,).
            augment: Changes features, given them and their lengths (SpecAugment).

        Returns:
            Frames (B, T_frames, D) and their lengths (B,).
        """
        features_BTF, feature_lengths_B = self.features(speech_BT, lengths_B)
        if augment is not None:
            features_BTF = augment(features_BTF, feature_lengths_B)
        return self.encode(features_BTF, feature_lengths_B)

    @abstractmethod
    def gradient_checkpointing_enable(self) -> None:
        """Recomputes the blocks' activations in the backward pass."""

    @abstractmethod
    def save_pretrained(self, folder: str | Path) -> None:
        """Writes a folder that `build_encoder` takes as `source`."""

    def fingerprint(self) -> dict:
        """What tells this encoder from another one, for checkpoints."""
        return {
            "kind": self.kind,
            "hidden_size": self.output_size,
            "layers": len(self.layers),
            "hop": self.hop,
        }

    @abstractmethod
    def _features(self, speech_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Features of cleaned fp32 waveforms, and their lengths."""

    def _clean(self, speech_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Silence past the lengths, room for one receptive field, the limit checked."""
        limit = self.max_samples
        if limit is not None and speech_BT.shape[1] > limit:
            longest = int(lengths_B.max())
            if longest > limit:
                raise ValueError(
                    f"{self.kind} encoder: found a clip of {longest / SAMPLE_RATE:.2f} s "
                    f"({longest} samples), expected at most {limit / SAMPLE_RATE:.2f} s ({limit}); "
                    "cut it (decoding cuts long audio at pauses) or filter it out in stage 4"
                )
            speech_BT = speech_BT[:, :limit]
        valid_BT = valid_mask(lengths_B.to(speech_BT.device), speech_BT.shape[1])
        speech_BT = speech_BT.float().masked_fill(~valid_BT, 0.0)
        shortest = max(self.receptive, self.min_samples)
        if speech_BT.shape[1] < shortest:
            speech_BT = nn.functional.pad(speech_BT, (0, shortest - speech_BT.shape[1]))
        lengths_B = lengths_B.long()
        return speech_BT, lengths_B.clamp(min=shortest) * (lengths_B > 0)


class Constants(nn.Module):
    """Buffers of a frontend, which stay in float32 when the encoder around them is cast."""

    def _apply(self, fn, recurse=True):
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, value in before.items():
            now = self._buffers[name]
            if now is not None and now.dtype != value.dtype:
                self._buffers[name] = value.to(now.device)
        return self


def valid_mask(lengths_B: Tensor, width: int) -> Tensor:
    """Boolean (B, width), True at positions below the lengths."""
    return torch.arange(width, device=lengths_B.device) < lengths_B[:, None]


def attention_mask(lengths_B: Tensor, width: int) -> Tensor | None:
    """Boolean (B, 1, 1, width) over keys; None where the CPU already knows that all are valid.

    An empty row attends to its first frame: without any key its softmax would be NaN.
    """
    if lengths_B.device.type == "cpu" and bool((lengths_B >= width).all()):
        return None
    return valid_mask(lengths_B.clamp(min=1), width)[:, None, None, :]


def match_dtype(hidden_BTD: Tensor, layer: nn.Module) -> Tensor:
    """Casts to the block's type: trained float32 blocks may follow frozen bfloat16 ones.

    Under autocast operations choose for themselves.
    """
    if torch.is_autocast_enabled(hidden_BTD.device.type):
        return hidden_BTD
    return hidden_BTD.to(next(layer.parameters()).dtype)


def fix_parameter(module: nn.Module, name: str) -> None:
    """Makes a parameter that must never train (a sinusoidal table) a buffer of the same name."""
    value = module._parameters.pop(name)
    assert value is not None, name
    module.register_buffer(name, value.detach())


def build_encoder(
    kind: str,
    source: str | None = None,
    revision: str | None = None,
    config: dict | None = None,
    dtype: str = "float32",
) -> SpeechEncoder:
    """Builds an encoder from pre-trained weights, or with random ones from a config.

    Args:
        kind: ``whisper``, ``sensevoice``, ``transformers`` or ``espnet``.
        source: Hub id or folder of the weights (safetensors, or read with ``weights_only``).
        revision: Revision of a hub id.
        config: Without `source` the model's sizes, for random weights. With `source` only what
            the kind's module lists as options (``query`` of sensevoice, say).
        dtype: Data type of the weights.

    Raises:
        ValueError: The kind is unknown, neither or an impossible combination of source and config
            is given, or the source is not an encoder of this kind.
    """
    if kind not in KINDS:
        raise ValueError(f"encoder.kind: found {kind!r}, expected one of {', '.join(KINDS)}")
    if source is None and not config:
        raise ValueError(
            f"encoder ({kind}): found neither source nor config; give a hub id or folder as "
            "`source`, or sizes as `config` for random weights"
        )
    floats = ("float32", "bfloat16", "float16")
    if dtype not in floats:
        raise ValueError(f"encoder.dtype: found {dtype!r}, expected one of {', '.join(floats)}")
    module = importlib.import_module(f"espnet_part.{KINDS[kind]}")
    return module.build(source, revision, dict(config or {}), getattr(torch, dtype))
