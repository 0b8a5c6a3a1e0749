"""What a run tells and remembers: log lines, learning curves, rows left out, the best results."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import torch

from espnet_part.config import Config
from espnet_part.meter import Meter
from espnet_part.parallel import Processes
from espnet_part.progress import Progress, by_task, duration

NAMED_ROWS = 20  # rows left out that are named in the log; more of them are only counted


class Journal:
    """Keeps the journal of one phase; every process has one, the first one writes.

    Args:
        config: The phase.
        processes: The run's processes.
        folder: The phase's folder.
        tensorboard: Whether to write tensorboard/.

    Attributes:
        history: The learning curves, see `draw_curves`.
        best: Lowest dev loss and highest dev accuracy so far.
        meter: Sums since the last line of training.
        skipped: Rows left out by this process.
    """

    def __init__(self, config: Config, processes: Processes, folder: Path, tensorboard: bool):
        self.config, self.processes, self.folder = config, processes, Path(folder)
        self.tensorboard = tensorboard
        self.history: list[dict] = []
        self.best: dict[str, float] = {"loss": math.inf, "acc": -math.inf}
        self.meter = Meter()
        self.skipped = 0
        self._progress: Progress | None = None

    def state(self) -> dict:
        """For the checkpoint; every process must call it."""
        return {
            "best": self.best,
            "history": self.history,
            "meter": self.meter.state(self.processes),
            "skipped": self.left_out(),
        }

    def load(self, payload: dict) -> None:
        """Goes on where `state` was taken; sums of all processes go to the first one."""
        self.best, self.history = payload["best"], payload["history"]
        self.meter.load(payload["meter"], self.processes)
        self.skipped = payload["skipped"] if self.processes.first else 0

    def open(self, step: int) -> None:
        """Begins a start of the run at `step`."""
        if self.processes.first:
            project = self.config.wandb_project
            self._progress = Progress(
                self.folder, self.config.max_steps, self.tensorboard, project, step
            )

    def close(self) -> None:
        """Ends it, however it ended; draws the learning curves."""
        if self._progress is not None:
            self._progress.close(self.history)
            self._progress = None

    def rows_left_out(self, reasons: list[str]) -> None:
        """Counts rows that could not be used, and names the first ones."""
        for reason in reasons:
            self.skipped += 1
            if self.skipped <= NAMED_ROWS:
                logging.warning("row left out: %s", reason)
            elif self.skipped == NAMED_ROWS + 1:
                logging.warning("more rows are left out; only counted from here on")

    def left_out(self) -> int:
        """Rows left out by all processes; every process must call it."""
        device = self.processes.device
        return int(self.processes.sum(torch.tensor(self.skipped, device=device)))

    def train(self, step: int, rates: dict[str, float]) -> None:
        """Tells of the steps since the last call, and the learning rate per part."""
        values = by_task(self.processes.sum(self.meter.table))
        values |= {f"grad_norm/{part}": norm for part, norm in self.meter.norms.items()}
        values |= {f"lr/{part}": rate for part, rate in rates.items()}
        values["rows_left_out"] = self.left_out()
        self._remember(step, "train", values)
        if self._progress is not None:
            self._progress.train(step, values, self.meter.rate())
        self.meter = Meter()

    def valid(self, step: int, values: dict[str, float]) -> list[str]:
        """Tells of a validation; returns which of loss and acc are the best so far."""
        self._remember(step, "valid", values)
        better = [
            key
            for key, sign in (("loss", -1), ("acc", 1))
            if sign * values[key] > sign * self.best[key]
        ]
        self.best.update({key: values[key] for key in better})
        if self._progress is not None:
            self._progress.valid(step, values, self.best)
        return better

    def finish(self, step: int, seconds: float) -> None:
        """Marks the phase as finished; every process must call it."""
        left_out = self.left_out()
        if self.processes.first:
            logging.info(
                "phase %s finished: %d steps, %s, %d rows left out",
                self.config.phase,
                step,
                duration(seconds),
                left_out,
            )
            done = {"step": step, "seconds": round(seconds, 1), "left_out": left_out}
            (self.folder / ".finished").write_text(json.dumps(done))

    def _remember(self, step: int, split: str, values: dict[str, float]) -> None:
        kept = {key: values[key] for key in ("loss", "acc", "listen", "transport") if key in values}
        self.history.append({"step": step, "split": split, **kept})
