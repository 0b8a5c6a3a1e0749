"""Checkpoint files: written atomically, read without unpickling anything but tensors."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import torch

FORMAT = 1


def write_atomically(path: Path, payload: dict) -> None:
    """Saves so that `path` is either the old file or the whole new one, also after a crash."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(payload, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Removes what a killed run left half-written: such files are as large as checkpoints."""
    for path in Path(folder).glob(".*.pth.*.tmp"):
        path.unlink(missing_ok=True)


def read_checkpoint(path: Path, device: str = "cpu") -> dict:
    """Reads a checkpoint without unpickling anything but tensors and plain values.

    Raises:
        ValueError: No such file, not readable so, or not a checkpoint of this project.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no checkpoint {path}; train the phase before, or name another file")
    try:
        payload = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # bytes of no meaning fail in many ways
        reason = f"{type(error).__name__}: {error}".strip().split("\n")[0]
        if isinstance(error, pickle.UnpicklingError):
            # torch's own words go on to say how to load it unsafely.
            reason = "it holds something else, which is not loaded: it could run code"
        raise ValueError(
            f"{path} cannot be read as tensors and plain values: damaged, or not written by "
            f"espnet_part ({reason})"
        ) from error
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        found = list(payload)[:4] if isinstance(payload, dict) else type(payload).__name__
        raise ValueError(
            f"{path} is no espnet_part checkpoint of format {FORMAT}: found {found}; "
            "expected a file such as exp/<tag>/<curriculum>/phase1/latest.pth"
        )
    absent = [key for key in ("model", "trained", "sources", "lora") if key not in payload]
    if absent:
        raise ValueError(f"{path} is an incomplete checkpoint: it has no {' '.join(absent)}")
    return payload
