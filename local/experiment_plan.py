"""What an experiment trains: the phases of its arms with all settings, and what they share.

Every arm of a scale (experiment_conf.py) gets as many updates as the curriculum `part`: one of
fewer phases has the rest in its last phase. Phases that are equal in all settings, and start from
equal ones, are trained once per seed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from experiment_conf import Arm, Scale

from espnet_part.curriculum import load_curriculum, merge
from espnet_part.schema import to_dict

MEASURE = "part"  # the curriculum whose updates all arms get


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
        told.pop("valid", None)  # dev is only looked at
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
        config = merge(conf_dir, model, curriculum, phase, ["-"], ["-"])
        found[phase] = max(1, round(config.max_steps * updates))
    return found


def _settings(scale: Scale, steps: int, seed: int, own: dict) -> tuple[str, ...]:
    warmup = f"warmup_steps={max(1, steps // 20)}"
    half = -(-steps // 2)  # dev is looked at twice
    fixed = [f"seed={seed}", f"max_steps={steps}", warmup]
    fixed += [f"valid_interval={half}", f"save_interval={half}"]
    return (*fixed, *(f"{key}={json.dumps(value)}" for key, value in own.items()))
