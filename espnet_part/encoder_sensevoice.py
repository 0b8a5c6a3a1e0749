"""SenseVoice (SAN-M) encoders: Kaldi filterbank, low frame rate 7/6 (16.67 Hz), FSMN attention.

Sources: a folder or hub id with transformers' ``FunAsrNanoEncoder`` (or a whole Fun-ASR-Nano), or
the original SenseVoiceSmall files ``model.pt`` and ``am.mvn``. Options, in the model YAML's
``encoder.config`` beside a source or among the sizes:

    query: null | withitn | woitn   # original weights: four learned frames before the speech, as in
                                    # their training; dropped behind the last block
    waveform_scale: 1.0             # 32768 where the weights were trained on 16-bit integers

Shapes: B clips, T frames, F = 7 * 80 stacked mel bins, D width.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import FunAsrNanoEncoder, FunAsrNanoEncoderConfig

from espnet_part.encoder import Constants, SpeechEncoder, attention_mask, match_dtype, valid_mask
from espnet_part.encoder_hub import (
    FEATURES_FILE,
    find_file,
    load_model,
    make_config,
    quiet,
    read_config,
    read_json,
)
from espnet_part.fbank import FRAME, SHIFT, kaldi_fbank, stack_frames
from espnet_part.recompute import recompute_activations

STRIDE = 6
OPTIONS = ("query", "waveform_scale")
FRONTEND_FILE = "frontend.safetensors"


class Frontend(Constants):
    """Normalization and query frames, between filterbank and blocks.

    Args:
        shift_F: Added to stacked features, then
        scale_F: multiplied with them (am.mvn); None for models without normalization.
        query_QF: Frames (Q, F) put before the speech, or None.
    """

    shift: Tensor | None
    scale: Tensor | None
    query: Tensor | None

    def __init__(
        self,
        shift_F: Tensor | None = None,
        scale_F: Tensor | None = None,
        query_QF: Tensor | None = None,
    ):
        super().__init__()
        self.register_buffer("shift", shift_F)
        self.register_buffer("scale", scale_F)
        self.register_buffer("query", query_QF)

    def forward(self, stacked_BTF: Tensor) -> Tensor:
        """Normalized (B, Q + T, F)."""
        if self.shift is not None and self.scale is not None:
            stacked_BTF = (stacked_BTF + self.shift) * self.scale
        if self.query is not None:
            query = self.query.expand(len(stacked_BTF), -1, -1)
            stacked_BTF = torch.cat([query, stacked_BTF], 1)
        return stacked_BTF


class SenseVoiceEncoder(SpeechEncoder):
    """transformers' FunAsrNanoEncoder behind the contract of `SpeechEncoder`.

    Args:
        model: The blocks.
        frontend: Normalization and query frames.
        waveform_scale: Factor on the waveform before the filterbank.
    """

    kind = "sensevoice"
    hop = STRIDE * SHIFT
    receptive = FRAME
    model: Any
    frontend: Frontend

    def __init__(
        self,
        model: nn.Module,
        frontend: Frontend | None = None,
        waveform_scale: float = 1.0,
    ):
        super().__init__()
        self.model = model
        self.frontend = frontend or Frontend()
        self.waveform_scale = float(waveform_scale)
        self.queries = 0 if self.frontend.query is None else len(self.frontend.query)
        config = self.model.config
        self.output_size = config.hidden_size
        # The table of positions starts at one.
        longest = config.max_position_embeddings - 1 - self.queries
        self.max_samples = self.receptive + self.hop * longest - 1

    @property
    def layers(self) -> list[nn.Module]:
        """The SAN-M blocks; the last one ends with the model's final norm."""
        return list(self.model.layers)

    def _features(self, speech_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        # Stacking is left to `encode`, so that SpecAugment masks true mel bins and single frames.
        bins = self.model.config.num_mel_bins
        fbank_BTF = kaldi_fbank(speech_BT, bins, scale=self.waveform_scale)
        return fbank_BTF, ((lengths_B - FRAME) // SHIFT + 1).clamp(min=0)

    def encode(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Filterbank frames (B, T, 80) at 100 Hz to frames (B, ceil(T / 6), D)."""
        frame_lengths_B = (lengths_B + STRIDE - 1) // STRIDE
        size = self.model.config.num_stacked_frames
        stacked_BTF = stack_frames(features_BTF, lengths_B, size, STRIDE)
        hidden_BTD = self.frontend(stacked_BTF).to(self.weight_dtype)
        total_B, width = frame_lengths_B + self.queries, hidden_BTD.shape[1]
        keys = attention_mask(total_B, width)
        keys = keys if keys is None else keys.to(hidden_BTD.device)
        valid_BT = valid_mask(total_B.to(hidden_BTD.device), width)
        positions_BTD = self.model.position_embeddings(hidden_BTD)
        hidden_BTD = hidden_BTD * self.model.scaling + positions_BTD
        for layer in self.model.layers:
            hidden_BTD = layer(match_dtype(hidden_BTD, layer), keys, valid_BT)
        return hidden_BTD[:, self.queries :], frame_lengths_B

    def gradient_checkpointing_enable(self) -> None:
        """Recomputes the blocks' activations in the backward pass."""
        recompute_activations(self.model)

    def fingerprint(self) -> dict:
        """Kind, sizes and the options that change the features."""
        return super().fingerprint() | {
            "mel_bins": self.model.config.num_mel_bins,
            "waveform_scale": self.waveform_scale,
            "normalized": self.frontend.shift is not None,
            "queries": self.queries,
        }

    def save_pretrained(self, folder: str | Path) -> None:
        """The transformers folder, with the frontend's constants and options beside it."""
        from safetensors.torch import save_file

        with quiet():
            self.model.save_pretrained(folder)
        options = {
            "feature_extractor_type": "FunAsrNanoFeatureExtractor",
            "feature_size": self.model.config.num_mel_bins,
            "waveform_scale": self.waveform_scale,
        }
        text = json.dumps(options, indent=2) + "\n"
        (Path(folder) / FEATURES_FILE).write_text(text, encoding="utf-8")
        constants = {name: value.contiguous() for name, value in self.frontend.named_buffers()}
        if constants:
            save_file(constants, Path(folder) / FRONTEND_FILE)


def build(
    source: str | None, revision: str | None, config: dict, dtype: torch.dtype
) -> SenseVoiceEncoder:
    """Builds the encoder; see `espnet_part.encoder.build_encoder`."""
    options = {key: config.pop(key) for key in OPTIONS if key in config}
    if source is None:
        if options.get("query"):
            raise ValueError(
                "encoder.config.query: random weights have no learned query frames; leave it out"
            )
        sizes = make_config(FunAsrNanoEncoderConfig, config)
        sizes._attn_implementation = "sdpa"
        model: nn.Module = FunAsrNanoEncoder(sizes)
        return SenseVoiceEncoder(model.to(dtype), None, options.get("waveform_scale", 1.0))
    if config:
        raise ValueError(
            f"encoder.config: found {', '.join(sorted(config))} beside source {source}; with a "
            f"source only {', '.join(OPTIONS)} may be set"
        )
    known = read_json(source, "config.json", revision).get("model_type")
    if known is None and find_file(source, "model.pt", revision) is not None:
        from espnet_part.encoder_sensevoice_original import load_original

        return load_original(source, revision, options, dtype)
    return _load_transformers(source, revision, options, dtype)


def _load_transformers(
    source: str, revision: str | None, options: dict, dtype: torch.dtype
) -> SenseVoiceEncoder:
    from transformers import AutoConfig

    found = read_config(AutoConfig, source, revision)
    if found.model_type == "fun_asr_nano":
        found = found.audio_config
    if found.model_type != "fun_asr_nano_encoder":
        raise ValueError(
            f"encoder.source {source}: found a {found.model_type} model, expected "
            "fun_asr_nano_encoder; set encoder.kind to what it is"
        )
    prefixes = ("model.audio_tower.", "audio_tower.")
    model = load_model(FunAsrNanoEncoder, source, revision, found, prefixes, dtype)
    if options.get("query"):
        raise ValueError(
            f"encoder.config.query: only the original SenseVoiceSmall files (model.pt) hold query "
            f"frames to choose from; found a transformers folder in {source}"
        )
    constants: dict[str, Tensor] = {}
    path = find_file(source, FRONTEND_FILE, revision)
    if path is not None:
        from safetensors.torch import load_file

        # Copies are aligned as computed tensors are, so that sums round the same way.
        constants = {name: value.clone() for name, value in load_file(path).items()}
    frontend = Frontend(constants.get("shift"), constants.get("scale"), constants.get("query"))
    saved = read_json(source, FEATURES_FILE, revision)
    scale = options.get("waveform_scale", saved.get("waveform_scale", 1.0))
    return SenseVoiceEncoder(model, frontend, scale)
