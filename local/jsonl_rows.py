"""One object of a JSONL corpus to rows; local/from_jsonl.py says what the keys mean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from own_rows import RowError, derived_clip, need_language, row_id, seconds

from espnet_part.datadir import Row
from espnet_part.prompt import TASKS

KEYS = {
    "path": ("path", "audio", "audio_filepath", "audio_path", "wav"),
    "text": ("text", "txt"),
    "lang": ("lang", "language", "src_lang", "source_lang"),
    "tgt_lang": ("tgt_lang", "target_lang"),
    "translation": ("translation", "target"),
    "transcript": ("transcript", "source"),
    "task": ("task", "taskname"),
    "start": ("start", "start_time", "offset"),
    "end": ("end", "end_time"),
    "duration": ("duration",),
    "speaker": ("speaker", "speaker_id", "spk"),
    "id": ("id", "utt_id", "utterance_id", "key"),
}
_TASK_NAMES = {task: task for task in TASKS} | {
    "transcribe": "asr",
    "transcription": "asr",
    "ast": "st",
    "s2tt": "st",
    "s2t_translation": "st",
    "translate": "st",
}
_AUDIO = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".sph", ".m4a", ".webm")


@dataclass(frozen=True)
class Defaults:
    """What holds for rows that do not say it themselves.

    Attributes:
        base: Folder that relative paths start from.
        lang: Source language.
        tgt_lang: Target language.
        task: One of TASKS.
    """

    base: Path
    lang: str | None = None
    tgt_lang: str | None = None
    task: str | None = None


def rows_of(item: dict, defaults: Defaults) -> Iterator[Row]:
    """The rows of one object: one, or two (asr and st).

    Raises:
        RowError: It cannot be used.
    """
    get = {key: _first(item, names) for key, names in KEYS.items()}
    source = get["transcript"]
    if get["path"] is None and isinstance(source, str) and source.lower().endswith(_AUDIO):
        # FunASR's way: source is the audio, target the text.
        get |= {"path": source, "transcript": None}
        if get["text"] is None:
            get |= {"text": get["translation"], "translation": None}
    answer = item.get("answer")  # NeMo's key, or its placeholder for one
    if get["translation"] is None and answer not in (None, "", "na", "predict", get["text"]):
        get["translation"] = answer
    for key in ("text", "translation", "transcript"):
        if get[key] is not None and not isinstance(get[key], str):
            raise RowError("text is no string", f"{key}: found {get[key]!r}, expected a string")
    task = _task(get["task"]) or defaults.task
    src = need_language(get["lang"] or defaults.lang, "lang")
    tgt = get["tgt_lang"] or defaults.tgt_lang
    tgt = None if tgt is None else need_language(tgt, "tgt_lang")
    if get["path"] is None:
        yield _text_row(get, task, src, tgt)
    else:
        yield from _speech_rows(get, task, src, tgt, defaults.base)


def _first(item: dict, names: tuple[str, ...]):
    """The value of the first of some names that has one; empty text counts as none."""
    values = (item.get(name) for name in names)
    return next((value for value in values if value is not None and value != ""), None)


def _task(value) -> str | None:
    if value is None:
        return None
    task = _TASK_NAMES.get(value.lower()) if isinstance(value, str) else None
    if task is None:
        raise RowError("unknown task", f"task {value!r}; expected {' '.join(TASKS)}")
    return task


def _text_row(get: dict, task: str | None, src: str, tgt: str | None) -> Row:
    source, target = get["transcript"] or get["text"], get["translation"]
    if not (source and target) or task in ("asr", "st"):
        raise RowError("no path", "neither path (speech) nor source and target (text)")
    task = task or "mt"
    if task == "instruct":
        tgt = tgt or src
    elif tgt is None or tgt == src:
        found = f"tgt_lang is {'missing' if tgt is None else f'{tgt}, as lang'}"
        raise RowError("no tgt_lang", f"{found}; a text row of one language has task instruct")
    clip = _clip(get, src, src, tgt, source, target)
    return Row(row_id(clip, task, tgt), task, src, tgt, target, source=source)


def _speech_rows(
    get: dict, task: str | None, src: str, tgt: str | None, base: Path
) -> Iterator[Row]:
    path = get["path"]
    if isinstance(path, dict):  # as `datasets` writes audio
        path = path.get("path")
    if not isinstance(path, str) or not path:
        raise RowError("no path", f"path: found {path!r}, expected the name of an audio file")
    if task in ("mt", "instruct"):
        raise RowError("text task with audio", f"task {task} has no audio: remove the path")
    said, translation = get["text"] or get["transcript"], get["translation"]
    if task == "st" and translation is None:  # NeMo's way: `text` is what the model shall say
        said, translation = get["transcript"], get["text"]
    start, end = _times(get)
    speaker = get["speaker"]
    clip = _clip(get, PurePath(path).stem, path, start, end)
    place: dict[str, Any] = {
        "path": str(base / path),
        "start_sec": start,
        "end_sec": end,
        "speaker": None if speaker is None else str(speaker),
    }
    if task == "asr" or (task is None and translation is None):
        if task is None and tgt not in (None, src):
            raise RowError("no task", f"tgt_lang {tgt} without translation: say task asr or st")
        yield Row(row_id(clip, "asr", src), "asr", src, src, said or "", **place)
        return
    if tgt is None or tgt == src:
        found = "is missing" if tgt is None else f"is {tgt}, as lang"
        raise RowError("no tgt_lang", f"a translation, but tgt_lang {found}")
    if task is None and said:
        yield Row(row_id(clip, "asr", src), "asr", src, src, said, **place)
    yield Row(row_id(clip, "st", tgt), "st", src, tgt, translation or "", source=said, **place)


def _clip(get: dict, name: str, *parts: object) -> str:
    given = get["id"]
    if given is None:
        return derived_clip(name, *parts)
    if isinstance(given, bool) or not isinstance(given, str | int):
        raise RowError("bad id", f"id {given!r}; expected a string")
    return str(given)


def _times(get: dict) -> tuple[float | None, float | None]:
    start, end = seconds(get["start"], "start"), seconds(get["end"], "end")
    duration = seconds(get["duration"], "duration")
    if end is None and start is not None and duration is not None:
        end = start + duration
    if end is not None and end <= (start or 0.0):
        raise RowError("bad time", f"start {start}, end {end}; expected start < end")
    return start, end
