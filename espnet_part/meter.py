"""Sums over a logging interval: part of a run's state, so that a resumed run logs the same."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from espnet_part.parallel import Processes


class Meter:
    """Sums of this process since the last line of the log.

    Attributes:
        table: Sums of loss, right tokens and tokens, see `PARTModel.forward`.
        norms: Gradient norms of the last step, the same on every process.
    """

    def __init__(self):
        self.table: Tensor = torch.zeros(1, dtype=torch.float64)
        self.norms: dict[str, float] = {}
        self._audio_sec = 0.0
        self._started = time.perf_counter()

    def add(self, table: Tensor, norms: dict[str, float], audio_sec: float) -> None:
        """Counts one step."""
        self.table = self.table.to(table.device) + table
        self.norms = norms
        self._audio_sec += audio_sec

    def pause(self, seconds: float) -> None:
        """Leaves out time that was not spent on training."""
        self._started += seconds

    def rate(self) -> float:
        """Seconds of audio per second, over all processes."""
        return self._audio_sec / max(time.perf_counter() - self._started, 1e-9)

    def state(self, processes: Processes) -> dict:
        """Plain values of all processes together; every process must call it."""
        return {"table": processes.sum(self.table).cpu(), "norms": self.norms}

    def load(self, state: dict, processes: Processes) -> None:
        """Takes up what `state` said; the first process holds the sums of all."""
        self.norms = state["norms"]
        if processes.first:
            self.table = state["table"]
