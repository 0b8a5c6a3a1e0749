"""Finds a packed model by zip, folder or hub id, and makes its config usable from anywhere."""

import hashlib
import os
import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import yaml

CONFIG_NAME = "config.yaml"
META_NAME = "meta.yaml"
# Where the config names files of its parts: (part, key).
SOURCE_KEYS = (("encoder", "source"), ("llm", "source"), ("llm", "tokenizer"))
HUB_ID = re.compile(r"^[\w.-]+(/[\w.-]+)?(@[\w./-]+)?$")


def find_sources(config) -> Iterator[tuple[str, str, dict]]:
    """Finds the places in a config that name a part's files.

    Args:
        config: A config as read from YAML.

    Yields:
        (part, key, the dict that holds the key), where the value is set.
    """
    if isinstance(config, list):
        for item in config:
            yield from find_sources(item)
    if isinstance(config, dict):
        for part, key in SOURCE_KEYS:
            holder = config.get(part)
            if isinstance(holder, dict) and isinstance(holder.get(key), str):
                yield part, key, holder
        for value in config.values():
            yield from find_sources(value)


def unpack(archive_file: str | Path, folder: str | Path) -> Path:
    """Unpacks a zip into a folder that does not exist yet (or keeps it if it does).

    Args:
        archive_file: A pack.
        folder: Where to put its members; it appears only once all are there.

    Returns:
        The folder.

    Raises:
        ValueError: If it is no pack, or a member would land outside of the folder.
    """
    folder = Path(folder)
    if folder.is_dir():
        return folder
    try:
        with zipfile.ZipFile(archive_file) as archive:
            infos = archive.infolist()
            for info in infos:
                _check_member(archive_file, info)
            if META_NAME not in archive.namelist():
                raise ValueError(f"{archive_file}: no {META_NAME} in it; expected a packed model")
            folder.parent.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.part"))
            try:
                archive.extractall(partial)
                partial.chmod(0o755)
                os.replace(partial, folder)
            except OSError:
                # Another process may have put the same pack there first.
                if not folder.is_dir():
                    raise
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive_file}: not a whole zip file ({error}); copy it again") from None
    return folder


def _check_member(archive_file: str | Path, info: zipfile.ZipInfo) -> None:
    """Refuses members that zipfile would place, or that lead, outside of the folder."""
    path = PurePosixPath(info.filename.replace("\\", "/"))
    is_link = stat.S_ISLNK(info.external_attr >> 16)
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0] or is_link:
        raise ValueError(
            f"{archive_file}: member {info.filename!r} leads out of the folder; this is no pack of "
            "ours, do not use it"
        )


def cache_folder() -> Path:
    """Where zips are unpacked: ``$ESPNET_PART_CACHE``, or a folder of the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("ESPNET_PART_CACHE") or Path(base) / "espnet_part")


def local_model_files(source: str | Path) -> dict[str, str]:
    """Finds a model by zip, folder or hub id; unpacks or downloads it where needed.

    Args:
        source: See `Speech2Text.from_pretrained`.

    Returns:
        ``part_train_config``, ``part_model_file`` [, ``inference_config``] -> path.

    Raises:
        ValueError: If there is no model.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return files_in(path)
    if path.is_file():
        status = path.stat()
        identity = f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"
        digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
        return files_in(unpack(path, cache_folder() / f"{path.stem}-{digest}"))
    name = str(source)
    if name.endswith(".zip") or name.count("/") != 1 or not HUB_ID.match(name):
        raise ValueError(
            f"{source}: no such file or folder; expected a zip made by stage 14, a folder with one "
            "unpacked, or a hub id org/name"
        )
    from huggingface_hub import snapshot_download

    hub_id, _, revision = name.partition("@")
    return files_in(Path(snapshot_download(hub_id, revision=revision or None)))


def files_in(folder: Path) -> dict[str, str]:
    """Reads the meta file of an unpacked model.

    Raises:
        ValueError: If the folder holds no model, or not all of it.
    """
    meta_file = folder / META_NAME
    if not meta_file.is_file():
        raise ValueError(f"{folder}: no {META_NAME} in it; expected the folder of an unpacked pack")
    meta = yaml.safe_load(meta_file.read_text(encoding="utf-8"))
    files: dict[str, str] = {}
    for group in ("yaml_files", "files"):
        for key, name in (meta.get(group) or {}).items():
            if key not in ("part_train_config", "part_model_file", "inference_config"):
                continue
            path = folder / name
            # By name only: the hub's cache links its files to a store beside the folder.
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise ValueError(f"{meta_file}: {key} is {name!r}, which leads out of the folder")
            if not path.is_file():
                raise ValueError(f"{meta_file}: {key} is {name!r}, which is missing; copy it again")
            files[key] = str(path)
    if "part_train_config" not in files or "part_model_file" not in files:
        raise ValueError(f"{meta_file}: lacks part_train_config or part_model_file; not our pack")
    return files


def relocated_config(config_file: str | Path) -> dict:
    """Reads a config so that its sources can be found from the working directory.

    In a pack, sources are relative to the config; in a recipe, to the recipe folder. The pack
    itself is left as it is: it may be read-only, or moved again.

    Args:
        config_file: A ``config.yaml``.

    Returns:
        Its content.

    Raises:
        ValueError: If it is no YAML of keys and values, or a pack lacks a source that it names.
    """
    config_file = Path(config_file)
    try:
        config = yaml.safe_load(config_file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{config_file}: not valid YAML: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{config_file}: found {config!r}, expected keys and values")
    root = config_file.absolute().parent
    for part, key, holder in list(find_sources(config)):
        value = holder[key]
        if not (root / META_NAME).is_file():
            break
        if (root / value).exists():
            holder[key] = str(root / value)
        elif value.split("/")[0] in ("encoder", "llm", "tokenizer"):
            raise ValueError(
                f"{config_file}: {part}.{key} is {value!r}, which the pack lacks; unpack it again"
            )
    return config
