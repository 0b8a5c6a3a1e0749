"""WER, CER, BLEU and chrF of hypotheses against references, with confidence intervals.

One engine per number: jiwer counts word and character errors, sacrebleu BLEU and chrF. Raw
hypotheses come in; normalization happens here. Nothing here reads a model or a config.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version

import numpy as np

from espnet_part import hypotheses as hyp_checks
from espnet_part import normalize as norm
from espnet_part import normalize_zh
from espnet_part.error_rate import Alignment, align, error_stats, error_types
from espnet_part.pairs import Pair
from espnet_part.significance import BOOTSTRAP_SAMPLES, Statistics, bootstrap, per_cent

ST_TASKS = ("st", "mt")


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
class Scores:
    """All measures of one test set and what the reports beside them need.

    `stats` has what two systems are compared by: for every error rate, variants too, (errors,
    reference tokens) by utterance, for BLEU and chrF sacrebleu's statistics.
    """

    measures: list[Measure]
    pairs: list[Pair]
    n_empty_refs: int
    alignments: list[Alignment] = field(default_factory=list)
    sacrebleu_json: list[str] = field(default_factory=list)
    stats: dict[str, Statistics] = field(default_factory=dict)


def _rates(pairs: Sequence[Pair], lang: str, n_ref_tokens: int, samples: int) -> list[Measure]:
    """Share of utterances that loop, are empty, are in another language, or refuse."""
    measures = []
    for metric, flags in hyp_checks.check_all([(p.ref, p.hyp) for p in pairs], lang).items():
        stats = np.stack([np.asarray(flags, float), np.ones(len(pairs))], axis=1)
        measures.append(
            Measure(
                metric,
                100.0 * sum(flags) / len(pairs),
                bootstrap(stats, per_cent, samples),
                len(pairs),
                n_ref_tokens,
                hyp_checks.SIGNATURE,
            )
        )
    return measures


def _error_rate(
    pairs: Sequence[Pair],
    refs: list[str],
    normalize: Callable[[str], str],
    lang: str,
    kind: str,
    samples: int,
) -> tuple[Measure, list[Alignment]]:
    """Score against normalized references; `kind` is what the signature says of `normalize`."""
    chars = lang in norm.CER_LANGUAGES
    hyps = [normalize(pair.hyp) for pair in pairs]
    alignments = align(pairs, refs, hyps, chars)
    stats = error_stats(alignments)
    errors, n_ref_tokens = stats.sum(0)
    measure = Measure(
        "cer" if chars else "wer",
        100.0 * errors / n_ref_tokens,
        bootstrap(stats, per_cent, samples),
        len(pairs),
        int(n_ref_tokens),
        f"jiwer:{version('jiwer')}|{kind}",
    )
    return measure, alignments


def _other_normalizers(lang: str) -> dict[str, tuple[Callable[[str], str], str]]:
    """Return a language's second ways to normalize: name -> (function, what its signature says)."""
    if lang == "en":
        return {
            "wer_basic": (
                lambda text: norm.normalize(text, lang, basic=True),
                norm.signature(lang, basic=True),
            )
        }
    if lang in normalize_zh.LANGUAGES and not _say_missing(normalize_zh.missing_packages()):
        kind = f"{normalize_zh.signature()}|{norm.signature(lang)}"
        return {"cer_folded": (lambda text: norm.normalize(normalize_zh.fold(text), lang), kind)}
    return {}


@lru_cache(maxsize=4)  # said once, not for every test set
def _say_missing(packages: tuple[str, ...]) -> bool:
    if packages:
        names = " ".join(packages)
        print(f"cer_folded is left out, it needs: pip install {names}", file=sys.stderr)
    return bool(packages)


def _variant(measure: Measure) -> dict:
    names = ("value", "ci95", "n_ref_tokens", "signature")
    return {name: getattr(measure, name) for name in names}


def score_asr(pairs: Sequence[Pair], lang: str, samples: int = BOOTSTRAP_SAMPLES) -> Scores:
    """WER, or CER for zh ja ko yue, after Whisper's normalizer, and the rates.

    Second ways to normalize stand in `also`, with signatures of their own. For English, WER after
    Whisper's basic rules: the English ones join spoken numbers to one word, so that on digit
    strings WER nearly counts wrong sentences. For Chinese and Cantonese, CER after folding
    scripts and numbers (`normalize_zh`). So do substitutions, deletions and insertions in per
    cent. Utterances whose normalized reference is empty are left out and counted.

    Raises:
        ValueError: if no utterance has a reference.
    """

    def normalize(text: str) -> str:
        return norm.normalize(text, lang)

    all_refs = [normalize(pair.ref) for pair in pairs]
    kept = [pair for pair, ref in zip(pairs, all_refs, strict=True) if ref]
    if not kept:
        raise ValueError(f"Nothing to score: all {len(pairs)} references are empty ({lang})")
    refs = [ref for ref in all_refs if ref]
    main, alignments = _error_rate(kept, refs, normalize, lang, norm.signature(lang), samples)
    main.also.update(error_types(alignments))
    stats = {main.metric: Statistics(error_stats(alignments), per_cent)}
    for name, (other, kind) in _other_normalizers(lang).items():
        refs = [other(pair.ref) for pair in kept]
        if any(refs):
            measure, aligned = _error_rate(kept, refs, other, lang, kind, samples)
            main.also[name] = _variant(measure)
            stats[name] = Statistics(error_stats(aligned), per_cent)
    rates = _rates(kept, lang, main.n_ref_tokens, samples)
    return Scores([main, *rates], kept, len(pairs) - len(kept), alignments, stats=stats)


def bleu_tokenizer(lang: str) -> str:
    """Return sacrebleu's tokenizer for a target language."""
    return {"zh": "zh", "yue": "zh", "ja": "char"}.get(lang, "13a")


def _sacrebleu(metric, hyps: list[str], refs: list[str]):
    """Return sacrebleu's score and its statistics from one pass over the texts."""
    # The sums of these statistics give the corpus score: sacrebleu's own significance tests
    # resample the same way.
    stats = np.array(metric._extract_corpus_statistics(hyps, [refs]), dtype=float)

    def score_all(sums: np.ndarray) -> np.ndarray:
        return np.array([metric._compute_score_from_stats(s.tolist()).score for s in sums])

    total = metric._compute_score_from_stats(stats.sum(0).astype(int).tolist())
    return total, Statistics(stats, score_all)


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
    stats: dict[str, Statistics] = {}

    def measure(name: str, metric) -> Measure:
        total, found = _sacrebleu(metric, hyps, refs)
        stats.setdefault(name, found)  # of a metric's variants nothing compares systems
        ci95 = bootstrap(found.values_NK, found.score, samples)
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
    n_empty_refs = len(pairs) - len(kept)
    return Scores([*measures, *rates], kept, n_empty_refs, sacrebleu_json=reports[:2], stats=stats)


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
