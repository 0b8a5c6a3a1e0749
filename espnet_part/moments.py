"""The moments at which an experiment's models are looked at: before training, after each phase."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from espnet_part.loading import load_model
from espnet_part.model import PARTModel
from espnet_part.pictures import phase_settings

START = "start"  # name of the moment before the first phase
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Moment:
    """A model at one time of a curriculum.

    Attributes:
        curriculum: Its name.
        phase: Of the phase that has just ended, or START.
        config_file: config.yaml of the phase; for START of the first one.
        settings: Its content.
        checkpoint: The weights; None for the parts as their sources have them, and an adapter as
            the config's seed initializes it.
    """

    curriculum: str
    phase: str
    config_file: Path
    settings: dict
    checkpoint: Path | None

    @property
    def key(self) -> str:
        """The same for the same weights: curricula may share phases, by links or by `init`."""
        if self.checkpoint is not None:
            return str(self.checkpoint.resolve())
        parts = {key: self.settings.get(key) for key in ("model", "seed", "prompts")}
        return json.dumps(parts, sort_keys=True)

    @property
    def init(self) -> Moment:
        """The same phase at its start."""
        init = self.settings.get("init")
        return Moment(
            self.curriculum, START, self.config_file, self.settings, Path(init) if init else None
        )

    def load(self, device: str = "cpu") -> PARTModel:
        """Builds the model in fp32 and eval mode, as training built it: of the config's seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(self.settings.get("seed", 0)))
            model = load_model(self.config_file, self.checkpoint, device)
        model.set_dtype(torch.float32)
        return model


def read_moments(folder: Path, file: str) -> list[Moment]:
    """Moments of one curriculum, in order.

    A phase without the checkpoint is left out, and said so: it may still be training.

    Args:
        folder: `exp/<tag>/<curriculum>`.
        file: Name of the checkpoint in each phase's folder.

    Raises:
        ValueError: No phase has one.
    """
    moments = []
    for phase, settings in phase_settings(folder).items():
        own = folder / f"phase{phase}"
        if (own / file).is_file() and settings:
            config_file = own / "config.yaml"
            moments.append(Moment(folder.name, phase, config_file, settings, own / file))
        else:
            log.warning("%s: no %s there, left out", own, file if settings else "config.yaml")
    if not moments:
        raise ValueError(
            f"{folder}: found no phase with {file}, expected {folder}/phase*/{file}; train it "
            "(stage 11), or name another experiment or curriculum"
        )
    return [moments[0].init, *moments]
