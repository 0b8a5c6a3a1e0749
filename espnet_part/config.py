"""The configuration of a run: every key that a YAML may have, its default, and what it does.

Model YAML + phase YAML + overrides merge into one ``config.yaml``, which alone repeats the run.
A key that stands nowhere here is an error that names the nearest one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from espnet_part.config_check import check_config


@dataclass
class EncoderConfig:
    """The speech encoder."""

    kind: str  # whisper | sensevoice | transformers | espnet
    source: str | None = None  # hub id or folder
    revision: str | None = None  # of the hub repository
    config: dict | None = None  # random weights, where there is no source
    dtype: str = "float32"  # of what is frozen: float32 | bfloat16
    gradient_checkpointing: bool = False  # recompute activations: less memory, a third slower


@dataclass
class AdapterConfig:
    """The adapter."""

    kind: str = "conv_transformer"  # or stack_mlp
    stride: int = 2  # encoder frames per LLM position
    kernel: int = 3  # of the CNN
    channels: int | None = None  # of the CNN; default: the LLM's width
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
class AlignmentConfig:
    """Inner speech-text alignment (AI-STA), on rows with a transcript."""

    layers: list[int] | str = field(default_factory=lambda: [0, 1])  # 0: embeddings; or adaptive
    weight: float = 0.1  # of the transport cost beside the cross-entropy
    epsilon: float = 0.05  # regularization, as a share of a row's mean cost
    iterations: int = 50  # of Sinkhorn's algorithm
    position: float = 1.0  # weight of the place within the sequence as a feature; 0: without
    detach_text: bool = True  # the text side stands still; false: it moves towards speech too
    adapt_interval: int = 0  # adaptive: steps between choices of the layers; 0: only at the start
    max_layers: int = 2  # adaptive: how many layers at most
    adapt_rows: int = 200  # adaptive: dev rows that the choice reads


@dataclass
class Config:
    """One phase, ready to run."""

    phase: str  # 0 1 2a 2b 3
    model: ModelConfig  # encoder, adapter and llm, as in conf/model
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
    warmup_steps: int = 100  # linear, up to the peak
    schedule: str = "cosine"  # after the warm-up: cosine | linear | constant
    final_lr: float = 0.0  # where the schedule ends, as a share of the peak
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])  # of AdamW
    weight_decay: float = 0.01  # matrices only
    clip_norm: float = 1.0  # of the gradient of all parts together
    task_shares: dict[str, float] | None = None  # share of each task's cost; None: as in the data
    temperature: float = 1.0  # of training set x language pair within a task; above 1: more even
    corpus_weights: dict[str, float] | None = None  # glob of training sets -> factor on their share
    language_weights: dict[str, float] | None = None  # yue or en-ar -> factor on their share
    task_weights: dict[str, float] | None = None  # factor on each task's loss; None: 1
    source_dropout: float = 0.2  # share of prompts that do not name the source language
    speed_perturb: list[float] | None = None  # factors, one drawn per row and step
    spec_augment: SpecAugmentConfig | None = None  # spans of features masked; {} has defaults
    alignment: AlignmentConfig | None = None  # AI-STA: speech towards its transcript; {}: defaults
    encoder_cache_gb: float = 0.0  # disk for a frozen encoder's frames, computed once; 0: never
    compute_dtype: str = "auto"  # float32 | bfloat16 | auto: bfloat16 on a GPU or where a part is
    seed: int = 0  # of order, augmentation and dropout
    valid_interval: int = 500  # steps
    save_interval: int = 500  # steps
    log_interval: int = 20  # steps
    valid_rows: int = 0  # of each dev set, spread evenly, the same each time; 0: all of them
    listen_rows: int = 64  # dev rows also read with the wrong audio; 0 switches the probe off
    wandb_project: str | None = None  # also log to Weights & Biases

    def __post_init__(self):
        check_config(self)
