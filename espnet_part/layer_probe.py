"""What every layer of the LLM knows of speech and its transcript: retrieval, spread, transport.

Shapes: N sentences, D features, S speech positions.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_part.attention import packed_inputs
from espnet_part.batching import row_cost
from espnet_part.dataset import Example, ExampleLoader, collate
from espnet_part.hidden_states import HiddenStates
from espnet_part.inner_alignment import InnerAlignment, TextPass, run_text_pass, text_pass
from espnet_part.model import PARTModel
from espnet_part.retrieval import both_ways, mean_pool, spread
from espnet_part.row import Row, letters
from espnet_part.splice import packed_layout, splice


@dataclass(frozen=True)
class LayerScore:
    """What was measured at one layer.

    Attributes:
        layer: 0 is the embeddings.
        speech_to_text: Mean reciprocal rank of a sentence's transcript, asked by its speech.
        text_to_speech: The other way round.
        spread: Mean cosine distance of the speech of different sentences.
        transport: Mean transport cost of a sentence; None where nobody asked.
    """

    layer: int
    speech_to_text: float
    text_to_speech: float
    spread: float
    transport: float | None = None

    @property
    def retrieval(self) -> float:
        """Mean of both ways."""
        return (self.speech_to_text + self.text_to_speech) / 2


def distinct_rows(rows: Iterable[Row], most: int) -> list[Row]:
    """Rows with different transcripts, spread evenly over those there are, always the same.

    Of rows with the same words (asr and st of one clip) the first counts: the others' would be
    right answers too.

    Args:
        rows: Any; those without a transcript are left out.
        most: How many to keep.
    """
    said: dict[tuple[str, str], Row] = {}
    for row in rows:
        if row.transcript:
            # A text without any letter or digit is told apart as it stands.
            said.setdefault((row.src, letters(row.transcript) or row.transcript), row)
    kept = list(said.values())
    if len(kept) <= most:
        return kept
    return [kept[i * len(kept) // most] for i in range(most)]


def transcript_batches(
    rows: Iterable[Row], loader: ExampleLoader, micro_cost: float, device: torch.device
) -> Iterator[dict[str, Tensor]]:
    """Batches of rows on a device; rows that cannot be read are left out and named in the log.

    Args:
        rows: With transcripts.
        loader: Without augmentation, with transcripts.
        micro_cost: Budget of a batch.
        device: Where to.
    """
    piece: list[Example] = []
    cost = 0.0
    for row in rows:
        try:
            example = loader.load(row, 0)
        except ValueError as error:
            logging.warning("row left out: %s: %s", row.utt_id, error)
            continue
        own = float(row_cost(example.samples, 0, example.n_target))
        if piece and cost + own > micro_cost:
            yield {key: value.to(device) for key, value in collate(piece).items()}
            piece, cost = [], 0.0
        piece.append(example)
        cost += own
    if piece:
        yield {key: value.to(device) for key, value in collate(piece).items()}


@torch.no_grad()
def probe_layers(
    model: PARTModel, batches: Iterable[dict[str, Tensor]], transport: InnerAlignment | None = None
) -> tuple[list[LayerScore], int]:
    """Runs both passes through all layers.

    Args:
        model: Is put into eval mode.
        batches: With transcripts.
        transport: How to compute transport costs; None leaves them out.

    Returns:
        One score per layer, from the embeddings to the last block; and the number of sentences that
        were looked up among each other: rows that could not be read are not among them.

    Raises:
        ValueError: Fewer than two sentences.
    """
    model.eval()
    layers = list(range(model.llm.config.num_hidden_layers + 1))
    heard: list[list[Tensor]] = [[] for _ in layers]
    read: list[list[Tensor]] = [[] for _ in layers]
    costs: list[Tensor] = []
    for batch in batches:
        text, speech, said = both_passes(model, batch, layers)
        if not len(text.rows_R):
            continue
        for layer in layers:
            pooled = mean_pool(speech[layer][text.speech_at_S], text.speech_lengths_R.tolist())
            heard[layer].append(pooled.cpu())
            pooled = mean_pool(said[layer][text.said_at_T], text.said_lengths_R.tolist())
            read[layer].append(pooled.cpu())
        if transport is not None:
            costs.append(transport.costs(speech, said, text, layers).cpu())
    found = sum(len(part) for part in heard[0])
    if found < 2:
        raise ValueError(
            f"found {found} sentences with speech and a transcript, expected 2 or more; give a dev "
            "set with asr rows, or st rows with transcripts"
        )
    mean_L = torch.cat(costs, 1).mean(1).tolist() if costs else [None] * len(layers)
    out = []
    for layer in layers:
        speech_ND, text_ND = torch.cat(heard[layer]), torch.cat(read[layer])
        ranks = both_ways(speech_ND, text_ND)
        out.append(LayerScore(layer, *ranks, spread(speech_ND), mean_L[layer]))
    return out, found


@torch.no_grad()
def both_passes(
    model: PARTModel, batch: dict[str, Tensor], layers: list[int]
) -> tuple[TextPass, dict[int, Tensor], dict[int, Tensor]]:
    """States of speech pass and text pass at some layers; the LLM ends behind the deepest.

    Returns:
        The text pass, then layer -> states of the speech pass, layer -> states of the text pass.
    """
    frames_SD, lengths_B, _ = model.speech_embeddings(batch)
    layout = packed_layout(batch["token_lengths"], batch["speech_place"], lengths_B)
    text = text_pass(batch, layout, lengths_B)
    with HiddenStates(model.llm, layers, stop=True) as hidden:
        embeds_ND = model.llm.get_input_embeddings()(batch["token_ids"])
        embeds_MD = splice(embeds_ND, frames_SD, layout)
        model.llm(**packed_inputs(embeds_MD, layout.position_M, layout.row_lengths))
    return text, hidden.states, run_text_pass(model.llm, text, layers)
