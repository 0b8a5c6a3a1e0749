"""Any mask-aware speech encoder of transformers: w2v-BERT 2.0, wav2vec 2.0 (layer norm), WavLM ...

Sources: a folder or hub id that AutoModel and AutoFeatureExtractor read. Random weights: the
model's config with its ``model_type``, and optionally ``feature_extractor: {...}`` as in
``preprocessor_config.json``. Building measures the time axis and refuses models whose result
depends on padding.

Shapes: B clips, T frames or samples, F feature bins, D width.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from espnet_part.encoder import SAMPLE_RATE, SpeechEncoder, fix_parameter, match_dtype, valid_mask
from espnet_part.encoder_hub import quiet
from espnet_part.encoder_probe import check_padding, find_layers, find_tail, time_axis
from espnet_part.fbank import FRAME, SHIFT, kaldi_fbank
from espnet_part.recompute import recompute_activations


class TransformersEncoder(SpeechEncoder):
    """A transformers model behind the contract of `SpeechEncoder`.

    Its own masking of inputs and its layer drop are switched off: SpecAugment comes from outside,
    and every block runs in every step.

    Args:
        model: Gives `last_hidden_state` for features and a mask.
        extractor: Its feature extractor.

    Raises:
        ValueError: The model takes no mask, or its time axis is not that of windows and strides.
    """

    kind = "transformers"
    model: Any
    input_name: str
    mask_name: str

    def __init__(self, model: Any, extractor):
        super().__init__()
        self.model, self.extractor = model, extractor
        parameters = inspect.signature(model.forward).parameters
        masks = [name for name in ("attention_mask", "input_features_mask") if name in parameters]
        if not masks:
            raise ValueError(f"encoder: {type(model).__name__} takes no mask, so it cannot batch")
        self.input_name, self.mask_name = model.main_input_name, masks[0]
        self._no_chance(model)
        # Inside a list, not to be registered a second time.
        self._blocks = [find_layers(model, getattr(model.config, "num_hidden_layers", None))]
        self.hop, self.receptive = time_axis(self._count)
        self.output_size = self._trace()
        if type(extractor).__name__ == "SeamlessM4TFeatureExtractor":
            self.stacked_frames = extractor.stride
        for layer in self.layers:
            layer.register_forward_pre_hook(_match_input)

    @property
    def layers(self) -> list[nn.Module]:
        """The longest stack of blocks."""
        return list(self._blocks[0])

    @property
    def tail(self) -> list[nn.Module]:
        """All modules with weights that run after the last block."""
        return list(self._tail)

    @staticmethod
    def _no_chance(model: Any) -> None:
        """No masks or skipped blocks by chance, whose random numbers nobody seeds."""
        model.config.apply_spec_augment = False
        for module in model.modules():
            for holder in (module, getattr(module, "config", None)):
                if holder is not None and getattr(holder, "layerdrop", None):
                    holder.layerdrop = 0.0
            if "masked_spec_embed" in module._parameters:
                fix_parameter(module, "masked_spec_embed")

    def _count(self, samples: int) -> int:
        """Output frames of a clip, by the feature extractor and the model's own rule."""
        lengths = self._features(*_noise(samples))[1]
        with torch.device("cpu"):
            return int(self._subsampled(lengths)[0]) if int(lengths[0]) > 0 else 0

    def _subsampled(self, lengths_B: Tensor) -> Tensor:
        """Frames for numbers of features, by the model's own rule where it has one."""
        for name in ("_get_feat_extract_output_lengths", "_get_subsampling_output_length"):
            rule = getattr(self.model, name, None)
            if rule is not None:
                return rule(lengths_B).long()
        return lengths_B

    def _trace(self) -> int:
        """Runs a short clip to see what follows the blocks; returns the frames' width."""
        device = next(self.model.parameters()).device
        features = self._features(*_noise(self.receptive + 7 * self.hop))[0].to(device)
        was_training = self.training
        self.eval()
        widths = []

        def run() -> None:
            # One whole clip needs no mask, which weights on the meta device could not read.
            inputs = features[..., 0] if self.input_name == "input_values" else features
            widths.append(self.model(**{self.input_name: inputs}).last_hidden_state.shape[-1])

        self._tail = tuple(find_tail(run, self.model, self.layers[-1]))
        self.train(was_training)
        return widths[0]

    def _features(self, speech_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        name = type(self.extractor).__name__
        if name == "SeamlessM4TFeatureExtractor":
            return self._stacked_fbank(speech_BT, lengths_B)
        if name == "Wav2Vec2FeatureExtractor":
            return self._waveform(speech_BT, lengths_B)
        return self._rows(speech_BT, lengths_B)

    def _stacked_fbank(self, speech_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """SeamlessM4TFeatureExtractor: normalized per clip and bin, neighbours side by side."""
        stride = self.extractor.stride
        fbank_BTF = kaldi_fbank(speech_BT, self.extractor.num_mel_bins, "povey", 32768.0)
        counts_B = ((lengths_B - FRAME) // SHIFT + 1).clamp(min=0)
        counts = counts_B.to(fbank_BTF.device)[:, None, None]
        valid = valid_mask(counts[:, 0, 0], fbank_BTF.shape[1])[..., None]
        mean = fbank_BTF.masked_fill(~valid, 0.0).sum(1, keepdim=True) / counts.clamp(min=1)
        centered = (fbank_BTF - mean).masked_fill(~valid, 0.0)
        variance = centered.square().sum(1, keepdim=True) / (counts - 1).clamp(min=1)
        fbank_BTF = centered / (variance + 1e-7).sqrt()
        batch, frames, bins = fbank_BTF.shape
        frames = frames // stride
        stacked = fbank_BTF[:, : frames * stride].reshape(batch, frames, bins * stride)
        return stacked, counts_B // stride

    def _waveform(self, speech_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Wav2Vec2FeatureExtractor: samples as they are, or each clip to mean 0, variance 1."""
        if self.extractor.do_normalize:
            counts = lengths_B.to(speech_BT.device)[:, None]
            valid = valid_mask(counts[:, 0], speech_BT.shape[1])
            mean = speech_BT.sum(1, keepdim=True) / counts.clamp(min=1)
            centered = (speech_BT - mean).masked_fill(~valid, 0.0)
            variance = centered.square().sum(1, keepdim=True) / counts.clamp(min=1)
            speech_BT = centered / (variance + 1e-7).sqrt()
        return speech_BT[..., None], lengths_B

    def _rows(self, speech_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Any other extractor, clip by clip."""
        rows = []
        for speech_T, length in zip(speech_BT.cpu(), lengths_B.tolist(), strict=True):
            clip = speech_T[: max(length, 1)].numpy()
            out = self.extractor(clip, sampling_rate=SAMPLE_RATE, return_tensors="pt")
            row = out[self.input_name][0].float()
            mask = out.get("attention_mask", out.get("input_features_mask"))
            count = row.shape[0] if mask is None else int(mask[0].sum())
            rows.append(row[: count if length else 0])
        counts = torch.tensor([len(row) for row in rows], device=lengths_B.device)
        return nn.utils.rnn.pad_sequence(rows, batch_first=True).to(speech_BT.device), counts

    def encode(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, T_features, F) to frames (B, T_frames, D)."""
        valid_BT = valid_mask(lengths_B.to(features_BTF.device).clamp(min=1), features_BTF.shape[1])
        features = features_BTF.masked_fill(~valid_BT[..., None], 0.0).to(self.weight_dtype)
        if self.input_name == "input_values":
            features = features[..., 0]
        out = self.model(**{self.input_name: features, self.mask_name: valid_BT.long()})
        return out.last_hidden_state, self._subsampled(lengths_B) * (lengths_B > 0)

    def gradient_checkpointing_enable(self) -> None:
        """Recomputes the blocks' activations in the backward pass."""
        recompute_activations(self.model)

    def fingerprint(self) -> dict:
        """Kind, model type, sizes and the feature extractor's class."""
        return super().fingerprint() | {
            "model_type": self.model.config.model_type,
            "features": type(self.extractor).__name__,
        }

    def save_pretrained(self, folder: str | Path) -> None:
        """The transformers folder of model and feature extractor."""
        with quiet():
            self.model.save_pretrained(folder)
        self.extractor.save_pretrained(folder)


def _match_input(layer: nn.Module, inputs: tuple) -> tuple:
    return tuple(
        match_dtype(value, layer) if place == 0 and isinstance(value, Tensor) else value
        for place, value in enumerate(inputs)
    )


def _noise(samples: int) -> tuple[Tensor, Tensor]:
    """A clip to measure with, on the CPU whatever the default device is."""
    with torch.device("cpu"):
        generator = torch.Generator().manual_seed(0)
        return 0.1 * torch.randn(1, samples, generator=generator), torch.tensor([samples])


def build(
    source: str | None, revision: str | None, config: dict, dtype: torch.dtype
) -> TransformersEncoder:
    """Builds the encoder; see `espnet_part.encoder.build_encoder`. No options beside a source."""
    from espnet_part.encoder_transformers_source import make_random, read_pretrained

    if source is None:
        model, extractor = make_random(config)
    elif config:
        raise ValueError(
            f"encoder.config: found {', '.join(sorted(config))} beside source {source}; a "
            "transformers source brings its own sizes, leave config out"
        )
    else:
        model, extractor = read_pretrained(source, revision)
    encoder = TransformersEncoder(model, extractor)
    # In float32, before the cast: bfloat16's rounding would hide a leak.
    check_padding(encoder, source or model.config.model_type)
    encoder.model.to(dtype)
    return encoder
