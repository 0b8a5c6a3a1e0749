"""Adaptive inner alignment: while training, retrieval on dev rows chooses the layers to align."""

from __future__ import annotations

import logging

import torch

from espnet_part.dataset import ExampleLoader
from espnet_part.layer_probe import distinct_rows, probe_layers, transcript_batches
from espnet_part.manifest import Manifest
from espnet_part.model import PARTModel
from espnet_part.parallel import Processes
from espnet_part.retrieval import propose_layers


class LayerChoice:
    """Sets the layers of a model's alignment, at the start and every `interval` steps.

    The choice is a pure function of the weights: a run that starts again where one is due makes the
    same one, and between two the checkpoint says which.

    Args:
        manifests: Of the dev sets.
        loader: Without augmentation, with transcripts.
        micro_cost: Budget of a forward.
        processes: The run's processes.
        interval: Steps between choices; 0: at the start alone.
        most: How many layers at most.
        rows: How many dev rows to read, the same each time.

    Raises:
        ValueError: Fewer than two dev rows with different transcripts.
    """

    def __init__(
        self,
        manifests: list[Manifest],
        loader: ExampleLoader,
        micro_cost: float,
        processes: Processes,
        interval: int,
        most: int,
        rows: int,
    ):
        self.loader, self.micro_cost, self.processes = loader, micro_cost, processes
        self.interval, self.most = interval, most
        self.rows = distinct_rows((m.row(i) for m in manifests for i in range(len(m))), rows)
        if len(self.rows) < 2:
            raise ValueError(
                f"alignment.layers: adaptive needs dev rows with different transcripts, found "
                f"{len(self.rows)} in {' '.join(str(m.folder) for m in manifests)}; give a dev set "
                "with asr rows, or a list of layers such as [0, 1]"
            )

    def due(self, step: int) -> bool:
        """Whether to choose before the update that `step` updates precede."""
        return step == 0 or (self.interval > 0 and step % self.interval == 0)

    def choose(self, model: PARTModel, step: int) -> None:
        """Chooses and says so; every process must call it. The first one decides."""
        assert model.alignment is not None
        chosen_L = torch.zeros(model.llm.config.num_hidden_layers + 1, device=self.processes.device)
        if self.processes.first:
            batches = transcript_batches(
                self.rows, self.loader, self.micro_cost, self.processes.device
            )
            scores = [score.retrieval for score in probe_layers(model, batches)[0]]
            chosen_L[propose_layers(scores, self.most)] = 1
            logging.info(
                "step %d: retrieval by layer %s; aligned from here on: %s",
                step,
                " ".join(f"{score:.3f}" for score in scores),
                " ".join(str(i) for i in chosen_L.nonzero()[:, 0].tolist()),
            )
        chosen_L = self.processes.sum(chosen_L)
        model.alignment.layers = chosen_L.nonzero()[:, 0].tolist()
