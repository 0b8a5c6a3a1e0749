"""Looks inside the models of an experiment: all numbers of `python -m espnet_part.bin.analyze`."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from espnet_part.audio import AudioError, audio_samples, load_audio
from espnet_part.datadir import Row
from espnet_part.geometry import (
    center,
    center_languages,
    distances,
    linear_cka,
    retrieval,
)
from espnet_part.gradients import task_batches, task_gradients, task_rows
from espnet_part.manifest import Manifest
from espnet_part.moments import START, Moment
from espnet_part.movement import block_names, movement, plain_weights
from espnet_part.prompt import TASKS
from espnet_part.representations import pool
from espnet_part.sentences import Chosen

log = logging.getLogger(__name__)


@dataclass
class Look:
    """What was found at one moment; rows without curriculum and phase.

    Attributes:
        geometry: A row per place.
        moved: A row per block; empty for a start.
        norms: A row per task and part.
        cosines: A row per pair of tasks and part.
        vectors: Place -> (N, D), dropped after last use.
    """

    geometry: list[dict] = field(default_factory=list)
    moved: list[dict] = field(default_factory=list)
    norms: list[dict] = field(default_factory=list)
    cosines: list[dict] = field(default_factory=list)
    vectors: dict[str, np.ndarray] = field(default_factory=dict)


def measure_places(vectors: dict[str, np.ndarray], chosen: Chosen) -> list[dict]:
    """Geometry of each place.

    Returns:
        Rows ``place``, those of `geometry.distances`, and, where rows are parallel, ``mrr`` (each
        language's mean taken off), ``mrr_ci95``, ``mrr_raw`` (the common mean alone taken off).
    """
    rows = []
    for place, vectors_ND in vectors.items():
        row = {"place": place, **distances(vectors_ND, chosen.languages, chosen.sentences)}
        if chosen.pairing:
            names = chosen.languages, chosen.sentences
            own = retrieval(center_languages(vectors_ND, chosen.languages), *names)
            raw = retrieval(center(vectors_ND, chosen.languages), *names)
            if own and raw:
                row |= {"mrr": own["mrr"], "mrr_ci95": own["ci95"], "mrr_raw": raw["mrr"]}
                row["mrr_by_language"] = own["by_language"]
        rows.append(row)
    return rows


def describe_clips(chosen: Chosen) -> dict:
    """What was looked at, and what retrieval reaches without any model.

    Returns:
        ``rows`` by language, ``sentences`` (shared by languages), ``pairing``, ``chance`` (mean
        reciprocal rank of guessing), ``duration`` (of the clips' lengths alone), ``candidates``.
    """
    about = {
        "rows": dict(sorted(Counter(chosen.languages).items())),
        "sentences": len(chosen.shared),
        "pairing": chosen.pairing,
    }
    if chosen.pairing:
        samples = [_samples(row) for row in chosen.rows]
        log_sec = center_languages(np.log(np.array(samples))[:, None], chosen.languages)
        by_length = retrieval(log_sec, chosen.languages, chosen.sentences)
        if by_length:
            about |= {"chance": by_length["chance"], "candidates": by_length["candidates"]}
            about |= {"duration": by_length["mrr"], "duration_ci95": by_length["ci95"]}
    return about


def readable(chosen: Chosen, shortest: int, longest: int | None) -> Chosen:
    """Leaves out rows whose audio cannot be read, or is too short or long for the encoder."""
    kept = []
    for i, row in enumerate(chosen.rows):
        try:
            samples = _samples(row)
            reason = f"{samples} samples" if not fits(samples, shortest, longest) else None
        except AudioError as error:
            reason = str(error)
        if reason is None:
            kept.append(i)
        else:
            log.warning("%s: left out (%s)", row.utt_id, reason)
    rows, sentences = [chosen.rows[i] for i in kept], [chosen.sentences[i] for i in kept]
    return Chosen(rows, sentences, chosen.pairing)


def fits(samples: int, shortest: int, longest: int | None) -> bool:
    """Whether an encoder takes a clip of so many samples."""
    return shortest <= samples <= (longest or samples)


def analyze(
    curricula: Sequence[Sequence[Moment]], chosen: Chosen, grad_rows: int, device: str = "cpu"
) -> dict:
    """Measures everything, moment by moment; moments that curricula share are measured once.

    Args:
        curricula: Of each curriculum, its moments in order.
        chosen: The clips.
        grad_rows: Training rows per task for the gradients; 0 leaves them out.
        device: Where the models run.

    Returns:
        ``clips``, ``places``, and lists of rows: ``geometry``, ``cka``, ``movement``,
        ``gradients``, ``gradient_cosines``.
    """
    encoder: Any = curricula[0][0].load().encoder
    chosen = readable(chosen, encoder.min_samples, encoder.max_samples)
    out: dict = {"clips": describe_clips(chosen), "places": []}
    out |= {key: [] for key in ("geometry", "cka", "movement", "gradients", "gradient_cosines")}
    manifests, rows = _gradient_rows([m for own in curricula for m in own], grad_rows)
    left = Counter(moment.key for own in curricula for moment in own)
    looks: dict[str, Look] = {}
    for moments in curricula:
        before: tuple[str, dict] | None = None
        previous: Moment | None = None
        for moment in moments:
            if moment.key not in looks:
                started = time.monotonic()
                looks[moment.key], before = _look(moment, chosen, before, manifests, rows, device)
                log.info(
                    "%s, %s: %.1f s", moment.curriculum, _name(moment), time.monotonic() - started
                )
            look = looks[moment.key]
            out["places"] = [row["place"] for row in look.geometry]
            _add(out, moment, look)
            if previous is not None:
                other = looks[previous.key]
                names = {"curriculum": moment.curriculum, "from": previous.phase}
                for place in look.vectors:
                    cka = linear_cka(other.vectors[place], look.vectors[place])
                    out["cka"].append({**names, "to": moment.phase, "place": place, "cka": cka})
                left[previous.key] -= 1
                if not left[previous.key]:
                    other.vectors = {}
            previous = moment
    return out


def _look(moment: Moment, chosen, before, manifests, rows, device) -> tuple[Look, tuple]:
    """Measures one moment; returns with it its weights, which the next phase may start from."""
    model = moment.load(device)
    look = Look()
    order, waves = _by_length(chosen)
    look.vectors = {place: vectors[order] for place, vectors in pool(model, waves).items()}
    look.geometry = measure_places(look.vectors, chosen)
    weights = plain_weights(model)
    if moment.phase != START:
        start = moment.init
        if before is None or before[0] != start.key:
            if start.checkpoint is not None and not start.checkpoint.is_file():
                log.warning("%s: no %s: movement left out", moment.config_file, start.checkpoint)
                before = None
            else:
                before = (start.key, plain_weights(start.load()))
        if before is not None:
            look.moved = movement(before[1], weights, block_names(model))
    if rows:
        micro_cost = float(moment.settings.get("micro_cost", 4000))
        batches = task_batches(model, manifests, rows, micro_cost)
        look.norms, look.cosines = task_gradients(model, batches)
    return look, (moment.key, weights)


def _by_length(chosen: Chosen) -> tuple[np.ndarray, Iterator[np.ndarray]]:
    """The clips from short to long, and the place of each of `chosen` among them."""
    shortest_first = np.argsort([_samples(row) for row in chosen.rows], kind="stable")
    rows = [chosen.rows[i] for i in shortest_first]
    waves = (load_audio(str(row.path), row.start_sec, row.end_sec) for row in rows)
    return np.argsort(shortest_first), waves


def _samples(row: Row) -> int:
    return audio_samples(str(row.path), row.start_sec, row.end_sec)


def _gradient_rows(moments: list[Moment], most: int) -> tuple[list[Manifest], dict]:
    """The same training rows for all moments: of every task that some phase trains on."""
    if not most:
        return [], {}
    folders = {str(name): None for moment in moments for name in moment.settings.get("train") or []}
    try:
        manifests = [Manifest.open(name) for name in folders]
    except ValueError as error:
        log.warning("gradients left out: %s", error)
        return [], {}
    trained = {task for moment in moments for task in moment.settings.get("tasks") or []}
    return manifests, task_rows(manifests, [task for task in TASKS if task in trained], most)


def _add(out: dict, moment: Moment, look: Look) -> None:
    names = {"curriculum": moment.curriculum, "phase": moment.phase}
    tasks = [] if moment.phase == START else moment.settings.get("tasks") or []
    out["geometry"] += [{**names, **row} for row in look.geometry]
    out["movement"] += [{**names, **row} for row in look.moved]
    out["gradients"] += [{**names, **row, "trained": row["task"] in tasks} for row in look.norms]
    out["gradient_cosines"] += [{**names, **row} for row in look.cosines]


def _name(moment: Moment) -> str:
    return moment.phase if moment.phase == START else f"phase {moment.phase}"
