"""Runs commands that wait for each other, several at a time, and says how far they are."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_part.progress import duration

LAST_LINES = 15  # of the log of a job that failed


@dataclass(frozen=True)
class Job:
    """One command.

    Attributes:
        name: For the log, and for others to wait for.
        command: Program and arguments.
        log: Where its output goes.
        after: Names of jobs that must have ended before.
        work: How long it takes, in any unit that all jobs share; 0: next to nothing.
    """

    name: str
    command: Sequence[str]
    log: Path
    after: tuple[str, ...] = ()
    work: float = 0.0


class JobsFailed(Exception):
    """Jobs failed; what does not depend on them has run."""


class Stopped(Exception):
    """SIGTERM or SIGINT came; the jobs were told, and have ended."""


class Runner:
    """Runs jobs, those that most others wait for first.

    Args:
        jobs: In an order in which each comes after those that it waits for.
        workers: How many run at a time.
        gpus: One entry for each worker, as CUDA_VISIBLE_DEVICES; none leaves it as it is.

    Attributes:
        done: Names of jobs that ended well.
        failed: Jobs that did not.
        cpu_sec: Seconds of CPU that all of them took.
    """

    def __init__(self, jobs: Sequence[Job], workers: int, gpus: Sequence[str] = ()):
        self.jobs = {job.name: job for job in jobs}
        assert len(self.jobs) == len(jobs), "two jobs of one name"
        self.workers, self.gpus = workers, list(gpus)
        self.done: set[str] = set()
        self.failed: list[Job] = []
        self.cpu_sec = 0.0
        self._running: dict[str, subprocess.Popen] = {}
        self._change = threading.Condition()
        self._stopped = False
        self._started = time.monotonic()
        self._rank = self._ranks()

    def _ranks(self) -> dict[str, float]:
        """Work of the longest chain that begins with each job."""
        rank = {name: job.work for name, job in self.jobs.items()}
        for job in reversed(self.jobs.values()):
            for name in job.after:
                rank[name] = max(rank[name], self.jobs[name].work + rank[job.name])
        return rank

    def run(self) -> None:
        """Runs all of them.

        Raises:
            JobsFailed: Some failed; those that wait for them did not run.
            Stopped: A signal came.
        """
        previous = {s: signal.signal(s, self._stop) for s in (signal.SIGTERM, signal.SIGINT)}
        slots = list(range(self.workers))
        waiting = dict(self.jobs)
        threads = []
        try:
            with self._change:
                while (waiting or self._running) and not self._stopped:
                    job = self._next(waiting) if slots else None
                    if job is None:
                        if not self._running:
                            break  # the rest waits for what failed
                        self._change.wait(timeout=1.0)  # a timeout, so that signals are heard
                        continue
                    del waiting[job.name]
                    slot = slots.pop(0)
                    self._running[job.name] = self._start(job, slot)
                    thread = threading.Thread(target=self._wait, args=(job, slot, slots))
                    thread.start()
                    threads.append(thread)
            for thread in threads:
                thread.join()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        if self._stopped:
            raise Stopped("stopped; the same command goes on where it was")
        if self.failed:
            raise JobsFailed(self._failures())

    def _next(self, waiting: dict[str, Job]) -> Job | None:
        ready = [job for job in waiting.values() if self.done.issuperset(job.after)]
        return max(ready, key=lambda job: self._rank[job.name], default=None)

    def _start(self, job: Job, slot: int) -> subprocess.Popen:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        environment = dict(os.environ)
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        elif self.workers > 1:
            environment["OMP_NUM_THREADS"] = "1"
        with job.log.open("w") as log:
            return subprocess.Popen(
                job.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env=environment, start_new_session=True,
            )  # fmt: skip

    def _wait(self, job: Job, slot: int, slots: list[int]) -> None:
        began = time.monotonic()
        process = self._running[job.name]
        _, status, usage = os.wait4(process.pid, 0)  # the times of its own children as well
        code = process.returncode = os.waitstatus_to_exitcode(status)
        if self._stopped:  # what it left behind
            _signal(os.killpg, process.pid)
        with self._change:
            del self._running[job.name]
            slots.append(slot)
            if code == 0:
                self.done.add(job.name)
            elif not self._stopped:
                self.failed.append(job)
            cpu_sec = usage.ru_utime + usage.ru_stime
            self.cpu_sec += cpu_sec
            self._tell(job, code, time.monotonic() - began, cpu_sec)
            self._change.notify()

    def _tell(self, job: Job, code: int, seconds: float, cpu_sec: float) -> None:
        whole = sum(j.work for j in self.jobs.values())
        ended = sum(self.jobs[name].work for name in self.done)
        passed = time.monotonic() - self._started
        left = f", {duration(passed * (whole - ended) / ended)} left" if 0 < ended < whole else ""
        state = "" if code == 0 else " STOPPED" if self._stopped else f" FAILED, see {job.log}"
        count = f"{len(self.done)}/{len(self.jobs)}"
        print(
            f"[{count}{left}] {job.name}: {duration(seconds)}, {duration(cpu_sec)} of CPU{state}",
            flush=True,
        )

    def _stop(self, number, frame) -> None:
        """Hands the signal on to each job itself, which ends its own children: training saves."""
        self._stopped = True
        for process in list(self._running.values()):
            _signal(os.kill, process.pid)

    def _failures(self) -> str:
        lines = []
        for job in self.failed:
            tail = job.log.read_text(errors="replace").splitlines()[-LAST_LINES:]
            lines += [f"{job.name} failed; the end of {job.log}:", *(f"  {line}" for line in tail)]
        skipped = len(self.jobs) - len(self.done) - len(self.failed)
        lines.append(f"{len(self.failed)} of {len(self.jobs)} failed, {skipped} wait for those")
        return "\n".join(lines)


def _signal(kill, number: int) -> None:
    try:
        kill(number, signal.SIGTERM)
    except ProcessLookupError:
        pass  # it has ended by itself
