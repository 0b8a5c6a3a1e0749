"""`Speech2Text`: from speech to text with a trained or packed model, in a few lines of Python.

For example:

    s2t = Speech2Text.from_pretrained("exp/digits/part/phase3/part.zip")
    s2t.transcribe("talk.flac", lang="de")
    s2t.transcribe("talk.flac", task="st", lang="de", tgt_lang="en")
"""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from espnet_part.audio import MIN_SECONDS, SAMPLE_RATE, AudioError, load_audio, to_mono_16k
from espnet_part.decode_options import DecodeOptions
from espnet_part.decoding import Decoded, Request, decode
from espnet_part.prompt import SPEECH_TASKS, check_language
from espnet_part.segmentation import Piece
from espnet_part.unpack import local_model_files

Clip = np.ndarray | torch.Tensor | str | os.PathLike
# ESPnet's result for one clip: (text, tokens, token ids, hypothesis), best first.
Nbest = list[tuple[str, list[str], list[int], Decoded]]


class Speech2Text:
    """A model with its decode options.

    Args:
        part_train_config: The ``config.yaml`` of a phase or a pack.
        part_model_file: The checkpoint; None decodes with the parts as they were before training.
        device: Where to compute, e.g. ``cpu`` or ``cuda``.
        dtype: ``float32`` or ``bfloat16``.
        inference_config: A file of conf/decode; a pack may bring its own.
        options: How to decode, in place of `inference_config`.

    Raises:
        ValueError: If a file is missing or the checkpoint does not fit the config.
    """

    def __init__(
        self,
        part_train_config: str | Path,
        part_model_file: str | Path | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        inference_config: str | Path | None = None,
        options: DecodeOptions | None = None,
    ):
        if dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype: found {dtype!r}, expected float32 or bfloat16")
        for path in (part_train_config, part_model_file):
            if path is not None and not Path(path).is_file():
                raise ValueError(f"{path}: no such file; train the phase first, or name a pack")
        # Imports the encoders and transformers' models: not for whoever has a model at hand.
        from espnet_part.loading import load_model

        model = load_model(part_train_config, part_model_file, device)
        if options is None and inference_config is not None:
            options = DecodeOptions.from_yaml(inference_config)
        model.set_dtype(getattr(torch, dtype))
        self._set(model, options)

    @classmethod
    def from_model(cls, model, options: DecodeOptions | None = None) -> "Speech2Text":
        """Wraps a model that is in memory already."""
        self = cls.__new__(cls)
        self._set(model, options)
        return self

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        device: str = "cpu",
        dtype: str = "float32",
        options: DecodeOptions | None = None,
    ) -> "Speech2Text":
        """Loads a packed model.

        Args:
            source: A zip made by stage 14, a folder that holds one unpacked, or a Hugging Face hub
                id (``org/name`` or ``org/name@revision``). Only the last needs a network.
            device: Where to compute.
            dtype: ``float32`` or ``bfloat16``.
            options: How to decode.

        Raises:
            ValueError: If `source` is none of these.
        """
        files = local_model_files(source)
        return cls(**files, device=device, dtype=dtype, options=options)

    def _set(self, model, options: DecodeOptions | None) -> None:
        self.model = model.eval()
        self.set_options(options or DecodeOptions())

    def set_options(self, options: DecodeOptions) -> None:
        """Changes how to decode; pieces never exceed what the encoder takes."""
        limit_sec = self.model.encoder.max_sec
        if limit_sec is not None and options.max_sec > limit_sec:
            options = dataclasses.replace(options, max_sec=limit_sec)
        self.options = options

    def __call__(
        self,
        speech: Clip | list[Clip],
        task: str = "asr",
        lang: str | None = None,
        tgt_lang: str | None = None,
        sr: int = SAMPLE_RATE,
    ) -> Nbest | list[Nbest]:
        """Decodes one clip or a list of clips of any length.

        Args:
            speech: A waveform, mono (T,) or with channels, at `sr`; or a path; or a list of these.
            task: ``asr`` (text in the language spoken) or ``st`` (translation into `tgt_lang`).
            lang: Language spoken; None leaves it out of the prompt.
            tgt_lang: Language of the translation.
            sr: Sample rate of waveforms in Hz; files tell their own.

        Returns:
            ESPnet's list of (text, token, token_int, hyp) for one clip; for a list a list of those.

        Raises:
            ValueError: Unknown task or language; audio that is unreadable, empty, too short, or not
                finite.
        """
        if isinstance(speech, list | tuple):
            return [_nbest(decoded) for decoded in self.decode(speech, task, lang, tgt_lang, sr)]
        return _nbest(self.decode([speech], task, lang, tgt_lang, sr)[0])

    def transcribe(
        self,
        clip: Clip | list[Clip],
        task: str = "asr",
        lang: str | None = None,
        tgt_lang: str | None = None,
        sr: int = SAMPLE_RATE,
    ) -> str | list[str]:
        """Like calling the object, with plain strings as the result."""
        if isinstance(clip, list | tuple):
            return [decoded.text for decoded in self.decode(clip, task, lang, tgt_lang, sr)]
        return self.decode([clip], task, lang, tgt_lang, sr)[0].text

    def transcribe_pieces(
        self,
        clip: Clip | list[Clip],
        task: str = "asr",
        lang: str | None = None,
        tgt_lang: str | None = None,
        sr: int = SAMPLE_RATE,
    ) -> list[Piece] | list[list[Piece]]:
        """Like `transcribe`, with the text of each piece and its times in seconds."""
        if isinstance(clip, list | tuple):
            return [decoded.pieces for decoded in self.decode(clip, task, lang, tgt_lang, sr)]
        return self.decode([clip], task, lang, tgt_lang, sr)[0].pieces

    def decode(
        self,
        clips: list[Clip],
        task: str = "asr",
        lang: str | None = None,
        tgt_lang: str | None = None,
        sr: int = SAMPLE_RATE,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Decoded]:
        """Decodes a list of clips, all of their pieces in common batches (see `__call__`).

        `progress`, if given, is called after each batch with the pieces decoded so far and in all.
        """
        src, tgt, lid = self._languages(task, lang, tgt_lang)
        requests = []
        for number, clip in enumerate(clips):
            name = _name(clip, number)
            speech_T = self.check_speech(_waveform(clip, sr, name), name)
            requests.append(
                Request(task, src, tgt, speech_T, lid=lid, join_language=tgt_lang or lang)
            )
        return decode(self.model, requests, self.options, progress)

    def check_speech(self, speech_T: np.ndarray, name: str) -> np.ndarray:
        """Returns 16 kHz mono samples that the model can take.

        Raises:
            AudioError: If they are too few.
        """
        least = max(self.model.encoder.min_samples, int(MIN_SECONDS * SAMPLE_RATE))
        if len(speech_T) < least:
            raise AudioError(
                f"{name}: found {len(speech_T) / SAMPLE_RATE:.3f} s of audio, expected at least "
                f"{least / SAMPLE_RATE:.3f} s: too short for this model's encoder",
                f"shorter than {least / SAMPLE_RATE:g} s",
            )
        return speech_T

    def _languages(self, task: str, lang: str | None, tgt_lang: str | None) -> tuple[str, str, str]:
        """Checks the languages of a call; returns (source, target, lid) for the prompt."""
        if task not in SPEECH_TASKS:
            raise ValueError(f"task: found {task!r}, expected one of {' '.join(SPEECH_TASKS)}")
        for code, where in ((lang, "lang"), (tgt_lang, "tgt_lang")):
            if code is not None:
                check_language(code, where)
        if task == "st" and tgt_lang is None:
            raise ValueError("task st: tgt_lang is missing; name the language to translate into")
        if task == "asr" and tgt_lang is not None and tgt_lang != lang:
            raise ValueError(
                f"task asr: found lang={lang} and tgt_lang={tgt_lang}; a transcript is in the "
                "language spoken: leave tgt_lang out, or use task='st' to translate"
            )
        if lang is not None:
            return lang, tgt_lang or lang, "right"
        if task == "asr" and "{tgt}" in self.model.prompter.templates["asr"]["without_source"]:
            raise ValueError("task asr: this model's prompt needs the language; give lang")
        # With lid none the prompt names no source language: any code stands for the unknown one.
        return tgt_lang or "en", tgt_lang or "en", "none"


def _nbest(decoded: Decoded) -> Nbest:
    return [(decoded.text, decoded.tokens, decoded.token_ids, decoded)]


def _name(clip: Clip, number: int) -> str:
    return str(clip) if isinstance(clip, str | os.PathLike) else f"clip {number}"


def _waveform(clip: Clip, sr: int, name: str) -> np.ndarray:
    """Loads or converts a clip to 16 kHz mono."""
    if isinstance(clip, str | os.PathLike):
        return load_audio(Path(clip))
    if not isinstance(clip, np.ndarray | torch.Tensor):
        raise ValueError(
            f"{name}: found {type(clip).__name__}, expected a numpy or torch waveform, or a path"
        )
    if isinstance(clip, torch.Tensor) and clip.is_floating_point():
        clip = clip.float()  # numpy has no bfloat16
    if isinstance(sr, bool) or not isinstance(sr, int | np.integer) or sr <= 0:
        raise ValueError(f"sr: found {sr!r}, expected the sample rate in Hz, e.g. 16000")
    try:
        return to_mono_16k(clip, sr)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
