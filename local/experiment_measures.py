"""What is measured of an experiment's models beside their scores: commands, and their tables.

layers       python -m espnet_part.bin.layers: is speech nearer to its transcript in the LLM?
text_skills  python -m espnet_part.bin.text_skills: what the LLM can do with text
inside       python -m espnet_part.bin.analyze: languages, translations, movement, gradients
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean, mean

from experiment_conf import Experiment
from experiment_jobs import Job
from experiment_plan import PhaseRun

from espnet_part.report import read_test_set
from espnet_part.tables import markdown

LAYERS, SKILLS = "layers.json", "text_skills.json"
BEFORE = "before phase 1"
MOST_WORSE, MOST_NEARER = 0.02, 0.20  # of the loss on dev; of the distance of different sentences
WORK = 60.0  # of a job, in updates


@dataclass(frozen=True)
class Model:
    """A checkpoint that is measured: what tables call it, its phase, where its numbers go."""

    label: str
    run: PhaseRun
    before: bool = False  # the pre-trained parts of the phase's config, without a checkpoint


def models_of(run, experiment: Experiment, seed: int) -> list[Model]:
    """What is measured of an experiment with one seed, what others are held against first."""
    of = run.runs[seed]
    last = [Model(arm, of[arm][-1]) for arm in experiment.arms]
    if experiment.also == "layers":
        before = of[experiment.arms[0]][-1].before
        return [Model(f"before phase {last[0].run.phase}", before), *last] if before else last
    return [Model(BEFORE, of[experiment.arms[0]][0], before=True), *last]


def measure_jobs(
    run, experiment: Experiment, test_sets: Sequence[str], after: dict[str, str]
) -> list[Job]:
    """The commands whose results are missing or older than the checkpoint.

    Args:
        run: The `Run`.
        experiment: With something to measure.
        test_sets: Of the scale.
        after: Digest of a phase and seed, as ``seed digest`` -> name of the job that trains it.
    """
    if experiment.also is None:
        return []
    raw = run.dumpdir / "raw"
    kinds = {name: read_test_set(raw / name).task for name in test_sets}
    python = [sys.executable, "-m"]
    if experiment.also == "inside":
        seed = run.scale.seeds[0]
        out = inside_folder(run, experiment)
        phases = [phase for arm in experiment.arms for phase in run.runs[seed][arm]]
        if _newer(out / "analysis.json", [run.folder(seed, phase) for phase in phases]):
            return []
        asr = [name for name, task in kinds.items() if task == "asr"]
        command = [
            *python, "espnet_part.bin.analyze", "--exp", str(run.exp(seed)), "--curricula",
            *experiment.arms, "--dumpdir", str(run.dumpdir), "--test_sets", *asr,
            "--out", str(out), "--ngpu", str(min(run.ngpu, 1)),
        ]  # fmt: skip
        names = [after[key] for phase in phases if (key := f"{seed} {phase.digest}") in after]
        log = run.out / "logs" / "inside.log"
        return [Job("looking inside", command, log, tuple(dict.fromkeys(names)), WORK)]
    jobs = []
    for seed in run.scale.seeds:
        for model in models_of(run, experiment, seed):
            folder, place = run.folder(seed, model.run), json_of(run, experiment, seed, model)
            if _newer(place, [] if model.before else [folder]):
                continue
            config = ["--part_train_config", str(folder / "config.yaml"), "--json", str(place)]
            if not model.before:
                config += ["--part_model_file", str(folder / "latest.pth")]
            if experiment.also == "layers":
                more = ["--data_dir", str(raw / run.scale.dev_set)]
                command = [*python, "espnet_part.bin.layers", *config, *more]
            else:
                more = [str(raw / name) for name, task in kinds.items() if task == "st"]
                command = [*python, "espnet_part.bin.text_skills", *config, "--data_dir", *more]
                command += ["--bootstrap", "0"]
            command += ["--ngpu", str(min(run.ngpu, 1))]
            key = f"{seed} {model.run.digest}"
            name = f"seed {seed}: {model.label}, {experiment.also}"
            log = run.out / "logs" / f"{name.replace(': ', '_').replace(' ', '')}.log"
            jobs.append(Job(name, command, log, (after[key],) if key in after else (), WORK))
    return jobs


def json_of(run, experiment: Experiment, seed: int, model: Model) -> Path:
    """Where the numbers of a model are."""
    name = LAYERS if experiment.also == "layers" else SKILLS
    return run.folder(seed, model.run) / (f"before_{name}" if model.before else name)


def inside_folder(run, experiment: Experiment) -> Path:
    """Where the analysis of some arms lies."""
    return run.out / f"inside_{'_'.join(experiment.arms)}"


def _newer(path: Path, folders: Sequence[Path]) -> bool:
    """Whether a file is younger than what all of these phases left."""
    marks = [folder / ".finished" for folder in folders]
    if not path.exists() or not all(mark.exists() for mark in marks):
        return False
    return all(path.stat().st_mtime > mark.stat().st_mtime for mark in marks)


def measure_words(run, experiment: Experiment) -> str:
    """The tables of what was measured, in Markdown; "" where nothing is to be measured."""
    if experiment.also is None:
        return ""
    if experiment.also == "inside":
        place = inside_folder(run, experiment) / "analysis.md"
        if not place.exists():
            return f"Not measured: {place} is missing."
        name = f"{place.parent.name}/{place.name}"
        return f"## Looking inside\n\n[{name}]({name})"
    seeds = run.scale.seeds
    found: dict[str, list[dict]] = {}
    for seed in seeds:
        for model in models_of(run, experiment, seed):
            place = json_of(run, experiment, seed, model)
            if not place.exists():
                return f"Not measured: {place} is missing."
            numbers = json.loads(place.read_text(encoding="utf-8"))
            numbers["dev_loss"] = dev_loss(run.folder(seed, model.run))
            found.setdefault(model.label, []).append(numbers)
    if experiment.also == "text_skills":
        return _skill_words(found)
    last = run.runs[seeds[0]][experiment.arms[-1]][-1]
    layers = (last.config["alignment"] or {}).get("layers", [0])
    return _layer_words(found, [0] if layers == "adaptive" else layers)


def dev_loss(folder: Path) -> float | None:
    """Cross-entropy on dev at the end of a phase."""
    place = folder / "images" / "curves.json"
    points = json.loads(place.read_text()) if place.exists() else []
    losses = [point["loss"] for point in points if point["split"] == "valid" and "loss" in point]
    return losses[-1] if losses else None


def _layer_words(found: dict[str, list[dict]], layers: Sequence[int]) -> str:
    """Per layer and model means over seeds, and whether alignment at some layers did its work."""
    depth = len(next(iter(found.values()))[0]["layers"])

    def value(label: str, key: str, layer: int) -> float:
        return mean(numbers["layers"][layer][key] for numbers in found[label])

    body = []
    for layer in range(depth):
        for label in found:
            keys = ("speech_to_text", "text_to_speech", "transport", "spread")
            cells = [f"{value(label, key, layer):.3f}" for key in keys]
            body.append([f"{layer}", label, *cells])
    header = ["layer", "model", "speech>text", "text>speech", "transport", "spread"]
    before, without, with_it = found
    rows = []
    for layer in layers:
        checks = (
            ("transport", "falls", lambda old, new: new < old),
            ("retrieval", "rises", lambda old, new: new > old),
            ("spread", f"not down by more than {100 * MOST_NEARER:.0f} %",
             lambda old, new: new > (1 - MOST_NEARER) * old),
        )  # fmt: skip
        for key, wanted, holds in checks:
            of = {label: [n["layers"][layer][key] for n in own] for label, own in found.items()}
            met = [holds(*pair) for pair in zip(of[without], of[with_it], strict=True)]
            rows.append([f"{key}, layer {layer}", wanted, *map(_mean, of.values()), _met(met)])
    of = {label: [n["dev_loss"] for n in own] for label, own in found.items()}
    met = [
        None not in pair and pair[1] <= (1 + MOST_WORSE) * pair[0]
        for pair in zip(of[without], of[with_it], strict=True)
    ]
    wanted = f"not worse by more than {100 * MOST_WORSE:.0f} %"
    cells = ["", _mean(of[without]), _mean(of[with_it])]
    rows.append(["cross-entropy on dev", wanted, *cells, _met(met)])
    return "\n\n".join(
        [
            "## On dev: speech and its transcript in the LLM's layers, mean over seeds",
            markdown(["measure", "wanted", *found, "in seeds"], rows),
            "Retrieval is the mean reciprocal rank of both ways; `wanted` is held against "
            f"`{without}`, which had as many updates, seed by seed.",
            markdown(header, body),
        ]
    )


def _mean(values: Sequence[float | None]) -> str:
    return "" if None in values else f"{mean(values):.3f}"


def _met(seeds: Sequence[bool]) -> str:
    """In how many seeds something holds."""
    word = "yes" if all(seeds) else "mixed" if any(seeds) else "no"
    return f"{word}, {sum(seeds)} of {len(seeds)}"


def over_seeds(values: Sequence[float | None], column: str) -> float | None:
    """The mean; of perplexities as of losses; None unless all seeds have the number."""
    if None in values:
        return None
    return geometric_mean(values) if column.endswith("perplexity") else mean(values)


def _skill_words(found: dict[str, list[dict]]) -> str:
    """What the LLM can do with text, mean over seeds and directions."""
    columns = {
        "BLEU": "bleu",
        "asked language, %": "in_language",
        "perplexity, prompted": "given_prompt.perplexity",
        "perplexity, plain": "plain.perplexity",
    }
    body = []
    for group in next(iter(found.values()))[0]["means"]:
        for label, seeds in found.items():
            means = [n["means"][group] for n in seeds]
            values = [over_seeds([m[c] for m in means], c) for c in columns.values()]
            by_seed = " ".join(f"{m['bleu']:.1f}" for m in means)
            body.append([group, label, *("" if v is None else f"{v:.2f}" for v in values), by_seed])
    return "\n\n".join(
        [
            "## What phase 3 does to the LLM: text translation from the right transcripts",
            markdown(["directions", "LLM", *columns, "BLEU by seed"], body),
            "Perplexity is per token of the right answer, given the prompt or as a plain text.",
        ]
    )
