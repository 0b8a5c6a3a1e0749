"""One example of a data folder, and what makes it a valid one."""

from __future__ import annotations

import re
from dataclasses import dataclass

from espnet_part.prompt import LANGUAGES, SPEECH_TASKS, TASKS

# Whatever a reader might take for a column or line end, and NUL; U+3000 and the like are text.
BREAKS = re.compile(r"[\x00-\x20\x7f\x85\u2028\u2029]+")
_NO_LETTERS = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Row:
    """One example.

    Attributes:
        utt_id: Unique over tasks, e.g. `clip7-st-de`.
        task: One of prompt.TASKS.
        src: Language code of the source.
        tgt: Language code of the target; for asr the same as `src`.
        target: Text that the model shall say.
        path: Audio file; None for text rows.
        start_sec: Start of the segment in the file; None without `segments`.
        end_sec: End of it; None without `segments`, or for "to the end of the file".
        source: Source text of text rows, transcript of st rows where there is one.
        speaker: From utt2spk; None for text rows.
    """

    utt_id: str
    task: str
    src: str
    tgt: str
    target: str
    path: str | None = None
    start_sec: float | None = None
    end_sec: float | None = None
    source: str | None = None
    speaker: str | None = None

    @property
    def transcript(self) -> str | None:
        """What is said in the audio; None for text rows, and for st rows that come without."""
        if self.path is None:
            return None
        return self.target if self.task == "asr" else self.source


def normalize_text(text: str) -> str:
    """Text on one line: each run of spaces, tabs, newlines, control characters becomes a space."""
    return BREAKS.sub(" ", text).strip(" ")


def letters(text: str) -> str:
    """Letters and digits alone, case folded: what says whether two texts are the same words."""
    return _NO_LETTERS.sub("", text.casefold())


def check_row(where: str, task: str, src: str, tgt: str, speech: bool) -> None:
    """Checks task and languages of a row.

    Args:
        where: Start of the message: folder and id.
        task: Of the row.
        src: Source language.
        tgt: Target language.
        speech: Whether the folder holds speech.

    Raises:
        ValueError: An unknown task or language, or one that does not fit.
    """
    if task not in TASKS:
        raise ValueError(f"{where}: unknown task {task!r} in utt2task; expected {' '.join(TASKS)}")
    if (task in SPEECH_TASKS) != speech:
        kind, wanted = ("speech", "asr or st") if speech else ("text", "mt or instruct")
        raise ValueError(
            f"{where}: task {task!r} in a {kind} folder; expected {wanted} there; "
            "keep speech and text in folders of their own"
        )
    for name, code in (("utt2lang", src), ("utt2tgt", tgt)):
        if code not in LANGUAGES:
            raise ValueError(
                f"{where}: unknown language {code!r} in {name}; expected {' '.join(LANGUAGES)}"
            )
    if task == "asr" and src != tgt:
        raise ValueError(
            f"{where}: asr from {src!r} to {tgt!r}; expected the same language in utt2lang and "
            "utt2tgt (another language is task st)"
        )
    if task in ("st", "mt") and src == tgt:
        raise ValueError(
            f"{where}: {task} from {src!r} to {tgt!r}; expected two languages in utt2lang and "
            "utt2tgt (one language is task asr)"
        )
