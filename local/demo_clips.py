"""Clips of the test set as the demo's packed model hears them."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from espnet_part.datadir import iter_rows
from espnet_part.prompt import LANGUAGES
from espnet_part.row import Row

ROOT = Path(__file__).resolve().parents[1]
N_CLIPS = 4


def shown(path: Path) -> str:
    """A path as seen from where `make demo` was typed."""
    path = Path(os.path.abspath(path))
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def pick_clips(raw: Path, tag: str, n: int = N_CLIPS) -> list[Row]:
    """Clips of translation test sets: other languages each, not chosen by what comes out.

    Args:
        raw: Formatted data, dump/raw.
        tag: Name of the corpus.
        n: At most so many.
    """
    order = list(LANGUAGES)
    by_source: dict[str, list[tuple[str, Path]]] = {}
    for folder in raw.glob(f"{tag}_test_st_*_*"):
        src, tgt = folder.name.split("_")[-2:]
        by_source.setdefault(src, []).append((tgt, folder))
    clips, targets = [], set()
    for number, src in enumerate(sorted(by_source, key=order.index)[:n]):
        choice = sorted(by_source[src], key=lambda c: (c[0] in targets, order.index(c[0])))
        target, folder = choice[0]
        targets.add(target)
        rows = list(iter_rows(folder))
        clips.append(rows[(2 * number + 1) * len(rows) // (2 * n)])  # voices are sorted, too
    return clips


def listen(pack: Path, clips: Sequence[Row]) -> Iterator[str]:
    """Transcribes and translates clips with the packed model, as a user would."""
    logging.disable(logging.WARNING)
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    # Libraries print while they load; the page is for people.
    with contextlib.redirect_stdout(sys.stderr):
        from espnet_part.audio import SAMPLE_RATE, load_audio
        from espnet_part.inference import Speech2Text

        s2t = Speech2Text.from_pretrained(pack)
    for clip in clips:
        speech = load_audio(clip.path)
        if clip.start_sec is not None:
            end = None if clip.end_sec is None else round(clip.end_sec * SAMPLE_RATE)
            speech = speech[round(clip.start_sec * SAMPLE_RATE) : end]
        src, tgt = LANGUAGES[clip.src], LANGUAGES[clip.tgt]
        yield f"  {shown(Path(clip.path))}"
        yield f"    said in {src:<20} {clip.source or '(no transcript)'}"
        yield f"    {'heard':<28} {s2t.transcribe(speech, lang=clip.src)}"
        translation = s2t.transcribe(speech, task="st", lang=clip.src, tgt_lang=clip.tgt)
        yield f"    {'translated into ' + tgt:<28} {translation}"
        yield f"    {'right translation':<28} {clip.target}"
