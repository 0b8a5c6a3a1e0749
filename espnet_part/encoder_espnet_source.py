"""Finds and builds the parts of an ESPnet model: config, weights, encoder class, mel filters."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import torch
from torch import Tensor, nn

from espnet_part.encoder_espnet import KEYS, ESPnetEncoder
from espnet_part.encoder_espnet_frontend import LogMelFrontend, Normalize
from espnet_part.encoder_hub import find_file, load_pickled

ENCODERS = {
    "e_branchformer": ("e_branchformer_encoder", "EBranchformerEncoder"),
    "branchformer": ("branchformer_encoder", "BranchformerEncoder"),
    "conformer": ("conformer_encoder", "ConformerEncoder"),
    "transformer": ("transformer_encoder", "TransformerEncoder"),
}
# Of espnet2's DefaultFrontend, which we do not import: it needs the beamformers' packages.
FRONTEND = {
    "fs": 16000,
    "n_fft": 512,
    "win_length": None,
    "hop_length": 128,
    "window": "hann",
    "center": True,
    "normalized": False,
    "onesided": True,
    "n_mels": 80,
    "fmin": None,
    "fmax": None,
    "htk": False,
    "frontend_conf": None,
    "apply_stft": True,
}


def make_encoder(config: dict, weights: dict[str, Tensor], where: str) -> ESPnetEncoder:
    """Builds the parts that an ESPnet config names.

    Args:
        config: The config; keys of other parts are ignored.
        weights: ESPnet's state dict; empty for random weights.
        where: The config's or the source's name, for messages.

    Raises:
        ValueError: A part is not supported, or the weights do not fit.
    """
    recipe = {key: config[key] for key in KEYS if config.get(key) is not None}
    _refuse_others(config, where)
    frontend = _make_frontend(dict(recipe.get("frontend_conf", {})), weights, where)
    normalize = _make_normalize(
        recipe.get("normalize"), dict(recipe.get("normalize_conf", {})), weights, where
    )
    model = _make_model(
        recipe.get("encoder"),
        dict(recipe.get("encoder_conf", {})),
        frontend.melmat.shape[1],
        where,
    )
    if weights:
        own = {
            name.removeprefix("encoder."): value
            for name, value in weights.items()
            if name.startswith("encoder.")
        }
        try:
            model.load_state_dict(own)
        except RuntimeError as error:
            raise ValueError(f"{where}: the encoder's weights do not fit: {error}") from error
    return ESPnetEncoder(frontend, normalize, model, recipe)


def _refuse_others(config: dict, where: str) -> None:
    """Parts between waveform and encoder that we would leave out without a word."""
    found = {
        "frontend": (config.get("frontend") or "default", "default"),
        "preencoder": (config.get("preencoder"), None),
        "postencoder": (config.get("postencoder"), None),
    }
    for key, (value, expected) in found.items():
        if value != expected:
            raise ValueError(f"{where}: found {key} {value!r}, only {expected!r} is supported")


def _make_frontend(conf: dict, weights: dict[str, Tensor], where: str) -> LogMelFrontend:
    unknown = sorted(set(conf) - set(FRONTEND))
    if unknown:
        raise ValueError(f"{where}: frontend_conf has {', '.join(unknown)}, not supported")
    conf = FRONTEND | conf
    if str(conf["fs"]).lower() not in ("16000", "16k"):
        raise ValueError(f"{where}: frontend_conf.fs is {conf['fs']}, expected 16000")
    inner = conf["frontend_conf"] or {}
    if inner.get("use_wpe") or inner.get("use_beamformer"):
        raise ValueError(f"{where}: frontend_conf asks for dereverberation, not supported")
    if conf["normalized"] or not conf["onesided"] or not conf["apply_stft"]:
        raise ValueError(f"{where}: frontend_conf has a spectrum that is not supported")
    mel = weights.get("frontend.logmel.melmat")
    if mel is None:
        from transformers.audio_utils import mel_filter_bank

        filters = mel_filter_bank(
            conf["n_fft"] // 2 + 1,
            conf["n_mels"],
            float(conf["fmin"] or 0),
            float(conf["fmax"] or 8000),
            16000,
            norm="slaney",
            mel_scale="htk" if conf["htk"] else "slaney",
        )
        mel = torch.from_numpy(filters)
    return LogMelFrontend(
        mel.float().clone(),  # aligned as a computed tensor, so that sums round the same way
        conf["n_fft"],
        conf["win_length"] or conf["n_fft"],
        conf["hop_length"],
        conf["window"],
        conf["center"],
    )


def _make_normalize(
    kind: str | None, conf: dict, weights: dict[str, Tensor], where: str
) -> Normalize:
    if kind not in (None, "global_mvn", "utterance_mvn"):
        raise ValueError(f"{where}: found normalize {kind!r}, expected global_mvn or utterance_mvn")
    mean, std = weights.get("normalize.mean"), weights.get("normalize.std")
    if kind == "global_mvn" and (mean is None or std is None):
        raise ValueError(
            f"{where}: global_mvn needs statistics (normalize.mean, normalize.std) among the "
            "weights; use utterance_mvn or null with random weights"
        )
    if kind != "global_mvn":
        mean = std = None
    return Normalize(
        kind,
        None if mean is None else mean.float().clone(),
        None if std is None else std.float().clone(),
        conf.get("norm_means", True),
        conf.get("norm_vars", kind == "global_mvn"),
    )


def _make_model(name: str | None, conf: dict, bins: int, where: str) -> nn.Module:
    if name not in ENCODERS:
        raise ValueError(f"{where}: found encoder {name!r}, expected one of {', '.join(ENCODERS)}")
    if conf.get("interctc_use_conditioning"):
        raise ValueError(f"{where}: encoders conditioned on CTC are not supported")
    module, class_name = ENCODERS[name]
    try:
        model_class = getattr(importlib.import_module(f"espnet2.asr.encoder.{module}"), class_name)
    except ImportError as error:
        raise ValueError(
            f"{where}: encoder.kind espnet needs ESPnet installed ({error})"
        ) from error
    if "use_flash_attn" in inspect.signature(model_class).parameters:
        conf["use_flash_attn"] = False
    try:
        return model_class(input_size=bins, **conf)
    except TypeError as error:
        raise ValueError(f"{where}: encoder_conf does not fit {name}: {error}") from error


def load_encoder(source: str, revision: str | None) -> ESPnetEncoder:
    """Reads config and weights of a folder or hub id.

    Raises:
        ValueError: A file is missing or has another form.
    """
    import yaml

    config_file, weight_file = _find_files(source, revision)
    config = yaml.safe_load(config_file.read_text(encoding="utf-8"))
    if weight_file.suffix == ".safetensors":
        from safetensors.torch import load_file

        weights = load_file(weight_file)
    else:
        weights = load_pickled(weight_file)
    return make_encoder(config, weights, f"encoder.source {source}")


def _find_files(source: str, revision: str | None) -> tuple[Path, Path]:
    """Config and weights, side by side or where ``meta.yaml`` of a packed model says."""
    import yaml

    meta_file = find_file(source, "meta.yaml", revision)
    if meta_file is not None:
        meta = yaml.safe_load(meta_file.read_text(encoding="utf-8"))
        for task in ("s2t", "asr"):
            config = meta.get("yaml_files", {}).get(f"{task}_train_config")
            model = meta.get("files", {}).get(f"{task}_model_file")
            if config and model:
                config_file = find_file(source, config, revision)
                weight_file = find_file(source, model, revision)
                if config_file is not None and weight_file is not None:
                    return config_file, weight_file
        raise ValueError(f"encoder.source {source}: meta.yaml names no ASR or S2T model")
    config_file = find_file(source, "config.yaml", revision)
    if config_file is None:
        raise ValueError(f"encoder.source {source}: found neither meta.yaml nor config.yaml")
    saved = find_file(source, "model.safetensors", revision)
    if saved is not None:
        return config_file, saved
    files = sorted(config_file.parent.glob("*.pth"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise ValueError(f"encoder.source {source}: expected one .pth file, found {names}")
    return config_file, files[0]
