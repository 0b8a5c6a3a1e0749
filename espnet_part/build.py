"""Builds a PARTModel from a config: the parts from their sources, then the whole."""

from __future__ import annotations

import dataclasses

from espnet_part.adapter import build_adapter, match_scale
from espnet_part.augment import SpecAugment
from espnet_part.config import Config, ModelConfig
from espnet_part.encoder import build_encoder
from espnet_part.llm import build_llm, build_tokenizer
from espnet_part.model import PARTModel
from espnet_part.prompt import Prompter


def build_model(config: Config) -> PARTModel:
    """Builds encoder, adapter and LLM from a config and composes them.

    Raises:
        ValueError: Anything missing or contradictory, with its key.
    """
    llm = config.model.llm
    tokenizer_source = llm.tokenizer or llm.source
    if tokenizer_source is None:
        raise ValueError("model.llm.tokenizer is missing: random weights come without a tokenizer")
    revision = llm.revision if tokenizer_source == llm.source else None
    tokenizer = build_tokenizer(tokenizer_source, revision)
    model = build_parts(config.model, Prompter(tokenizer, config.prompts))
    vocabulary = model.llm.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > vocabulary:
        raise ValueError(
            f"the tokenizer {tokenizer_source} has {len(tokenizer)} tokens, the LLM embeds "
            f"{vocabulary}: they do not belong together"
        )
    if config.spec_augment is not None:
        model.spec_augment = SpecAugment(**dataclasses.asdict(config.spec_augment))
    return model


def build_parts(parts: ModelConfig, prompter: Prompter | None) -> PARTModel:
    """Builds the parts and composes them; without a prompter there are no prompts, only ids."""
    values = dataclasses.asdict(parts.encoder)
    recompute = values.pop("gradient_checkpointing")
    encoder = build_encoder(**values)
    if recompute:
        encoder.gradient_checkpointing_enable()
    lora = dataclasses.asdict(parts.llm.lora) if parts.llm.lora else None
    llm = build_llm(
        parts.llm.source,
        parts.llm.revision,
        parts.llm.config,
        parts.llm.dtype,
        lora,
        parts.llm.gradient_checkpointing,
    )
    adapter_values = dataclasses.asdict(parts.adapter)
    adapter = build_adapter(
        input_size=encoder.output_size, output_size=llm.config.hidden_size, **adapter_values
    )
    match_scale(adapter, llm.get_input_embeddings().weight)
    return PARTModel(
        encoder,
        adapter,
        llm,
        prompter,
        {"encoder": parts.encoder.source, "adapter": None, "llm": parts.llm.source},
        lora,
        {key: value for key, value in adapter_values.items() if key != "dropout"},
    )
