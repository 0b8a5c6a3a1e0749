"""Prepares data folders: speed-perturbed copies (stage 2), format (3), filter, mt rows (both 4)."""

from __future__ import annotations

import argparse
import logging
import sys

EXAMPLES = """examples:
  python -m espnet_part.bin.prepare format --data_dir data/train --out dump/raw/org/train
  python -m espnet_part.bin.prepare format --data_dir data/train --out dump/raw/org/train \\
      --audio_format flac --nj 16
  python -m espnet_part.bin.prepare filter --data_dir dump/raw/org/train --out dump/raw/train \\
      --min_sec 0.1 --max_sec 30
  python -m espnet_part.bin.prepare speed --data_dir data/train --out data/train_sp \\
      --factors 0.9 1.1
  python -m espnet_part.bin.prepare mt --data_dir dump/raw/train --out dump/raw/mt/train

Rows with bad audio are skipped, counted, and listed in <out>/skipped.tsv. The input is never
changed. A run that was killed goes on where it was; one whose input has not changed does nothing.
"""
_FORMAT = """Checks a data folder and copies its text files; audio stays in place.

With --audio_format, every clip (segments cut out) is decoded and written to <out>/audio as 16 kHz
mono.

A wav.scp entry that ends in "|" is a command. It is refused, because running it gives whoever wrote
the file all your rights on this machine. With --audio_format AND --allow_pipes the commands are
run: read wav.scp before you do that."""
_FILTER = """Copies a data folder without the rows that training cannot use: audio that is bad,
too short or too long, empty text, rows that a test set holds as well (the same clip, or the same
pair of texts). For training and validation sets; a test set stays whole."""
_SPEED = """Writes a data folder that holds another one and copies of it at other speeds.

Not needed as a rule: training perturbs speed on the fly, without copies."""

_MT = """Writes a text folder with an mt row (text to text) for each st row that has a transcript:
source is the transcript, target the translation. St rows without a transcript are left out."""


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m espnet_part.bin.prepare",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=raw,
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="format|filter|speed|mt"
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--data_dir", required=True, help="data folder that is read")
    common.add_argument("--out", required=True, help="data folder that is written")
    several = argparse.ArgumentParser(add_help=False)
    several.add_argument("--data_dir", required=True, nargs="+", help="data folders that are read")
    several.add_argument("--out", required=True, nargs="+", help="one for each, that is written")
    threads = argparse.ArgumentParser(add_help=False)
    threads.add_argument("--nj", type=int, default=4, help="threads (default: %(default)s)")
    audio = [common, threads]

    command = commands.add_parser(
        "format", help="stage 3", parents=audio, description=_FORMAT, formatter_class=raw
    )
    command.add_argument(
        "--audio_format", choices=("flac", "wav"), help="write the audio anew (default: leave it)"
    )
    command.add_argument(
        "--allow_pipes", action="store_true", help="RUN the commands in wav.scp (see above)"
    )

    command = commands.add_parser(
        "filter",
        help="stage 4",
        parents=[several, threads],
        description=_FILTER,
        formatter_class=raw,
    )
    command.add_argument(
        "--min_sec", type=float, default=0.1, help="shortest audio in seconds (%(default)s)"
    )
    command.add_argument(
        "--max_sec", type=float, default=30.0, help="longest audio in seconds (%(default)s)"
    )
    command.add_argument(
        "--max_chars", type=int, help="longest source or target text (default: any length)"
    )
    command.add_argument(
        "--test_sets", nargs="*", default=[], help="data folders whose rows must not be in OUT"
    )

    command = commands.add_parser(
        "speed", help="stage 2", parents=audio, description=_SPEED, formatter_class=raw
    )
    command.add_argument(
        "--factors", type=float, nargs="+", required=True, help="speeds of the copies, e.g. 0.9 1.1"
    )
    command.add_argument(
        "--audio_format", choices=("flac", "wav"), default="flac", help="default: %(default)s"
    )

    commands.add_parser(
        "mt", help="stage 4", parents=[common], description=_MT, formatter_class=raw
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    args = get_parser().parse_args(argv)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s (%(module)s:%(lineno)d) %(levelname)s: %(message)s"
    )
    try:
        if args.command == "filter":
            _filter(args)
        else:
            _tell(args.command, args.data_dir, args.out, _run(args))
    except (ValueError, OSError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    return 0


def _tell(command: str, data_dir: str, out: str, result: dict) -> None:
    kind = "st rows" if command == "mt" else "rows"
    lines = [f"{out}: {result['kept']:,} of {result['rows']:,} {kind} of {data_dir}"]
    lines += [f"  skipped {rows:,}: {why}" for why, rows in sorted(result["skipped"].items())]
    if result["skipped"]:
        lines.append(f"  listed in {out}/skipped.tsv")
    print("\n".join(lines), flush=True)


def _filter(args: argparse.Namespace) -> None:
    from espnet_part.filtering import Limits, filter_datadir
    from espnet_part.leakage import HeldOut

    _check_jobs(args.nj)
    if len(args.data_dir) != len(args.out):
        raise ValueError(
            f"found {len(args.data_dir)} folders in --data_dir, {len(args.out)} in --out; "
            "expected as many"
        )
    limits = Limits(args.min_sec, args.max_sec, args.max_chars)
    held_out = HeldOut(args.test_sets)  # read once for all
    for data_dir, out in zip(args.data_dir, args.out, strict=True):
        _tell("filter", data_dir, out, filter_datadir(data_dir, out, limits, args.nj, held_out))


def _check_jobs(jobs: int) -> None:
    if jobs < 1:
        raise ValueError(f"--nj: found {jobs}, expected 1 or more")


def _run(args: argparse.Namespace) -> dict:
    if args.command == "mt":
        from espnet_part.mt_rows import derive_mt

        return derive_mt(args.data_dir, args.out)
    _check_jobs(args.nj)
    from espnet_part.formatting import format_datadir, perturb_datadir

    if args.command == "format":
        return format_datadir(args.data_dir, args.out, args.audio_format, args.nj, args.allow_pipes)
    return perturb_datadir(args.data_dir, args.out, args.factors, args.audio_format, args.nj)


if __name__ == "__main__":
    sys.exit(main())
