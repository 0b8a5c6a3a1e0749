r"""Looks inside an experiment's models: what the paper argues in words, as numbers and figures.

python -m espnet_part.bin.analyze --exp exp/miniature --curricula part two_stage
    --test_sets miniature_test_asr_en miniature_test_asr_de miniature_test_asr_fr

Run it in the recipe folder, after stage 11 (stage 13 is not needed). It reads
EXP/<curriculum>/phase*/{config.yaml,latest.pth} and the asr test sets DUMPDIR/raw/<test_set>, and
writes OUT/{analysis.json,analysis.md} and figures as .svg and .png. One forward per clip and
checkpoint gives one vector (the mean over time) per place: what the first encoder block reads, each
encoder block, the adapter, each LLM block at the speech's positions. `start` is the model before
the first phase. Measures, each after every phase:

  separation      cosine distance of clips in two languages / in one language, other sentences each;
                  1: languages are not told apart. Clips are centered first (less the mean of the
                  languages' means): hidden states share a large common direction.
  parallel_ratio  distance of one sentence in two languages / of two sentences in two languages,
                  each language's own mean taken off; below 1: translations come close
  mrr             retrieval of a sentence among another language's: mean of 1 / rank over pairs of
                  languages, each language's own mean taken off (mrr_raw: left in). Held
                  against chance and against the lengths of the clips alone.
  cka             linear centered kernel alignment with the moment before, debiased; 1: unchanged
  moved           ||W_end - W_start|| / ||W_start|| of each block in each phase
  norm            of the gradient of each task's mean loss, per part, all parts made trainable for
                  the measurement, on --grad_rows training rows per task; with the cosine between
                  the tasks' gradients

Which rows say the same: those whose id is the same without speaker and language
(de-m1-test-00003-asr, fr-f2-test-00003-asr). Other corpora need --pairs, lines of
<utt id> TAB <sentence id>; for FLEURS, whose tables tell the sentence:

  for l in de:de_de fr:fr_fr; do awk -F'\t' -v l=${l%:*} '{sub(/\.wav$/, "", $2);
      print l "-" $2 "-asr\t" $1}' FLEURS/data/${l#*:}/test.tsv; done > fleurs.pairs
"""

import argparse
import logging
import sys
import time
from pathlib import Path

import torch

from espnet_part.datadir import Row, iter_rows
from espnet_part.sentences import choose, read_pairs


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m espnet_part.bin.analyze",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--exp", required=True, type=Path, help="experiment, exp/<tag>")
    add("--curricula", nargs="+", default=["part", "two_stage"], help="default: part two_stage")
    add("--dumpdir", default=Path("dump"), type=Path, help="formatted data (default: dump)")
    add("--test_sets", nargs="+", required=True, help="asr sets, one or more languages")
    add("--pairs", type=Path, help="which rows say the same: <utt id> TAB <sentence id>")
    add("--out", type=Path, help="where to write (default: EXP/analysis)")
    add("--rows", type=int, default=60, help="clips per language (default: 60)")
    add("--grad_rows", type=int, default=64, help="rows per task; 0: no gradients (default: 64)")
    add("--checkpoint", default="latest.pth", help="of each phase (default: latest.pth)")
    add("--ngpu", type=int, default=0, choices=[0, 1], help="0 is the CPU")
    return parser


def read_rows(folders: list[Path]) -> dict[str, list[Row]]:
    """Asr rows of some test sets, by language.

    Raises:
        ValueError: A folder is missing or holds other rows than asr.
    """
    by_language: dict[str, list[Row]] = {}
    for folder in folders:
        for row in iter_rows(folder):
            if row.task != "asr":
                raise ValueError(
                    f"{folder}: id {row.utt_id} is a row of {row.task}, expected asr test sets, "
                    "such as miniature_test_asr_de"
                )
            by_language.setdefault(row.src, []).append(row)
    return by_language


def analyze(args: argparse.Namespace) -> None:
    """Measures, writes, and prints the tables.

    Raises:
        ValueError: Anything that the user can mend.
    """
    from espnet_part import analysis
    from espnet_part.analysis_report import analysis_text, write_analysis
    from espnet_part.moments import read_moments

    if args.rows < 2 or args.grad_rows < 0:
        raise ValueError(
            f"--rows {args.rows} --grad_rows {args.grad_rows}: expected at least 2 and 0"
        )
    if args.ngpu and not torch.cuda.is_available():
        raise ValueError(f"--ngpu {args.ngpu}: no GPU here; use --ngpu 0")
    started = time.monotonic()
    by_language = read_rows([args.dumpdir / "raw" / name for name in args.test_sets])
    chosen = choose(by_language, args.rows, read_pairs(args.pairs) if args.pairs else None)
    curricula = [read_moments(args.exp / name, args.checkpoint) for name in args.curricula]
    found = analysis.analyze(curricula, chosen, args.grad_rows, "cuda" if args.ngpu else "cpu")
    about = {
        "exp": str(args.exp),
        "curricula": args.curricula,
        "checkpoint": args.checkpoint,
        "test_sets": args.test_sets,
        "grad_rows": args.grad_rows,
        "torch": torch.__version__,
        "seconds": round(time.monotonic() - started, 1),
    }
    out = args.out or args.exp / "analysis"
    files = write_analysis({"about": about, **found}, out, args.exp.name)
    print(analysis_text(found, {}, args.exp.name))
    print(f"{len(files)} files in {out}, {about['seconds']} s", file=sys.stderr)


def main(cmd: list[str] | None = None) -> None:
    """Entry point."""
    args = get_parser().parse_args(cmd)
    logging.basicConfig(level="INFO", format="%(levelname)s: %(message)s")
    try:
        analyze(args)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
