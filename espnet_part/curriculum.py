"""Curricula: a list of phases, and the merge of model + phase + overrides into one config.

    curriculum YAML:   phases: ["1", "2a", "2b", "3"]      # names in conf/phase
                       init: latest                        # or best: the checkpoint handed on
                       overrides: {"3": {llm_tasks: [st, mt]}}

Later wins: conf/phase/<N>.yaml, the model YAML's `phases`, the curriculum's `overrides`, what the
model YAML has under `curricula` for this one (no curriculum knows a model's rates), the command
line.
"""

from __future__ import annotations

import difflib
import logging
from pathlib import Path

import yaml

from espnet_part.config import Config
from espnet_part.schema import from_dict, load_yaml

# Their keys are tasks: a layer that changes the tasks gives them anew. Weights of corpora and
# languages merge, as they are of the data, whatever the tasks; 1 takes one back, null all.
WHOLE = ("task_shares", "task_weights")
INIT_FILES = {"latest": "latest.pth", "best": "valid.loss.best.pth"}
log = logging.getLogger(__name__)


def load_curriculum(conf_dir: str | Path, name: str) -> dict:
    """Reads conf/curriculum/<name>.yaml.

    Returns:
        ``{"phases": [...], "init": "latest" | "best", "overrides": {...}}``.

    Raises:
        ValueError: Unknown file or key, a phase listed twice, overrides of a phase not listed.
    """
    path = Path(conf_dir) / "curriculum" / f"{name}.yaml"
    values = load_yaml(path)
    known = ("phases", "init", "overrides")
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise ValueError(f"{path}: unknown key {key}; did you mean {near}?")
    found = values.get("phases")
    phases = [str(phase) for phase in found] if isinstance(found, list) else []
    if not phases or len(set(phases)) != len(phases):
        raise ValueError(f"{path}: phases must be a list of different names, found {found!r}")
    init = values.get("init", "latest")
    if init not in INIT_FILES:
        raise ValueError(f"{path}: init: found {init!r}, expected {' or '.join(INIT_FILES)}")
    overrides = _layers(values.get("overrides"), f"{path}: overrides")
    for phase in overrides:
        if phase not in phases:
            raise ValueError(f"{path}: overrides of phase {phase!r}, but the phases are {phases}")
    return {"phases": phases, "init": init, "overrides": overrides}


def merge(
    conf_dir: str | Path,
    model: str,
    curriculum: str,
    phase: str,
    train: list[str],
    valid: list[str],
    init: str | None = None,
    settings: list[str] | None = None,
) -> Config:
    """Builds the config of one phase.

    Args:
        conf_dir: The recipe's conf folder.
        model: Name of a file in conf/model, or a path that ends in .yaml (from `adopt`).
        curriculum: Name of a file in conf/curriculum.
        phase: One of its phases.
        train: Manifests to train on.
        valid: Manifests to validate on.
        init: Checkpoint of the phase before, or None.
        settings: ``key.sub=value`` from the command line; values are YAML.

    Raises:
        ValueError: Anything unknown, missing or contradictory, with its key.
    """
    conf_dir = Path(conf_dir)
    plan = load_curriculum(conf_dir, curriculum)
    if phase not in plan["phases"]:
        raise ValueError(f"curriculum {curriculum} has phases {plan['phases']}, not {phase!r}")
    model_values = load_yaml(
        model if model.endswith(".yaml") else conf_dir / "model" / f"{model}.yaml"
    )
    per_phase = _layers(model_values.pop("phases", None), f"model {model}: phases")
    known = ["all", *sorted(path.stem for path in (conf_dir / "phase").glob("*.yaml"))]
    for name in per_phase:
        if name not in known:
            raise ValueError(f"model {model}: phases names {name!r}; expected one of {known}")
    own = _of_curriculum(model_values.pop("curricula", None), conf_dir, model, curriculum, plan)
    prompts = model_values.pop("prompts", None) or load_yaml(conf_dir / "prompts.yaml")

    def build(phase: str, settings: list[str]) -> Config:
        values = load_yaml(conf_dir / "phase" / f"{phase}.yaml")
        values = {"phase": phase, **values, "model": model_values, "prompts": prompts}
        for layer in ("all", phase):
            values = _overlay(values, per_phase.get(layer, {}), whole=WHOLE)
        values = _overlay(values, plan["overrides"].get(phase, {}), whole=WHOLE)
        values = _overlay(values, own.get(phase, {}), whole=WHOLE)
        _all_is_lora(values)
        for setting in settings:
            values = _overlay(values, _parse_setting(setting))
        values.update(train=list(train), valid=list(valid), init=init)
        for part in _drop_frozen_rates(values):
            for setting in settings:  # of the user's own: that of a YAML needs no word
                if part in _rates(_parse_setting(setting)):
                    why = f"lr.{part} is not used, for the {part} is frozen there"
                    log.warning("phase %s: setting %s: %s", phase, setting, why)
        return from_dict(Config, values)

    for other in plan["phases"]:  # a typo in the last phase must not show up after days
        try:
            build(other, [])
        except ValueError as error:
            raise ValueError(f"curriculum {curriculum}, phase {other}: {error}") from error
    return build(phase, settings or [])


