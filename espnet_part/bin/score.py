"""Score one hypothesis file against one reference file, or compare two of them."""

import argparse
import os
import sys
from pathlib import Path

from espnet_part import paired
from espnet_part.pairs import pair_texts, read_text
from espnet_part.prompt import check_language
from espnet_part.results import System, make_rows, save_rows
from espnet_part.scoring import ST_TASKS, Scores, score
from espnet_part.significance import BOOTSTRAP_SAMPLES
from espnet_part.tables import variants


def get_parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m espnet_part.bin.score",
        description="Score hypotheses: WER or CER of recognition, BLEU and chrF of translation, "
        "and how many are empty, loop, refuse or are in another language. All files are Kaldi "
        "text files (utterance id, then the raw sentence) and are paired by id.",
    )
    parser.add_argument("--ref", required=True, help="reference text file")
    parser.add_argument("--hyp", required=True, help="hypothesis text file")
    parser.add_argument("--task", required=True, choices=("asr", *ST_TASKS))
    parser.add_argument("--lang", required=True, help="source language code, such as de")
    parser.add_argument(
        "--tgt-lang",
        "--tgt_lang",
        dest="tgt_lang",
        help="target language code (needed for st and mt)",
    )
    parser.add_argument("--json", help="write the rows here, in the schema of results.json")
    add_scoring_options(parser)
    group = parser.add_argument_group("two systems")
    group.add_argument("--hyp2", help="another system's file: is it better than that of --hyp?")
    group.add_argument(
        "--paired",
        choices=paired.TESTS,
        help="sacrebleu's test of translations: bs, paired bootstrap (default), or ar, "
        "approximate randomization with ten times --bootstrap trials",
    )
    group.add_argument(
        "--utt2spk", help="recognition: draw speakers, not utterances (utterance id, speaker)"
    )
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


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End the command where options lack another one, or would have no effect."""
    translation = args.task in ST_TASKS
    if translation and not args.tgt_lang:
        parser.error(f"--task {args.task} needs --tgt-lang, the language translated into")
    if not translation and args.tgt_lang not in (None, args.lang):
        parser.error(f"--task asr has one language: --lang {args.lang}, --tgt-lang {args.tgt_lang}")
    for name in ("paired", "utt2spk"):
        if getattr(args, name) and not args.hyp2:
            parser.error(f"--{name} compares two systems: it needs --hyp2")
    if args.paired and not translation:
        parser.error("--paired chooses sacrebleu's test; recognition has the paired bootstrap only")
    if args.utt2spk and translation:
        parser.error("--utt2spk is for --task asr: sacrebleu's tests draw utterances")
    if args.hyp2 and not args.bootstrap:
        parser.error("--hyp2 needs resamples: --bootstrap above 0")


def _read_speakers(path: str) -> dict[str, str]:
    speakers = read_text(path)
    wrong = [utt for utt, speaker in speakers.items() if len(speaker.split()) != 1]
    if wrong:
        raise ValueError(f"{path}: expected one speaker in each line, not so at {wrong[0]}")
    return speakers


def score_lines(scores: Scores) -> list[str]:
    """Word the scores: a line per measure and per variant, then what they are made of."""
    lines = []

    def add(name: str, value: float, ci95: list[float] | None, signature: str) -> None:
        interval = f"[{ci95[0]:.2f}, {ci95[1]:.2f}]" if ci95 else ""
        lines.append(f"{name:<16}{value:8.2f}  {interval:<18}{signature}")

    for measure in scores.measures:
        add(measure.metric, measure.value, measure.ci95, measure.signature)
        also = measure.also
        others = variants({"metric": measure.metric, **also})
        for name, other in others.items():
            add(f"- {name}", other["value"], other["ci95"], other["signature"])
        if others:
            lines.append(f"  (with a dash: counted another way; {measure.metric} is the headline)")
        if "sub_rate" in also:
            parts = "substituted {sub_rate:.2f}, deleted {del_rate:.2f}, inserted {ins_rate:.2f}"
            lines.append(f"  {parts.format(**also)} % of {measure.n_ref_tokens} tokens")
    lines.append(f"{len(scores.pairs)} utterances, {scores.n_empty_refs} empty references left out")
    return lines


def main(cmd: list[str] | None = None) -> None:
    """Score, print a line per measure, compare, write the JSON."""
    parser = get_parser()
    args = parser.parse_args(cmd)
    _check(parser, args)
    tgt = args.tgt_lang if args.task in ST_TASKS else args.lang
    test_set = Path(args.ref).resolve().parent.name
    hyps = [hyp for hyp in (args.hyp, args.hyp2) if hyp]
    all_scores, rows, compared = [], [], None
    try:
        check_language(args.lang, "--lang")
        check_language(tgt, "--tgt-lang")
        refs = read_text(args.ref)
        speakers = _read_speakers(args.utt2spk) if args.utt2spk else None
        for hyp in hyps:
            pairs = pair_texts(refs, read_text(hyp), args.allow_missing, hyp)
            scores = score(pairs, args.task, args.lang, tgt, args.bootstrap)
            # Where there are two systems, their rows need names to stay apart.
            system = System(curriculum=hyp if args.hyp2 else None)
            rows += make_rows(scores, system, test_set, args.task, args.lang, tgt)
            all_scores.append(scores)
        if args.hyp2:
            one, two = all_scores
            test = args.paired or "bs"
            compared = paired.compare(one, two, args.task, tgt, args.bootstrap, test, speakers)
            names = {"test_set": test_set, "system_a": args.hyp, "system_b": args.hyp2}
            compared = [{**names, **row} for row in compared]
        if args.json:
            save_rows(args.json, rows, compared)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    lines = []
    for letter, hyp, scores in zip("AB", hyps, all_scores, strict=False):
        lines += [f"{letter}: {hyp}"] if compared else []
        lines += [*score_lines(scores), *([""] if compared else [])]
    lines += [paired.table(compared)] if compared else []
    try:
        print("\n".join(lines), flush=True)
    except BrokenPipeError:  # `| head` has seen enough; Python would flush once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
