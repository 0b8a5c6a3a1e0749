"""Says before the first phase is trained that a later one lacks rows of what it asks for.

That is rows of a task, or of the corpora and languages that it weighs:

    python local/check_tasks.py --model toy --curriculum part --phases 1 2a 2b 3
        --train exp/part_stats_toy/train --set max_steps=10

Training itself would say so as well, after the phases before.
"""

import argparse
import logging
import sys
from pathlib import Path

from espnet_part.curriculum import load_curriculum, merge
from espnet_part.mixing import check_weights, set_names, task_of
from espnet_part.schema import load_yaml

HINTS = {
    "mt": "stage 4 makes them of st rows that have a transcript, or add a text folder; to train "
    "without them: --curriculum part_no_text, or another one whose tasks leave mt out",
}
HINT = "add such rows, or leave the task out of the curriculum's tasks and task_shares"


def read_totals(manifests: list[str]) -> list[dict]:
    """What each manifest has, by "task src tgt".

    Raises:
        ValueError: A manifest's meta.json is missing or damaged.
    """
    # JSON is YAML, and load_yaml names what is damaged.
    return [load_yaml(Path(folder) / "meta.json").get("totals") or {} for folder in manifests]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="name in conf/model, or a .yaml")
    parser.add_argument("--curriculum", required=True, help="name in conf/curriculum")
    parser.add_argument("--phases", nargs="*", default=[], help="those to be trained")
    parser.add_argument("--train", nargs="+", required=True, help="manifests to train on")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="as for merge")
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # stage 11 merges each phase again, and says it then
    try:
        totals = read_totals(args.train)
        found = {task_of(key) for total in totals for key in total}
        unused = set(found)
        for phase in args.phases:
            config = merge(
                "conf", args.model, args.curriculum, phase, args.train, [], settings=args.set
            )
            unused -= set(config.tasks)
            for task in config.tasks:
                if task not in found:
                    raise ValueError(
                        f"phase {phase} trains on {' '.join(config.tasks)}, but no training set "
                        f"has rows of {task} (found: {' '.join(sorted(found))}): "
                        f"{HINTS.get(task, HINT)}"
                    )
            check_weights(
                set_names(args.train), totals, config.corpus_weights, config.language_weights
            )
        if unused and load_curriculum("conf", args.curriculum)["phases"][-1] in args.phases:
            print(
                f"No phase trains on rows of {' '.join(sorted(unused))}, which the training sets "
                "hold: tasks of a phase (conf/phase, --part_args) names what it trains on"
            )
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
