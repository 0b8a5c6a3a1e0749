"""Tiny speech encoders of the recipe's own corpora: SAN-M blocks trained with CTC.

Features and blocks are those of `espnet_part.encoder_sensevoice`: what is saved here is what PART
loads. Output units: see ctc_units.py.

Shapes: B = clips, T = frames, F = mel bins, D = width of the encoder, U = units.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ctc_units import join_pieces, pieces
from safetensors.torch import load_file, save_file
from text_llm import warmup_cosine
from torch import Tensor, nn

from espnet_part.audio import load_audio
from espnet_part.augment import SpecAugment
from espnet_part.datadir import Row, iter_rows
from espnet_part.encoder import SpeechEncoder, build_encoder


@dataclass(frozen=True)
class EncoderRecipe:
    """Size and training of the encoder."""

    layers: int = 10
    width: int = 128
    heads: int = 4
    ffn: int = 384
    dropout: float = 0.1
    speakers: str = "all"  # heard in pre-training, separated by commas
    clips: int = 2000  # training clips used at most
    steps: int = 400
    batch: int = 32
    lr: float = 2e-3
    warmup: int = 100
    augment_from: int = 100  # masks from the first step on keep CTC on its plateau of blanks
    seed: int = 0


def build_tiny_encoder(recipe: EncoderRecipe) -> SpeechEncoder:
    """Make the untrained encoder."""
    return build_encoder(
        "sensevoice",
        config={
            "hidden_size": recipe.width,
            "num_attention_heads": recipe.heads,
            "intermediate_size": recipe.ffn,
            "num_hidden_layers": recipe.layers,
            "num_timestamp_prediction_layers": 0,
            "hidden_dropout": recipe.dropout,
            "attention_dropout": 0.0,
            # Waveforms as 16-bit integers: else quiet speakers fall under the filterbank's floor.
            "waveform_scale": 32768.0,
        },
    )


@torch.no_grad()
def compute_features(encoder: SpeechEncoder, rows: list[Row]) -> list[Tensor]:
    """Filterbank features of clips, each (T, F).

    Args:
        encoder: gives the features.
        rows: asr rows.
    """
    features = []
    start = time.monotonic()
    for i in range(0, len(rows), 32):
        waves = [torch.from_numpy(load_audio(row.path)) for row in rows[i : i + 32]]
        lengths_B = torch.tensor([len(w) for w in waves])
        speech_BT = nn.utils.rnn.pad_sequence(waves, batch_first=True)
        features_BTF, lengths_B = encoder.features(speech_BT, lengths_B)
        features += [f[:n].clone() for f, n in zip(features_BTF, lengths_B.tolist(), strict=True)]
    print(f"encoder: features of {len(rows)} clips, {time.monotonic() - start:.0f} s", flush=True)
    return features


def batches(lengths: list[int], size: int, rng: np.random.Generator):
    """Yield batches of clip numbers for ever, each of clips of like length.

    Args:
        lengths: frames of each clip.
        size: clips in a batch.
        rng: shuffles.
    """
    size = min(size, len(lengths))
    while True:
        order = rng.permutation(len(lengths))
        window = 8 * size  # sorted within windows: like lengths, and still another mix every epoch
        groups = []
        for i in range(0, len(order), window):
            part = sorted(order[i : i + window], key=lambda n: lengths[n])
            groups += [part[j : j + size] for j in range(0, len(part), size)]
        groups = [g for g in groups if len(g) == size]
        for i in rng.permutation(len(groups)):
            yield [int(n) for n in groups[i]]


def ctc_train(
    recipe: EncoderRecipe,
    rows: list[Row],
    start: Path | None = None,
    device: torch.device | str = "cpu",
) -> tuple[SpeechEncoder, nn.Linear, list[str]]:
    """Train encoder and CTC head.

    Args:
        recipe: sizes and schedule.
        rows: asr rows to train on.
        start: folder with an `encoder` and a `ctc` to go on from; the recipe's
            sizes do not count, and there is no dropout.
        device: to train on; the result is on the CPU.

    Returns:
        Encoder in eval mode, head (D -> U), and the units; unit 0 is the blank.

    Raises:
        ValueError: no clip left of the recipe's speakers.
    """
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    rows = choose(rows, recipe, rng)
    encoder, head, units = begin(recipe, rows, start)
    number = {unit: i for i, unit in enumerate(units)}
    parameters = [*encoder.parameters(), *head.parameters()]
    n_parameters = sum(p.numel() for p in parameters)
    print(f"encoder: {n_parameters / 1e6:.2f} M parameters, {len(units)} units, {len(rows)} clips")
    features = compute_features(encoder, rows)
    encoder.to(device), head.to(device)
    targets = [torch.tensor([number[u] for u in pieces(row.target)]) for row in rows]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warmup_cosine(step, recipe.steps, recipe.warmup)
    )
    augment = SpecAugment()
    encoder.train()
    plan = batches([len(f) for f in features], recipe.batch, rng)
    start, cpu = time.monotonic(), time.process_time()
    for step in range(1, recipe.steps + 1):
        chosen = next(plan)
        lengths_B = torch.tensor([len(features[n]) for n in chosen])
        features_BTF = nn.utils.rnn.pad_sequence([features[n] for n in chosen], batch_first=True)
        if step > recipe.augment_from:
            seeds = rng.integers(1 << 31, size=len(chosen)).tolist()
            features_BTF = augment(features_BTF, lengths_B, seeds)
        features_BTF, lengths_B = features_BTF.to(device), lengths_B.to(device)
        frames_BTD, frame_lengths_B = encoder.encode(features_BTF, lengths_B)
        log_probs_TBU = head(frames_BTD).log_softmax(-1).transpose(0, 1)
        wanted = [targets[n] for n in chosen]
        loss = nn.functional.ctc_loss(
            log_probs_TBU,
            torch.cat(wanted).to(device),
            frame_lengths_B,
            torch.tensor([len(w) for w in wanted], device=device),
            zero_infinity=True,
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == recipe.steps:
            sec = time.monotonic() - start
            left = sec / step * (recipe.steps - step)
            print(
                f"encoder: step {step}/{recipe.steps}, loss {loss.item():.3f}, {sec:.0f} s "
                f"({time.process_time() - cpu:.0f} CPU-s), {left:.0f} s left",
                flush=True,
            )
    return encoder.cpu().eval(), head.cpu().eval(), units


def begin(
    recipe: EncoderRecipe, rows: list[Row], start: Path | None
) -> tuple[SpeechEncoder, nn.Linear, list[str]]:
    """An untrained encoder, or the one to go on from."""
    if start is not None:
        encoder = build_encoder("sensevoice", source=str(start / "encoder"))
        head, units = load_ctc(start / "ctc")
        return encoder, head.train(), units
    units = ["<blank>", *sorted({unit for row in rows for unit in pieces(row.target)})]
    encoder = build_tiny_encoder(recipe)
    return encoder, nn.Linear(encoder.output_size, len(units)), units


def choose(rows: list[Row], recipe: EncoderRecipe, rng: np.random.Generator) -> list[Row]:
    """Choose the training clips.

    Raises:
        ValueError: none is left.
    """
    wanted = {row.speaker for row in rows}
    if recipe.speakers != "all":
        wanted = set(recipe.speakers.split(","))
    mine = [row for row in rows if row.speaker in wanted]
    if not mine:
        there = ", ".join(sorted({str(row.speaker) for row in rows}))
        raise ValueError(f"No training clip of the speakers {recipe.speakers}; there are: {there}.")
    return [mine[i] for i in sorted(rng.permutation(len(mine))[: recipe.clips])]


@torch.no_grad()
def ctc_greedy(
    encoder: SpeechEncoder, head: nn.Linear, units: list[str], rows: list[Row]
) -> list[str]:
    """Transcribe clips by the likeliest unit of each frame.

    Args:
        encoder: in eval mode.
        head: D -> U.
        units: names of the units.
        rows: asr rows.

    Returns:
        One text per row.
    """
    features = compute_features(encoder, rows)
    texts = []
    for i in range(0, len(rows), 32):
        part = features[i : i + 32]
        lengths_B = torch.tensor([len(f) for f in part])
        features_BTF = nn.utils.rnn.pad_sequence(part, batch_first=True)
        frames_BTD, frame_lengths_B = encoder.encode(features_BTF, lengths_B)
        best_BT = head(frames_BTD).argmax(-1)
        for best_T, length in zip(best_BT, frame_lengths_B.tolist(), strict=True):
            path = torch.unique_consecutive(best_T[:length]).tolist()
            texts.append(join_pieces([units[u] for u in path if u != 0]))
    return texts


def asr_rows(folder: Path) -> list[Row]:
    """The asr rows of a data folder."""
    return [row for row in iter_rows(folder) if row.task == "asr"]


def save_ctc(head: nn.Linear, units: list[str], folder: Path) -> None:
    """Save a CTC head in 16 bits, and its units."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.half().contiguous() for name, value in head.state_dict().items()}
    save_file(state, folder / "head.safetensors")
    (folder / "units.txt").write_text("\n".join(units) + "\n", encoding="utf-8")


def load_ctc(folder: Path) -> tuple[nn.Linear, list[str]]:
    """What `save_ctc` saved."""
    state = load_file(folder / "head.safetensors")
    units = (folder / "units.txt").read_text(encoding="utf-8").splitlines()
    head = nn.Linear(state["weight"].shape[1], len(units))
    head.load_state_dict({name: value.float() for name, value in state.items()})
    return head.eval(), units
