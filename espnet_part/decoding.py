"""Decodes requests in batches sorted by length; audio of any length goes in pieces.

What `Speech2Text` and the recipe's stage 12 have in common. Shapes: T = samples at 16 kHz.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from espnet_part.audio import SAMPLE_RATE
from espnet_part.decode_options import DecodeOptions
from espnet_part.segmentation import Piece, cut_at_pauses, join_texts


@dataclass(frozen=True)
class Request:
    """One thing to decode.

    Attributes:
        task: One of the tasks of `espnet_part.prompt`.
        src: Language of the speech or source text.
        tgt: Language of the answer.
        speech_T: Mono float32 samples at 16 kHz; None for a text task.
        source_text: What a text task works on.
        lid: Language named in the prompt: ``right``, ``none`` or a code.
        join_language: Language whose convention joins the pieces of long audio; None leaves it to
            the characters at the seams.
    """

    task: str
    src: str
    tgt: str
    speech_T: np.ndarray | None = None
    source_text: str | None = None
    lid: str = "right"
    join_language: str | None = None


@dataclass(frozen=True)
class Decoded:
    """The answer to a request.

    Attributes:
        text: On one line.
        token_ids: Of all pieces in order, without end tokens.
        tokens: The same as strings.
        score: Sum of the pieces' scores (log probabilities).
        pieces: Text by stretch of audio; one for a text task.
        cut_off: Number of pieces that reached the token limit before their end token: loops, or a
            limit that is too low.
    """

    text: str
    token_ids: list[int]
    tokens: list[str]
    score: float
    pieces: list[Piece]
    cut_off: int


@dataclass(frozen=True)
class _Job:
    """A piece of a request, as the model gets it."""

    speech_T: np.ndarray | None
    prompt: object
    limit: int


def plan_batches(seconds: list[float], batch_size: int, batch_sec: float) -> list[list[int]]:
    """Groups clips of like length, longest first, so that memory runs out at once or never.

    Args:
        seconds: Length of each clip.
        batch_size: Most clips per batch.
        batch_sec: Most seconds per batch once all are padded to the longest; one clip alone may
            exceed it.

    Returns:
        Indices by batch; every index once.
    """
    order = sorted(range(len(seconds)), key=lambda i: (-seconds[i], i))
    batches: list[list[int]] = []
    for index in order:
        batch = batches[-1] if batches else None
        if (
            batch is None
            or len(batch) >= batch_size
            or seconds[batch[0]] * (len(batch) + 1) > batch_sec
        ):
            batches.append([index])
        else:
            batch.append(index)
    return batches


def _generate(model, jobs: list[_Job], num_beams: int) -> list:
    """Runs the model; a batch that does not fit into GPU memory goes in halves."""
    try:
        with torch.inference_mode():
            return model.generate(
                [job.speech_T for job in jobs],
                [job.prompt for job in jobs],
                [job.limit for job in jobs],
                num_beams=num_beams,
            )
    except torch.cuda.OutOfMemoryError:
        if len(jobs) == 1:
            raise
    logging.warning(f"out of GPU memory with {len(jobs)} clips at once: decoding them in halves")
    torch.cuda.empty_cache()
    half = len(jobs) // 2
    return _generate(model, jobs[:half], num_beams) + _generate(model, jobs[half:], num_beams)


def _jobs_of(model, request: Request, options: DecodeOptions) -> list[tuple[int, int, _Job]]:
    """Cuts a request into (start sample, end sample, job)."""
    prompt = model.prompter.prompt(
        request.task, request.src, request.tgt, source_text=request.source_text, lid=request.lid
    )
    if request.speech_T is None:
        n_source = len(model.prompter.encode(request.source_text or ""))
        return [(0, 0, _Job(None, prompt, options.token_limit(n_source)))]
    return [
        (
            start,
            end,
            _Job(
                request.speech_T[start:end],
                prompt,
                options.token_limit((end - start) / SAMPLE_RATE),
            ),
        )
        for start, end in cut_at_pauses(
            request.speech_T, SAMPLE_RATE, options.max_sec, options.pause_sec
        )
    ]


def decode(
    model,
    requests: list[Request],
    options: DecodeOptions,
    progress: Callable[[int, int], None] | None = None,
) -> list[Decoded]:
    """Decodes requests, all pieces of all of them sorted by length into common batches.

    Args:
        model: A `PARTModel` in eval mode: `generate`, `prompter`, `tokenizer`.
        requests: What to decode; speech must be at least `model.encoder.min_samples` long.
        options: How.
        progress: Called after each batch with the number of pieces decoded so far and in all.

    Returns:
        One answer per request, in order.
    """
    spans = [_jobs_of(model, request, options) for request in requests]
    jobs = [job for span in spans for _, _, job in span]
    # Text rows are short: they go last, in batches of their own.
    seconds = [0.0 if job.speech_T is None else len(job.speech_T) / SAMPLE_RATE for job in jobs]
    found = [None] * len(jobs)
    n_done = 0
    for batch in plan_batches(seconds, options.batch_size, options.batch_sec):
        hypotheses = _generate(model, [jobs[i] for i in batch], options.beam_size)
        for index, hypothesis in zip(batch, hypotheses, strict=True):
            found[index] = hypothesis
        n_done += len(batch)
        if progress is not None:
            progress(n_done, len(jobs))
    answers, position = [], 0
    for request, span in zip(requests, spans, strict=True):
        hypotheses = found[position : position + len(span)]
        position += len(span)
        answers.append(_assemble(model, request, span, hypotheses))
    return answers


def _assemble(model, request: Request, span: list, hypotheses: list) -> Decoded:
    """Puts the hypotheses of a request's pieces together."""
    ends = set(model.prompter.end_token_ids)
    pieces, token_ids, cut_off = [], [], 0
    for (start, end, job), hypothesis in zip(span, hypotheses, strict=True):
        ids = list(hypothesis.token_ids)
        n_kept = next((i for i, token in enumerate(ids) if token in ends), len(ids))
        cut_off += n_kept >= job.limit
        token_ids += ids[:n_kept]
        text = model.prompter.decode(ids[:n_kept])
        pieces.append(Piece(start / SAMPLE_RATE, end / SAMPLE_RATE, text))
    return Decoded(
        text=join_texts([piece.text for piece in pieces], request.join_language),
        token_ids=token_ids,
        tokens=list(model.tokenizer.convert_ids_to_tokens(token_ids)),
        score=float(sum(hypothesis.score for hypothesis in hypotheses)),
        pieces=pieces,
        cut_off=cut_off,
    )
