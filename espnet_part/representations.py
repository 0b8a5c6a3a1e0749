"""One vector per clip and place of a model: the mean over time of every layer's states.

Places: ``encoder.0`` (what the first encoder block reads) to ``encoder.L`` (what the last gives
out), ``adapter`` (what the LLM reads as speech), ``llm.1`` to ``llm.K`` (LLM blocks, at the
speech). The LLM's layer 0 would be the adapter's output once more. The instruction stands behind
the speech, so in a causal LM no speech position knows the task or the name of the language.

Shapes: B clips, T frames, S speech positions of all clips, M packed positions, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from espnet_part.attention import packed_inputs
from espnet_part.encoder import SAMPLE_RATE
from espnet_part.hidden_states import HiddenStates
from espnet_part.splice import pad_waves


def place_names(model: Any) -> list[str]:
    """Names of all places of a `PARTModel`, in order of computation."""
    encoder = [f"encoder.{layer}" for layer in range(len(model.encoder.layers) + 1)]
    return [*encoder, "adapter", *(f"llm.{i}" for i in _llm_layers(model))]


class EncoderStates:
    """Catches what the encoder's blocks read and give out.

    Attributes:
        states: Layer -> (B, T, D), of the last forward inside the `with` block. T may differ
            between layers where blocks shorten the time axis.
    """

    def __init__(self, encoder: Any):
        self._blocks = list(encoder.layers)
        self._queries = int(getattr(encoder, "queries", 0))  # frames that are not of the speech
        self.states: dict[int, Tensor] = {}
        self._handles: list = []

    def __enter__(self) -> EncoderStates:
        def before(module, args, kwargs):
            self._keep(0, (args, tuple(kwargs.values())))

        self._handles.append(self._blocks[0].register_forward_pre_hook(before, with_kwargs=True))
        for layer, block in enumerate(self._blocks, 1):
            self._handles.append(block.register_forward_hook(self._output(layer)))
        return self

    def __exit__(self, *error) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _output(self, layer: int):
        return lambda module, args, output: self._keep(layer, output)

    def _keep(self, layer: int, value) -> None:
        state = _first_tensor(value)
        assert state is not None and state.dim() == 3, "blocks of frames (B, T, D)"
        self.states[layer] = state[:, self._queries :]


@torch.no_grad()
def clip_vectors(model: Any, waves: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Vectors (B, D) of some clips, float32, by place; padding is no part of a mean.

    Args:
        model: A `PARTModel` in eval mode.
        waves: 16 kHz waveforms.
    """
    embeddings = model.llm.get_input_embeddings()
    device = embeddings.weight.device
    speech_BT, samples_B = pad_waves(list(waves))
    with EncoderStates(model.encoder) as encoder:
        frames_BTD, lengths_B = model.speech_frames(speech_BT.to(device), samples_B.to(device))
    counts_B = torch.as_tensor(model.encoder.frame_lengths(samples_B))
    width = int(counts_B.max())
    if len(waves) > 1 and any(state.shape[1] != width for state in encoder.states.values()):
        # Blocks that shorten the time axis: which of their frames are padding, only they know.
        alone = [clip_vectors(model, [wave]) for wave in waves]
        return {place: np.concatenate([one[place] for one in alone]) for place in alone[0]}
    states = {}
    for layer, state_BTD in encoder.states.items():
        full = [state_BTD.shape[1]] if len(waves) == 1 else counts_B.tolist()
        states[f"encoder.{layer}"] = [x_TD[:n] for x_TD, n in zip(state_BTD, full, strict=True)]
    states["adapter"] = [x_TD[:n] for x_TD, n in zip(frames_BTD, lengths_B.tolist(), strict=True)]
    prompt = torch.tensor(model.prompter.prompt("asr", "en", "en").before, device=device).long()
    before_PD = embeddings(prompt)
    rows = [torch.cat([before_PD, x_TD.to(before_PD.dtype)]) for x_TD in states["adapter"]]
    row_lengths = [len(row) for row in rows]
    position_M = torch.cat([torch.arange(n, device=device) for n in row_lengths])
    with HiddenStates(model.llm, _llm_layers(model), stop=True) as llm:
        model.llm(**packed_inputs(torch.cat(rows), position_M, row_lengths))
    for layer, state_MD in llm.states.items():
        states[f"llm.{layer}"] = [row[len(prompt) :] for row in state_MD.split(row_lengths)]
    return {
        place: torch.stack([x_TD.float().mean(0) for x_TD in own]).cpu().numpy()
        for place, own in states.items()
    }


def pool(model: Any, clips: Iterable[np.ndarray], batch_sec: float = 30.0) -> dict[str, np.ndarray]:
    """Vectors of many clips: place -> (N, D), in the clips' order.

    Args:
        model: A `PARTModel` in eval mode.
        clips: 16 kHz waveforms; those that follow each other share a batch, so neighbors of like
            length waste little.
        batch_sec: Most seconds of a batch, padding included; a longer clip goes alone.
    """
    found: list[dict[str, np.ndarray]] = []
    batch: list[np.ndarray] = []
    for wave_T in clips:
        longest = max(map(len, [*batch, wave_T]))
        if batch and longest * (len(batch) + 1) > batch_sec * SAMPLE_RATE:
            found.append(clip_vectors(model, batch))
            batch = []
        batch.append(wave_T)
    if batch:
        found.append(clip_vectors(model, batch))
    return {place: np.concatenate([one[place] for one in found]) for place in place_names(model)}


def _llm_layers(model: Any) -> range:
    return range(1, model.llm.config.num_hidden_layers + 1)


def _first_tensor(value) -> Tensor | None:
    """The first float tensor in nested tuples: blocks give out states alone or with others."""
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else None
    if isinstance(value, (tuple, list)):
        return next((t for item in value if (t := _first_tensor(item)) is not None), None)
    return _first_tensor(value[0]) if hasattr(value, "to_tuple") else None
