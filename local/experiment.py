"""The paper's experiments, in one command each: trains the arms, decodes them, writes the table.

    ./run.sh --experiment fig2a [--scale quick|full]     # calls this, in the recipe folder
    python local/experiment.py all --scale quick --dry_run

What they are stands in conf/experiments.yaml. All arms of a scale have equally many updates and the
same seeds; phases that are equal are trained once per seed, and shared by links. What exists is
skipped, what was stopped goes on.

    exp/<scale>_seed<seed>/<arm>/phase<N>/       as a run of the recipe leaves them
    exp/experiments/<scale>/<name>.{md,json,svg,png}   table, numbers, picture
    exp/experiments/<scale>/summary.{md,svg,png}       all experiments of the call, if several
    exp/experiments/<scale>/logs/                output of each job
"""

import argparse
import os
import sys
from pathlib import Path

from experiment_conf import read_plan
from experiment_jobs import JobsFailed, Runner, Stopped
from experiment_measures import measure_words
from experiment_report import print_plan, write_experiment
from experiment_results import Results, read_results
from experiment_run import Run
from experiment_summary import write_summary

from espnet_part.progress import duration
from espnet_part.publish import lock


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="experiments, or all")
    parser.add_argument("--scale", default="quick", help="of conf/experiments.yaml (quick)")
    parser.add_argument("--expdir", type=Path, default=Path("exp"))
    parser.add_argument("--dumpdir", type=Path, default=Path("dump"))
    parser.add_argument("--nj", type=int, default=1, help="trainings at a time")
    parser.add_argument("--ngpu", type=int, default=0, help="GPUs of a training; 0: the CPU")
    parser.add_argument("--dry_run", action="store_true", help="say what would be trained, and end")
    parser.add_argument(
        "--report_only", action="store_true", help="only the tables, of what there is"
    )
    return parser


def gpu_groups(ngpu: int) -> list[str]:
    """The GPUs there are, in groups of what one training has: one group for each at a time."""
    if ngpu == 0:
        return []
    from torch.cuda import device_count  # here: on the CPU nobody waits for it

    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = given.split(",") if given else [str(i) for i in range(device_count())]
    return [",".join(names[i : i + ngpu]) for i in range(0, len(names) - ngpu + 1, ngpu)]


def train(run: Run, workers: int, ngpu: int) -> str:
    """Trains, decodes and measures what is missing.

    Returns:
        What failed, "" if nothing did.

    Raises:
        ValueError: Another call is at it, or the data could not be made.
        Stopped: A signal came.
    """
    run.out.mkdir(parents=True, exist_ok=True)
    with lock(run.out / ".lock", f"experiments of the scale {run.scale_name}", wait=False):
        run.prepare()
        test_sets = run.test_sets()
        run.check_sets(test_sets)
        jobs = run.jobs(test_sets)
        print(f"{len(jobs)} jobs, {workers} at a time; logs: {run.out / 'logs'}", flush=True)
        runner, failed = Runner(jobs, workers, gpu_groups(ngpu)), ""
        try:
            runner.run()
        except JobsFailed as error:
            failed = str(error)
        if jobs:
            print(f"all jobs: {duration(runner.cpu_sec)} of CPU", flush=True)
        return failed


def write_pages(run: Run, names: list[str]) -> None:
    """Writes a page for each experiment that has been decoded, and one for all of several.

    Raises:
        ValueError: None has been.
    """
    results: dict[str, Results] = {}
    for name in names:
        experiment = run.plan.experiments[name]
        try:
            results[name] = read_results(run, experiment)
        except ValueError as error:
            missing = f"{name}: no page: {error}"
            print(missing, file=sys.stderr)
            continue
        page = write_experiment(run, name, results[name], measure_words(run, experiment))
        print(page, flush=True)
    if not results:
        raise ValueError(missing)
    if len(results) > 1:
        print(write_summary(run, results), flush=True)


def main() -> None:
    """Command line."""
    parser = get_parser()
    args = parser.parse_args()
    try:
        plan = read_plan(Path("conf/experiments.yaml"))
        names = [n for name in args.names for n in (plan.experiments if name == "all" else [name])]
        run = Run(plan, names, args.scale, args.expdir, args.dumpdir, args.ngpu)
        print_plan(run)
        if args.dry_run:
            return
        failed = "" if args.report_only else train(run, args.nj, args.ngpu)
        write_pages(run, names)
        if failed:
            sys.exit(f"{parser.prog}: error: {failed}")
    except Stopped as message:
        print(message, file=sys.stderr)
        sys.exit(143)
    except ValueError as error:
        sys.exit(f"{parser.prog}: error: {error}")


if __name__ == "__main__":
    main()
