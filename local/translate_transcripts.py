r"""Makes speech-translation rows by translating the transcripts of a data folder by machine.

    # three languages with NLLB on four GPUs
    python local/translate_transcripts.py data/librispeech/train data/librispeech_st/train \
        --model facebook/nllb-200-distilled-1.3B --tgt zh ja de --ngpu 4

    # a chat LLM, asked in words; also text rows for the mt task
    python local/translate_transcripts.py data/wenetspeech/train data/wenetspeech_st/train \
        --model Qwen/Qwen2.5-7B-Instruct --tgt en --mt data/wenetspeech_mt/train

    # one part of sixteen, as a Slurm array job; the part that is through last writes the folder
    python local/translate_transcripts.py IN OUT --model MODEL --tgt en \
        --part $SLURM_ARRAY_TASK_ID --parts 16

Why: PART was trained on 434,000 hours of speech translation, most of it made this way (the
rest being CoVoST, TED-LIUM, MuST-C and 48,000 bought hours). The paper names neither the translator
nor a filter; both are ours here.

In: the asr rows of a speech data folder; other rows are counted and passed over. Out: a data folder
of st rows `<clip>-st-<target>` with the same audio, segment and speaker and the source text as
`transcript`. Each different text is translated once per target. What was translated is kept in
OUT/.translate, flushed batch by batch: a run that was killed, in whatever way, goes on where it was
with the same command, with another --ngpu too. With other settings or other data it is refused
until --restart is given. A second run does nothing.

Left out, counted by reason and listed in OUT/skipped.tsv: empty sources and translations, copied
sources (numbers and names of up to two words may be copies), the wrong script or language, text far
longer or shorter than usual in the direction, loops, a chat model's refusals, what was cut off at
the limit of length, sources longer than the model takes. See local/translate_filter.py, which also
measures the filters on human translations.

Models, by hub id or folder (licenses as their cards state them; mind that non-commercial terms may
reach the data that a model makes):

    facebook/nllb-200-distilled-1.3B        all 13 languages; CC BY-NC 4.0: research only
    google/madlad400-3b-mt                  all 13; Apache 2.0; knows no source language token
    facebook/m2m100_1.2B                    all but yue; MIT
    facebook/mbart-large-50-many-to-many-mmt  all but yue; base model's card: MIT
    Helsinki-NLP/opus-mt-*                  a direction each; Apache 2.0 or CC BY 4.0, per model
    Qwen/Qwen2.5-7B-Instruct                chat; Apache 2.0, as all of Qwen2.5 but 3B and 72B

OPUS-MT without `pip install sacremoses` leaves punctuation as it is. Transcripts without case and
punctuation (LibriSpeech) translate worse than written text.

Memory: 150 bytes per different text and target of a process's part, less when the folder is
written; rows are streamed. Measured: 1,000,000 rows, no two alike, take 160 MB beside the model and
13 minutes beside its work, on one busy core.
"""

import argparse
import logging
import os
import sys
from collections import Counter
from pathlib import Path

from espnet_part.datadir import ALL_FILES, is_speech_folder
from espnet_part.filtering import LISTING, check_other_folder
from espnet_part.mt_rows import derive_mt
from espnet_part.prompt import check_language
from espnet_part.publish import fingerprint


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data_dir", type=Path, help="speech data folder with asr rows")
    parser.add_argument("out", type=Path, help="data folder of st rows to make")
    parser.add_argument("--tgt", nargs="+", required=True, metavar="LANG", help="target languages")
    parser.add_argument("--mt", type=Path, metavar="FOLDER", help="also make mt rows (text) there")

    model = parser.add_argument_group("model")
    model.add_argument("--model", required=True, help="hub id or folder")
    model.add_argument("--revision", help="of the hub id")
    model.add_argument(
        "--prompt",
        help="what a chat LLM is asked, with {src}, {tgt} (names in English) and {text}; also for "
        "sequence-to-sequence models without language codes, such as T5",
    )
    model.add_argument("--num_beams", type=int, default=1, help="1: greedy (default)")
    model.add_argument(
        "--max_ratio",
        type=float,
        default=3.0,
        help="new tokens at most, per token of the source, and 16 more (default: 3)",
    )
    model.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: by the device")

    run = parser.add_argument_group("running")
    run.add_argument(
        "--batch_tokens",
        type=int,
        default=4096,
        help="source tokens of a batch, padding and beams included (default: 4096)",
    )
    run.add_argument("--ngpu", type=int, help="a process per GPU; default: all; 0: on the CPU")
    run.add_argument("--nj", type=int, default=1, help="processes where there is no GPU")
    run.add_argument("--part", type=int, help="do only this part (1 to --parts), in this process")
    run.add_argument("--parts", type=int, help="number of parts, with --part")
    run.add_argument("--merge", action="store_true", help="only write the folder; all parts done")
    run.add_argument("--restart", action="store_true", help="forget what was translated before")
    run.add_argument(
        "--log_interval", type=float, default=20.0, help="seconds between lines of progress"
    )
    run.add_argument("--child_of", type=int, help=argparse.SUPPRESS)
    return parser


