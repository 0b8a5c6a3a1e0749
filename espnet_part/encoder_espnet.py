"""Encoders of ESPnet2 ASR and S2T models (OWSM): frontend, normalization and encoder.

Sources: a folder with ``config.yaml`` and one ``.pth``, or an unpacked ESPnet model or hub id with
``meta.yaml``. Random weights: ``encoder``, ``encoder_conf``, and optionally ``frontend_conf``,
``normalize`` and ``normalize_conf`` as in an ESPnet config.

ESPnet's own forward lets padding into convolutions and counts the frames of padded clips
otherwise than alone; here every convolution sees zeros past a clip's end.

Shapes: B clips, T frames, F mel bins, D width.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from espnet_part.encoder import SpeechEncoder, match_dtype, valid_mask
from espnet_part.encoder_espnet_frontend import LogMelFrontend, Normalize

KEYS = ("frontend", "frontend_conf", "normalize", "normalize_conf", "encoder", "encoder_conf")


class Padding:
    """Which frames of the running batch are valid, for the hooks on the blocks' convolutions."""

    valid_B1T: Tensor | None = None


def _silence(padding: Padding, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple:
    if padding.valid_B1T is None:
        return inputs
    return (inputs[0].masked_fill(~padding.valid_B1T, 0.0), *inputs[1:])


class ESPnetEncoder(SpeechEncoder):
    """An ESPnet encoder behind the contract of `SpeechEncoder`.

    Every block runs in every step (no layer drop), and batch norms keep their statistics, so that
    a clip never depends on others.

    Args:
        frontend: Waveforms to log-mel.
        normalize: Normalizes log-mel.
        model: ESPnet's encoder, with ``embed``, ``encoders`` and perhaps ``after_norm``.
        recipe: The keys of the ESPnet config that made it, for `save_pretrained`.
    """

    kind = "espnet"
    model: Any
    frontend: LogMelFrontend
    normalize: Normalize

    def __init__(self, frontend: LogMelFrontend, normalize: Normalize, model: Any, recipe: dict):
        super().__init__()
        self.frontend, self.normalize, self.model = frontend, normalize, model
        self.recipe = recipe
        self.output_size = model.output_size()
        self.checkpointing = False
        # Unpadded convolutions in a row: fields grow by (kernel - 1) strides, strides multiply.
        self.field, self.stride = 1, 1
        for conv in _convolutions(getattr(model.embed, "conv", None)):
            self.field += (conv.kernel_size[0] - 1) * self.stride
            self.stride *= conv.stride[0]
        self.hop = self.stride * frontend.hop_length
        self.receptive = (self.field - 1) * frontend.hop_length
        self.receptive += 0 if frontend.center else frontend.n_fft
        self._tables = [
            [module, module.pe]
            for module in model.embed.modules()
            if isinstance(getattr(module, "pe", None), Tensor)
        ]
        self._padding = Padding()
        for block in model.encoders:
            if getattr(block, "stochastic_depth_rate", 0.0):
                block.stochastic_depth_rate = 0.0
            for conv in _convolutions(block):
                if conv.kernel_size[0] > 1:
                    conv.register_forward_pre_hook(partial(_silence, self._padding))

    @property
    def layers(self) -> list[nn.Module]:
        """The blocks."""
        return list(self.model.encoders)

    @property
    def tail(self) -> list[nn.Module]:
        """The norm behind the last block, where there is one."""
        norm = getattr(self.model, "after_norm", None)
        return [] if norm is None else [norm]

    def train(self, mode: bool = True) -> ESPnetEncoder:
        """Training mode, batch norms excepted."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def _features(self, speech_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        return self.frontend(speech_BT, lengths_B)

    def encode(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel frames (B, T, F) to frames (B, T_frames, D)."""
        # Normalized here and not in `features`: ESPnet, too, masks first and normalizes then.
        valid = valid_mask(lengths_B.to(features_BTF.device), features_BTF.shape[1])[..., None]
        features_BTF = self.normalize(features_BTF, valid).to(self.weight_dtype)
        frame_lengths_B = ((lengths_B - self.field) // self.stride + 1).clamp(min=0)
        self._restore_positions(features_BTF.device)
        if hasattr(self.model.embed, "conv"):
            hidden, _ = self.model.embed(features_BTF, None)
        else:
            hidden = self.model.embed(features_BTF)
        width = (hidden[0] if isinstance(hidden, tuple) else hidden).shape[1]
        # An empty clip keeps one frame: without any key its softmax would be NaN.
        counts_B = frame_lengths_B.to(features_BTF.device).clamp(min=1)
        valid_B1T = valid_mask(counts_B, width)[:, None, :]
        for layer in self.model.encoders:
            if self.checkpointing and self.training:
                hidden = checkpoint(self._block, layer, hidden, valid_B1T, use_reentrant=False)
            else:
                hidden = self._block(layer, hidden, valid_B1T)
        hidden_BTD = hidden[0] if isinstance(hidden, tuple) else hidden
        for norm in self.tail:
            hidden_BTD = norm(hidden_BTD)
        return hidden_BTD, frame_lengths_B

    def _restore_positions(self, device: torch.device) -> None:
        """ESPnet casts its tables of positions to the type of its input, and bfloat16 stays."""
        for entry in self._tables:
            entry[1] = entry[1].to(device)
            entry[0].pe = entry[1]

    def _block(self, layer: nn.Module, hidden, valid_B1T: Tensor):
        # Set for each block and not for each batch: recomputation comes after other batches.
        self._padding.valid_B1T = valid_B1T
        if isinstance(hidden, tuple):
            hidden = tuple(match_dtype(part, layer) for part in hidden)
        else:
            hidden = match_dtype(hidden, layer)
        try:
            return layer(hidden, valid_B1T)[0]
        finally:
            self._padding.valid_B1T = None

    def gradient_checkpointing_enable(self) -> None:
        """Recomputes the blocks' activations in the backward pass."""
        self.checkpointing = True

    def fingerprint(self) -> dict:
        """Kind, class, sizes and frontend."""
        return super().fingerprint() | {
            "class": type(self.model).__name__,
            "mel_bins": self.frontend.melmat.shape[1],
            "normalize": self.normalize.kind,
        }

    def save_pretrained(self, folder: str | Path) -> None:
        """``config.yaml`` in ESPnet's words and the weights as safetensors."""
        import yaml
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(self.recipe, sort_keys=False)
        (folder / "config.yaml").write_text(text, encoding="utf-8")
        parts = {"encoder": self.model, "normalize": self.normalize}
        weights = {
            f"{name}.{key}": value.contiguous()
            for name, part in parts.items()
            for key, value in part.state_dict().items()
        }
        weights["frontend.logmel.melmat"] = self.frontend.melmat.contiguous()
        save_file(weights, folder / "model.safetensors")


def _convolutions(module: nn.Module | None) -> list[nn.Conv1d | nn.Conv2d]:
    inside = [] if module is None else module.modules()
    return [part for part in inside if isinstance(part, (nn.Conv1d, nn.Conv2d))]


def build(source: str | None, revision: str | None, config: dict, dtype: torch.dtype):
    """Builds the encoder; see `espnet_part.encoder.build_encoder`. No options beside a source."""
    from espnet_part.encoder_espnet_source import load_encoder, make_encoder
    from espnet_part.encoder_probe import check_padding

    if source is None:
        unknown = sorted(set(config) - set(KEYS))
        if unknown:
            raise ValueError(
                f"encoder.config: found {', '.join(unknown)}, expected some of {', '.join(KEYS)}"
            )
        encoder = make_encoder(config, {}, "encoder.config")
    elif config:
        raise ValueError(
            f"encoder.config: found {', '.join(sorted(config))} beside source {source}; an ESPnet "
            "source brings its own config, leave it out"
        )
    else:
        encoder = load_encoder(source, revision)
    # In float32, before the cast: bfloat16's rounding would hide a leak.
    check_padding(encoder, source or str(config["encoder"]))
    encoder.model.to(dtype)
    return encoder
