"""Hidden states of the LLM's layers, caught while it runs.

Layer 0 is what the first block reads (the embeddings), layer l what block l gives out. The final
norm is no layer: the last block's output is caught before it.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from transformers import PreTrainedModel

from espnet_part.encoder_probe import find_layers


class _Deepest(Exception):
    """The deepest layer that was asked for has run."""


class HiddenStates:
    """Catches hidden states of one forward of an LLM, with their graph where there is one.

        with HiddenStates(llm, [0, 2]) as hidden:
            llm(**packed_inputs(...))
        hidden.states[2]  # (M, D)

    Hooks see a block's output once, also where its activations are recomputed in the backward pass.

    Args:
        llm: A transformers causal LM.
        layers: Which ones, 0 to the number of blocks; none makes it a context that does nothing.
        stop: End the forward behind the deepest of them. The call of the LLM then returns nothing,
            and what stands behind it in the `with` block is skipped.

    Attributes:
        states: Layer -> hidden states (M, D) of a packed forward, (B, L, D) of a padded one.

    Raises:
        ValueError: A layer that the LLM does not have.
    """

    def __init__(self, llm: PreTrainedModel, layers: Iterable[int], stop: bool = False):
        self.layers = sorted(set(layers))
        self._blocks = list(find_layers(llm, llm.config.num_hidden_layers)) if self.layers else []
        for layer in self.layers:
            if not 0 <= layer <= len(self._blocks):
                raise ValueError(
                    f"layer {layer}: this LLM has layers 0 (its embeddings) to {len(self._blocks)}"
                )
        self.states: dict[int, Tensor] = {}
        self._stop = stop
        self._handles: list = []

    def __enter__(self) -> HiddenStates:
        self.states = {}
        for layer in self.layers:
            if layer == 0:
                hook = self._blocks[0].register_forward_pre_hook(self._embeddings)
            else:
                hook = self._blocks[layer - 1].register_forward_hook(self._output(layer))
            self._handles.append(hook)
        return self

    def __exit__(self, kind, error, trace) -> bool:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        return kind is _Deepest

    def _embeddings(self, module: nn.Module, inputs: tuple) -> None:
        self._keep(0, inputs[0])

    def _output(self, layer: int):
        def hook(module: nn.Module, inputs: tuple, output) -> None:
            self._keep(layer, output if isinstance(output, Tensor) else output[0])

        return hook

    def _keep(self, layer: int, states: Tensor) -> None:
        self.states[layer] = states[0] if len(states) == 1 else states
        if self._stop and layer == self.layers[-1]:
            raise _Deepest
