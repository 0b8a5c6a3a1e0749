"""The LLM: any transformers causal LM by hub id, folder or config, with LoRA by peft."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from espnet_part.attention import NAME, packed_inputs
from espnet_part.recompute import recompute_activations

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def build_llm(
    source: str | None = None,
    revision: str | None = None,
    config: dict | None = None,
    dtype: str = "float32",
    lora: dict | None = None,
    gradient_checkpointing: bool = False,
) -> nn.Module:
    """Loads a causal LM, or makes one with random weights from a config.

    Args:
        source: Hub id or folder.
        revision: Of the hub repository.
        config: ``{model_type: qwen2, ...}`` for random weights, where there is no source.
        dtype: float32 or bfloat16. What trains gets fp32 masters later, whatever stands here.
        lora: ``{r, alpha, dropout, targets}``: LoRA tensors injected in place.
        gradient_checkpointing: Recompute activations in the backward pass.

    Raises:
        ValueError: Neither or both of source and config, unknown dtype, targets without a match.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    check_source("llm", source, config)
    if dtype not in DTYPES:
        raise ValueError(
            f"llm.dtype: found {dtype!r}, expected one of {' '.join(DTYPES)} (float16 loses to "
            "overflow in Qwen models)"
        )
    if source is not None:
        llm = AutoModelForCausalLM.from_pretrained(
            source,
            revision=revision,
            dtype=DTYPES[dtype],
            attn_implementation=NAME,
            use_safetensors=True,
        )
    else:
        settings = AutoConfig.for_model(**config)
        llm = AutoModelForCausalLM.from_config(
            settings, dtype=DTYPES[dtype], attn_implementation=NAME
        )
    if lora is not None:
        inject_lora(llm, **lora)
    if gradient_checkpointing:
        recompute_activations(llm)
    check_packing(llm)
    return llm


def build_tokenizer(source: str, revision: str | None = None):
    """Loads the tokenizer of an LLM from a hub id or folder."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source, revision=revision)


def check_source(part: str, source: str | None, config: dict | None) -> None:
    """Raises ValueError unless exactly one of source and config is given and a folder exists."""
    if (source is None) == (config is None):
        raise ValueError(
            f"model.{part}: give either `source` (hub id or folder) or `config` (random weights); "
            f"found source={source!r}, config={config!r}"
        )
    looks_local = source is not None and (source.startswith((".", "/")) or source.count("/") > 1)
    if looks_local and not Path(source).is_dir():
        raise ValueError(
            f"model.{part}.source: no folder {source}; for parts that the recipe makes, run "
            "`./run.sh --stage 5 --stop_stage 5` first"
        )


def inject_lora(llm: nn.Module, r: int, alpha: float, dropout: float, targets: list[str]) -> None:
    """Adds LoRA tensors in place: ``q_proj.weight`` becomes ``q_proj.base_layer.weight``.

    Raises:
        ValueError: A target that no module of the LLM is called by.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = {name.rsplit(".", 1)[-1] for name, m in llm.named_modules() if isinstance(m, nn.Linear)}
    for target in targets:
        if target not in names:
            raise ValueError(
                f"model.llm.lora.targets: no linear layer is called {target!r}; this LLM has "
                f"{' '.join(sorted(names))}"
            )
    inject_adapter_in_model(
        LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets)), llm
    )


@torch.no_grad()
def check_packing(llm: nn.Module) -> None:
    """Raises ValueError if rows of a pack see each other in this LLM.

    That happens where a model's attention does not go through transformers' interface, or its
    blocks carry state along the sequence (state-space models): training would be silently wrong.
    """
    embedding = llm.get_input_embeddings().weight
    if embedding.device.type == "meta":
        return
    was_training = llm.training
    llm.eval()
    embeds_MD = embedding[torch.arange(8, device=embedding.device) % len(embedding)]
    position_M = torch.arange(4, device=embedding.device).repeat(2)
    try:
        both = llm(**packed_inputs(embeds_MD, position_M, [4, 4])).logits[0, 4:].float()
        alone = llm(**packed_inputs(embeds_MD[4:], position_M[4:], [4])).logits[0].float()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{type(llm).__name__} cannot be run packed: {error}") from error
    finally:
        llm.train(was_training)
    spread = alone.std() + 1e-6
    if (both - alone).abs().max() > 0.05 * spread:
        raise ValueError(
            f"{type(llm).__name__} mixes the rows of a packed batch: its layers do not use "
            "transformers' attention interface; choose another LLM"
        )
