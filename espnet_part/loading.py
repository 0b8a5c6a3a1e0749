"""Loads a trained model for decoding."""

import dataclasses
from pathlib import Path

from espnet_part.build import build_model
from espnet_part.checkpoint import read_checkpoint
from espnet_part.config import Config
from espnet_part.model import PARTModel
from espnet_part.schema import from_dict
from espnet_part.unpack import relocated_config


def load_model(
    config_file: str | Path, model_file: str | Path | None = None, device: str = "cpu"
) -> PARTModel:
    """Builds the model of a config and loads a checkpoint, without ESPnet's task machinery.

    That machinery takes as long to import as a small test set takes to decode.

    Args:
        config_file: The ``config.yaml`` of a phase or a pack.
        model_file: The checkpoint; None leaves the parts as their sources have them.
        device: Where to put the model.

    Returns:
        A `PARTModel` in eval mode, without gradients.

    Raises:
        ValueError: Files that do not belong together.
    """
    names = {item.name for item in dataclasses.fields(Config)}
    values = relocated_config(config_file)
    model = build_model(from_dict(Config, {k: v for k, v in values.items() if k in names}))
    if model_file is not None:
        model.load_trimmed_state(read_checkpoint(Path(model_file)), str(model_file))
    model.to(device).requires_grad_(False)
    model.eval()
    return model
