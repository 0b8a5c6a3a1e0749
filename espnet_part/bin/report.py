"""Score every decode folder of an experiment, write its reports and draw it (stage 13)."""

import argparse
import sys
from pathlib import Path
from typing import Any

from espnet_part.bin.score import add_scoring_options
from espnet_part.lid_table import lid_table, main_rows
from espnet_part.report import environment, floor_rows, phase_report, score_experiment, write_text
from espnet_part.results import ENCODER_CTC, FLOOR, load_rows, merge_rows, save_rows
from espnet_part.tables import experiment_tables


def get_parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m espnet_part.bin.report",
        description="Score EXP/<curriculum>/phase<N>/<decode>/<test_set>/text against "
        "DUMPDIR/raw/<test_set>: writes score_wer, score_cer or score_bleu beside each text, "
        "RESULTS.md per phase, EXP/results.json and EXP/RESULTS.md, prints the last, draws "
        "EXP/<curriculum>/images/{phases,curves,scores}.png, and writes EXP/report.html, a page "
        "that holds all of it and the worst utterances to hear.",
    )
    parser.add_argument("--exp", required=True, type=Path, help="experiment, exp/<tag>")
    parser.add_argument(
        "--dumpdir", default=Path("dump"), type=Path, help="formatted data (default: dump)"
    )
    parser.add_argument(
        "--reference",
        nargs="+",
        default=[],
        metavar="FILE",
        help="JSON rows of systems scored elsewhere, such as the encoder's own CTC output; "
        f"curriculum is {ENCODER_CTC} where a row does not say",
    )
    parser.add_argument(
        "--report_audio_mb",
        default=6.0,
        type=float,
        metavar="MB",
        help="most megabytes of audio inside report.html; 0 leaves it out (default: %(default)g)",
    )
    add_scoring_options(parser)
    return parser


def report(args: argparse.Namespace) -> None:
    """Score, write, draw; print the experiment's tables, and to stderr where its pictures lie.

    Raises:
        ValueError: if there is nothing to score, or some test set cannot be scored (raised after
            all others are scored and written).
    """
    references = [row for path in args.reference for row in load_rows(path, ENCODER_CTC)]
    by_phase, test_sets, problems = score_experiment(
        args.exp, args.dumpdir, args.allow_missing, args.bootstrap
    )
    new = [row for rows in by_phase.values() for row in rows]
    # A corpus may know a better floor than another utterance's reference.
    have_floor = {row["test_set"] for row in references if row["curriculum"] == FLOOR}
    new += floor_rows([t for t in test_sets if t.name not in have_floor], args.bootstrap)
    path = args.exp / "results.json"
    rows = merge_rows(load_rows(path) if path.exists() else [], [*references, *new])
    tables = ""
    if new:
        save_rows(path, rows)
        tables = experiment_tables(main_rows(rows))
        if (compared := lid_table(rows)) is not None:
            tables += f"\n\n{compared}"
        write_text(args.exp / "RESULTS.md", f"Results of {args.exp.name}", tables)
    for folder, own in by_phase.items():
        write_text(folder / "RESULTS.md", f"Results of {args.exp.name}", phase_report(folder, own))
    # Last: what is wrong with a picture or the page must not cost a score.
    lines = [_pictures(folder, rows) for folder in {f.parent: None for f in by_phase}]
    if new:
        lines.append(_page(args, rows))
    print(tables, flush=True)
    for line in lines:
        print(line, file=sys.stderr)
    if problems:
        raise ValueError(f"{len(problems)} not scored:\n" + "\n".join(problems))


def _pictures(folder: Path, rows: list[dict[str, Any]]) -> str:
    """Draw a curriculum's pictures; return the line that says so, or why not."""
    try:
        from espnet_part.pictures import draw_curriculum  # its matplotlib may be missing, or broken

        return draw_curriculum(folder, rows)
    except Exception as error:
        return f"Pictures: none of {folder.name} ({type(error).__name__}: {error})"


def _page(args: argparse.Namespace, rows: list[dict[str, Any]]) -> str:
    """Write the experiment's page; return the line that says so, or why not."""
    try:
        from espnet_part.html_report import write_page  # as of the pictures

        return write_page(args.exp, args.dumpdir, rows, environment(), args.report_audio_mb)
    except Exception as error:
        return f"Page: none ({type(error).__name__}: {error})"


def main(cmd: list[str] | None = None) -> None:
    """Report; a mistake ends the command with its message."""
    try:
        report(get_parser().parse_args(cmd))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
