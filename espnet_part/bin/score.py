"""Score one hypothesis file against one reference file."""

import argparse
import sys
from pathlib import Path

from espnet_part.pairs import pair_texts, read_text
from espnet_part.prompt import check_language
from espnet_part.results import System, make_rows, save_rows
from espnet_part.scoring import BOOTSTRAP_SAMPLES, ST_TASKS, score


def get_parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m espnet_part.bin.score",
        description="Score hypotheses: WER or CER of recognition, BLEU and chrF of translation, "
        "and how many are empty, loop, refuse or are in another language. Both files are Kaldi "
        "text files (utterance id, then the raw sentence) and are paired by id.",
    )
    parser.add_argument("--ref", required=True, help="reference text file")
    parser.add_argument("--hyp", required=True, help="hypothesis text file")
    parser.add_argument("--task", required=True, choices=("asr", *ST_TASKS))
    parser.add_argument("--lang", required=True, help="source language code, such as de")
    parser.add_argument(
        "--tgt-lang", "--tgt_lang", dest="tgt_lang", help="target language code (needed for st)"
    )
    parser.add_argument("--json", help="write the rows here, in the schema of results.json")
    add_scoring_options(parser)
    return parser


def add_scoring_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that this command shares with the report."""
    parser.add_argument(
        "--allow-missing",
        "--allow_missing",
        dest="allow_missing",
        action="store_true",
        help="count utterances without a hypothesis as empty instead of failing",
    )
    parser.add_argument(
        "--bootstrap",
        type=_count,
        default=BOOTSTRAP_SAMPLES,
        help="resamples for the 95%% intervals; 0 leaves them out (default: %(default)s)",
    )


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"found {text!r}, expected 0 or more")
    return int(text)


def main(cmd: list[str] | None = None) -> None:
    """Score, print a line per measure, write the JSON."""
    parser = get_parser()
    args = parser.parse_args(cmd)
    if args.task in ST_TASKS and not args.tgt_lang:
        parser.error(f"--task {args.task} needs --tgt-lang, the language translated into")
    tgt = args.tgt_lang if args.task in ST_TASKS else args.lang
    try:
        check_language(args.lang, "--lang")
        check_language(tgt, "--tgt_lang")
        pairs = pair_texts(read_text(args.ref), read_text(args.hyp), args.allow_missing, args.hyp)
        scores = score(pairs, args.task, args.lang, tgt, args.bootstrap)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    for measure in scores.measures:
        ci95 = f"[{measure.ci95[0]:.2f}, {measure.ci95[1]:.2f}]" if measure.ci95 else ""
        print(f"{measure.metric:<16}{measure.value:8.2f}  {ci95:<18}{measure.signature}")
    print(f"{len(scores.pairs)} utterances, {scores.n_empty_refs} empty references left out")
    if args.json:
        rows = make_rows(scores, System(), Path(args.ref).parent.name, args.task, args.lang, tgt)
        save_rows(args.json, rows)


if __name__ == "__main__":
    main()
