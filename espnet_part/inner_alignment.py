"""Inner speech-text alignment (AI-STA): the LLM reads the transcript too, and the two meet inside.

The speech pass is the training forward. The text pass holds, per row, what stands before the speech
and then the transcript in the speech's place. The rest of the prompt and the answer stand behind
it: in a causal LLM they change nothing of the states that are compared, so they are left out, and
the pass ends behind the deepest layer that is compared.

Shapes: N text tokens of the batch, M packed positions, S and T positions of speech and transcripts,
B rows, R aligned rows: those with speech and a transcript, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from espnet_part.alignment import transport_cost
from espnet_part.alignment_check import check_depth
from espnet_part.attention import packed_inputs
from espnet_part.hidden_states import HiddenStates
from espnet_part.prompt import LANGUAGES
from espnet_part.recompute import keep_activations
from espnet_part.splice import Layout, packed_layout

if TYPE_CHECKING:
    from espnet_part.config import AlignmentConfig


@dataclass(frozen=True)
class TextPass:
    """What the LLM reads in the text pass.

    Attributes:
        rows_R: Aligned rows of the batch; there may be none.
        ids_M: Tokens, row behind row; without aligned rows one token, which stands for nothing.
        position_M: Position of each within its row.
        row_M: Its row in the batch.
        lengths: Of the rows of the pass.
        said_at_T: Where the transcripts' tokens stand.
        said_lengths_R: How many each row has.
        speech_at_S: Where the same rows' speech stands in the speech pass.
        speech_lengths_R: How many positions each has.
    """

    rows_R: Tensor
    ids_M: Tensor
    position_M: Tensor
    row_M: Tensor
    lengths: list[int]
    said_at_T: Tensor
    said_lengths_R: Tensor
    speech_at_S: Tensor
    speech_lengths_R: Tensor


def text_pass(batch: dict[str, Tensor], layout: Layout, speech_lengths_B: Tensor) -> TextPass:
    """Lays out the text pass of a batch.

    Args:
        batch: From `collate`, with transcripts.
        layout: Of the speech pass.
        speech_lengths_B: Speech positions of each row, 0 for text rows.
    """
    said_B, place_B = batch["transcript_lengths"], batch["speech_place"]
    aligned_B = (said_B > 0) & (speech_lengths_B > 0)
    rows_R = aligned_B.nonzero()[:, 0]
    row_N = layout.row_M[layout.text_at_N]
    before_N = aligned_B[row_N] & (layout.position_M[layout.text_at_N] < place_B[row_N])
    said = batch["transcript_ids"][torch.repeat_interleave(aligned_B, said_B)]
    if len(rows_R):
        place_R = place_B[rows_R]
        packed = packed_layout(place_R, place_R, said_B[rows_R])
        ids_M = torch.empty_like(packed.row_M)
        ids_M[packed.text_at_N] = batch["token_ids"][before_N]
        ids_M[packed.speech_at_S] = said
        position_M, row_M, lengths = packed.position_M, rows_R[packed.row_M], packed.row_lengths
    else:
        # Every process must run what every other runs, or those that gather weights would wait.
        ids_M, position_M, lengths = batch["token_ids"][:1], layout.position_M[:1], [1]
        row_M = layout.row_M[:1]
    heard_S = aligned_B[layout.row_M[layout.speech_at_S]]
    return TextPass(
        rows_R,
        ids_M,
        position_M,
        row_M,
        lengths,
        packed.speech_at_S if len(rows_R) else rows_R,
        said_B[rows_R],
        layout.speech_at_S[heard_S],
        speech_lengths_B[rows_R],
    )


def run_text_pass(llm: PreTrainedModel, text: TextPass, layers: list[int]) -> dict[int, Tensor]:
    """States (M, D) of the text pass at some layers; the LLM ends behind the deepest.

    Its activations are kept, not recomputed in the backward pass: by then the gates of
    task-dependent activation know the positions of the speech pass. They are few.
    """
    with keep_activations(), HiddenStates(llm, layers, stop=True) as hidden:
        embeds_MD = llm.get_input_embeddings()(text.ids_M)
        llm(**packed_inputs(embeds_MD, text.position_M, text.lengths))
    return hidden.states


def by_rows(states_MD: Tensor, at: Tensor, lengths_R: Tensor) -> Tensor:
    """States at some positions, which stand row behind row, padded: (R, longest, D)."""
    return pad_sequence(states_MD[at].split(lengths_R.tolist()), batch_first=True)


class InnerAlignment:
    """The loss between the two passes.

    Args:
        layers: Which layers are compared, see `HiddenStates`.
        weight: Of the transport cost beside the cross-entropy.
        epsilon: See `transport_cost`.
        iterations: See `transport_cost`.
        position: See `transport_cost`.
        detach_text: Whether the text side stands still.
    """

    def __init__(
        self,
        layers: list[int],
        weight: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 50,
        position: float = 1.0,
        detach_text: bool = True,
    ):
        self.layers, self.weight, self.detach_text = sorted(layers), weight, detach_text
        self.epsilon, self.iterations, self.position = epsilon, iterations, position

    def text_states(self, llm: PreTrainedModel, text: TextPass) -> dict[int, Tensor]:
        """States of the text pass at the layers, with a graph unless the text side stands still."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.detach_text):
            return run_text_pass(llm, text, self.layers)

    def costs(
        self, speech: dict[int, Tensor], said: dict[int, Tensor], text: TextPass, layers: list[int]
    ) -> Tensor:
        """Transport costs of the aligned rows at some layers (L, R), float32.

        Args:
            speech: Layer -> states (M, D) of the speech pass.
            said: Layer -> states of the text pass.
            text: That pass.
            layers: Which of them to compare.
        """
        # All layers at once: the iterations are many small operations.
        heard = [by_rows(speech[i], text.speech_at_S, text.speech_lengths_R) for i in layers]
        read = [by_rows(said[i], text.said_at_T, text.said_lengths_R) for i in layers]
        cost = transport_cost(
            torch.cat(heard),
            text.speech_lengths_R.repeat(len(layers)),
            torch.cat(read),
            text.said_lengths_R.repeat(len(layers)),
            self.epsilon,
            self.iterations,
            self.position,
        )
        return cost.view(len(layers), -1)

    def add(
        self,
        loss: Tensor,
        stats: dict[str, Tensor],
        speech: dict[int, Tensor],
        said: dict[int, Tensor],
        text: TextPass,
        batch: dict[str, Tensor],
        row_K: Tensor,
        weights: list[float],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Adds the alignment to loss and statistics.

        Each target token carries the cost of its row as it carries its cross-entropy, times its
        task's weight, 0 where the row is not aligned: so that accumulation and more processes
        change nothing here either.

        Args:
            loss: Sum of weighted cross-entropies / number of target tokens.
            stats: From `target_loss`; its table gets two more columns: sums of unweighted costs,
                and number of aligned rows.
            speech: Layer -> states of the speech pass.
            said: Layer -> states of the text pass.
            text: That pass.
            batch: From `collate`.
            row_K: Row of each target token.
            weights: Factor of each task, as in `target_loss`.
        """
        stats = {**stats, "table": F.pad(stats["table"], (0, 2))}
        if not len(text.rows_R):
            return loss + sum(states.sum() * 0.0 for states in said.values()), stats
        cost_R = self.costs(speech, said, text, self.layers).mean(0)
        tokens_B = torch.bincount(row_K, minlength=len(batch["task"]))
        task_R = batch["task"][text.rows_R]
        factor_R = torch.tensor(weights, device=loss.device)[task_R]
        loss = loss + self.weight * (cost_R * tokens_B[text.rows_R] * factor_R).sum() / len(row_K)
        cell_R = task_R * len(LANGUAGES) + batch["tgt"][text.rows_R]
        columns_R2 = torch.stack([cost_R.detach().double(), torch.ones_like(cost_R).double()], 1)
        stats["table"].flatten(0, 1)[:, 3:].index_add_(0, cell_R, columns_R2)
        return loss, stats


def build_alignment(options: AlignmentConfig | None, depth: int) -> InnerAlignment | None:
    """The alignment that a config asks for; adaptive layers begin with the embeddings.

    Args:
        options: Of the config.
        depth: Number of the LLM's blocks.

    Raises:
        ValueError: A layer that the LLM does not have.
    """
    if options is None:
        return None
    layers = [0] if isinstance(options.layers, str) else options.layers
    check_depth(layers, depth)
    return InnerAlignment(
        layers,
        options.weight,
        options.epsilon,
        options.iterations,
        options.position,
        options.detach_text,
    )
