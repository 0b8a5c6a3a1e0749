"""Clips decoded, cut and written anew: what formatting and speed perturbation share.

A clip is named by a hash of where it comes from (file, its size and time of change, segment,
speed): it is made once however many rows share it, a killed run goes on where it was, and a clip
whose source has changed is made again. Clips appear complete or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from espnet_part.audio import (
    SAMPLE_RATE,
    AudioError,
    change_speed,
    is_pipe,
    load_audio,
    load_audio_file,
)

Clip = tuple[str, float | None, float | None]  # path, start and end in seconds


@dataclass(frozen=True)
class ClipStore:
    """A folder of written clips, all of one format and speed; open it with `open_store`."""

    folder: Path
    partial: Path
    audio_format: str

    def path(self, clip: Clip, speed: float) -> Path:
        """The file for a clip."""
        stat = None if is_pipe(clip[0]) else _stat(clip[0])
        name = hashlib.sha1(repr((clip, stat, speed)).encode()).hexdigest()[:24]
        return self.folder / name[:2] / f"{name}.{self.audio_format}"

    def make(
        self, clips: dict[Clip, Path], speed: float, pool: ThreadPoolExecutor
    ) -> dict[Clip, AudioError]:
        """Writes the clips that are not there yet.

        Args:
            clips: Clips and their files, see `path`.
            speed: 1.0 leaves a clip as it is.
            pool: Threads; the segments of one recording stay together, a pipe is run once.

        Returns:
            What is wrong, for each clip that could not be made.
        """
        missing: dict[str, list[Clip]] = {}
        for clip, path in clips.items():
            if not path.exists():
                missing.setdefault(clip[0], []).append(clip)
        errors: dict[Clip, AudioError] = {}
        for found in pool.map(lambda path: self._make(missing[path], clips, speed), missing):
            errors |= found
        return errors

    def _make(
        self, same_recording: list[Clip], clips: dict[Clip, Path], speed: float
    ) -> dict[Clip, AudioError]:
        errors, piped = {}, None
        for clip in same_recording:
            path, start_sec, end_sec = clip
            try:
                if is_pipe(path):
                    piped = run_pipe(path) if piped is None else piped
                    wave_T = load_audio_file(io.BytesIO(piped), path, start_sec, end_sec)
                else:
                    wave_T = load_audio(path, start_sec, end_sec)
                self._write(clips[clip], change_speed(wave_T, speed))
            except AudioError as err:
                errors[clip] = err
        return errors

    def _write(self, path: Path, wave_T: np.ndarray) -> None:
        temporary = self.partial / path.name
        name = self.audio_format.upper()
        soundfile.write(temporary, wave_T, SAMPLE_RATE, format=name, subtype="PCM_16")
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary, path)


@contextlib.contextmanager
def open_store(folder: Path, audio_format: str) -> Iterator[ClipStore]:
    """A clip store in `folder`, without what a killed run left half-made."""
    partial = folder / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield ClipStore(folder, partial, audio_format)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _stat(path: str) -> tuple[int, int] | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None  # decoding tells what is wrong with it
    return stat.st_size, stat.st_mtime_ns


def run_pipe(entry: str) -> bytes:
    """Runs a Kaldi pipe ("command |") and returns what it prints; only after --allow_pipes.

    Raises:
        AudioError: The command fails or prints nothing.
    """
    command = entry.strip().removesuffix("|").strip()
    if not command or command == "-" or command.startswith("|"):
        raise AudioError(f"{entry}: expected `command |`", "bad pipe")
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode or not done.stdout:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise AudioError(
            f"{entry}: the command gave {len(done.stdout)} bytes and exit status "
            f"{done.returncode} ({lines[-1] if lines else 'no message'}), expected audio",
            "pipe failed",
        )
    return done.stdout
