"""Tells a newcomer what the recipe does, how far it is, and how long it will still take.

For example:

    ./run.sh --corpora miniature ... 2>&1 | local/demo_progress.py exp/miniature --log demo.log

The recipe's own lines pass through; those that only fill the screen (one per test set, progress
bars, tables that the closing page repeats) go to the log alone, which holds everything.
"""

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Step:
    """A part of the demo: the recipe's line that starts it, what happens, minutes on two cores."""

    start: str
    name: str
    sentence: str
    minutes: float
    phase: str | None = None


# Minutes are estimates for two cores; what has run so far corrects those still to come.
STEPS = (
    Step(
        r"Stage 1: ",
        "speech",
        "a synthesizer says sentences of a toy grammar in ten languages, in several voices",
        1.3,
    ),
    Step(
        r"Stage 2: ",
        "data and base models",
        "the data is checked and indexed; a pre-trained encoder and a small LLM are in place",
        1.1,
    ),
    Step(
        r"Phase 1 (started|is finished)",
        "phase 1",
        "the adapter alone learns to hand the encoder's sounds to the LLM, in each language",
        4.3,
        "1",
    ),
    Step(
        r"Phase 2a (started|is finished)",
        "phase 2a",
        "the encoder's last layers learn, too; still recognition only",
        1.1,
        "2a",
    ),
    Step(
        r"Phase 2b (started|is finished)",
        "phase 2b",
        "the whole encoder learns; still recognition only",
        2.4,
        "2b",
    ),
    Step(
        r"Phase 3 (started|is finished)",
        "phase 3",
        "everything learns, the LLM included: recognition, translation and text, across languages",
        3.4,
        "3",
    ),
    Step(
        r"Stage 12: ",
        "test",
        "the model of every phase transcribes and translates sentences it has never met",
        2.0,
    ),
    Step(
        r"Stage 13: ",
        "scores and model",
        "errors are counted, pictures drawn, the model packed into one file",
        0.5,
    ),
    Step(r"Successfully finished", "result", "what came out", 0.4),
)

# A training line: what is left of this phase.
_LEFT = re.compile(r"\bstep \d+/\d+ .* (?:(\d+)h)?(\d+)m(?:(\d+)s)? left")
_VALIDATION = re.compile(r"\bstep \d+/\d+ .*dev loss ")
_RESUMED = re.compile(r"resuming at step|is finished: |: \S+ is decoded$")
# Lines for the log alone.
_NOISE = re.compile(
    r"Failed to import Flash Attention|Loading weights: |: \S+ is decoded$|: \d+ of \d+ rows\b"
    r"|^INFO: \S+: decoded |\bStage \d+: Skip: |^adding: "
)
_DECODING = re.compile(r"(Phase \S+: decoding) (.+) started\.\.\.")
_TABLE = re.compile(r"^(\||#|- [a-z_, ]+: `|Values are means over )")
_WIDEST = 160


def minutes_text(seconds: float) -> str:
    """90 -> about 2 min."""
    return "less than a minute" if seconds < 45 else f"about {round(seconds / 60 + 0.01)} min"


