"""Makes manifests of data folders (stage 10): the sizes of all rows, no audio decoded."""

from __future__ import annotations

import argparse
import logging
import sys

EXAMPLES = """examples:
  python -m espnet_part.bin.manifest --data_dir dump/raw/train --out exp/stats/train \\
      --tokenizer exp/digits_parts/llm
  python -m espnet_part.bin.manifest --data_dir dump/raw/train --out exp/stats/train \\
      --tokenizer exp/digits_parts/llm --nj 16      # audio on a network file system

A run whose input has not changed does nothing. Rows with bad audio are skipped, counted, and named.
"""


def get_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(
        prog="python -m espnet_part.bin.manifest",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data_dir", required=True, nargs="+", help="data folders (speech or text)"
    )
    parser.add_argument(
        "--out", required=True, nargs="+", help="folder of each one's manifest, made if missing"
    )
    parser.add_argument(
        "--tokenizer", required=True, help="LLM folder or hub id whose tokenizer counts the tokens"
    )
    parser.add_argument("--revision", help="revision of the hub id")
    parser.add_argument(
        "--nj", type=int, default=4, help="threads reading audio headers (%(default)s)"
    )
    return parser


def table(meta: dict) -> str:
    """Totals of a manifest as text."""
    head = ("task", "languages", "rows", "hours", "mean sec", "target tokens", "source tokens")
    lines = [head]
    for name, total in meta["totals"].items():
        task, src, tgt = name.split()
        seconds = f"{3600 * total['hours'] / total['rows']:.2f}" if total["hours"] else "-"
        pair = src if src == tgt else f"{src}-{tgt}"
        lines.append(
            (
                *(task, pair, f"{total['rows']:,}", f"{total['hours']:.2f}", seconds),
                *(f"{total['target_tokens']:,}", f"{total['source_tokens']:,}"),
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = []
    for line in lines:
        cells = zip(line, widths, strict=True)
        shown.append(
            "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(cells))
        )
    skipped = ", ".join(f"{count:,} {reason}" for reason, count in meta["skipped"].items())
    return "\n".join([*shown, f"skipped: {skipped or 'none'}"])


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    args = get_parser().parse_args(argv)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s (%(module)s:%(lineno)d) %(levelname)s: %(message)s"
    )
    try:
        if args.nj < 1:
            raise ValueError(f"--nj: found {args.nj}, expected 1 or more")
        if len(args.data_dir) != len(args.out):
            raise ValueError(
                f"found {len(args.data_dir)} folders in --data_dir, {len(args.out)} in --out; "
                "expected as many"
            )
        from espnet_part.manifest_writer import write_manifest

        tokenizer = _tokenizer(args.tokenizer, args.revision)  # slow to load: once for all
        for data_dir, out in zip(args.data_dir, args.out, strict=True):
            meta = write_manifest(data_dir, out, tokenizer, args.nj)
            print(f"{out}: {meta['rows']:,} rows of {data_dir}\n{table(meta)}", flush=True)
    except (ValueError, OSError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    return 0


def _tokenizer(source: str, revision: str | None):
    from transformers import AutoTokenizer

    try:
        # Stage 5 fetches; here the network is not asked.
        return AutoTokenizer.from_pretrained(source, revision=revision, local_files_only=True)
    except (OSError, ValueError) as err:
        reason = str(err).strip().splitlines()[0]
        raise ValueError(
            f"--tokenizer {source}: cannot load a tokenizer ({reason}); expected a folder made by "
            "stage 5, or a hub id (with --revision, if the model YAML has one) that it has fetched"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
