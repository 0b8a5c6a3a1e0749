"""References and hypotheses: Kaldi text files, paired by utterance id, never by line order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pair:
    """One utterance: its raw reference, its raw hypothesis, its speaker where known."""

    utt_id: str
    ref: str
    hyp: str
    speaker: str | None = None


def read_text(path: str | Path) -> dict[str, str]:
    """Read a Kaldi text file: an id, then the sentence (which may be empty), line by line.

    Raises:
        ValueError: if the file is missing, not UTF-8, or holds an id twice.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"No such text file: {path}")
    texts: dict[str, str] = {}
    try:
        # A byte order mark, as some editors write it, is no part of the first id.
        # Only "\n" ends a line: splitlines() also breaks at U+2028, which a sentence may hold.
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    for number, line in enumerate(lines, 1):
        parts = line.split(maxsplit=1)
        if not parts:
            continue
        if parts[0] in texts:
            raise ValueError(f"{path} line {number}: the utterance id {parts[0]} occurs twice")
        texts[parts[0]] = parts[1].strip() if len(parts) == 2 else ""
    return texts


def _some(ids: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(ids) - limit} more" if len(ids) > limit else ""
    return ", ".join(ids[:limit]) + more


def pair_texts(
    refs: Mapping[str, str],
    hyps: Mapping[str, str],
    allow_missing: bool = False,
    where: str = "the hypotheses",
    speakers: Mapping[str, str | None] | None = None,
) -> list[Pair]:
    """Pair references and hypotheses by utterance id, in the order of the references.

    Args:
        refs: utterance id -> reference.
        hyps: utterance id -> hypothesis.
        allow_missing: count a missing hypothesis as an empty one.
        where: name of the hypotheses in messages, usually their file.
        speakers: utterance id -> speaker.

    Raises:
        ValueError: if a hypothesis is missing or belongs to no reference, or there is no reference.
    """
    if not refs:
        raise ValueError(f"{where}: there is no reference to compare with, the reference is empty")
    extra = [utt for utt in hyps if utt not in refs]
    if extra:
        raise ValueError(
            f"{where}: {len(extra)} of {len(hyps)} utterance ids are not in the reference: "
            f"{_some(extra)}. Is it the output for another test set?"
        )
    missing = [utt for utt in refs if utt not in hyps]
    if missing and not allow_missing:
        raise ValueError(
            f"{where}: {len(missing)} of {len(refs)} utterances have no hypothesis: "
            f"{_some(missing)}. Decode them (stage 12), or pass --allow_missing to count them "
            "as empty."
        )
    speakers = speakers or {}
    return [Pair(utt, ref, hyps.get(utt, ""), speakers.get(utt)) for utt, ref in refs.items()]
