"""The page of an experiment: what is claimed, what was found, table, verdicts, picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from experiment_picture import draw_experiment
from experiment_results import REFERENCES, Results
from experiment_scores import Estimate

from espnet_part.pictures_style import save
from espnet_part.prompt import SPEECH_TASKS, TASKS
from espnet_part.tables import markdown

NAMES = {
    "error": "error %",
    "bleu": "BLEU",
    "bleu_ill": "BLEU, ill-resourced",
    "bleu_other": "BLEU, others",
}


def print_plan(run) -> None:
    """Says which arms there are, how long, and what they share."""
    arms = run.runs[run.scale.seeds[0]]
    body = [
        [arm, run.plan.arms[arm].curriculum, updates(runs), " ".join(run.lids[arm])]
        for arm, runs in arms.items()
    ]
    print(markdown(["arm", "curriculum", "updates of each phase", "language in the prompt"], body))
    steps = [(r.digest, r.config["max_steps"]) for runs in arms.values() for r in runs]
    print(
        f"scale {run.scale_name}: {run.scale.corpora}, model {run.scale.model}; {len(arms)} arms, "
        f"seeds {' '.join(map(str, run.scale.seeds))}; "
        f"{sum(dict(steps).values())} updates a seed to train, as equal phases are trained once, "
        f"of {sum(n for _, n in steps)} in all",
        flush=True,
    )


def updates(runs) -> str:
    """Phases with their numbers of updates, such as 1:600 2a:75."""
    return " ".join(f"{r.phase}:{r.config['max_steps']}" for r in runs)


def write_experiment(run, name: str, results: Results, more: str = "") -> Path:
    """Writes and prints the page; numbers and picture lie beside it.

    Args:
        run: The `Run` that trained the arms.
        name: Of one of its experiments.
        results: Its numbers.
        more: Markdown below the tables.

    Returns:
        The page's place.
    """
    experiment = run.plan.experiments[name]
    run.out.mkdir(parents=True, exist_ok=True)
    page = words(run, name, results)
    place = run.out / f"{name}.md"
    place.write_text("\n\n".join(part for part in (page, more) if part) + "\n", encoding="utf-8")
    numbers = json.dumps(_numbers(run, name, results), indent=1)
    (run.out / f"{name}.json").write_text(numbers + "\n")
    figure = draw_experiment(
        f"{name}: {experiment.title}",
        {NAMES[g]: {s: of[g] for s, of in results.systems.items()} for g in results.groups},
        {
            NAMES[g]: {REFERENCES[r]: of[g] for r, of in results.references.items() if g in of}
            for g in results.groups
        },
    )
    for ending in ("svg", "png"):
        save(figure, run.out / f"{name}.{ending}")
    print(place.read_text(encoding="utf-8"))
    return place


def interval(estimate: Estimate, sign: str = "") -> str:
    """Value and 95 % interval."""
    low, high = estimate.ci95
    return f"{estimate.value:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


def seeds_of(estimate: Estimate, sign: str = "") -> str:
    """What each seed has."""
    return " ".join(f"{value:{sign}.1f}" for value in estimate.by_seed)


def words(run, name: str, results: Results) -> str:
    """The page in Markdown."""
    experiment, scale = run.plan.experiments[name], run.scale
    header = ["system"]
    for group in results.groups:
        header += [f"{NAMES[group]} [95 %]", "by seed"]
    body = [
        [system, *(cell for g in results.groups for cell in (interval(of[g]), seeds_of(of[g])))]
        for system, of in results.systems.items()
    ]
    for system, of in results.references.items():
        cells = [c for g in results.groups for c in (f"{of[g]:.2f}" if g in of else "", "")]
        body.append([REFERENCES[system], *cells])
    found = [
        [f"{d.better} - {d.than}", NAMES[d.by], interval(d.estimate, "+"),
         seeds_of(d.estimate, "+"), d.verdict]
        for d in results.differences
    ]  # fmt: skip
    return "\n\n".join(
        [
            f"# {name}: {experiment.title}",
            f"Claim ({experiment.paper}): {experiment.claim}",
            f"Scale `{run.scale_name}`: {scale.corpora}, model {scale.model}, seeds "
            f"{' '.join(map(str, scale.seeds))}, {results.n_sets} test sets. Error: mean of WER "
            "(CER for zh ja ko yue) over the languages; BLEU: mean over the directions; both of "
            "the last phase. Intervals: sentences resampled, seeds by Student's t.",
            markdown(header, body),
            markdown(["difference", "score", "value [95 %]", "by seed", "claim"], found),
            "A claim is *shown* where the interval keeps to its side of zero and every seed is on "
            "that side, *opposite* where so on the other side.",
            "What the updates read, mean over seeds (equal updates are not equal exposure):",
            _exposure_table(run, results),
            f"![Scores with their intervals]({name}.png)",
        ]
    )


def _exposure_table(run, results: Results) -> str:
    runs = run.runs[run.scale.seeds[0]]
    header, cells = exposure_columns(results.exposures)
    body = [[arm, updates(runs[arm]), *own] for arm, own in cells.items()]
    return markdown(["arm", "updates", *header], body)


def exposure_columns(exposures: Mapping[str, Mapping]) -> tuple[list[str], dict[str, list[str]]]:
    """Header and cells of what arms read: per task seconds of audio, and target tokens.

    Args:
        exposures: Arm -> task -> [hours of audio, target tokens].
    """
    tasks = [task for task in TASKS if any(task in own for own in exposures.values())]
    header: list[str] = []
    cells: dict[str, list[str]] = {arm: [] for arm in exposures}
    for task in tasks:
        is_speech = task in SPEECH_TASKS
        header += [f"{task}: audio, s"] * is_speech + [f"{task}: tokens"]
        for arm, own in exposures.items():
            hours, tokens = own.get(task, [0.0, 0.0])
            cells[arm] += [f"{hours * 3600:,.0f}"] * is_speech + [f"{tokens:,.0f}"]
    return header, cells


def _numbers(run, name: str, results: Results) -> dict:
    def plain(estimate: Estimate) -> dict:
        return {"value": estimate.value, "ci95": estimate.ci95, "by_seed": estimate.by_seed}

    return {
        "experiment": name,
        "scale": run.scale_name,
        "seeds": run.scale.seeds,
        "systems": {s: {g: plain(e) for g, e in of.items()} for s, of in results.systems.items()},
        "differences": [
            {
                "better": d.better,
                "than": d.than,
                "by": d.by,
                **plain(d.estimate),
                "claim": d.verdict,
            }
            for d in results.differences
        ],
        "references": results.references,
        "exposure": results.exposures,
    }
