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
from experiment_scores import Resampling, read_scores
from miniature_grammar import DIRECTIONS, SPOKEN

from espnet_part.tables import markdown

PHASES = ("1", "2a", "2b", "3")
SENTENCE = "-([0-9]+)-(?:asr|st)"  # the clip's number names the sentence, whatever the voice


def resampled(
    experiments: Sequence[Path], dumpdir: Path, split: str, task: str, decode: str
) -> dict[str, np.ndarray]:
    """Phase -> mean score over sets and seeds, of all sentences and of each resample (1 + S,)."""
    pairs = [(lang, lang) for lang in SPOKEN] if task == "asr" else DIRECTIONS
    names = [f"miniature_{split}_{task}_{a}" + ("" if a == b else f"_{b}") for a, b in pairs]
    resampling = Resampling(len(experiments))
    found = {}
    for phase in PHASES:
        sets = [
            read_scores(
                exp / "part" / f"phase{phase}" / decode / name, dumpdir / "raw" / name, SENTENCE
            )
            for exp in experiments
            for name in names
        ]
        found[phase] = resampling.mean_values(sets)
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
