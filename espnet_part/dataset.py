"""Loading, augmentation and collation: from rows of the plan to tensors.

Shapes: A clips, T samples, N text tokens, B rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from espnet_part.audio import change_speed, load_audio
from espnet_part.augment import utterance_seed
from espnet_part.batching import BatchPlan
from espnet_part.datadir import Row
from espnet_part.manifest import Manifest
from espnet_part.prompt import LANGUAGES, TASKS, Prompter
from espnet_part.splice import pad_waves

if TYPE_CHECKING:
    from espnet_part.frame_cache import CachedClip, FrameCache

DUMMY_SAMPLES = 8000
LANGUAGE_IDS = {code: i for i, code in enumerate(LANGUAGES)}


@dataclass
class Example:
    """A row ready for collation.

    Attributes:
        row: Where it comes from.
        wave: 16 kHz samples (T,), None for text rows and where `cached` is there.
        tokens: Ids of prompt and target.
        place: How many of them stand before the speech.
        n_target: How many of them, at the end, are target and end token.
        seed: Of its augmentation.
        cached: What the encoder made of the clip, where that is kept.
        transcript: Ids of what is said in the clip, none where it is not known; None where nobody
            asks for it.
    """

    row: Row
    wave: np.ndarray | None
    tokens: list[int]
    place: int
    n_target: int
    seed: int
    cached: CachedClip | None = None
    transcript: list[int] | None = None

    @property
    def samples(self) -> int:
        """Of its clip, 0 for text rows."""
        if self.cached is not None:
            return self.cached.samples
        return 0 if self.wave is None else len(self.wave)


class ExampleLoader:
    """Loads rows and renders their prompts.

    Args:
        prompter: Renders prompts.
        seed: Of all random choices, together with step and utterance id.
        source_dropout: Share of prompts that do not name the source language.
        speed_perturb: Factors, one drawn per row and step; None plays as recorded.
        min_samples: Shortest clip that the encoder can make something of.
        max_samples: Longest clip that it takes; None without a limit.
        transcripts: Whether to add transcripts, which inner alignment reads.

    Attributes:
        cache: Frames of the clips, to load in place of their audio; None without.
    """

    cache: FrameCache | None = None

    def __init__(
        self,
        prompter: Prompter,
        seed: int = 0,
        source_dropout: float = 0.0,
        speed_perturb: list[float] | None = None,
        min_samples: int = 0,
        max_samples: int | None = None,
        transcripts: bool = False,
    ):
        self.prompter = prompter
        self.seed = seed
        self.source_dropout = source_dropout
        self.speed_perturb = speed_perturb
        self.min_samples, self.max_samples = min_samples, max_samples
        self.transcripts = transcripts

    def load(self, row: Row, step: int) -> Example:
        """Loads one row for one step.

        Raises:
            ValueError: Audio that cannot be read, or is too short or long for the encoder.
        """
        seed = utterance_seed(self.seed, step, row.utt_id)
        rng = np.random.default_rng(seed)
        lid = "none" if rng.random() < self.source_dropout else "right"
        wave = cached = None
        if row.path is not None and self.cache is not None:
            cached = self.cache.read(row)
        elif row.path is not None:
            wave = load_audio(row.path, row.start_sec, row.end_sec)
            check_length(len(wave), row.path, self.min_samples, self.max_samples)
            if self.speed_perturb:
                changed = change_speed(wave, float(rng.choice(self.speed_perturb)))
                # A clip near a limit must not be lost by the factor it drew.
                wave = changed if self._fits(len(changed)) else wave
        prompt = self.prompter.prompt(row.task, row.src, row.tgt, row.source, lid)
        target = self.prompter.target(row.target)
        tokens = [*prompt.before, *prompt.after, *target]
        place = len(prompt.before) if prompt.has_speech else 0
        said = self.prompter.encode(row.transcript or "") if self.transcripts else None
        return Example(row, wave, tokens, place, len(target), seed, cached, said)

    def _fits(self, samples: int) -> bool:
        return samples >= self.min_samples and samples <= (self.max_samples or samples)


def check_length(samples: int, path: str, shortest: int, longest: int | None) -> None:
    """Raises ValueError for a clip that an encoder cannot take."""
    if samples < shortest or samples > (longest or samples):
        limit = "any length" if longest is None else f"{longest}"
        raise ValueError(
            f"{path}: found {samples} samples at 16 kHz, expected {shortest} to {limit} for this "
            "encoder; filter such clips out in stage 4"
        )


def collate(examples: list[Example]) -> dict[str, torch.Tensor]:
    """Packs examples; without audio among them a short dummy clip of row -1 is added.

    Returns:
        The batch that `PARTModel.forward` documents, and ``seconds`` of audio, (1,). Where examples
        have transcripts, also ``transcript_ids`` (flat) and ``transcript_lengths`` (B,), 0 for rows
        whose transcript is not known.
    """
    clips = [(b, ex) for b, ex in enumerate(examples) if ex.samples]
    is_target = [flag for ex in examples for flag in _target_flags(ex)]
    return {
        **_audio([ex for _, ex in clips]),
        "speech_row": torch.tensor([b for b, _ in clips] or [-1]),
        "augment_seed": torch.tensor([ex.seed for _, ex in clips] or [0]),
        "token_ids": torch.tensor([i for ex in examples for i in ex.tokens]),
        "token_lengths": torch.tensor([len(ex.tokens) for ex in examples]),
        "speech_place": torch.tensor([ex.place for ex in examples]),
        "is_target": torch.tensor(is_target),
        "task": torch.tensor([TASKS.index(ex.row.task) for ex in examples]),
        "tgt": torch.tensor([LANGUAGE_IDS[ex.row.tgt] for ex in examples]),
        "seconds": torch.tensor([sum(ex.samples for _, ex in clips) / 16000]),
        **_transcripts(examples),
    }


def _transcripts(examples: list[Example]) -> dict[str, torch.Tensor]:
    said = [ex.transcript for ex in examples if ex.transcript is not None]
    if not said:
        return {}
    assert len(said) == len(examples), "all rows of a run are asked for transcripts, or none"
    return {
        "transcript_ids": torch.tensor([i for ids in said for i in ids], dtype=torch.long),
        "transcript_lengths": torch.tensor([len(ids) for ids in said]),
    }


def _audio(clips: list[Example]) -> dict[str, torch.Tensor]:
    """Waveforms, or the frames that are kept in their place."""
    kept = [ex.cached.frames for ex in clips if ex.cached is not None]
    if kept:
        assert len(kept) == len(clips), "all clips of a run are cached, or none"
        return {
            "frames": torch.nn.utils.rnn.pad_sequence(kept, batch_first=True),
            "frame_lengths": torch.tensor([len(frames) for frames in kept]),
        }
    waves = [ex.wave for ex in clips if ex.wave is not None]
    speech, lengths = pad_waves(waves or [np.zeros(DUMMY_SAMPLES, dtype=np.float32)])
    return {"speech": speech, "speech_lengths": lengths}


def _target_flags(example: Example) -> list[bool]:
    prompt = len(example.tokens) - example.n_target
    return [False] * prompt + [True] * example.n_target


class StepDataset(torch.utils.data.Dataset):
    """``dataset[step]`` is the list of micro-batches of a step for one process.

    A row that cannot be read is left out, logged and counted. A micro-batch without rows is None:
    the loop runs the dummy in its place.

    Args:
        plan: Says which rows.
        loader: Loads them.
        rank: This process.
        world_size: Number of processes.
        micro_cost: Budget of a micro-batch.
    """

    def __init__(
        self, plan: BatchPlan, loader: ExampleLoader, rank: int, world_size: int, micro_cost: float
    ):
        self.plan, self.loader = plan, loader
        self.rank, self.world_size, self.micro_cost = rank, world_size, micro_cost

    def __getitem__(self, step: int) -> tuple[list[dict | None], list[str]]:
        """Micro-batches of `step`, and what was skipped ("utt: reason")."""
        batches: list[dict | None] = []
        skipped: list[str] = []
        pieces = self.plan.micro_batches(step, self.rank, self.world_size, self.micro_cost)
        for piece in pieces:
            examples = load_rows(self.plan.manifests, piece, self.loader, step, skipped)
            batches.append(collate(examples) if examples else None)
        return batches, skipped


def load_rows(
    manifests: list[Manifest],
    rows: list[tuple[int, int]],
    loader: ExampleLoader,
    step: int,
    skipped: list[str],
) -> list[Example]:
    """Loads rows; unreadable ones are added to `skipped`."""
    examples = []
    for number, position in rows:
        row = manifests[number].row(position)
        try:
            examples.append(loader.load(row, step))
        except ValueError as error:
            skipped.append(f"{row.utt_id}: {error}")
    return examples
