"""Word and character errors: jiwer's alignment, and its counts utterance by utterance."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from espnet_part.pairs import Pair


@dataclass(frozen=True)
class Alignment:
    """Word or character alignment of one utterance, as `trn.py` prints it.

    `ops` lists (operation, reference token or None, hypothesis token or None) with operation one
    of C, S, D, I; `counts` their numbers in that order.
    """

    pair: Pair
    ops: list[tuple[str, str | None, str | None]]
    counts: tuple[int, int, int, int]


def align(
    pairs: Sequence[Pair], refs: Sequence[str], hyps: Sequence[str], chars: bool
) -> list[Alignment]:
    """Align normalized sentences by words or by characters, with all errors weighing the same.

    Args:
        pairs: the utterances.
        refs: their normalized references, none of them empty.
        hyps: their normalized hypotheses.
        chars: align characters, not words.
    """
    import jiwer  # slow, and only scoring needs it

    process = jiwer.process_characters if chars else jiwer.process_words
    output = process(list(refs), list(hyps))
    result = []
    for pair, ref, hyp, chunks in zip(
        pairs, output.references, output.hypotheses, output.alignments, strict=True
    ):
        ops: list[tuple[str, str | None, str | None]] = []
        for chunk in chunks:
            ref_part = ref[chunk.ref_start_idx : chunk.ref_end_idx]
            hyp_part = hyp[chunk.hyp_start_idx : chunk.hyp_end_idx]
            if chunk.type == "insert":
                ops += [("I", None, token) for token in hyp_part]
            elif chunk.type == "delete":
                ops += [("D", token, None) for token in ref_part]
            else:
                name = "C" if chunk.type == "equal" else "S"
                ops += [(name, r, h) for r, h in zip(ref_part, hyp_part, strict=True)]
        names = [op[0] for op in ops]
        counts = (names.count("C"), names.count("S"), names.count("D"), names.count("I"))
        result.append(Alignment(pair, ops, counts))
    return result


def error_stats(alignments: Sequence[Alignment]) -> np.ndarray:
    """Return (errors, reference tokens) of each utterance, an array (N, 2)."""
    counts = np.array([alignment.counts for alignment in alignments], dtype=float)
    return np.stack([counts[:, 1:].sum(1), counts[:, :3].sum(1)], axis=1)


def error_types(alignments: Sequence[Alignment]) -> dict[str, float]:
    """Return substitutions, deletions and insertions in per cent of the reference tokens.

    Their sum is the error rate.
    """
    hits, subs, dels, ins = (sum(a.counts[i] for a in alignments) for i in range(4))
    n_ref_tokens = hits + subs + dels
    shares = {"sub_rate": subs, "del_rate": dels, "ins_rate": ins}
    return {name: 100.0 * count / n_ref_tokens for name, count in shares.items()}
