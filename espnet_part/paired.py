"""Is system B better than system A? Paired tests on one test set that both have decoded.

Error rates: the paired bootstrap of Bisani and Ney over utterances, or over speakers. BLEU and
chrF: sacrebleu's own test (`sacrebleu --paired-bs`, `--paired-ar`) and its p-value, beside the
interval of the difference, which sacrebleu does not print.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from espnet_part.scoring import ST_TASKS, Scores, bleu_tokenizer
from espnet_part.significance import (
    BOOTSTRAP_SAMPLES,
    BOOTSTRAP_SEED,
    Statistics,
    paired_bootstrap,
    sum_groups,
)

TESTS = ("bs", "ar")
# sacrebleu's own proportion: 10,000 trials of the randomization for 1,000 resamples.
TRIALS_PER_SAMPLE = 10


def _result(
    metric: str,
    a: Statistics,
    b: Statistics,
    samples: int,
    unit: str,
    signature: str,
) -> dict:
    lower = metric.startswith(("wer", "cer"))
    difference = paired_bootstrap(a.values_NK, b.values_NK, a.score, lower, samples)
    values = [float(one.score(one.values_NK.sum(0, keepdims=True))[0]) for one in (a, b)]
    return {
        "metric": metric,
        "value_a": values[0],
        "value_b": values[1],
        "delta": difference.delta,
        "ci95": difference.ci95,
        "p_value": difference.p_value,
        "prob_b_better": difference.better,
        "unit": unit,
        "n_units": difference.n_units,
        "signature": signature,
    }


def compare_asr(
    scores_a: Scores,
    scores_b: Scores,
    samples: int = BOOTSTRAP_SAMPLES,
    speakers: Mapping[str, str] | None = None,
) -> list[dict]:
    """Compare error rates, and their variants such as `wer_basic`.

    Args:
        scores_a: of system A.
        scores_b: of system B, against the same references.
        samples: number of resamples.
        speakers: utterance id -> speaker. Speakers are then drawn instead of utterances: errors
            of one speaker go together, which makes a test over utterances too sure of itself.

    Returns:
        A dict per error rate: both values, `delta` (B - A), its interval, the p-value, the share
        of resamples in which B is better, what was drawn and how many there are, the signature.

    Raises:
        ValueError: if an utterance has no speaker, or there is only one utterance or speaker.
    """
    ids = [pair.utt_id for pair in scores_a.pairs]
    assert ids == [pair.utt_id for pair in scores_b.pairs], "two systems, one set of references"
    groups: list[str] = []
    if speakers is not None:
        lacking = [utt for utt in ids if utt not in speakers]
        if lacking:
            raise ValueError(
                f"{len(lacking)} of {len(ids)} utterances have no speaker, {lacking[0]} first; "
                "utt2spk needs a line for each"
            )
        groups = [speakers[utt] for utt in ids]
    unit = "utterance" if speakers is None else "speaker"
    signature = f"test:paired-bootstrap|draws:{unit}s|bs:{samples}|seed:{BOOTSTRAP_SEED}"
    rows = []
    for metric, stats in scores_a.stats.items():
        both = [stats, scores_b.stats[metric]]
        if groups:
            both = [replace(one, values_NK=sum_groups(one.values_NK, groups)) for one in both]
        rows.append(_result(metric, both[0], both[1], samples, unit, signature))
    return rows


def compare_st(
    scores_a: Scores,
    scores_b: Scores,
    tgt: str,
    samples: int = BOOTSTRAP_SAMPLES,
    test: str = "bs",
) -> list[dict]:
    """Compare BLEU and chrF.

    Args:
        scores_a: of system A, sacrebleu's baseline.
        scores_b: of system B, against the same references.
        tgt: target language code.
        samples: number of resamples; approximate randomization takes ten times as many trials.
        test: sacrebleu's test, `bs` (paired bootstrap) or `ar` (approximate randomization).

    Returns:
        As `compare_asr`; p-value and signature are sacrebleu's. It holds the statistics of all
        resamples at once: some 1 GB for 10,000 utterances and 1,000 resamples.
    """
    from sacrebleu.metrics import BLEU, CHRF
    from sacrebleu.significance import PairedTest, Result

    refs = [pair.ref.strip() for pair in scores_a.pairs]
    hyps = [[pair.hyp.strip() for pair in scores.pairs] for scores in (scores_a, scores_b)]
    metrics = {"bleu": BLEU(tokenize=bleu_tokenizer(tgt)), "chrf": CHRF()}
    named: list[tuple[str, Sequence[str]]] = [("A", hyps[0]), ("B", hyps[1])]
    trials = samples * (TRIALS_PER_SAMPLE if test == "ar" else 1)
    signatures, results = PairedTest(named, metrics, [refs], test, trials)()
    rows = []
    # sacrebleu names a score as it prints it (chrF2), in the order of the metrics.
    for name, printed in zip(metrics, signatures, strict=True):
        a, b = scores_a.stats[name], scores_b.stats[name]
        signature = f"test:sacrebleu-{test}|{signatures[printed].format()}"
        row = _result(name, a, b, samples, "utterance", signature)
        result = results[printed][1]
        assert isinstance(result, Result) and result.p_value is not None  # B's, not the baseline's
        # sacrebleu calls a system significantly different from itself (p = 1 / (trials + 1)).
        p_value = 1.0 if np.array_equal(a.values_NK, b.values_NK) else float(result.p_value)
        rows.append({**row, "p_value": p_value})
    return rows


def compare(
    scores_a: Scores,
    scores_b: Scores,
    task: str,
    tgt: str,
    samples: int = BOOTSTRAP_SAMPLES,
    test: str = "bs",
    speakers: Mapping[str, str] | None = None,
) -> list[dict]:
    """Compare two systems by what their task is scored with; see `compare_asr`, `compare_st`."""
    if task in ST_TASKS:
        return compare_st(scores_a, scores_b, tgt, samples, test)
    return compare_asr(scores_a, scores_b, samples, speakers)


def table(rows: Sequence[dict]) -> str:
    """Lay the comparison out as text: a line per metric, the signatures below."""
    lines = [
        f"{'B - A':<12}{'A':>8}{'B':>8}{'delta':>8}  {'95 % CI':<18}{'p':>7}  {'B better':>8}",
    ]
    for row in rows:
        low, high = row["ci95"]
        lines.append(
            f"{row['metric']:<12}{row['value_a']:8.2f}{row['value_b']:8.2f}{row['delta']:+8.2f}  "
            f"{f'[{low:+.2f}, {high:+.2f}]':<18}{row['p_value']:7.4f}  "
            f"{100 * row['prob_b_better']:6.1f} %"
        )
    drawn = f"{rows[0]['n_units']} {rows[0]['unit']}s"
    lines.append(f"p: two-sided; B better: share of resamples ({drawn} drawn anew)")
    signatures: dict[str, list[str]] = {}
    for row in rows:
        signatures.setdefault(row["signature"], []).append(row["metric"])
    lines += [f"{', '.join(names)}: {signature}" for signature, names in signatures.items()]
    return "\n".join(lines)
