"""Frames of a frozen encoder, computed once and read from disk at every later step.

While the encoder is frozen and nothing is augmented, a clip gives the same frames at every step,
and the encoder's forward is about half of a phase-1 update. The frames lie in the phase's folder
until it is finished: a run that was killed goes on with them, and every process reads what all of
them computed. What a step trains on is the same as without them, to the rounding of float32 (the
frames come from another batch).
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from espnet_part.audio import load_audio
from espnet_part.batching import fill, row_cost
from espnet_part.datadir import Row
from espnet_part.dataset import check_length
from espnet_part.manifest import Manifest
from espnet_part.model_state import weights_id
from espnet_part.parallel import Processes
from espnet_part.progress import duration
from espnet_part.splice import pad_waves

LOG_SEC = 10.0
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
    """Reads frames by clip; `make_frame_cache` writes them.

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
            self._files[number] = np.memmap(path, dtype=_storage(self.dtype), mode="r")
        flat = self._files[number][first * self.width : (first + frames) * self.width]
        values = torch.from_numpy(np.array(flat)).view(self.dtype)
        return CachedClip(values.view(frames, self.width), samples)

    def remove(self) -> None:
        """Deletes the files."""
        self._files.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __getstate__(self) -> dict:
        # A memory map is pickled by value.
        return {**self.__dict__, "_files": {}}


def clip_of(row: Row) -> Clip:
    """What names a row's clip: rows of several tasks share one."""
    assert row.path is not None
    return row.path, row.start_sec, row.end_sec


def make_frame_cache(
    folder: Path,
    encoder,
    manifests: list[Manifest],
    tasks: list[str],
    micro_cost: float,
    limit_gb: float,
    processes: Processes,
    autocast: AbstractContextManager,
) -> FrameCache | None:
    """Computes the frames of all clips of some tasks, unless they are there.

    Args:
        folder: Where to put them.
        encoder: A frozen `SpeechEncoder`, in eval mode.
        manifests: Of the training data.
        tasks: Whose rows are read.
        micro_cost: Budget of one forward.
        limit_gb: Of the files together, in 10^9 bytes.
        processes: Each does its share.
        autocast: What the encoder computes in.

    Returns:
        The cache; None, with a line in the log, where it would be larger than the limit.
    """
    clips = find_clips(manifests, tasks, encoder, limit_gb)
    if clips is None:
        logging.warning(
            "encoder_cache_gb: the encoder's frames of the training clips take more than %g GB; "
            "they are computed at every step. Raise it, or set it to 0",
            limit_gb,
        )
        return None
    order = sorted(clips, key=lambda clip: (clips[clip], str(clip)))
    pieces = fill(list(range(len(order))), [_cost(clips[clip]) for clip in order], micro_cost)
    digest = _digest(encoder, order, micro_cost, processes.world_size)
    marks = [folder / f"clips.{rank}.json" for rank in range(processes.world_size)]
    mine = marks[processes.rank]
    # Asked before anyone writes, so that all processes agree.
    ready = not processes.any(not _is_made(mine, digest))
    processes.barrier()
    if not ready:
        folder.mkdir(parents=True, exist_ok=True)
        mine.unlink(missing_ok=True)
        share = [[order[i] for i in piece] for piece in pieces[processes.rank :: len(marks)]]
        with torch.no_grad(), autocast:
            made = _write(folder / f"frames.{processes.rank}.bin", encoder, share, processes)
        partial = mine.with_suffix(".tmp")
        partial.write_text(json.dumps({"digest": digest, **made}), encoding="utf-8")
        partial.replace(mine)
    processes.barrier()
    return FrameCache(folder, [json.loads(mark.read_text(encoding="utf-8")) for mark in marks])


