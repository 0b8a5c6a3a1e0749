"""Frames of a frozen encoder, computed once and read from disk at every later step.

While the encoder is frozen and nothing is augmented, a clip gives the same frames at every step,
and its forward need not be done again. The frames lie in the phase's folder
until it is finished: a run that is killed once they are complete goes on with them, and every
process reads what all of them computed. What a step trains on is the same as without them, to the
rounding of the encoder's type (the frames come from another batch).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from espnet_part.datadir import Row

Clip = tuple[str, float | None, float | None]  # path, start and end in seconds


@dataclass
class CachedClip:
    """What the encoder made of a clip.

    Attributes:
        frames: (T, D), in the type that the encoder gave.
        samples: At 16 kHz, before it.
    """

    frames: Tensor
    samples: int


class FrameCache:
    """Reads frames by clip; `espnet_part.frame_cache_writer` writes them.

    Args:
        folder: Where they lie.
        parts: One description per process that wrote, as `make_frame_cache` leaves them.
    """

    def __init__(self, folder: Path, parts: list[dict]):
        self.folder = folder
        self.width, self.dtype = parts[0]["width"], getattr(torch, parts[0]["dtype"])
        self.places: dict[Clip, tuple[int, int, int, int]] = {}
        self.errors: dict[Clip, str] = {}
        for number, part in enumerate(parts):
            for path, start_sec, end_sec, first, frames, samples in part["clips"]:
                self.places[path, start_sec, end_sec] = number, first, frames, samples
            self.errors |= {tuple(clip): reason for *clip, reason in part["errors"]}
        self._files: dict[int, np.memmap] = {}

    def __len__(self) -> int:
        return len(self.places)

    def read(self, row: Row) -> CachedClip:
        """The frames of a row's clip.

        Raises:
            ValueError: The clip could not be read when the frames were made.
        """
        clip = clip_of(row)
        if clip in self.errors:
            raise ValueError(self.errors[clip])
        number, first, frames, samples = self.places[clip]
        if number not in self._files:
            path = self.folder / f"frames.{number}.bin"
            self._files[number] = np.memmap(path, dtype=storage_type(self.dtype), mode="r")
        flat = self._files[number][first * self.width : (first + frames) * self.width]
        values = torch.from_numpy(np.array(flat)).view(self.dtype)
        return CachedClip(values.view(frames, self.width), samples)

    def __getstate__(self) -> dict:
        # A memory map is pickled by value.
        return {**self.__dict__, "_files": {}}


def clip_of(row: Row) -> Clip:
    """What names a row's clip: rows of several tasks share one."""
    assert row.path is not None
    return row.path, row.start_sec, row.end_sec


def storage_type(dtype: torch.dtype) -> type:
    """Integers of the same size, as numpy names them: it has no bfloat16."""
    return np.int16 if dtype.itemsize == 2 else np.int32