def duration(seconds: float) -> str:
    """125 -> 2 min 5 s."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class Narrator:
    """Turns lines of the recipe into what a newcomer sees.

    Args:
        finished: Phases that are there already: they take no time.
        clock: Seconds.
    """

    def __init__(self, finished: Iterable[str] = (), clock: Callable[[], float] = time.monotonic):
        done = set(finished)
        self._clock = clock
        self._planned = [0.0 if step.phase in done else 60 * step.minutes for step in STEPS]
        self._now = -1
        self._began = self._told = clock()
        self._fresh = True
        self._step_left: float | None = None
        self._took = self._was_planned = 0.0

    def plan(self) -> Iterator[str]:
        """What will happen, said before it starts."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        yield "PART on a miniature: ten languages are recognized, thirteen directions translated."
        yield "What will happen, with estimated minutes on two cores:"
        yield ""
        for number, (step, seconds) in enumerate(zip(STEPS, self._planned, strict=True), 1):
            minutes = f"{seconds / 60:3.1f}" if seconds else "done"
            yield f"  {number}  {minutes:>4}  {step.name}: {step.sentence}"
        here = "one" if cores == 1 else cores
        yield ""
        yield (
            f"In all {minutes_text(sum(self._planned))} on two cores (this machine has {here}); "
            "the estimate is corrected on the way."
        )
        yield "Ctrl-C stops; the same command goes on where it stopped."

    def feed(self, line: str) -> Iterator[str]:
        """What to show for one line of the recipe."""
        line = line.rstrip("\n").rsplit("\r", 1)[-1]
        for number in range(self._now + 1, len(STEPS)):
            if re.search(STEPS[number].start, line):
                yield from self._start(number)
                break
        if _RESUMED.search(line):
            self._fresh = False
        if found := _LEFT.search(line):
            hours, minutes, seconds = (int(part or 0) for part in found.groups())
            self._step_left = 3600 * hours + 60 * minutes + seconds
        if not self._is_noise(line):
            line = _DECODING.sub(lambda m: f"{m[1]} {len(m[2].split())} test sets...", line)
            yield line if len(line) <= _WIDEST else line[: _WIDEST - 3] + "..."
        if _VALIDATION.search(line) and self._clock() - self._told > 20:
            yield self._banner(f"{STEPS[self._now].name}: {self._left_text()}")

    def left(self) -> float:
        """Seconds left in all."""
        pace = self._took / self._was_planned if self._was_planned else 1.0
        later = pace * sum(self._planned[self._now + 1 :])
        if self._now < 0:
            return later
        passed = self._clock() - self._began
        here = self._step_left
        if here is None:
            here = max(0.0, pace * self._planned[self._now] - passed)
        return here + later

    def _start(self, number: int) -> Iterator[str]:
        now = self._clock()
        if self._now >= 0:
            took = now - self._began
            # What was there already says nothing about the speed of this machine.
            if self._fresh and took > 0.2 * self._planned[self._now]:
                self._took += took
                self._was_planned += self._planned[self._now]
            yield self._banner(f"{STEPS[self._now].name} took {duration(took)}")
        self._now, self._began, self._fresh, self._step_left = number, now, True, None
        step = STEPS[number]
        left = "" if number == len(STEPS) - 1 else f" ({self._left_text()})"
        yield ""
        yield self._banner(f"{step.name}: {step.sentence}{left}")

    def _left_text(self) -> str:
        return f"{minutes_text(self.left())} left in all"

    def _banner(self, text: str) -> str:
        self._told = self._clock()
        return f"==> demo {self._now + 1}/{len(STEPS)}: {text}"

    def _is_noise(self, line: str) -> bool:
        if self._now >= 0 and STEPS[self._now].name == "scores and model":
            if _TABLE.search(line) or not line.strip():
                return True
        return bool(_NOISE.search(line))


def main(cmd: list[str] | None = None) -> None:
    """Reads the recipe's lines from standard input."""
    parser = argparse.ArgumentParser(prog="demo_progress.py", description=__doc__.split("\n")[0])
    parser.add_argument("exp", type=Path, help="experiment, exp/<tag>")
    parser.add_argument("--log", type=Path, required=True, help="where every line is kept")
    args = parser.parse_args(cmd)
    finished = [s.phase for s in STEPS if (args.exp / f"part/phase{s.phase}/.finished").exists()]
    narrator = Narrator(finished)
    print(*narrator.plan(), sep="\n", flush=True)
    log = args.log.open("wb")
    for raw in sys.stdin.buffer:
        try:
            log.write(raw)
            log.flush()
        except OSError:  # a full disk: the recipe will say so, and what it says must be seen
            pass
        for shown in narrator.feed(raw.decode("utf-8", "replace")):
            print(shown, flush=True)


if __name__ == "__main__":
    main()
