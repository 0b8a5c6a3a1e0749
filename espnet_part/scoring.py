"""WER, CER, BLEU and chrF of hypotheses against references, with confidence intervals.

One engine per number: jiwer counts word and character errors, sacrebleu BLEU and chrF. Raw
hypotheses come in; normalization happens here. Nothing here reads a model or a config.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

import numpy as np

from espnet_part import hypotheses as hyp_checks
from espnet_part import normalize as norm
from espnet_part.pairs import Pair

ST_TASKS = ("st", "mt")
BOOTSTRAP_SAMPLES = 1000
BOOTSTRAP_SEED = 12345


@dataclass(frozen=True)
class Measure:
    """One number of one test set; `also` holds variants that the fixed metric names lack."""

    metric: str
    value: float
    ci95: list[float] | None
    n_utts: int
    n_ref_tokens: int
    signature: str
    also: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Alignment:
    """Word or character alignment of one utterance, as `trn.py` prints it.

    `ops` lists (operation, reference token or None, hypothesis token or None) with operation one
    of C, S, D, I; `counts` their numbers in that order.
    """

    pair: Pair
    ops: list[tuple[str, str | None, str | None]]
    counts: tuple[int, int, int, int]


@dataclass(frozen=True)
class Scores:
    """All measures of one test set and what the reports beside them need."""

    measures: list[Measure]
    pairs: list[Pair]
    n_empty_refs: int
    alignments: list[Alignment] = field(default_factory=list)
    sacrebleu_json: list[str] = field(default_factory=list)


def bootstrap(
    stats_NK: np.ndarray,
    score: Callable[[np.ndarray], np.ndarray],
    samples: int = BOOTSTRAP_SAMPLES,
    seed: int = BOOTSTRAP_SEED,
) -> list[float] | None:
    """Percentile bootstrap over utterances: the 95 % interval of a score.

    Args:
        stats_NK: additive statistics of N utterances.
        score: maps summed statistics (samples, K) to scores (samples,).
        samples: number of resamples; 0 gives None.
        seed: of the resampling; the same for every system, so their intervals are comparable.

    Returns:
        [low, high], or None below two utterances, where there is no spread to estimate.
    """
    n_utts = len(stats_NK)
    if n_utts < 2 or samples < 1:
        return None
    rng = np.random.default_rng(seed)
    sums = np.empty((samples, stats_NK.shape[1]))
    for i in range(samples):
        counts = np.bincount(rng.integers(n_utts, size=n_utts), minlength=n_utts)
        sums[i] = counts @ stats_NK
    low, high = np.percentile(score(sums), [2.5, 97.5])
    return [float(low), float(high)]


def _per_cent(sums: np.ndarray) -> np.ndarray:
    """Map sums (S, 2) of (events, trials) to per cent; a resample without trials counts as 0."""
    return 100.0 * sums[:, 0] / np.maximum(sums[:, 1], 1e-9)


def _align(pairs: Sequence[Pair], refs: list[str], hyps: list[str], chars: bool):
    import jiwer

    process = jiwer.process_characters if chars else jiwer.process_words
    output = process(refs, hyps)
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


def _rates(pairs: Sequence[Pair], lang: str, n_ref_tokens: int, samples: int) -> list[Measure]:
    """Share of utterances that loop, are empty, are in another language, or refuse."""
    measures = []
    for metric, flags in hyp_checks.check_all([(p.ref, p.hyp) for p in pairs], lang).items():
        stats = np.stack([np.asarray(flags, float), np.ones(len(pairs))], axis=1)
        measures.append(
            Measure(
                metric,
                100.0 * sum(flags) / len(pairs),
                bootstrap(stats, _per_cent, samples),
                len(pairs),
                n_ref_tokens,
                hyp_checks.SIGNATURE,
            )
        )
    return measures


def _error_rate(
    pairs: Sequence[Pair], refs: list[str], lang: str, samples: int, basic: bool = False
) -> tuple[Measure, list[Alignment]]:
    chars = lang in norm.CER_LANGUAGES
    hyps = [norm.normalize(pair.hyp, lang, basic) for pair in pairs]
    alignments = _align(pairs, refs, hyps, chars)
    counts = np.array([a.counts for a in alignments], dtype=float)
    stats = np.stack([counts[:, 1:].sum(1), counts[:, :3].sum(1)], axis=1)
    errors, n_ref_tokens = stats.sum(0)
    measure = Measure(
        "cer" if chars else "wer",
        100.0 * errors / n_ref_tokens,
        bootstrap(stats, _per_cent, samples),
        len(pairs),
        int(n_ref_tokens),
        f"jiwer:{version('jiwer')}|{norm.signature(lang, basic)}",
    )
    return measure, alignments


def _variant(measure: Measure) -> dict:
    names = ("value", "ci95", "n_ref_tokens", "signature")
    return {name: getattr(measure, name) for name in names}


def score_asr(pairs: Sequence[Pair], lang: str, samples: int = BOOTSTRAP_SAMPLES) -> Scores:
    """WER, or CER for zh ja ko yue, after Whisper's normalizer, and the rates.

    For English, WER after Whisper's basic rules stands in `also`: the English ones join spoken
    numbers to one word, so that on digit strings WER nearly counts wrong sentences. Utterances
    whose normalized reference is empty are left out and counted.

    Raises:
        ValueError: if no utterance has a reference.
    """
    kept, refs = [], []
    for pair in pairs:
        ref = norm.normalize(pair.ref, lang)
        if ref:
            kept.append(pair)
            refs.append(ref)
    if not kept:
        raise ValueError(f"Nothing to score: all {len(pairs)} references are empty ({lang})")
    main, alignments = _error_rate(kept, refs, lang, samples)
    if lang == "en":
        refs = [norm.normalize(pair.ref, lang, basic=True) for pair in kept]
    if lang == "en" and any(refs):
        basic, _ = _error_rate(kept, refs, lang, samples, basic=True)
        main.also["wer_basic"] = _variant(basic)
    rates = _rates(kept, lang, main.n_ref_tokens, samples)
    return Scores([main, *rates], kept, len(pairs) - len(kept), alignments)


def bleu_tokenizer(lang: str) -> str:
    """Return sacrebleu's tokenizer for a target language."""
    return {"zh": "zh", "yue": "zh", "ja": "char"}.get(lang, "13a")


