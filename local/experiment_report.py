"""What an experiment found: the table of its arms, the verdict on each claim, a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import numpy as np
from experiment_picture import draw_experiment
from experiment_plan import BY, PhaseRun, arm_of, lids_of
from experiment_scores import Estimate, Resampling, SetScores, group_values, in_group, read_scores

from espnet_part.batching import plan_of
from espnet_part.config import Config
from espnet_part.pictures_style import save
from espnet_part.report import TestSet
from espnet_part.results import load_rows
from espnet_part.schema import from_dict, load_yaml
from espnet_part.tables import markdown

NAMES = {
    "error": "error %",
    "bleu": "BLEU",
    "bleu_ill": "BLEU, ill-resourced",
    "bleu_other": "BLEU, others",
}
WANTED = {"error": -1, "bleu": 1, "bleu_ill": 1, "bleu_other": 1}  # the sign of an improvement
LIDS = {"right": "", "none": "_lid_none", "wrong": "_lid_wrong"}
REFERENCES = {
    "floor": "floor: another sentence",
    "encoder_ctc": "the encoder's own CTC",
    "cascade": "cascade: CTC, then the LLM on its text",
    "llm_text": "the LLM on the right transcript",
}


def print_plan(run) -> None:
    """Says which arms there are, how long, and what they share."""
    body = []
    for arm in run.lids:
        runs = run.runs[run.scale.seeds[0]][arm]
        phases = " ".join(f"{r.phase}:{r.config['max_steps']}" for r in runs)
        body.append([arm, run.plan.arms[arm].curriculum, phases, " ".join(run.lids[arm])])
    print(markdown(["arm", "curriculum", "updates of each phase", "language in the prompt"], body))
    for seeds in (run.scale.seeds,):
        first = [r for runs in run.runs[seeds[0]].values() for r in runs]
        once = {r.digest: r.config["max_steps"] for r in first}
        whole = sum(r.config["max_steps"] for r in first)
        print(
            f"scale {run.scale_name}: {len(run.lids)} arms, seeds {' '.join(map(str, seeds))}; "
            f"{sum(once.values())} updates a seed to train, as equal phases are trained once, of "
            f"{whole} in all",
            flush=True,
        )


def exposure(folder: Path) -> dict[str, list[float]]:
    """What a phase's updates read: task -> [hours of audio, target tokens].

    It follows from the batch plan alone, and is kept in the folder.
    """
    kept = folder / "exposure.json"
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


def write_experiment(run, name: str) -> Path:
    """Writes table, numbers and picture of one experiment.

    Returns:
        The table's place.

    Raises:
        ValueError: Something has not been trained or decoded.
    """
    experiment = run.plan.experiments[name]
    test_sets = run.test_sets()
    seeds = run.scale.seeds
    resampling = Resampling(len(seeds))
    by_lid: dict[str, dict[str, dict[str, np.ndarray]]] = {}  # arm -> lid -> group -> (E, 1 + S)
    sets: list[SetScores] = []
    for arm in experiment.arms:
        by_lid[arm] = {}
        for lid in {lid: None for lid in (*experiment.lids(arm), "right")}:
            found = {seed: _read(run, seed, arm, lid, test_sets) for seed in seeds}
            sets = sets or found[seeds[0]]
            by_lid[arm][lid] = group_values(found, resampling, BY, run.scale.ill_resourced)
    groups = [by for by in BY if any(by in c.by for c in experiment.claims)]
    groups = [by for by in groups if by in by_lid[experiment.arms[0]]["right"]]

    def values(system: str, group: str) -> np.ndarray:
        of = by_lid[arm_of(system)]
        lids = lids_of(system)
        first = of[lids[0]][group]
        return first if len(lids) == 1 else first - of[lids[1]][group]

    systems = {
        system: {group: resampling.over_seeds(values(system, group)) for group in groups}
        for arm in experiment.arms
        for system in [arm, *(s for s in experiment.systems if arm_of(s) == arm and s != arm)]
    }
    claims = []
    for claim in experiment.claims:
        for group in (group for group in claim.by if group in groups):
            difference = values(claim.better, group) - values(claim.than, group)
            estimate = resampling.over_seeds(difference)
            verdict = estimate.verdict(WANTED[group])
            claims.append((claim.better, claim.than, group, estimate, verdict))
    references = _references(run, [one.test_set for one in sets], groups)
    exposures = {arm: _exposures(run, arm) for arm in experiment.arms}
    text = _words(run, name, systems, claims, references, exposures, groups, len(test_sets))
    run.out.mkdir(parents=True, exist_ok=True)
    place = run.out / f"{name}.md"
    place.write_text(text, encoding="utf-8")
    (run.out / f"{name}.json").write_text(
        json.dumps(_numbers(run, name, systems, claims, references, exposures), indent=1) + "\n"
    )
    figure = draw_experiment(
        f"{name}: {experiment.title}",
        {NAMES[g]: {s: of[g] for s, of in systems.items()} for g in groups},
        {
            NAMES[g]: {REFERENCES[r]: of[g] for r, of in references.items() if g in of}
            for g in groups
        },
    )
    for ending in ("svg", "png"):
        save(figure, run.out / f"{name}.{ending}")
    print(text)
    return place


def _read(run, seed: int, arm: str, lid: str, test_sets: Sequence[str]) -> list[SetScores]:
    last: PhaseRun = run.runs[seed][arm][-1]
    decode = run.folder(seed, last) / f"{run.decode_name()}{LIDS[lid]}"
    raw = run.dumpdir / "raw"
    return [read_scores(decode / name, raw / name, run.scale.sentence) for name in test_sets]


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
    """Reference system -> group -> mean over the test sets, where it has all of them."""
    path = run.expdir / f"{run.scale.corpora.split()[0]}_parts" / "references.json"
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


def interval(estimate: Estimate, sign: str = "") -> str:
    """Value and 95 % interval."""
    low, high = estimate.ci95
    return f"{estimate.value:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


def _seeds(estimate: Estimate, sign: str = "") -> str:
    return " ".join(f"{value:{sign}.1f}" for value in estimate.by_seed)


def _words(run, name, systems, claims, references, exposures, groups, n_sets) -> str:
    """The experiment's page in Markdown."""
    experiment, scale = run.plan.experiments[name], run.scale
    runs = run.runs[scale.seeds[0]]
    tasks = [t for t in ("asr", "st", "mt", "instruct") if any(t in e for e in exposures.values())]
    header = ["system", "updates"]
    for task in tasks:
        header.append(f"{task}, h" if task in ("asr", "st") else f"{task}, tokens")
    for group in groups:
        header += [f"{NAMES[group]} [95 %]", "by seed"]
    body = []
    for system, of in systems.items():
        line = [system, "", *("" for _ in tasks)]
        if system in exposures:
            line[1] = " ".join(f"{r.phase}:{r.config['max_steps']}" for r in runs[system])
            for i, task in enumerate(tasks):
                hours, tokens = exposures[system].get(task, [0.0, 0.0])
                line[2 + i] = f"{hours:.1f}" if task in ("asr", "st") else f"{tokens:,.0f}"
        sign = "+" if "-" in system.partition("@")[2] else ""
        for group in groups:
            line += [interval(of[group], sign), _seeds(of[group], sign)]
        body.append(line)
    for system, of in references.items():
        cells = [c for g in groups for c in (f"{of[g]:.2f}" if g in of else "", "")]
        body.append([REFERENCES[system], "", *("" for _ in tasks), *cells])
    found = [
        [f"{better} - {than}", NAMES[group], interval(e, "+"), _seeds(e, "+"), verdict]
        for better, than, group, e, verdict in claims
    ]
    return "\n".join(
        [
            f"# {name}: {experiment.title}",
            "",
            f"Claim ({experiment.paper}): {experiment.claim}",
            "",
            f"Scale `{run.scale_name}`: corpora {scale.corpora}, model {scale.model}, seeds "
            f"{' '.join(map(str, scale.seeds))}, {n_sets} test sets. Error is the mean of WER (CER "
            "for zh ja ko yue) over the languages, BLEU the mean over the directions, both in the "
            "last phase. Intervals resample sentences and seeds. Hours of audio and tokens of text "
            "are those that the updates read: equal updates are not equal exposure.",
            "",
            markdown(header, body),
            "",
            markdown(["difference", "score", "value [95 %]", "by seed", "claim"], found),
            "",
            "A claim is *shown* where the interval keeps to its side of zero and every seed is on "
            "that side, *opposite* where so on the other side.",
            "",
        ]
    )


def _numbers(run, name, systems, claims, references, exposures) -> dict:
    def plain(estimate: Estimate) -> dict:
        return {"value": estimate.value, "ci95": estimate.ci95, "by_seed": estimate.by_seed}

    return {
        "experiment": name,
        "scale": run.scale_name,
        "seeds": run.scale.seeds,
        "systems": {s: {g: plain(e) for g, e in of.items()} for s, of in systems.items()},
        "claims": [
            {"better": b, "than": t, "by": g, **plain(e), "verdict": v} for b, t, g, e, v in claims
        ],
        "references": references,
        "exposure": exposures,
    }
