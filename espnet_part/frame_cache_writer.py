"""Makes a frame cache: encodes all training clips of a phase once, each process its share."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from espnet_part.audio import load_audio
from espnet_part.batching import fill, row_cost
from espnet_part.dataset import check_length
from espnet_part.frame_cache import Clip, FrameCache, clip_of
from espnet_part.manifest import Manifest
from espnet_part.model_state import weights_id
from espnet_part.parallel import Processes
from espnet_part.progress import duration
from espnet_part.splice import pad_waves

LOG_SEC = 10.0
Autocast = Callable[[], AbstractContextManager]
Failed = list[list]  # path, start, end, what is wrong


def make_frame_cache(
    folder: Path,
    encoder,
    manifests: list[Manifest],
    tasks: list[str],
    micro_cost: float,
    limit_gb: float,
    processes: Processes,
    autocast: Autocast,
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
        autocast: Makes the context that the encoder computes in.

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
    with autocast():
        narrow = torch.is_autocast_enabled(processes.device.type)
    how = (encoder.weight_dtype, narrow, processes.device.type, micro_cost, processes.world_size)
    digest = _digest(encoder, order, how)
    marks = [folder / f"clips.{rank}.json" for rank in range(processes.world_size)]
    mine = marks[processes.rank]
    # Asked before anyone writes, so that all processes agree.
    ready = not processes.any(not _is_made(mine, digest))
    processes.barrier()
    if not ready:
        folder.mkdir(parents=True, exist_ok=True)
        mine.unlink(missing_ok=True)
        share = [[order[i] for i in piece] for piece in pieces[processes.rank :: len(marks)]]
        path = folder / f"frames.{processes.rank}.bin"
        path.write_bytes(b"")
        made = _write(path, encoder, share, processes, autocast)
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


def _write(
    path: Path, encoder, pieces: list[list[Clip]], processes: Processes, autocast: Autocast
) -> dict:
    """Encodes pieces of clips into one file; returns where each clip stands."""
    places, errors, first, dtype = [], [], 0, encoder.weight_dtype
    total, done = sum(map(len, pieces)), 0
    started = told = time.monotonic()
    for encoded, failed in _encoded(encoder, pieces, processes.device, autocast):
        errors += failed
        with path.open("ab") as file:
            for clip, frames_TD, samples in encoded:
                frames_TD.view(_signed(dtype)).numpy().tofile(file)
                places.append([*clip, first, len(frames_TD), samples])
                first += len(frames_TD)
        done += len(encoded) + len(failed)
        now = time.monotonic()
        if now - told > LOG_SEC or done == total:
            told, rate = now, done / (now - started)
            logging.info(
                "encoding the training clips once: %s of %s, %.0f a second, %s left",
                f"{done:,d}", f"{total:,d}", rate, duration((total - done) / rate),
            )  # fmt: skip
    return {
        "bytes": path.stat().st_size,
        "width": encoder.output_size,
        "dtype": str(dtype).removeprefix("torch."),
        "clips": places,
        "errors": errors,
    }


def _encoded(
    encoder, pieces: list[list[Clip]], device: torch.device, autocast: Autocast
) -> Iterator[tuple[list[tuple[Clip, Tensor, int]], Failed]]:
    """Yields, piece by piece, frames and samples of its clips, and what could not be read.

    On the CPU each thread encodes a piece of its own: two pieces at once are done in little more
    time than one piece by two threads.
    """
    on_cpu, before = device.type == "cpu", torch.get_num_threads()
    threads = before if on_cpu else 2  # one reads while the other one's piece is encoded

    def work(piece: list[Clip]):
        waves, errors = _load(piece, encoder)
        if not waves:
            return [], errors
        with torch.no_grad(), autocast():
            speech, lengths = (x.to(device) for x in pad_waves([*waves.values()]))
            frames_ATD, counts_A = encoder(speech, lengths)
        counts = counts_A.tolist()
        done = [
            (clip, frames_TD[:n].to("cpu", encoder.weight_dtype), len(wave))
            for (clip, wave), frames_TD, n in zip(waves.items(), frames_ATD, counts, strict=True)
        ]
        return done, errors

    torch.set_num_threads(1 if on_cpu else before)
    coming: deque[Future] = deque()
    try:
        with ThreadPoolExecutor(threads) as pool:
            for piece in pieces:
                coming.append(pool.submit(work, piece))
                if len(coming) > threads:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
    finally:
        torch.set_num_threads(before)


def _load(piece: list[Clip], encoder) -> tuple[dict[Clip, np.ndarray], Failed]:
    """Waveforms of the clips that can be read, and what is wrong with the others."""
    waves: dict[Clip, np.ndarray] = {}
    errors: Failed = []
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


def _digest(encoder, order: list[Clip], how: tuple) -> str:
    found = hashlib.sha256()
    for part in (weights_id(encoder), encoder.fingerprint(), how):
        found.update(repr(part).encode())
    for clip in order:
        stat = Path(clip[0]).stat() if Path(clip[0]).exists() else None
        changed = (stat.st_size, stat.st_mtime_ns) if stat else None
        found.update(repr((clip, changed)).encode())
    return found.hexdigest()


def _is_made(mark: Path, digest: str) -> bool:
    """Whether a mark is there, whole, of the same source, and its file as long as it says."""
    try:
        found = json.loads(mark.read_text(encoding="utf-8"))
        frames = mark.with_name(mark.name.replace("clips", "frames")).with_suffix(".bin")
        return found["digest"] == digest and frames.stat().st_size == found["bytes"]
    except (OSError, ValueError, KeyError):
        return False
