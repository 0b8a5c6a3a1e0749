"""Is each phase better than the one before? Means over languages and directions, with intervals.

    python local/miniature_steps.py exp/miniature [exp/miniature_seed1 ...]

In the recipe folder, after stage 13. Several experiments are seeds: their means are taken. The
test sets say the same sentences in every language, so sentences are resampled (1,000 times, the
same ones in all languages, phases and seeds); a step is better than chance where its 95 % interval
keeps to one side of zero.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from miniature_grammar import DIRECTIONS, SPOKEN
from sacrebleu.metrics import BLEU

from espnet_part.pairs import pair_texts, read_text
from espnet_part.report import read_test_set
from espnet_part.scoring import bleu_tokenizer, score
from espnet_part.tables import markdown

PHASES = ("1", "2a", "2b", "3")
SAMPLES = 1000


def statistics(folder: Path, data: Path) -> tuple[np.ndarray, BLEU | None]:
    """Additive statistics (sentences, K) of one decoded test set, and what scores their sums."""
    test_set = read_test_set(data)
    pairs = pair_texts(test_set.texts, read_text(folder / "text"), speakers=test_set.speakers)
    # The clip's number names the sentence, whatever the voice.
    pairs = sorted(pairs, key=lambda pair: pair.utt_id.split("-")[3])
    if test_set.task == "asr":
        alignments = score(pairs, "asr", test_set.src, test_set.src, 0).alignments
        counts = np.array([a.counts for a in alignments], dtype=float)
        return np.stack([counts[:, 1:].sum(1), counts[:, :3].sum(1)], axis=1), None
    bleu = BLEU(tokenize=bleu_tokenizer(test_set.tgt))
    texts = [p.hyp.strip() for p in pairs], [[p.ref.strip() for p in pairs]]
    return np.array(bleu._extract_corpus_statistics(*texts), dtype=float), bleu


def values(weights_SN: np.ndarray, stats: np.ndarray, bleu: BLEU | None) -> np.ndarray:
    """Scores of resampled sentences (S,): error in per cent, or BLEU."""
    sums = weights_SN @ stats
    if bleu is None:
        return 100.0 * sums[:, 0] / sums[:, 1]
    return np.array([bleu._compute_score_from_stats(s.tolist()).score for s in sums])


def resampled(
    experiments: Sequence[Path], dumpdir: Path, split: str, task: str, decode: str
) -> dict[str, np.ndarray]:
    """Phase -> mean score over sets and seeds, of all sentences and of each resample (1 + S,)."""
    pairs = [(lang, lang) for lang in SPOKEN] if task == "asr" else DIRECTIONS
    names = [f"miniature_{split}_{task}_{a}" + ("" if a == b else f"_{b}") for a, b in pairs]
    weights_SN = None
    found = {}
    for phase in PHASES:
        scores = []
        for exp in experiments:
            for name in names:
                folder = exp / "part" / f"phase{phase}" / decode / name
                if not (folder / "text").exists():
                    raise ValueError(f"{folder / 'text'} is missing; stage 12 makes it")
                stats, bleu = statistics(folder, dumpdir / "raw" / name)
                if weights_SN is None:
                    n, rng = len(stats), np.random.default_rng(0)
                    draws = [np.bincount(rng.integers(n, size=n), minlength=n)
                             for _ in range(SAMPLES)]  # fmt: skip
                    weights_SN = np.stack([np.ones(n), *draws])
                scores.append(values(weights_SN, stats, bleu))
        found[phase] = np.mean(scores, axis=0)
    return found


def interval(numbers: np.ndarray) -> str:
    """Value and 95 % interval."""
    low, high = np.percentile(numbers[1:], [2.5, 97.5])
    return f"{numbers[0]:.2f} [{low:.2f}, {high:.2f}]"


def table(experiments: Sequence[Path], dumpdir: Path, decode: str) -> str:
    """Phases and their steps, for known and unseen voices."""
    body = []
    for split, voices in (("test", "known"), ("testvoice", "unseen")):
        for task, name in (("asr", "error %"), ("st", "BLEU")):
            found = resampled(experiments, dumpdir, split, task, decode)
            before = None
            for phase, numbers in found.items():
                step = "" if before is None else interval(numbers - before)
                body.append([voices, name, phase, interval(numbers), step])
                before = numbers
    return markdown(["voices", "score", "phase", "mean [95 %]", "step [95 %]"], body)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("exp", type=Path, nargs="+", help="experiments, exp/<tag>")
    parser.add_argument("--dumpdir", type=Path, default=Path("dump"))
    parser.add_argument("--decode", default="decode_miniature_latest")
    args = parser.parse_args()
    try:
        print(table(args.exp, args.dumpdir, args.decode))
    except ValueError as error:
        sys.exit(f"{parser.prog}: error: {error}")


if __name__ == "__main__":
    main()