def adopt(pretrained: str, base: str | Path, out: str | Path) -> str:
    """Makes a model YAML out of a packed model, to train on from it.

    The parts and prompts are the pack's; steps and rates per phase are those of `base`.

    Args:
        pretrained: Zip, folder or hub id of a pack.
        base: A file of conf/model.
        out: The YAML to write.

    Returns:
        The pack's checkpoint.

    Raises:
        ValueError: No pack there.
    """
    # Here, not above: packs are no business of a plain run.
    from espnet_part.unpack import local_model_files, relocated_config

    files = local_model_files(pretrained)
    packed = relocated_config(files["part_train_config"])
    values = {**packed["model"], "prompts": packed["prompts"]}
    steps = load_yaml(base)
    values |= {key: steps.get(key) or {} for key in ("phases", "curricula")}
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    return files["part_model_file"]


def _of_curriculum(
    values: dict | None, conf_dir: Path, model: str, curriculum: str, plan: dict
) -> dict[str, dict]:
    """The model YAML's overrides for one curriculum, by phase; all of them are checked."""
    where = f"model {model}: curricula"
    known = sorted(path.stem for path in (conf_dir / "curriculum").glob("*.yaml"))
    for name in _layers(values, where):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise ValueError(f"{where}: no curriculum {name!r}; did you mean {near[0]}?")
    own = _layers((values or {}).get(curriculum), f"{where}.{curriculum}")
    for phase in own:
        if phase not in plan["phases"]:
            raise ValueError(
                f"{where}.{curriculum}: found phase {phase!r}, not in {plan['phases']}"
            )
    return own


def _overlay(base: dict, layer: dict, whole: tuple[str, ...] = ()) -> dict:
    """A copy of `base` with `layer` on top; dictionaries merge, the rest (and `whole`) does not."""
    out = dict(base)
    for key, value in (layer or {}).items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = _overlay(out[key], value) if both and key not in whole else value
    return out


def _layers(values, where: str) -> dict[str, dict]:
    """Phase name -> keys; raises ValueError if it is anything else."""
    if values is None:
        return {}
    if not isinstance(values, dict) or any(not isinstance(v or {}, dict) for v in values.values()):
        raise ValueError(f"{where}: found {values!r}, expected `<phase>: {{key: value, ...}}`")
    return {str(name): layer or {} for name, layer in values.items()}


def _all_is_lora(values: dict) -> None:
    """Where a phase or curriculum trains the LLM, a model with LoRA trains that in its place."""
    llm = values["model"].get("llm")
    has_lora = isinstance(llm, dict) and llm.get("lora") is not None
    if has_lora and isinstance(values.get("trainable"), dict):
        if values["trainable"].get("llm") == "all":
            values["trainable"] = {**values["trainable"], "llm": "lora"}


def _parse_setting(setting: str) -> dict:
    key, equals, value = setting.partition("=")
    if not equals or not key:
        raise ValueError(f"setting {setting!r}: expected key=value, such as lr.adapter=1e-4")
    try:
        out = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"setting {setting!r}: the value is not YAML: {error}") from error
    for name in reversed(key.split(".")):
        out = {name: out}
    return out


def _rates(values: dict) -> dict:
    rates = values.get("lr")
    return rates if isinstance(rates, dict) else {}


def _drop_frozen_rates(values: dict) -> list[str]:
    """A curriculum that freezes a part of a phase need not repeat the phase's rates without it.

    Returns:
        The parts whose rates went.
    """
    trainable, rates = values.get("trainable"), _rates(values)
    if not rates or not isinstance(trainable, dict):
        return []
    frozen = [part for part in rates if trainable.get(part, "all") in ("none", None)]
    values["lr"] = {part: rate for part, rate in rates.items() if part not in frozen}
    return frozen
