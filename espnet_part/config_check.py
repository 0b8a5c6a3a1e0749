"""Whether the values of a config go together; every error names its key."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from espnet_part.alignment_check import check_alignment
from espnet_part.prompt import LANGUAGES, TASKS, check_templates

if TYPE_CHECKING:
    from espnet_part.config import Config

PARTS = ("encoder", "adapter", "llm")
CHOICES = {
    "schedule": ("cosine", "linear", "constant"),
    "compute_dtype": ("auto", "float32", "bfloat16"),
}
POSITIVE = (
    "max_steps",
    "batch_cost",
    "micro_cost",
    "clip_norm",
    "temperature",
    "valid_interval",
    "save_interval",
    "log_interval",
)
NOT_NEGATIVE = (
    "warmup_steps",
    "weight_decay",
    "seed",
    "valid_rows",
    "listen_rows",
    "encoder_cache_gb",
)
SHARES = ("source_dropout", "final_lr")


def check_config(config: Config) -> None:
    """Raises ValueError where values do not go together."""
    trained = _check_parts(config)
    _check_tasks(config, trained)
    _check_weights(config)
    _check_lora(config)
    _check_numbers(config)
    _check_cache(config, trained)
    check_alignment(config, trained)
    narrow = [p for p in ("encoder", "llm") if getattr(config.model, p).dtype == "bfloat16"]
    if config.compute_dtype == "float32" and narrow:
        raise ValueError(
            f"compute_dtype: float32, but model.{narrow[0]}.dtype is bfloat16; set both to float32"
        )
    check_templates(config.prompts)


def _check_parts(config: Config) -> list[str]:
    """Returns the parts that train."""
    for key in ("trainable", "lr"):
        for part in getattr(config, key):
            if part not in PARTS:
                near = difflib.get_close_matches(part, PARTS, n=1, cutoff=0.0)[0]
                raise ValueError(f"unknown key {key}.{part}; did you mean {key}.{near}?")
    trained = [part for part, selector in config.trainable.items() if selector != "none"]
    if not trained:
        raise ValueError("trainable: no part trains; give one of encoder, adapter, llm a selector")
    for part in trained:
        if part not in config.lr:
            raise ValueError(f"lr.{part} is missing: {part} trains in phase {config.phase}")
    for part in config.lr:
        if part not in trained:
            raise ValueError(f"lr.{part} is set, but {part} is frozen in phase {config.phase}")
    return trained


def _check_tasks(config: Config, trained: list[str]) -> None:
    if not config.tasks:
        raise ValueError("tasks: found none; a phase needs at least one task to train on")
    for key in ("tasks", "llm_tasks"):
        value = getattr(config, key)
        if isinstance(value, str) and value != "all":
            raise ValueError(f"{key}: found {value!r}, expected all, or a list such as [{value}]")
        for task in [] if value == "all" else value:
            if task not in TASKS:
                raise ValueError(
                    f"{key}: unknown task {task!r}; expected some of {' '.join(TASKS)}"
                )
    if config.llm_tasks != "all":
        if "llm" not in trained:
            raise ValueError("llm_tasks is set, but the LLM is frozen (trainable.llm: none)")
        if not config.llm_tasks:
            raise ValueError("llm_tasks: found no task; to freeze the LLM set trainable.llm: none")
    for key in ("llm_tasks", "task_shares", "task_weights"):
        value = getattr(config, key)
        for task in [] if value in ("all", None) else value:
            if task not in config.tasks:
                raise ValueError(f"{key} names {task!r}, but the phase trains on {config.tasks}")
    for key in ("task_shares", "task_weights"):
        values = getattr(config, key) or {}
        for task, value in values.items():
            # A task of share 0 would be listed in `tasks` and never seen.
            if not (value > 0 or (value == 0 and key == "task_weights")):
                raise ValueError(f"{key}.{task}: found {value!r}, expected more than 0")
        if values and not any(values.get(task, 1) for task in config.tasks):
            raise ValueError(f"{key}: all are 0; nothing would be learned")


def _check_weights(config: Config) -> None:
    for key in ("corpus_weights", "language_weights"):
        for name, value in (getattr(config, key) or {}).items():
            if not 0 < value < float("inf"):
                raise ValueError(f"{key}.{name}: found {value!r}, expected more than 0")
    if "" in (config.corpus_weights or {}):
        raise ValueError("corpus_weights: found an empty name; expected names of training sets")
    for name in config.language_weights or {}:
        src, dash, tgt = name.partition("-")
        if src not in LANGUAGES or (dash and (tgt not in LANGUAGES or tgt == src)):
            raise ValueError(
                f"language_weights: found {name!r}, expected a language such as yue, or "
                f"source-target such as en-ar, of the codes {' '.join(LANGUAGES)}"
            )


def _check_lora(config: Config) -> None:
    selector, lora = config.trainable.get("llm"), config.model.llm.lora
    if selector == "all" and lora is not None:
        raise ValueError(
            "trainable.llm: all, but the model has LoRA (model.llm.lora), which is there to train "
            "in place of the rest; set trainable.llm: lora, or take a model YAML without llm.lora"
        )
    if selector == "lora" and lora is None:
        raise ValueError(
            "trainable.llm: lora, but the model has none; give the model YAML "
            "`llm.lora: {r: ..., alpha: ..., dropout: ..., targets: [...]}`"
        )


def _check_cache(config: Config, trained: list[str]) -> None:
    changes = {
        "trainable.encoder": "encoder" in trained,
        "speed_perturb": bool(config.speed_perturb),
        "spec_augment": config.spec_augment is not None,
    }
    for key in changes:
        if config.encoder_cache_gb and changes[key]:
            raise ValueError(
                f"encoder_cache_gb: found {config.encoder_cache_gb}, but with {key} the encoder's "
                f"frames change from step to step; set it to 0 in phase {config.phase}"
            )


def _check_numbers(config: Config) -> None:
    def fail(key: str, expected: str):
        raise ValueError(f"{key}: found {getattr(config, key)!r}, expected {expected}")

    for key, allowed in CHOICES.items():
        if getattr(config, key) not in allowed:
            fail(key, " | ".join(allowed))
    for key in POSITIVE:
        if not getattr(config, key) > 0:
            fail(key, "more than 0")
    for key in NOT_NEGATIVE:
        if not getattr(config, key) >= 0:
            fail(key, "0 or more")
    for key in SHARES:
        if not 0 <= getattr(config, key) <= 1:
            fail(key, "0 to 1")
    for part, rate in config.lr.items():
        if not 0 < rate < float("inf"):
            raise ValueError(f"lr.{part}: found {rate!r}, expected more than 0")
    if len(config.betas) != 2 or not all(0 <= beta < 1 for beta in config.betas):
        fail("betas", "two numbers from 0 to below 1")
    if not all(0.5 <= factor <= 2 for factor in config.speed_perturb or []):
        fail("speed_perturb", "factors from 0.5 to 2")
    masks = config.spec_augment
    for axis in ("time", "freq") if masks is not None else ():
        count, width = getattr(masks, f"{axis}_masks"), getattr(masks, f"{axis}_width")
        if count < 0 or not 0 <= width <= 1:
            raise ValueError(
                f"spec_augment: found {count} {axis} masks of width {width}, expected 0 or more, "
                "as a share from 0 to 1"
            )
