"""What an experiment trains: arms, their phases with all settings, and what they share.

A *scale* names corpus, model, seeds and length, an *arm* is a curriculum with settings of its own
(conf/experiments.yaml). Every arm of a scale gets as many updates as the curriculum `part`: one of
fewer phases has the rest in its last phase. Phases that are equal in all settings, and start from
equal ones, are trained once per seed.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from espnet_part.curriculum import load_curriculum, merge
from espnet_part.prompt import LANGUAGES, LIDS
from espnet_part.schema import from_dict, load_yaml, to_dict

ALSO = ("layers", "text_skills", "inside")
BY = ("error", "bleu", "bleu_ill", "bleu_other")
MEASURE = "part"  # the curriculum whose updates all arms get


@dataclass
class Scale:
    """How large the arms of an experiment are."""

    corpora: str
    model: str
    seeds: list[int]
    updates: float  # factor on the model YAML's max_steps
    test_sets: str  # globs of test sets
    dev_set: str  # what layers are measured on
    sentence: str  # pattern in utterance ids; its group names the sentence, "" has none
    ill_resourced: list[str]  # target languages of bleu_ill

    def __post_init__(self):
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: found {self.seeds}, expected different numbers")
        if not self.updates > 0:
            raise ValueError(f"updates: found {self.updates}, expected more than 0")
        for code in self.ill_resourced:
            if code not in LANGUAGES:
                raise ValueError(f"ill_resourced: found {code!r}, expected {' '.join(LANGUAGES)}")


@dataclass
class Arm:
    """A curriculum, and settings beside it: phase -> key -> value."""

    curriculum: str
    settings: dict[str, dict] = field(default_factory=dict)


@dataclass
class Claim:
    """That one system is better than another."""

    better: str
    than: str
    by: list[str]

    def __post_init__(self):
        for name in self.by:
            if name not in BY:
                raise ValueError(f"by: found {name!r}, expected {' '.join(BY)}")
        for name in (self.better, self.than):
            for lid in lids_of(name):
                if lid not in LIDS:
                    raise ValueError(
                        f"{name!r}: found {lid!r} behind @, expected {' '.join(LIDS)} or two of "
                        "them, such as part@wrong-right"
                    )


@dataclass
class Experiment:
    """What the paper claims, and the arms that show whether it is so."""

    title: str
    claim: str
    paper: str
    claims: list[Claim]
    also: str | None = None  # what else is measured: layers | text_skills | inside

    def __post_init__(self):
        if self.also not in (None, *ALSO):
            raise ValueError(f"also: found {self.also!r}, expected {' '.join(ALSO)}")
        if not self.claims:
            raise ValueError("claims: found none; an experiment compares at least two arms")

    @property
    def systems(self) -> list[str]:
        """All that the claims name, the reference of a comparison first."""
        return list(dict.fromkeys(s for claim in self.claims for s in (claim.than, claim.better)))

    @property
    def arms(self) -> list[str]:
        """The arms of the systems."""
        return list(dict.fromkeys(arm_of(system) for system in self.systems))

    def lids(self, arm: str) -> list[str]:
        """Languages in the prompt when an arm is decoded: right, and what claims ask for."""
        found = {lid for s in self.systems if arm_of(s) == arm for lid in lids_of(s)}
        return [lid for lid in LIDS if lid == "right" or lid in found]


@dataclass(frozen=True)
class Plan:
    """conf/experiments.yaml."""

    scales: dict[str, Scale]
    arms: dict[str, Arm]
    experiments: dict[str, Experiment]


@dataclass(frozen=True)
class PhaseRun:
    """One phase of one arm with one seed.

    Attributes:
        arm: Name of the arm.
        phase: Of its curriculum.
        settings: What is laid over the YAMLs, ``key=value``.
        config: Merged, as in config.yaml, but for where it starts from.
        digest: Equal for phases that train the same from the same.
        before: The phase that it starts from, None for the first one.
    """

    arm: str
    phase: str
    settings: tuple[str, ...]
    config: dict
    digest: str
    before: PhaseRun | None


def arm_of(system: str) -> str:
    """The arm of a system: part for part@none."""
    return system.partition("@")[0]


def lids_of(system: str) -> list[str]:
    """Languages in the prompt: [right] for part, [none, right] for part@none-right."""
    _, at, rest = system.partition("@")
    return rest.split("-") if at else ["right"]


def read_plan(path: Path) -> Plan:
    """Reads conf/experiments.yaml.

    Raises:
        ValueError: Something unknown, missing or of another type, with its place.
    """
    values = load_yaml(path)
    kinds = {"scales": Scale, "arms": Arm, "experiments": Experiment}
    if set(values) != set(kinds):
        raise ValueError(f"{path}: found {' '.join(values)}, expected {' '.join(kinds)}")
    found: dict[str, dict] = {}
    for key, kind in kinds.items():
        try:
            found[key] = {
                str(name): from_dict(kind, entry, f"{name}.") for name, entry in values[key].items()
            }
        except ValueError as error:
            raise ValueError(f"{path}: {key}: {error}") from error
    plan = Plan(**found)
    for name, experiment in plan.experiments.items():
        for arm in experiment.arms:
            chosen(plan.arms, arm, f"{path}: experiments.{name}: no arm")
    return plan


def chosen(items: dict, name: str, what: str):
    """One of some named things.

    Raises:
        ValueError: There is none of that name; the nearest one is named.
    """
    if name not in items:
        near = difflib.get_close_matches(name, items, n=1, cutoff=0.0)[0]
        raise ValueError(f"{what} {name!r}; did you mean {near!r}? There are: {' '.join(items)}")
    return items[name]


def arm_phases(
    conf_dir: Path, scale: Scale, name: str, arm: Arm, seed: int, train: list[str], valid: list[str]
) -> list[PhaseRun]:
    """The phases of an arm with one seed, in order.

    Args:
        conf_dir: The recipe's conf folder.
        scale: Corpus, model and length.
        name: Of the arm.
        arm: Its curriculum and settings.
        seed: Of order, augmentation and dropout.
        train: Manifests to train on.
        valid: Manifests to validate on.

    Raises:
        ValueError: A YAML that does not fit, settings of a phase that the arm does not have, or
            no updates left for its last phase.
    """
    phases = load_curriculum(conf_dir, arm.curriculum)["phases"]
    for phase in arm.settings:
        if phase not in phases:
            raise ValueError(
                f"arm {name}: settings of phase {phase!r}, expected {' '.join(phases)}"
            )
    total = sum(_steps(conf_dir, scale.model, scale.updates, MEASURE).values())
    steps = dict(_steps(conf_dir, scale.model, scale.updates, arm.curriculum))
    steps[phases[-1]] = total - sum(steps[phase] for phase in phases[:-1])
    if steps[phases[-1]] < 1:
        raise ValueError(
            f"arm {name}: phases {' '.join(phases[:-1])} take all of the {total} updates that "
            f"the curriculum {MEASURE} has; shorten them in the model YAML"
        )
    runs: list[PhaseRun] = []
    for phase in phases:
        settings = _settings(scale, steps[phase], seed, arm.settings.get(phase, {}))
        merged = merge(
            *(conf_dir, scale.model, arm.curriculum, phase, train, valid), None, list(settings)
        )
        config = to_dict(merged)
        before = runs[-1] if runs else None
        # A key that a later version adds must not make a run of this one another.
        told = _without_defaults(merged)
        text = json.dumps([told, before.digest if before else None], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        runs.append(PhaseRun(name, phase, settings, config, digest, before))
    return runs


def _without_defaults(config) -> dict:
    """What of a config is not as its dataclass has it."""
    kept = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        default = item.default
        if item.default_factory is not dataclasses.MISSING:
            default = item.default_factory()
        if value != default:
            nested = dataclasses.is_dataclass(value)
            kept[item.name] = _without_defaults(value) if nested else value
    return kept


@cache
def _steps(conf_dir: Path, model: str, updates: float, curriculum: str) -> dict[str, int]:
    """Updates of each phase at a scale."""
    found = {}
    for phase in load_curriculum(conf_dir, curriculum)["phases"]:
        config = merge(conf_dir, model, curriculum, phase, ["-"], [])
        found[phase] = max(1, round(config.max_steps * updates))
    return found


def _settings(scale: Scale, steps: int, seed: int, own: dict) -> tuple[str, ...]:
    warmup = f"warmup_steps={max(1, steps // 20)}"
    half = -(-steps // 2)  # dev is looked at twice
    fixed = [f"seed={seed}", f"max_steps={steps}", warmup]
    fixed += [f"valid_interval={half}", f"save_interval={half}"]
    return (*fixed, *(f"{key}={json.dumps(value)}" for key, value in own.items()))
