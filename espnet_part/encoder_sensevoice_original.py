"""SenseVoiceSmall's original files, ``model.pt`` and ``am.mvn``, as a FunAsrNanoEncoder.

FunASR fuses query, key and value, keeps the first block apart and counts two stacks of blocks;
transformers splits the projections and has one list.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import FunAsrNanoEncoder, FunAsrNanoEncoderConfig

from espnet_part.encoder_hub import find_file, load_pickled
from espnet_part.encoder_sensevoice import Frontend, SenseVoiceEncoder

# Rows of SenseVoiceSmall's `embed.weight`: language "auto", event, emotion, and the text style.
QUERY_ROWS = {"withitn": (0, 1, 2, 14), "woitn": (0, 1, 2, 15)}
NAMES = {
    "self_attn.linear_out.": "self_attn.o_proj.",
    "self_attn.fsmn_block.": "self_attn.fsmn.conv.",
    "feed_forward.w_1.": "mlp.fc1.",
    "feed_forward.w_2.": "mlp.fc2.",
    "norm1.": "input_layernorm.",
    "norm2.": "post_attention_layernorm.",
}
FUSED = "self_attn.linear_q_k_v."
BLOCK = re.compile(r"(encoders0|encoders|tp_encoders)\.(\d+)\.(.+)")


def convert_weights(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], int, int]:
    """Renames FunASR's encoder weights.

    Args:
        state: FunASR's state dict; names may start with ``encoder.``; other parts are ignored.

    Returns:
        Weights of a `FunAsrNanoEncoder`, its number of blocks and how many of them are the second
        stack (``tp_encoders``).

    Raises:
        ValueError: A weight of the encoder has an unknown name, or no block was found.
    """
    prefixed = any(name.startswith("encoder.") for name in state)
    state = {
        name.removeprefix("encoder."): value
        for name, value in state.items()
        if name.startswith("encoder.") or not prefixed
    }
    places = [match for match in map(BLOCK.fullmatch, state) if match]
    if not places:
        raise ValueError(
            f"SenseVoice weights: found no block `encoders.N` among {len(state)} names, expected "
            "the model.pt of SenseVoiceSmall"
        )
    counts = {stack: 0 for stack in ("encoders0", "encoders", "tp_encoders")}
    for match in places:
        counts[match[1]] = max(counts[match[1]], int(match[2]) + 1)
    first = counts["encoders0"] + counts["encoders"]
    total = first + counts["tp_encoders"]
    offsets = {"encoders0": 0, "encoders": counts["encoders0"], "tp_encoders": first}
    norms = {"after_norm.": f"layers.{first - 1}.", "tp_norm.": f"layers.{total - 1}."}

    converted = {}
    for name, value in state.items():
        place = BLOCK.fullmatch(name)
        if place is None:
            norm = next((norm for norm in norms if name.startswith(norm)), None)
            if norm is not None:
                converted[norms[norm] + "final_layernorm." + name[len(norm) :]] = value.clone()
            elif prefixed:
                raise ValueError(f"SenseVoice weights: unknown name encoder.{name}")
            continue
        block = f"layers.{offsets[place[1]] + int(place[2])}."
        if place[3].startswith(FUSED):
            kind = place[3][len(FUSED) :]
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                converted[f"{block}self_attn.{part}_proj.{kind}"] = rows.clone()
            continue
        old = next((old for old in NAMES if place[3].startswith(old)), None)
        if old is None:
            raise ValueError(f"SenseVoice weights: unknown name {name}")
        converted[block + NAMES[old] + place[3][len(old) :]] = value.clone()
    return converted, total, counts["tp_encoders"]


def read_am_mvn(path: Path) -> tuple[Tensor, Tensor]:
    """Shift and scale (F,) of Kaldi's text file: normalized = (features + shift) * scale.

    Raises:
        ValueError: The file has another form.
    """
    text = path.read_text(encoding="utf-8")
    vectors = []
    for tag in ("<AddShift>", "<Rescale>"):
        match = re.search(tag + r".*?\[([^\]]*)\]", text, re.DOTALL)
        if match is None:
            raise ValueError(
                f"{path}: found no {tag} [ ... ], expected Kaldi's am.mvn in text form"
            )
        vectors.append(torch.tensor([float(number) for number in match[1].split()]))
    if len(vectors[0]) != len(vectors[1]):
        raise ValueError(f"{path}: {len(vectors[0])} shifts but {len(vectors[1])} scales")
    return vectors[0], vectors[1]


def load_original(
    source: str, revision: str | None, options: dict, dtype: torch.dtype
) -> SenseVoiceEncoder:
    """Builds the encoder from a folder or hub id with ``model.pt`` and ``am.mvn``.

    Args:
        source: Hub id or folder.
        revision: Revision of a hub id.
        options: ``query`` and ``waveform_scale`` of the model YAML.
        dtype: Data type of the weights.

    Raises:
        ValueError: A file is missing, or weights and options do not fit.
    """
    query = options.get("query")
    if query is not None and query not in QUERY_ROWS:
        raise ValueError(
            f"encoder.config.query: found {query!r}, expected null, {' or '.join(QUERY_ROWS)}"
        )
    file, mvn = (find_file(source, name, revision) for name in ("model.pt", "am.mvn"))
    if file is None or mvn is None:
        raise ValueError(f"encoder.source {source}: found model.pt but no am.mvn beside it")
    state = load_pickled(file)
    state = state.get("state_dict", state.get("model", state))
    weights, layers, second = convert_weights(state)
    shift, scale = read_am_mvn(mvn)
    config = _sizes(weights, layers, second, source)
    if len(shift) != config.input_size:
        raise ValueError(f"{mvn}: found {len(shift)} values, expected {config.input_size}")
    with torch.device("meta"):
        model: Any = FunAsrNanoEncoder(config)
    table = model.position_embeddings
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ValueError(f"encoder.source {source}: weights do not fit: {error}") from error
    # The one buffer that no checkpoint holds.
    table.positional_embedding = table.compute_default_singular_positional_embedding()
    model.requires_grad_(True)
    query_QF = None
    if query is not None:
        if "embed.weight" not in state:
            raise ValueError(f"encoder.config.query: {source} holds no embed.weight")
        query_QF = state["embed.weight"][list(QUERY_ROWS[query])].float().clone()
    frontend = Frontend(shift, scale, query_QF)
    return SenseVoiceEncoder(model.to(dtype), frontend, options.get("waveform_scale", 32768.0))


def _sizes(weights: dict, layers: int, second: int, source: str) -> FunAsrNanoEncoderConfig:
    """The config that the shapes tell; SenseVoice has heads of 128."""
    try:
        hidden, input_size = weights["layers.0.self_attn.q_proj.weight"].shape
        inner = len(weights["layers.0.mlp.fc1.weight"])
        kernel = weights["layers.0.self_attn.fsmn.conv.weight"].shape[-1]
    except KeyError as error:
        raise ValueError(f"encoder.source {source}: the first block lacks {error}") from error
    config = FunAsrNanoEncoderConfig(
        num_mel_bins=input_size // 7,
        hidden_size=hidden,
        intermediate_size=inner,
        num_attention_heads=max(hidden // 128, 1),
        num_hidden_layers=layers,
        num_timestamp_prediction_layers=second,
        fsmn_kernel_size=kernel,
    )
    config._attn_implementation = "sdpa"
    return config
