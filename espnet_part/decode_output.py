"""What comes of decoding a data folder: the output files, the log lines, the progress."""

import logging
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from espnet_part.audio import SAMPLE_RATE
from espnet_part.datadir import Row
from espnet_part.decoding import Decoded, Request

PROGRESS_SEC = 10.0
# What a row costs beside its audio, in seconds of audio: for the estimate of the time left.
ROW_COST_SEC = 1.0
OUTPUT_FILES = ("text", "token", "token_int", "score")


@dataclass
class Outcome:
    """What came of a folder.

    Attributes:
        decoded: Id -> answer, in the order of the keys; None where there is none.
        failed: Id -> why it has no answer.
        reasons: The same, counted by reason.
        audio_sec: Audio decoded.
        decode_sec: Time the decoding took.
        cut_off: Hypotheses that ended at the token limit.
    """

    decoded: dict[str, Decoded | None]
    failed: dict[str, str] = field(default_factory=dict)
    reasons: Counter = field(default_factory=Counter)
    audio_sec: float = 0.0
    decode_sec: float = 0.0
    cut_off: int = 0

    def fail(self, utt_id: str, error: Exception) -> None:
        """Notes that an utterance could not be read, and goes on."""
        self.failed[utt_id] = str(error)
        self.reasons[getattr(error, "reason", "unreadable")] += 1
        logging.warning(f"{utt_id}: empty hypothesis: {error}")


def seconds_of(request: Request) -> float:
    """Seconds of audio of a request; 0 for a text task."""
    return 0.0 if request.speech_T is None else len(request.speech_T) / SAMPLE_RATE


class Progress:
    """Logs how far a folder is, at most every `PROGRESS_SEC`."""

    def __init__(self, name: str, n_rows: int, n_done: int, total_sec: float):
        self.name, self.n_rows, self.n_done, self.total_sec = name, n_rows, n_done, total_sec
        self.start = self.last = time.monotonic()

    def step(self, n_rows: int, outcome: Outcome) -> None:
        """Counts rows; logs speed and time left when it is time to."""
        self.n_done += n_rows
        now = time.monotonic()
        if now - self.last < PROGRESS_SEC and self.n_done < self.n_rows:
            return
        self.last = now
        elapsed = max(now - self.start, 1e-9)
        done = outcome.audio_sec + ROW_COST_SEC * self.n_done
        rest = self.total_sec + ROW_COST_SEC * self.n_rows - done
        left = int(max(0.0, elapsed * rest / max(done, 1e-9)))
        logging.info(
            f"{self.name}: {self.n_done}/{self.n_rows} utterances, "
            f"{outcome.audio_sec / 60:.1f} min of audio, "
            f"{outcome.audio_sec / elapsed:.1f} x real time, "
            f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"
        )


def log_batch(
    good: list[tuple[Row, Request]], answers: list[Decoded], start: float, end: float
) -> None:
    """Writes the lines from which ESPnet's ``calculate_rtf.py`` forms the real-time factor.

    It adds up, utterance by utterance, the time from "speech length" to "best hypo". In a batch all
    begin and end together, so the batch's time is dealt out by length of audio: the sum is right.
    """
    total = sum(seconds_of(request) for _, request in good)
    position = start
    for (row, request), answer in zip(good, answers, strict=True):
        share = seconds_of(request) / total * (end - start) if total else 0.0
        if request.speech_T is not None:
            _log_at(position, f"speech length: {len(request.speech_T)}")
            _log_at(position + share, f"best hypo: {row.utt_id} {answer.text}")
        position += share


def _log_at(created: float, message: str) -> None:
    logger = logging.getLogger()
    if logger.isEnabledFor(logging.INFO):
        record = logger.makeRecord(
            logger.name, logging.INFO, __file__, 0, message, (), None, "decode_rows"
        )
        record.created = created
        record.msecs = (created - int(created)) * 1000
        logger.handle(record)


def write_output(folder: str | Path, outcome: Outcome) -> None:
    """Writes ``1best_recog/{text,token,token_int,score}`` as ESPnet does, each file at once.

    Args:
        folder: The output folder. An id without an answer gets an empty line (score nan), and the
            reason in ``failed``.
        outcome: What to write.
    """
    target = Path(folder) / "1best_recog"
    target.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {name: [] for name in OUTPUT_FILES}
    for utt_id, answer in outcome.decoded.items():
        # Tokens may hold spaces, which separate tokens here: shown as SentencePiece shows them.
        tokens = [] if answer is None else [token.replace(" ", "▁") for token in answer.tokens]
        values = {
            "text": "" if answer is None else answer.text,
            "token": " ".join("".join(token.split()) or "▁" for token in tokens),
            "token_int": "" if answer is None else " ".join(map(str, answer.token_ids)),
            "score": "nan" if answer is None else f"{answer.score:.6f}",
        }
        for name, value in values.items():
            lines[name].append(f"{utt_id} {value}\n")
    # `text` last: its presence says that all are there.
    for name in reversed(OUTPUT_FILES):
        _write_atomically(target / name, "".join(lines[name]))
    failed = Path(folder) / "failed"
    failed.unlink(missing_ok=True)
    if outcome.failed:
        _write_atomically(failed, "".join(f"{k} {v}\n" for k, v in outcome.failed.items()))


def _write_atomically(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