def _sacrebleu(metric, hyps: list[str], refs: list[str], samples: int):
    """Return sacrebleu's score and its bootstrap interval from one pass over the texts."""
    # The sums of these statistics give the corpus score: sacrebleu's own significance tests
    # resample the same way.
    stats = np.array(metric._extract_corpus_statistics(hyps, [refs]), dtype=float)

    def score_all(sums: np.ndarray) -> np.ndarray:
        return np.array([metric._compute_score_from_stats(s.tolist()).score for s in sums])

    total = metric._compute_score_from_stats(stats.sum(0).astype(int).tolist())
    return total, bootstrap(stats, score_all, samples)


def score_st(pairs: Sequence[Pair], tgt: str, samples: int = BOOTSTRAP_SAMPLES) -> Scores:
    """Cased, punctuated BLEU and chrF of raw translations, and the rates.

    For Japanese, BLEU over characters is the number and BLEU over MeCab's words stands in `also`
    where sacrebleu[ja] is installed. Utterances with an empty reference are left out and counted.

    Raises:
        ValueError: if no utterance has a reference.
    """
    from sacrebleu.metrics import BLEU, CHRF

    kept = [pair for pair in pairs if pair.ref.strip()]
    if not kept:
        raise ValueError(f"Nothing to score: all {len(pairs)} references are empty ({tgt})")
    refs, hyps = [pair.ref.strip() for pair in kept], [pair.hyp.strip() for pair in kept]
    measures: list[Measure] = []
    reports = []

    def measure(name: str, metric) -> Measure:
        total, ci95 = _sacrebleu(metric, hyps, refs, samples)
        signature = metric.get_signature().format()
        reports.append(total.format(signature=signature, is_json=True))
        n_ref_tokens = int(total.ref_len) if name == "bleu" else measures[0].n_ref_tokens
        return Measure(name, total.score, ci95, len(kept), n_ref_tokens, signature)

    measures.append(measure("bleu", BLEU(tokenize=bleu_tokenizer(tgt))))
    measures.append(measure("chrf", CHRF()))
    if tgt == "ja":
        try:
            mecab = BLEU(tokenize="ja-mecab")
        except RuntimeError:  # sacrebleu[ja] is optional
            pass
        else:
            measures[0].also["bleu_ja-mecab"] = _variant(measure("bleu", mecab))
    rates = _rates(kept, tgt, measures[0].n_ref_tokens, samples)
    return Scores([*measures, *rates], kept, len(pairs) - len(kept), sacrebleu_json=reports[:2])


def score(
    pairs: Sequence[Pair], task: str, src: str, tgt: str, samples: int = BOOTSTRAP_SAMPLES
) -> Scores:
    """Score a test set of one task and one language pair.

    Raises:
        ValueError: if the task has no metric, or no utterance has a reference.
    """
    if task == "asr":
        return score_asr(pairs, src, samples)
    if task in ST_TASKS:
        return score_st(pairs, tgt, samples)
    raise ValueError(f"Task {task!r} has no metric; scored are asr, {', '.join(ST_TASKS)}")
