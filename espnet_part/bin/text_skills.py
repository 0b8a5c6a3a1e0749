"""What a model's LLM can do with text alone, before phase 1 or after any phase."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

EXAMPLES = """examples, in the recipe folder:
  python -m espnet_part.bin.text_skills --before --json exp/miniature/text_before.json \\
      --part_train_config exp/miniature/part/phase3/config.yaml \\
      --data_dir dump/raw/miniature_test_st_*
  python -m espnet_part.bin.text_skills --json exp/miniature/text_phase3.json \\
      --part_train_config exp/miniature/part/phase3/config.yaml \\
      --part_model_file exp/miniature/part/phase3/latest.pth --data_dir dump/raw/miniature_test_st_*

Rows of st are translated from their transcripts; no audio is read. Perplexity is of the right
answers, given the prompt, and as plain texts. Rows under "results" in the JSON are those of
results.json, decode "text_greedy": espnet_part.bin.report --reference FILE shows them as a system
of its own. They then stay in results.json, and the report's comparison of last phases is over the
test sets that all systems have: those of st.
"""


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m espnet_part.bin.text_skills",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--part_train_config", required=True, help="config.yaml of a phase")
    add("--part_model_file", help="checkpoint; without it the LLM is as it was pre-trained")
    add("--before", action="store_true", help="the LLM as it was pre-trained, in spite of a file")
    add("--data_dir", nargs="+", required=True, help="test sets: st with transcripts, mt, instruct")
    add("--json", help="write everything here")
    add("--ngpu", type=int, default=0, help="0: on the CPU, 1: on a GPU (default: %(default)s)")
    add("--dtype", default="float32", choices=["float32", "bfloat16"])
    add("--batch_size", type=int, default=64, help="most prompts at once (default: %(default)s)")
    add(
        "--bootstrap",
        type=int,
        default=1000,
        help="resamples for the 95%% intervals; 0 leaves them out (default: %(default)s)",
    )
    return parser


def text_skills(args: argparse.Namespace) -> None:
    """Measure, print the tables, write the JSON.

    Raises:
        ValueError: Anything that the user can mend.
    """
    import torch

    from espnet_part.inference import Speech2Text
    from espnet_part.text_sets import read_text_set
    from espnet_part.text_skills import measure
    from espnet_part.text_table import save_skills, text_tables

    if args.ngpu > 0 and not torch.cuda.is_available():
        raise ValueError(f"--ngpu {args.ngpu}: no GPU here; use --ngpu 0")
    if args.batch_size < 1 or args.bootstrap < 0:
        raise ValueError(
            f"found --batch_size {args.batch_size} and --bootstrap {args.bootstrap}, expected at "
            "least 1 and 0"
        )
    # All folders are read before the model is loaded: mistakes show at once.
    test_sets = [read_text_set(folder) for folder in args.data_dir]
    names = [test_set.name for test_set in test_sets]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"--data_dir: found {double} more than once; results go by its name")
    model_file = None if args.before else args.part_model_file
    device = "cuda" if args.ngpu > 0 else "cpu"
    model = Speech2Text(args.part_train_config, model_file, device, args.dtype).model
    system = system_of(Path(args.part_train_config), model_file)
    start = time.monotonic()
    found = measure(model.llm, model.prompter, test_sets, system, args.bootstrap, args.batch_size)
    what = "LLM as pre-trained" if model_file is None else f"LLM of {model_file}"
    n_rows = sum(len(test_set.rows) for test_set in test_sets)
    print(f"{what}: {n_rows} rows, {time.monotonic() - start:.0f} s\n\n{text_tables(found)}")
    if args.json:
        facts = {
            "before": model_file is None,
            "config": args.part_train_config,
            "checkpoint": model_file,
            "llm": model.sources.get("llm"),
            "dtype": args.dtype,
        }
        save_skills(args.json, facts, found)


def system_of(config_file: Path, model_file: str | None):
    """What rows of results call it: before training it is the reference system `llm_text`."""
    import yaml

    from espnet_part.results import LLM_TEXT, System

    if model_file is None:
        return System(LLM_TEXT)
    config = yaml.safe_load(config_file.read_text(encoding="utf-8"))
    return System(
        curriculum=config_file.absolute().parent.parent.name,
        phase=str(config.get("phase")),
        decode="text_greedy",
        seed=config.get("seed"),
        checkpoint=Path(model_file).name,
    )


def main(cmd: list[str] | None = None) -> None:
    """Measure; a mistake ends the command with its message."""
    try:
        text_skills(get_parser().parse_args(cmd))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