def check_args(args: argparse.Namespace) -> None:
    """Raise ValueError for what is wrong without looking at data or model."""
    for code in args.tgt:
        check_language(code, "--tgt")
    for name in ("num_beams", "batch_tokens", "nj"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name}: found {getattr(args, name)}, expected 1 or more")
    if args.max_ratio <= 0:
        raise ValueError(f"--max_ratio: found {args.max_ratio}, expected more than 0")
    if (args.part is None) != (args.parts is None):
        raise ValueError("--part and --parts: expected both or none")
    if args.part is not None and not 1 <= args.part <= args.parts:
        raise ValueError(f"--part: found {args.part}, expected 1 to {args.parts} (--parts)")
    if args.part is not None and (args.merge or args.restart):
        raise ValueError(
            "--part: not with --merge or --restart, which are for all parts; call them without"
        )
    check_other_folder(args.data_dir, args.out)
    if not is_speech_folder(args.data_dir):
        raise ValueError(
            f"{args.data_dir}: found a text folder, expected one of speech (wav.scp) with asr rows"
        )
    if args.mt is not None and args.mt.resolve() in (args.data_dir.resolve(), args.out.resolve()):
        raise ValueError(f"--mt {args.mt}: expected a folder of its own: mt rows are text")


def find_work(args: argparse.Namespace):
    """Look at data and model: what is to be done, and the model's spec.

    Raises:
        ValueError: nothing to translate, or the model cannot.
    """
    from translate_work import Work, iter_work
    from translator_models import Asking
    from translators import ModelSpec, check_model

    targets = tuple(dict.fromkeys(args.tgt))
    tasks: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    for row, wanted in iter_work(args.data_dir, targets):
        tasks[row.task] += 1
        pairs.update((row.src, tgt) for tgt in wanted)
    logging.info(
        "%s: %s; to translate: %s",
        args.data_dir,
        ", ".join(f"{n:,} {task} rows" for task, n in sorted(tasks.items())),
        ", ".join(f"{n:,} {src} -> {tgt}" for (src, tgt), n in sorted(pairs.items())) or "nothing",
    )
    if not pairs:
        raise ValueError(
            f"{args.data_dir}: nothing to translate: found {dict(tasks)} rows; expected asr rows "
            f"in another language than {' '.join(targets)}"
        )
    asking = Asking(args.prompt, args.num_beams, args.max_ratio)
    spec = ModelSpec(args.model, args.revision, asking)
    settings = {
        **check_model(spec, sorted(pairs)),
        "tgt": sorted(targets),
        "data_dir": str(args.data_dir.resolve()),
        "data_files": fingerprint(args.data_dir, ALL_FILES),
    }
    return Work(args.data_dir, args.out, targets, settings), spec


def run(args: argparse.Namespace) -> None:
    """Translate and write, as the options say.

    Raises:
        ValueError: what the user can mend.
    """
    check_args(args)
    # Heavy ones: `--help` and a mistyped option answer at once.
    import torch
    import transformers
    from translate_log import remove_logs
    from translate_merge import find_made, is_complete, merge
    from translate_processes import run_parts
    from translate_work import translate_part
    from translators import load_translator

    transformers.utils.logging.disable_progress_bar()
    work, spec = find_work(args)
    if args.restart:
        remove_logs(args.out)
    elif (made := find_made(work)) is not None:
        finish(args, made)
        return
    if not args.merge:
        seen = torch.cuda.device_count()
        ngpu = seen if args.ngpu is None else args.ngpu
        if ngpu > seen:
            raise ValueError(f"--ngpu {ngpu}: found {seen} GPUs; expected no more than that")
        processes = ngpu or args.nj
        if args.part is None and processes > 1:
            run_parts(args.out, processes, child_arguments(args), ngpu, args.log_interval)
        else:
            dtype = args.dtype or ("bfloat16" if ngpu else "float32")
            translate_part(
                work,
                args.part or 1,
                args.parts or 1,
                lambda: load_translator(spec, "cuda" if ngpu else "cpu", dtype),
                args.batch_tokens,
                args.log_interval,
                lambda: check_parent(args.child_of),
            )
        if args.child_of is not None:
            return
        if args.part is not None and not is_complete(args.out):
            logging.info("part %d of %d is through; others are not yet", args.part, args.parts)
            return
    finish(args, merge(work))


def finish(args: argparse.Namespace, result: dict) -> None:
    """Make the mt rows, and tell what became of all rows."""
    skipped = sum(result["skipped"].values())
    print(f"{args.data_dir}: {result['rows']:,} rows, {result['asr']:,} of them asr")
    print(f"{args.out}: {result['kept']:,} st rows; left out {skipped:,}, see {LISTING}")
    for reason, rows in sorted(result["skipped"].items(), key=lambda item: -item[1]):
        print(f"  {rows:8,}  {reason}")
    if args.mt is not None:
        print(f"{args.mt}: {derive_mt(args.out, args.mt)['kept']:,} mt rows")


def child_arguments(args: argparse.Namespace) -> list[str]:
    """The options of a process for one part, without the part."""
    found = [str(args.data_dir), str(args.out), "--tgt", *args.tgt]
    for name in (
        *("model", "revision", "prompt", "num_beams", "max_ratio", "dtype", "batch_tokens"),
        "log_interval",
    ):
        value = getattr(args, name)
        found += [] if value is None else [f"--{name}={value}"]
    return found


def check_parent(parent: int | None) -> None:
    """Raise ValueError if the process that started this one has gone: nobody waits for the rest."""
    if parent is not None and os.getppid() != parent:
        raise ValueError("the process that started this one has ended")


def main() -> None:
    """Command line."""
    parser = get_parser()
    args = parser.parse_args()
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s: %(message)s")
    try:
        run(args)
    except ValueError as error:
        sys.exit(f"{parser.prog}: error: {error}")


if __name__ == "__main__":
    main()
