"""Builds transformers' models and feature extractors from configs, folders and hub ids."""

from __future__ import annotations

import torch

from espnet_part.encoder_hub import quiet, read_config

# transformers' own table names another class for w2v-BERT, whose published weights use this one.
EXTRACTORS = {"wav2vec2-bert": "SeamlessM4TFeatureExtractor"}


def make_random(config: dict):
    """Model and feature extractor from a config with its ``model_type``.

    Raises:
        ValueError: transformers knows no such model, or no feature extractor for it.
    """
    import transformers

    model_type = config.pop("model_type", None)
    options = dict(config.pop("feature_extractor", None) or {})
    if model_type is None:
        raise ValueError("encoder.config: found no model_type, expected one, such as wav2vec2-bert")
    try:
        sizes = transformers.AutoConfig.for_model(model_type, **config)
    except (ValueError, KeyError) as error:
        raise ValueError(f"encoder.config: model_type {model_type!r}: {error}") from error
    names = transformers.models.auto.feature_extraction_auto.FEATURE_EXTRACTOR_MAPPING_NAMES
    default = EXTRACTORS.get(model_type, names.get(model_type))
    name = options.pop("feature_extractor_type", default)
    if name is None:
        raise ValueError(
            f"encoder.config: model_type {model_type!r} has no feature extractor of its own; give "
            "feature_extractor: {feature_extractor_type: ...}"
        )
    extractor = getattr(transformers, name)(**options)
    return _encoder_of(transformers.AutoModel.from_config(sizes)), extractor


def read_pretrained(source: str, revision: str | None):
    """Model, in float32, and feature extractor of a hub id or folder.

    Raises:
        ValueError: A file is missing, or weights of the model are.
    """
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

    found = read_config(AutoConfig, source, revision)
    try:
        extractor = AutoFeatureExtractor.from_pretrained(source, revision=revision)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"encoder.source {source}: found no feature extractor, expected a "
            f"preprocessor_config.json ({error})"
        ) from error
    with quiet():
        model, report = AutoModel.from_pretrained(
            source,
            revision=revision,
            config=found,
            dtype=torch.float32,
            output_loading_info=True,
        )
    model = _encoder_of(model)
    absent = sorted(
        name
        for name in map(str, [*report["missing_keys"], *report["mismatched_keys"]])
        if "masked_spec_embed" not in name
    )
    if absent:
        raise ValueError(
            f"encoder.source {source}: {len(absent)} weights of {type(model).__name__} are missing "
            f"or of another shape, the first is {absent[0]}"
        )
    return model, extractor


def _encoder_of(model):
    """The encoder of an encoder-decoder model, other models as they are."""
    kind = model.config.model_type
    if kind in ("whisper", "fun_asr_nano_encoder", "fun_asr_nano"):
        other = "whisper" if kind == "whisper" else "sensevoice"
        raise ValueError(f"encoder: found a {kind} model; set encoder.kind to {other}")
    return model.get_encoder() if model.config.is_encoder_decoder else model
