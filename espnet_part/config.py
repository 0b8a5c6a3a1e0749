"""The configuration of a run: every key that a YAML may have, its default, and what it does.

Model YAML + phase YAML + overrides merge into one ``config.yaml``, which alone repeats the run.
A key that stands nowhere here is an error that names the nearest one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from espnet_part.prompt import TASKS


@dataclass
class EncoderConfig:
    """The speech encoder."""

    kind: str  # whisper | sensevoice | transformers | espnet
    source: str | None = None  # hub id or folder
    revision: str | None = None  # of the hub repository
    config: dict | None = None  # random weights, where there is no source
    dtype: str = "float32"  # of what is frozen: float32 | bfloat16


@dataclass
class AdapterConfig:
    """The adapter."""

    kind: str = "conv_transformer"  # or stack_mlp
    stride: int = 2  # encoder frames per LLM position
    kernel: int = 3  # of the CNN
    layers: int = 2  # transformer layers
    heads: int = 8
    ffn: int = 4096
    dropout: float = 0.0


@dataclass
class LoraConfig:
    """LoRA tensors in the LLM, by peft."""

    r: int = 16
    alpha: float = 32
    dropout: float = 0.0
    targets: list[str] = field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"])


@dataclass
class LLMConfig:
    """The large language model."""

    source: str | None = None  # hub id or folder
    revision: str | None = None  # of the hub repository
    config: dict | None = None  # random weights, where there is no source
    tokenizer: str | None = None  # hub id or folder; default: the source
    dtype: str = "float32"  # of what is frozen: float32 | bfloat16
    lora: LoraConfig | None = None
    gradient_checkpointing: bool = False  # recompute activations: less memory, a third slower


@dataclass
class ModelConfig:
    """The three parts."""

    encoder: EncoderConfig
    llm: LLMConfig
    adapter: AdapterConfig = field(default_factory=AdapterConfig)


@dataclass
class SpecAugmentConfig:
    """Spans of features masked in training."""

    time_masks: int = 2
    time_width: float = 0.1  # longest span, as a share of the clip
    freq_masks: int = 2
    freq_width: float = 0.2  # widest span, as a share of the bins


@dataclass
class Config:
    """One phase, ready to run."""

    phase: str  # 0 1 2a 2b 3
    model: ModelConfig
    trainable: dict[str, str | list[str]]  # part -> none | all | last:N | lora | [globs]
    tasks: list[str]  # what the phase trains on
    lr: dict[str, float]  # part -> peak learning rate
    max_steps: int  # optimizer steps
    prompts: dict[str, dict[str, str]]  # conf/prompts.yaml
    train: list[str] = field(default_factory=list)  # manifests
    valid: list[str] = field(default_factory=list)  # manifests
    init: str | None = None  # checkpoint of the phase before
    llm_tasks: str | list[str] = "all"  # rows of which tasks may update the LLM
    batch_cost: float = 20000  # of one update, all processes: 25 per second of speech, 1 per token
    micro_cost: float = 20000  # of one forward of one process: what fits its memory
    warmup_steps: int = 100
    schedule: str = "cosine"  # after the warm-up: cosine | linear | constant
    final_lr: float = 0.0  # where the schedule ends, as a share of the peak
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    weight_decay: float = 0.01  # matrices only
    clip_norm: float = 1.0
    task_shares: dict[str, float] | None = None  # share of each task's cost; None: as in the data
    task_weights: dict[str, float] | None = None  # factor on each task's loss; None: 1
    source_dropout: float = 0.2  # share of prompts that do not name the source language
    speed_perturb: list[float] | None = None  # factors, one drawn per row and step
    spec_augment: SpecAugmentConfig | None = None
    compute_dtype: str = "auto"  # float32 | bfloat16 | auto: bfloat16 on a GPU or where a part is
    seed: int = 0
    valid_interval: int = 500  # steps
    save_interval: int = 500  # steps
    log_interval: int = 20  # steps
    listen_rows: int = 64  # dev rows also read with the wrong audio; 0 switches the probe off
    wandb_project: str | None = None  # also log to Weights & Biases

    def __post_init__(self):
        check_config(self)


def check_config(config: Config) -> None:
    """Raises ValueError where values do not go together."""
    for key in ("tasks", "llm_tasks"):
        value = getattr(config, key)
        for task in [] if value == "all" else value:
            if task not in TASKS:
                raise ValueError(
                    f"{key}: unknown task {task!r}; expected some of {' '.join(TASKS)}"
                )
    if not config.tasks:
        raise ValueError("tasks: found none; a phase needs at least one task to train on")
    trained = [
        part for part, selector in config.trainable.items() if selector not in ("none", None)
    ]
    if not trained:
        raise ValueError("trainable: no part trains; give one of encoder, adapter, llm a selector")
    if config.llm_tasks != "all":
        if "llm" not in trained:
            raise ValueError("llm_tasks is set, but the LLM is frozen (trainable.llm: none)")
        if not config.llm_tasks:
            raise ValueError("llm_tasks: found no task; to freeze the LLM set trainable.llm: none")
        for task in config.llm_tasks:
            if task not in config.tasks:
                raise ValueError(
                    f"llm_tasks names {task!r}, but the phase trains on {config.tasks}"
                )
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
    for key in ("task_shares", "task_weights"):
        for task in getattr(config, key) or {}:
            if task not in config.tasks:
                raise ValueError(f"{key} names {task!r}, but the phase trains on {config.tasks}")
    for part in trained:
        if part not in config.lr:
            raise ValueError(f"lr.{part} is missing: {part} trains in phase {config.phase}")
    for part in config.lr:
        if part not in trained:
            raise ValueError(f"lr.{part} is set, but {part} is frozen in phase {config.phase}")
    choices = {
        "schedule": ("cosine", "linear", "constant"),
        "compute_dtype": ("auto", "float32", "bfloat16"),
    }
    for key, allowed in choices.items():
        if getattr(config, key) not in allowed:
            raise ValueError(
                f"{key}: found {getattr(config, key)!r}, expected {' | '.join(allowed)}"
            )
    narrow = [p for p in ("encoder", "llm") if getattr(config.model, p).dtype == "bfloat16"]
    if config.compute_dtype == "float32" and narrow:
        raise ValueError(
            f"compute_dtype: float32, but model.{narrow[0]}.dtype is bfloat16; set both to float32"
        )
    positive = (
        "max_steps",
        "batch_cost",
        "micro_cost",
        "clip_norm",
        "valid_interval",
        "save_interval",
        "log_interval",
    )
    for key in positive:
        if not getattr(config, key) > 0:
            raise ValueError(f"{key}: found {getattr(config, key)!r}, expected more than 0")
    if not 0 <= config.source_dropout <= 1:
        raise ValueError(f"source_dropout: found {config.source_dropout!r}, expected 0 to 1")
    for factor in config.speed_perturb or []:
        if not 0.5 <= factor <= 2:
            raise ValueError(f"speed_perturb: found {factor!r}, expected factors from 0.5 to 2")
