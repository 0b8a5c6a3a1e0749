"""What an experiment's systems score, from what stage 12 decoded, and what they trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
from experiment_conf import BY, Experiment, arm_of, lids_of
from experiment_plan import PhaseRun
from experiment_scores import Estimate, Resampling, SetScores, group_values, in_group, read_scores

from espnet_part.batching import plan_of
from espnet_part.config import Config
from espnet_part.report import TestSet
from espnet_part.results import load_rows
from espnet_part.schema import from_dict, load_yaml

WANTED = {"error": -1, "bleu": 1, "bleu_ill": 1, "bleu_other": 1}  # the sign of an improvement
LID_FOLDERS = {"right": "", "none": "_lid_none", "wrong": "_lid_wrong"}
# Systems that nothing was trained for here -> how tables call them.
REFERENCES = {
    "floor": "floor: another sentence",
    "encoder_ctc": "the encoder's own CTC",
    "cascade": "cascade: CTC, then the LLM on its text",
    "llm_text": "the LLM on the right transcript",
}


@dataclass(frozen=True)
class Difference:
    """One claim by one score: `better` minus `than`."""

    better: str
    than: str
    by: str
    estimate: Estimate
    verdict: str


@dataclass(frozen=True)
class Results:
    """All numbers of an experiment.

    Attributes:
        groups: Scores, of `BY`.
        systems: arm, arm@none, arm@wrong -> group -> estimate.
        differences: In the order of the claims.
        references: Reference system -> group -> value, where it has all test sets.
        exposures: Arm -> task -> [hours of audio, target tokens], mean over seeds.
        n_sets: Number of test sets.
    """

    groups: list[str]
    systems: dict[str, dict[str, Estimate]]
    differences: list[Difference]
    references: dict[str, dict[str, float]]
    exposures: dict[str, dict[str, list[float]]]
    n_sets: int


def read_results(run, experiment: Experiment) -> Results:
    """Scores the last phase of every arm and seed.

    Args:
        run: The `Run` that trained them.
        experiment: One of its experiments.

    Raises:
        ValueError: Something has not been decoded.
    """
    names, seeds = run.test_sets(), run.scale.seeds
    resampling = Resampling(len(seeds))
    of: dict[str, dict[str, np.ndarray]] = {}  # arm, arm@none, ... -> group -> (E, 1 + S)
    sets: list[SetScores] = []
    for arm in experiment.arms:
        for lid in experiment.lids(arm):
            found = {seed: _read(run, seed, arm, lid, names) for seed in seeds}
            sets = sets or found[seeds[0]]
            system = arm if lid == "right" else f"{arm}@{lid}"
            of[system] = group_values(found, resampling, BY, run.scale.ill_resourced)
    asked = {by for claim in experiment.claims for by in claim.by}
    groups = [by for by in BY if by in asked and all(by in own for own in of.values())]

    def values(system: str, group: str) -> np.ndarray:
        arm = arm_of(system)
        names = [arm if lid == "right" else f"{arm}@{lid}" for lid in lids_of(system)]
        first, *minus = (of[name] for name in names)
        return first[group] - minus[0][group] if minus else first[group]

    differences = []
    for claim in experiment.claims:
        for group in (group for group in claim.by if group in groups):
            estimate = resampling.over_seeds(
                values(claim.better, group) - values(claim.than, group)
            )
            verdict = estimate.verdict(WANTED[group])
            differences.append(Difference(claim.better, claim.than, group, estimate, verdict))
    return Results(
        groups,
        {s: {g: resampling.over_seeds(own[g]) for g in groups} for s, own in of.items()},
        differences,
        _references(run, [one.test_set for one in sets], groups),
        {arm: _exposures(run, arm) for arm in experiment.arms},
        len(names),
    )


def _read(run, seed: int, arm: str, lid: str, test_sets: Sequence[str]) -> list[SetScores]:
    last: PhaseRun = run.runs[seed][arm][-1]
    decode = run.folder(seed, last) / f"{run.decode_name()}{LID_FOLDERS[lid]}"
    raw = run.dumpdir / "raw"
    return [read_scores(decode / name, raw / name, run.scale.sentence) for name in test_sets]


def exposure(folder: Path) -> dict[str, list[float]]:
    """What a phase's updates read: task -> [hours of audio, target tokens].

    It follows from the batch plan alone, and is kept in the folder.
    """
    kept = folder / ".exposure.json"
    if kept.exists():
        return json.loads(kept.read_text())
    config = from_dict(Config, load_yaml(folder / "config.yaml"))
    plan = plan_of(config)
    found: dict[str, list[float]] = {}
    for step in range(config.max_steps):
        for number, row in plan.rows(step):
            manifest = plan.manifests[number]
            entry = manifest.index[row]
            sums = found.setdefault(manifest.meta["tasks"][entry["task"]], [0.0, 0.0])
            sums[0] += float(entry["samples"]) / 16000 / 3600
            sums[1] += float(entry["n_target"])
    kept.write_text(json.dumps(found))
    return found


def _exposures(run, arm: str) -> dict[str, list[float]]:
    """Means over seeds of what an arm's phases read together."""
    sums: dict[str, list[float]] = {}
    for seed in run.scale.seeds:
        for phase in run.runs[seed][arm]:
            for task, (hours, tokens) in exposure(run.folder(seed, phase)).items():
                own = sums.setdefault(task, [0.0, 0.0])
                own[0] += hours / len(run.scale.seeds)
                own[1] += tokens / len(run.scale.seeds)
    return sums


def _references(run, test_sets: Sequence[TestSet], groups: Sequence[str]) -> dict[str, dict]:
    corpus, model = run.scale.corpora.split()[0], run.scale.model
    name = model if model.startswith(f"{corpus}_") else corpus  # as in part.sh
    path = run.expdir / f"{name}_parts" / "references.json"
    if not path.exists():
        return {}
    scored = {
        (row["curriculum"], row["test_set"]): row["value"]
        for row in load_rows(path)
        if row["metric"] in ("wer", "cer", "bleu")
    }
    found: dict[str, dict[str, float]] = {}
    for system in REFERENCES:
        for group in groups:
            own = [t for t in test_sets if in_group(t, group, run.scale.ill_resourced)]
            if own and all((system, t.name) in scored for t in own):
                value = mean(scored[system, t.name] for t in own)
                found.setdefault(system, {})[group] = value
    return found