def find_clips(
    manifests: list[Manifest], tasks: list[str], encoder, limit_gb: float
) -> dict[Clip, int] | None:
    """The clips of some tasks' rows with their samples; None if their frames exceed the limit."""
    clips: dict[Clip, int] = {}
    width = encoder.output_size * encoder.weight_dtype.itemsize
    left = limit_gb * 1e9
    for manifest in manifests:
        index = manifest.index
        wanted = [i for i, task in enumerate(manifest.meta["tasks"]) if task in tasks]
        for i in np.flatnonzero(np.isin(index["task"], wanted) & (index["samples"] > 0)):
            clip, samples = clip_of(manifest.row(int(i))), int(index["samples"][i])
            if clip not in clips:
                clips[clip] = samples
                left -= int(encoder.frame_lengths(samples)) * width
                if left < 0:
                    return None
    return clips


def _write(path: Path, encoder, pieces: list[list[Clip]], processes: Processes) -> dict:
    """Encodes pieces of clips into one file; returns where each clip stands."""
    places, errors, first, dtype = [], [], 0, torch.float32
    total, done = sum(map(len, pieces)), 0
    started = told = time.monotonic()
    with path.open("wb") as file, ThreadPoolExecutor(1) as pool:
        # One piece ahead: its files are read while this one is encoded.
        coming = pool.submit(_load, pieces[0], encoder) if pieces else None
        for number, piece in enumerate(pieces):
            waves, failed = coming.result()
            if number + 1 < len(pieces):
                coming = pool.submit(_load, pieces[number + 1], encoder)
            errors += failed
            if waves:
                speech, lengths = (x.to(processes.device) for x in pad_waves([*waves.values()]))
                frames_ATD, counts_A = encoder(speech, lengths)
                dtype = frames_ATD.dtype
                for clip, frames_TD, n in zip(waves, frames_ATD, counts_A.tolist(), strict=True):
                    frames_TD[:n].contiguous().cpu().view(_signed(dtype)).numpy().tofile(file)
                    places.append([*clip, first, n, len(waves[clip])])
                    first += n
            done += len(piece)
            now = time.monotonic()
            if now - told > LOG_SEC or done == total:
                told, rate = now, done / (now - started)
                logging.info(
                    "encoding the training clips once: %s of %s, %.0f a second, %s left",
                    f"{done:,d}", f"{total:,d}", rate, duration((total - done) / rate),
                )  # fmt: skip
    return {
        "width": encoder.output_size,
        "dtype": str(dtype).removeprefix("torch."),
        "clips": places,
        "errors": errors,
    }


def _load(piece: list[Clip], encoder) -> tuple[dict[Clip, np.ndarray], list[list]]:
    """Waveforms of the clips that can be read, and what is wrong with the others."""
    waves, errors = {}, []
    for clip in piece:
        try:
            wave = load_audio(*clip)
            check_length(len(wave), clip[0], encoder.min_samples, encoder.max_samples)
            waves[clip] = wave
        except ValueError as error:
            errors.append([*clip, str(error)])
    return waves, errors


def _cost(samples: int) -> float:
    return float(row_cost(samples, 0, 0))


def _signed(dtype: torch.dtype) -> torch.dtype:
    """Integers of the same size: numpy has no bfloat16."""
    return torch.int16 if dtype.itemsize == 2 else torch.int32


def _storage(dtype: torch.dtype) -> type:
    return np.int16 if dtype.itemsize == 2 else np.int32


def _digest(encoder, order: list[Clip], micro_cost: float, world_size: int) -> str:
    found = hashlib.sha256()
    for part in (weights_id(encoder), encoder.fingerprint(), micro_cost, world_size):
        found.update(repr(part).encode())
    for clip in order:
        stat = Path(clip[0]).stat() if Path(clip[0]).exists() else None
        changed = (stat.st_size, stat.st_mtime_ns) if stat else None
        found.update(repr((clip, changed)).encode())
    return found.hexdigest()


def _is_made(mark: Path, digest: str) -> bool:
    if not mark.exists():
        return False
    return json.loads(mark.read_text(encoding="utf-8")).get("digest") == digest
