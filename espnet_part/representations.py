"""One vector per clip and place of a model: the mean over time of every layer's states.

Places: ``encoder.0`` (what the first encoder block reads) to ``encoder.L`` (what the last gives
out), ``adapter`` (what the LLM reads as speech), ``llm.1`` to ``llm.K`` (LLM blocks, at the
speech). The LLM's layer 0 would be the adapter's output once more. The instruction stands behind
the speech, so in a causal LM no speech position knows the task or the name of the language.

Shapes: T frames, S speech positions, P prompt tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from espnet_part.attention import packed_inputs
from espnet_part.hidden_states import HiddenStates


def place_names(model: nn.Module) -> list[str]:
    """Names of all places of a `PARTModel`, in order of computation."""
    encoder = [f"encoder.{layer}" for layer in range(len(model.encoder.layers) + 1)]
    return [*encoder, "adapter", *(f"llm.{i}" for i in _llm_layers(model))]


class EncoderStates:
    """Catches what the encoder's blocks read and give out, for one clip at a time.

    Attributes:
        states: Layer -> (T, D), of the last forward inside the `with` block. T may differ between
            layers where blocks shorten the time axis.
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
        assert state is not None and state.dim() == 3 and len(state) == 1, "one clip at a time"
        self.states[layer] = state[0, self._queries :]


@torch.no_grad()
def clip_vectors(model: Any, wave_T: np.ndarray) -> dict[str, np.ndarray]:
    """Vectors (D,) of one clip, float32, by place.

    Clips go through alone: no frame is padding, whatever the encoder. What is lost in speed is
    little on a CPU, where small batches are as fast as large ones.

    Args:
        model: A `PARTModel` in eval mode.
        wave_T: 16 kHz waveform.
    """
    embeddings = model.llm.get_input_embeddings()
    device = embeddings.weight.device
    speech_1T = torch.from_numpy(np.ascontiguousarray(wave_T, dtype=np.float32))[None].to(device)
    with EncoderStates(model.encoder) as encoder:
        frames_1SD, lengths = model.speech_frames(speech_1T, torch.tensor([len(wave_T)]))
    speech_SD = frames_1SD[0, : int(lengths[0])]
    prompt = torch.tensor(model.prompter.prompt("asr", "en", "en").before, device=device).long()
    embeds_MD = torch.cat([embeddings(prompt), speech_SD.to(embeddings.weight.dtype)])
    position_M = torch.arange(len(embeds_MD), device=device)
    with HiddenStates(model.llm, _llm_layers(model), stop=True) as llm:
        model.llm(**packed_inputs(embeds_MD, position_M, [len(embeds_MD)]))
    states = {f"encoder.{layer}": state_TD for layer, state_TD in encoder.states.items()}
    states["adapter"] = speech_SD
    states |= {f"llm.{layer}": state_MD[len(prompt) :] for layer, state_MD in llm.states.items()}
    return {place: state.float().mean(0).cpu().numpy() for place, state in states.items()}


def pool(model: Any, waves: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """Vectors of many clips: place -> (N, D)."""
    found = [clip_vectors(model, wave_T) for wave_T in waves]
    return {place: np.stack([one[place] for one in found]) for place in place_names(model)}


def _llm_layers(model: Any) -> range:
    return range(1, model.llm.config.num_hidden_layers + 1)


def _first_tensor(value) -> Tensor | None:
    """The first float tensor in nested tuples: blocks give out states alone or with others."""
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else None
    if isinstance(value, (tuple, list)):
        return next((t for item in value if (t := _first_tensor(item)) is not None), None)
    return _first_tensor(value[0]) if hasattr(value, "to_tuple") else None
