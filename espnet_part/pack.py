"""Packs: a trained model as one zip that works elsewhere, and as the folder it unpacks to.

In it lie:

    meta.yaml       ESPnet's: keys part_train_config, part_model_file, [inference_config]
    config.yaml     the training config; sources relative to this file, or by hub id and revision
    model.pth       what differs from the sources
    encoder/ llm/   sources that were local folders
    tokenizer/      the tokenizer, where the LLM itself is named by hub id
    decode.yaml RESULTS.md results.json images/     if there are any

`espnet_part.unpack` reads it.
"""

import contextlib
import copy
import dataclasses
import os
import sys
import tempfile
import time
import zipfile
from importlib import metadata
from pathlib import Path, PurePosixPath

import yaml

from espnet_part.checkpoint import read_checkpoint
from espnet_part.decode_options import DecodeOptions
from espnet_part.phase_folder import check_sources, walk
from espnet_part.unpack import CONFIG_NAME, HUB_ID, META_NAME, find_sources

MODEL_NAME = "model.pth"


def pinned_revision(hub_id: str, revision: str | None) -> str | None:
    """Tells the commit of a hub repository that this machine has loaded, without a network."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub_id, "config.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else revision


def _without_machine_paths(value):
    """Replaces absolute paths, which mean nothing elsewhere, by paths relative to here."""
    if isinstance(value, dict):
        return {key: _without_machine_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_machine_paths(item) for item in value]
    if isinstance(value, str) and os.path.isabs(value) and not any(map(str.isspace, value)):
        inside = Path(value).is_relative_to(Path.cwd())
        return os.path.relpath(value) if inside else Path(value).name
    return value


def _collect_sources(config: dict, scratch: Path) -> dict[str, Path]:
    """Makes a config's sources portable, in place.

    Args:
        config: The config; local sources become paths inside the pack.
        scratch: Folder for a tokenizer that has to be written out.

    Returns:
        Name inside the pack -> folder or file to put there.
    """
    members: dict[str, Path] = {}
    for part, key, holder in list(find_sources(config)):
        value = holder[key]
        name = "tokenizer" if key == "tokenizer" else part
        if Path(value).exists():
            same = [known for known, path in members.items() if path == Path(value)]
            if Path(value).is_file():
                name = f"{name}/{Path(value).name}"
            if not same:
                members[name] = Path(value)
            holder[key] = same[0] if same else name
        elif HUB_ID.match(value):
            if key == "source":
                holder["revision"] = pinned_revision(value, holder.get("revision"))
        else:
            raise ValueError(
                f"config: {part}.{key} is {value!r}: no such folder here and no hub id; "
                "pack from the folder that the model was trained in"
            )
    for part, _, holder in list(find_sources(config)):
        # A tokenizer by hub id goes in as files: it is small, and texts depend on all of it.
        named = holder.get("tokenizer") or holder.get("source")
        if part == "llm" and named not in members:
            from transformers import AutoTokenizer

            revision = None if holder.get("tokenizer") else holder.get("revision")
            loaded = AutoTokenizer.from_pretrained(named, revision=revision)
            loaded.save_pretrained(scratch / "tokenizer")
            members["tokenizer"] = scratch / "tokenizer"
            holder["tokenizer"] = "tokenizer"
    return members


def _beside(config_file: Path, name: str) -> Path | None:
    """Looks for a report of the experiment beside the config and in the two folders above."""
    parents = config_file.resolve().parents[:3]
    return next((parent / name for parent in parents if (parent / name).exists()), None)


def _versions() -> dict[str, str]:
    versions = {"python": sys.version.split()[0]}
    for name in ("espnet", "espnet-part", "torch", "transformers", "peft"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name.replace("-", "_")] = metadata.version(name)
    return versions


def pack(
    part_train_config: str | Path,
    part_model_file: str | Path,
    outpath: str | Path,
    inference_config: str | Path | None = None,
    options: DecodeOptions | None = None,
) -> list[str]:
    """Writes a trained model to a zip.

    Args:
        part_train_config: The phase's ``config.yaml``.
        part_model_file: The checkpoint, e.g. ``latest.pth``.
        outpath: The zip to write; it appears only once it is whole.
        inference_config: A file of conf/decode to decode with by default.
        options: How to decode by default, in place of `inference_config`.

    Returns:
        Names of the members.

    Raises:
        ValueError: A file or a source named in the config is missing, cannot be read, or is
            another one than the phase was trained with.
        OSError: The zip cannot be written.
    """
    config_file, model_file = Path(part_train_config), Path(part_model_file)
    outpath = Path(outpath)
    for path in (config_file, model_file):
        if not path.is_file():
            raise ValueError(f"{path}: no such file; train the phase first (stage 11)")
    check_sources(config_file.parent)
    if inference_config:
        DecodeOptions.from_yaml(inference_config)
    read_checkpoint(model_file, "meta")  # a damaged one must not show up on another machine
    if outpath.suffix != ".zip":
        raise ValueError(f"{outpath}: expected a name that ends in .zip")
    config = copy.deepcopy(yaml.safe_load(config_file.read_text(encoding="utf-8")))
    with tempfile.TemporaryDirectory() as scratch:
        sources = _collect_sources(config, Path(scratch))
        config = _without_machine_paths(config)
        yaml_files = {"part_train_config": CONFIG_NAME}
        meta = {
            "files": {"part_model_file": MODEL_NAME},
            "yaml_files": yaml_files,
            "timestamp": time.time(),
            **_versions(),
        }
        members: dict[str, Path] = {MODEL_NAME: model_file}
        texts = {}
        if inference_config or options:
            yaml_files["inference_config"] = "decode.yaml"
        if options:
            texts["decode.yaml"] = _dump(dataclasses.asdict(options))
        elif inference_config:
            members["decode.yaml"] = Path(inference_config)
        for name, path in sources.items():
            files = walk(path) if path.is_dir() else [(path, "")]
            members |= {str(PurePosixPath(name) / inner): file for file, inner in files}
        for report in ("RESULTS.md", "results.json", "images"):
            found = _beside(config_file, report)
            if found is not None and found.is_dir():
                members |= {f"{report}/{inner}": file for file, inner in walk(found)}
            elif found is not None:
                members[report] = found
        texts |= {META_NAME: _dump(meta), CONFIG_NAME: _dump(config)}
        _write_zip(outpath, texts, members)
    return [*texts, *members]


def _dump(content: dict) -> str:
    return yaml.safe_dump(content, allow_unicode=True, sort_keys=False)


def _write_zip(outpath: Path, texts: dict[str, str], members: dict[str, Path]) -> None:
    outpath.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=outpath.parent, prefix=outpath.name, suffix=".part")
    os.close(handle)
    try:
        # Stored, not deflated: weights hardly shrink, and readers stay fast.
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED, strict_timestamps=False) as archive:
            for name, text in texts.items():
                archive.writestr(name, text)
            for name, path in members.items():
                archive.write(path, name)
        os.chmod(partial, 0o644)
        os.replace(partial, outpath)
    finally:
        Path(partial).unlink(missing_ok=True)
