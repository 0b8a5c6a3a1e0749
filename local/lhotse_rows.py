"""Cuts and supervisions of lhotse to rows; local/from_lhotse.py says which."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpus import Bad
from lhotse.cut import MonoCut, MultiCut
from lhotse.serialization import deserialize_item, load_jsonl
from own_rows import RowError, need_language, row_id

from espnet_part.datadir import Row

_HINT = "write the audio out by cuts.save_audios(folder)"
_WHOLE_SEC = 0.01  # a supervision that ends this near to the end of its file has no segment
_OUTSIDE_SEC = 0.1  # one that leaves its cut by more than this has lost words


@dataclass(frozen=True)
class Options:
    """How supervisions are read.

    Attributes:
        lang: Language of those that name none.
        tgt_lang: Language of their translations, if they have some.
        translation_key: Key of `custom` that holds the translations.
        spoken: Language spoken, where `text` and `language` are those of a translation.
        audio_root: Folder that relative paths start from; None: the working directory.
    """

    lang: str | None = None
    tgt_lang: str | None = None
    translation_key: str | None = None
    spoken: str | None = None
    audio_root: str | None = None


@dataclass(frozen=True, slots=True)
class _Audio:
    """What is needed of a recording: by channel, its file; or why there is none."""

    files: tuple[tuple[tuple[int, ...], str], ...]
    duration: float
    problem: str | None


def read_manifests(paths: Sequence[Path], options: Options) -> Iterator[Row | Bad]:
    """Rows of cuts, or of recordings and supervisions.

    Args:
        paths: One manifest or two, in any order.
        options: See `Options`.

    Raises:
        ValueError: A file is missing, or not what it should be.
    """
    kinds = {_kind(path): path for path in paths}
    if set(kinds) == {"cuts"}:
        for cut in _items(kinds["cuts"]):
            yield from _cut_rows(cut, options)
        return
    if set(kinds) != {"recordings", "supervisions"}:
        found = ", ".join(f"{path} holds {kind}" for kind, path in kinds.items())
        raise ValueError(f"{found}; expected cuts alone, or recordings and supervisions")
    recordings = {item.id: _audio(item) for item in _items(kinds["recordings"])}
    for supervision in _items(kinds["supervisions"]):
        audio = recordings.get(supervision.recording_id)
        if audio is None:
            detail = f"recordings lack {supervision.recording_id!r}"
            yield Bad(supervision.id, "missing recording", detail)
        else:
            span = supervision.start, supervision.start + supervision.duration
            yield from _good_rows(supervision, audio, span, options)


def _items(path: Path) -> Iterator[Any]:
    for number, item in enumerate(load_jsonl(path), 1):
        try:
            yield deserialize_item(item)
        except (AttributeError, KeyError, TypeError, ValueError) as err:
            raise ValueError(f"{path}:{number}: no item of a lhotse manifest ({err})") from err


def _kind(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; `lhotse prepare` makes manifests")
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise ValueError(f"{path}: expected .jsonl or .jsonl.gz; `lhotse copy` converts manifests")
    kinds = {"Recording": "recordings", "SupervisionSegment": "supervisions"}
    name = type(next(_items(path), None)).__name__
    if name == "NoneType":
        raise ValueError(f"{path}: is empty")
    return "cuts" if name.endswith("Cut") else kinds.get(name, f"items of type {name}")


def _audio(recording) -> _Audio:
    problem = None
    if recording.transforms:
        problem = "transformed audio"
    for source in recording.sources:
        if source.type != "file":
            problem = f"audio from {source.type}"
    files = tuple((tuple(sorted(s.channels)), str(s.source)) for s in recording.sources)
    return _Audio(() if problem else files, recording.duration, problem)


def _channels(channel: int | Iterable[int]) -> tuple[int, ...]:
    return (channel,) if isinstance(channel, int) else tuple(sorted(channel))


def _cut_rows(cut, options: Options) -> Iterator[Row | Bad]:
    if not isinstance(cut, MonoCut | MultiCut):
        yield Bad(cut.id, "mixed or padded cut", f"{type(cut).__name__}: {_HINT}")
    elif cut.recording is None:
        yield Bad(cut.id, "cut without audio", "features only; a recording is needed")
    elif not cut.supervisions:
        yield Bad(cut.id, "no supervision", "nobody wrote down what it says")
    else:
        audio = _audio(cut.recording)
        for supervision in cut.supervisions:
            start, end = supervision.start, supervision.start + supervision.duration
            if start < -_OUTSIDE_SEC or end > cut.duration + _OUTSIDE_SEC:
                detail = f"{start:g} to {end:g} s of a cut of {cut.duration:g} s"
                yield Bad(supervision.id, "supervision outside its cut", detail)
                continue
            span = cut.start + max(0.0, start), cut.start + min(cut.duration, end)
            yield from _good_rows(supervision, audio, span, options)


def _good_rows(
    supervision, audio: _Audio, span: tuple[float, float], options: Options
) -> Iterator[Row | Bad]:
    try:
        # A cut's channels are all of the recording's, a supervision's those that it is about.
        place = _place(audio, _channels(supervision.channel), span, options)
        yield from _rows(supervision, place, options)
    except RowError as err:
        yield Bad(supervision.id, err.reason, str(err))


def _place(
    audio: _Audio, channels: tuple[int, ...], span: tuple[float, float], options: Options
) -> dict[str, Any]:
    """Path and times of some channels of a recording.

    Raises:
        RowError: It is not one file that can be read as it is.
    """
    if audio.problem:
        raise RowError(audio.problem, _HINT)
    path = next((path for there, path in audio.files if there == channels), None)
    if path is None:
        there = " + ".join(str(list(c)) for c, _ in audio.files)
        detail = f"channels {list(channels)}, but its files hold {there}; {_HINT}"
        raise RowError("some channels of several", detail)
    if options.audio_root is not None:
        path = str(Path(options.audio_root) / path)
    start, end = round(span[0], 5), round(span[1], 5)
    # Times past the end are told by the check of the header.
    if start <= 0 and abs(end - audio.duration) < _WHOLE_SEC:
        return {"path": path}
    return {"path": path, "start_sec": start, "end_sec": end}


def _rows(supervision, place: dict[str, Any], options: Options) -> Iterator[Row]:
    text = supervision.text or ""
    lang = need_language(supervision.language or options.lang, "lang")
    clip = str(supervision.id)
    if supervision.speaker:
        place["speaker"] = str(supervision.speaker)
    if options.spoken is not None:
        if lang == options.spoken:
            raise RowError("not translated", f"text is {lang}, as what is spoken")
        yield Row(row_id(clip, "st", lang), "st", options.spoken, lang, text, **place)
        return
    yield Row(row_id(clip, "asr", lang), "asr", lang, lang, text, **place)
    tgt = options.tgt_lang
    if tgt is None or tgt == lang:
        return
    found = (supervision.custom or {}).get(options.translation_key)
    if isinstance(found, dict):  # {"eng": "..."}
        named = {need_language(name, "translation_key"): said for name, said in found.items()}
        found = named.get(tgt)
    if not isinstance(found, str):
        raise RowError("no translation", f"custom has no text at {options.translation_key!r}")
    yield Row(row_id(clip, "st", tgt), "st", lang, tgt, found, source=text or None, **place)
