"""conf/experiments.yaml: scales, arms, and experiments with what they claim.

A *scale* names corpus, model, seeds and length, an *arm* is a curriculum with settings of its own,
an *experiment* compares arms.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from pathlib import Path

from espnet_part.prompt import LANGUAGES, LIDS
from espnet_part.schema import from_dict, load_yaml

ALSO = ("layers", "text_skills", "inside")
BY = ("error", "bleu", "bleu_ill", "bleu_other")


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
        try:
            groups = re.compile(self.sentence).groups
        except re.error as error:
            raise ValueError(f"sentence: {self.sentence!r} is no pattern ({error})") from error
        if self.sentence and groups != 1:
            raise ValueError(
                f"sentence: found {groups} groups in {self.sentence!r}, expected one, (...): what "
                "names the sentence in an utterance id"
            )
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
        if not self.by:
            raise ValueError(f"by: found none, expected some of {' '.join(BY)}")
        if self.better == self.than:
            raise ValueError(f"better and than are both {self.better!r}")
        for name in self.by:
            if name not in BY:
                raise ValueError(f"by: found {name!r}, expected {' '.join(BY)}")
        for name in (self.better, self.than):
            if len(lids_of(name)) > 2:
                raise ValueError(f"{name!r}: expected one or two of {' '.join(LIDS)} behind @")
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
        if self.also == "layers" and len(self.arms) != 2:
            raise ValueError(f"also: layers compares two arms, found {' '.join(self.arms)}")

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
        if not isinstance(values[key], dict):
            raise ValueError(f"{path}: {key}: found {values[key]!r}, expected names with settings")
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
