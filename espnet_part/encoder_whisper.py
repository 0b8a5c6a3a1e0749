"""Whisper's encoder, any size and number of mel bins, without padding to 30 s (50 Hz).

Sources: a folder or hub id of a whole Whisper (only the encoder's weights are read) or of an
encoder alone. transformers' own encoder takes nothing but 3000 mel frames and no mask; this one
runs its blocks over the clip's own frames, with the table of positions cut to them.

Shapes: B clips, T frames, F mel bins, D width.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder as WhisperBlocks

from espnet_part.encoder import (
    SpeechEncoder,
    attention_mask,
    fix_parameter,
    match_dtype,
    valid_mask,
)
from espnet_part.encoder_hub import FEATURES_FILE, load_model, make_config, quiet, read_config
from espnet_part.fbank import SHIFT, whisper_log_mel
from espnet_part.recompute import recompute_activations


class WhisperEncoder(SpeechEncoder):
    """transformers' Whisper blocks behind the contract of `SpeechEncoder`.

    Args:
        model: transformers' encoder. Its layer drop is not used: every block runs in every step.
    """

    kind = "whisper"
    hop = 2 * SHIFT
    receptive = SHIFT
    max_samples: int
    model: Any

    def __init__(self, model: nn.Module):
        super().__init__()
        # The sinusoids were never trained, and a policy that trains "all" must not start to.
        self.model = model
        fix_parameter(self.model.embed_positions, "weight")
        self.output_size = self.model.config.d_model
        self.max_samples = self.model.config.max_source_positions * self.hop

    @property
    def layers(self) -> list[nn.Module]:
        """The transformer blocks."""
        return list(self.model.layers)

    @property
    def tail(self) -> list[nn.Module]:
        """The norm behind the last block."""
        return [self.model.layer_norm]

    def _features(self, speech_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        log_mel_BTF = whisper_log_mel(speech_BT, self.model.config.num_mel_bins, self.max_samples)
        return log_mel_BTF, lengths_B // SHIFT

    def encode(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel frames (B, T, F) at 100 Hz to frames (B, ceil(T / 2), D)."""
        frame_lengths_B = (lengths_B + 1) // 2
        model = self.model
        # Zeros before each convolution are what a clip alone has past its end.
        past_B1T = ~valid_mask(lengths_B.to(features_BTF.device), features_BTF.shape[1])[:, None]
        hidden_BFT = features_BTF.transpose(1, 2).to(self.weight_dtype).masked_fill(past_B1T, 0.0)
        hidden_BDT = nn.functional.gelu(model.conv1(hidden_BFT)).masked_fill(past_B1T, 0.0)
        hidden_BTD = nn.functional.gelu(model.conv2(hidden_BDT)).transpose(1, 2)
        width = hidden_BTD.shape[1]
        hidden_BTD = hidden_BTD + model.embed_positions.weight[:width]
        hidden_BTD = nn.functional.dropout(hidden_BTD, p=model.dropout, training=self.training)
        keys = attention_mask(frame_lengths_B, width)
        keys = keys if keys is None else keys.to(hidden_BTD.device)
        for layer in model.layers:
            hidden_BTD = layer(match_dtype(hidden_BTD, layer), keys)
        return model.layer_norm(hidden_BTD), frame_lengths_B

    def gradient_checkpointing_enable(self) -> None:
        """Recomputes the blocks' activations in the backward pass."""
        recompute_activations(self.model)

    def fingerprint(self) -> dict:
        """Kind and sizes."""
        return super().fingerprint() | {"mel_bins": self.model.config.num_mel_bins}

    def save_pretrained(self, folder: str | Path) -> None:
        """A transformers folder of the encoder alone."""
        with quiet():
            self.model.save_pretrained(folder)
        options = {
            "feature_extractor_type": "WhisperFeatureExtractor",
            "feature_size": self.model.config.num_mel_bins,
        }
        text = json.dumps(options, indent=2) + "\n"
        (Path(folder) / FEATURES_FILE).write_text(text, encoding="utf-8")


def build(
    source: str | None, revision: str | None, config: dict, dtype: torch.dtype
) -> WhisperEncoder:
    """Builds the encoder; see `espnet_part.encoder.build_encoder`. No options beside a source."""
    if source is None:
        sizes = make_config(WhisperConfig, config)
        sizes._attn_implementation = "sdpa"
        model: nn.Module = WhisperBlocks(sizes)
        return WhisperEncoder(model.to(dtype))
    if config:
        raise ValueError(
            f"encoder.config: found {', '.join(sorted(config))} beside source {source}; a Whisper "
            "source brings its own sizes, leave config out"
        )
    from transformers import AutoConfig

    found = read_config(AutoConfig, source, revision)
    if found.model_type != "whisper":
        raise ValueError(
            f"encoder.source {source}: found a {found.model_type} model, expected whisper; set "
            "encoder.kind to what it is"
        )
    prefixes = ("model.encoder.", "encoder.")
    return WhisperEncoder(load_model(WhisperBlocks, source, revision, found, prefixes, dtype))
