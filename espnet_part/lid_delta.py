"""How far a score moves when the prompt names no language, or a wrong one."""

import numpy as np

from espnet_part.scoring import ST_TASKS, Scores, bleu_tokenizer
from espnet_part.significance import BOOTSTRAP_SAMPLES, paired_bootstrap, per_cent


def lid_delta(
    right: Scores, other: Scores, task: str, tgt: str, samples: int = BOOTSTRAP_SAMPLES
) -> dict:
    """How the error rate or BLEU changes with the language in the prompt.

    Args:
        right: With the right language.
        other: Of the same test set, with none or a wrong one.
        task: asr, st or mt.
        tgt: Language of the hypotheses.
        samples: Resamples of the paired bootstrap; 0: no interval.

    Returns:
        ``delta``, other - right, and its 95 % interval ``ci95``: None for a single utterance.
    """
    if task in ST_TASKS:
        from sacrebleu.metrics import BLEU

        metric = BLEU(tokenize=bleu_tokenizer(tgt))

        def score(sums: np.ndarray) -> np.ndarray:
            return np.array([metric._compute_score_from_stats(s.tolist()).score for s in sums])

        refs = [[pair.ref.strip() for pair in right.pairs]]
        stats = [
            np.array(
                metric._extract_corpus_statistics([p.hyp.strip() for p in one.pairs], refs), float
            )
            for one in (right, other)
        ]
    else:
        score = per_cent
        stats = [one.stats[one.measures[0].metric] for one in (right, other)]
    if len(stats[0]) < 2 or samples < 1:
        values = [float(score(one.sum(0, keepdims=True))[0]) for one in stats]
        return {"delta": values[1] - values[0], "ci95": None}
    found = paired_bootstrap(stats[0], stats[1], score, task not in ST_TASKS, samples)
    return {"delta": found.delta, "ci95": found.ci95}
