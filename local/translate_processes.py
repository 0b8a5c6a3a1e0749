"""Several processes that translate one part each, watched by the one that started them."""

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

from translate_log import log_path
from translate_work import describe_progress

_POLL_SEC = 0.2
_TAIL_LINES = 5
log = logging.getLogger(__name__)


def run_parts(out: Path, parts: int, arguments: list[str], ngpu: int, every_sec: float) -> None:
    """Run this command once for each part, all at the same time, and wait.

    Args:
        out: output folder, for the logs.
        parts: how many; part i sees only the i-th GPU.
        arguments: of the command, without those that name the part.
        ngpu: 0: on the CPU.
        every_sec: seconds between lines of progress.

    Raises:
        ValueError: processes failed; names them, their logs, and what they said last.
    """
    log_path(out, 1, parts).parent.mkdir(parents=True, exist_ok=True)
    children: dict[int, subprocess.Popen] = {}
    for part in range(1, parts + 1):
        _progress_file(out, part, parts).unlink(missing_ok=True)
    try:
        for part in range(1, parts + 1):
            children[part] = _start(out, part, parts, arguments, ngpu)
        failed = _watch(children, out, every_sec)
    finally:  # an interrupted parent takes its children along; so does one that failed to start all
        for child in children.values():
            if child.poll() is None:
                child.terminate()
        for child in children.values():
            child.wait()
    if failed:
        each = "\n".join(_tell_failure(out, part, parts, failed[part]) for part in sorted(failed))
        raise ValueError(
            f"{len(failed)} of {parts} processes failed; what is translated is kept, and the same "
            f"command goes on from there:\n{each}"
        )


def _start(out: Path, part: int, parts: int, arguments: list[str], ngpu: int) -> subprocess.Popen:
    environment = dict(os.environ)
    if ngpu:
        shown = environment.get("CUDA_VISIBLE_DEVICES", "")
        gpus = shown.split(",") if shown else [str(i) for i in range(ngpu)]
        environment["CUDA_VISIBLE_DEVICES"] = gpus[part - 1]
    else:
        environment["CUDA_VISIBLE_DEVICES"] = ""
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // parts)))
    mine = [f"--part={part}", f"--parts={parts}", f"--ngpu={int(ngpu > 0)}"]
    # The command as it was called, whatever file that is; its children end when it does.
    command = [sys.executable, sys.argv[0], *arguments, *mine, "--child_of", str(os.getpid())]
    with _text_log(out, part, parts).open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment)


def _watch(children: dict[int, subprocess.Popen], out: Path, every_sec: float) -> dict[int, int]:
    """Wait for all children, telling how far they are; returns the codes of those that failed."""
    parts, failed, running = len(children), {}, set(children)
    begun, last, first = time.monotonic(), time.monotonic(), None
    while running:
        time.sleep(_POLL_SEC)
        for part in sorted(running):
            code = children[part].poll()
            if code is None:
                continue
            running.remove(part)
            if code:
                failed[part] = code
                log.error(_tell_failure(out, part, parts, code))
        if time.monotonic() - last >= every_sec or not running:
            last = time.monotonic()
            done, total, counted = _sum_progress(out, parts)
            if counted < parts:
                log.info("%d of %d processes have counted their texts", counted, parts)
                continue
            if first is None:  # what earlier runs did is not this one's speed
                begun, first = last, done
            log.info(
                "%s, %d of %d processes at work",
                *(describe_progress(done, total, done - first, last - begun), len(running), parts),
            )
    return failed


def _sum_progress(out: Path, parts: int) -> tuple[int, int, int]:
    """Texts done and texts in all, and of how many parts they are known."""
    found = [_progress_file(out, part, parts) for part in range(1, parts + 1)]
    values = [json.loads(path.read_text()) for path in found if path.exists()]
    return sum(v["done"] for v in values), sum(v["total"] for v in values), len(values)


def _progress_file(out: Path, part: int, parts: int) -> Path:
    return log_path(out, part, parts).with_suffix(".progress")


def _text_log(out: Path, part: int, parts: int) -> Path:
    return log_path(out, part, parts).with_suffix(".log")


def _tell_failure(out: Path, part: int, parts: int, code: int) -> str:
    path = _text_log(out, part, parts)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    tail = "".join(f"\n    {line}" for line in lines)
    return f"part {part} of {parts} {how}; see {path}:{tail}"
