"""A phase's folder: its config.yaml, and which pre-trained parts it was trained with.

Parts in local folders can be made again under the same name. `.sources.json` holds a digest of each
such folder, so that a phase trained with the former ones is not taken for one of the new ones.
Manifests, too: which rows stage 4 keeps depends on the run's test sets, and the batch plan on the
rows. `.data.json` holds a digest of each, so that no phase goes on with other rows than it began.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from espnet_part.config import Config
from espnet_part.schema import from_dict, load_yaml, to_dict
from espnet_part.unpack import CONFIG_NAME, find_sources

_SOURCES, _DATA = ".sources.json", ".data.json"
# Of larger files, samples are read: weights that were trained again differ in all of them.
_WHOLE_BYTES, _SAMPLES, _SAMPLE_BYTES = 1 << 24, 64, 1 << 16


def write_config(config: Config, folder: str | Path, restart: bool = False) -> Path:
    """Writes config.yaml into a phase's folder.

    Args:
        config: The phase.
        folder: Its folder, made if need be.
        restart: Whether a run in the folder is to be replaced, not continued.

    Raises:
        ValueError: The folder holds a run of another config, or of other parts.
    """
    folder = Path(folder)
    path = folder / CONFIG_NAME
    values = to_dict(config)
    started = (folder / "checkpoint.pth").exists() or (folder / ".finished").exists()
    if started and path.exists() and not restart:
        old = _with_defaults(load_yaml(path))
        changed = sorted(_differences(old, values) - {"valid", "valid_rows"})
        if changed:
            raise ValueError(
                f"{folder} holds a run of another configuration: {', '.join(changed)} differ(s). "
                "Give this run another --part_tag, or remove the folder to start again"
            )
        check_sources(folder)
        if not (folder / ".finished").exists():
            _check_data(folder)
    else:
        noted = {source: digest(Path(source)) for source in _local_sources(values)}
        _write(folder / _SOURCES, json.dumps(noted, indent=1, ensure_ascii=False) + "\n")
        data = {name: _rows_digest(Path(name)) for name in config.train if Path(name).is_dir()}
        _write(folder / _DATA, json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    _write(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    return path


def check_sources(folder: str | Path) -> None:
    """Makes sure that a phase's parts are those that it was trained with.

    Parts that are gone, and runs of versions that noted nothing, pass.

    Raises:
        ValueError: A part's folder holds something else by now.
    """
    noted = Path(folder) / _SOURCES
    if not noted.exists():
        return
    for source, expected in json.loads(noted.read_text(encoding="utf-8")).items():
        if Path(source).is_dir() and digest(Path(source)) != expected:
            raise ValueError(
                f"{folder} was trained with other files than {source} holds now, which was made "
                f"again: remove {folder} and the phases that start from it to train them again, "
                f"or put the former {source} back"
            )


def _check_data(folder: Path) -> None:
    """Raises ValueError if a manifest holds other rows than when the phase began."""
    noted = folder / _DATA
    if not noted.exists():
        return
    for name, expected in json.loads(noted.read_text(encoding="utf-8")).items():
        if not Path(name).is_dir() or _rows_digest(Path(name)) != expected:
            raise ValueError(
                f"{folder} is half trained, on other rows than {name} holds now (stages 1 to 10 "
                "were run again, with other corpora or test sets?): remove the folder to start "
                "the phase again, or make the former rows again"
            )


def _rows_digest(manifest: Path) -> str:
    """A number for the rows of a manifest, whatever they were made from."""
    state = hashlib.sha256()
    for path in sorted(manifest.glob("*")):
        if path.suffix in (".npy", ".jsonl"):
            for block in _blocks(path):
                state.update(block)
    return state.hexdigest()[:16]


def digest(folder: Path) -> str:
    """A number for what a part's folder holds: the same for a copy, however old its files are."""
    state = hashlib.sha256()
    for path, name in walk(folder):
        if path.suffix != ".md":
            state.update(f"\n{name} ".encode())
            for block in _blocks(path):
                state.update(block)
    return state.hexdigest()[:16]


def walk(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yields (file, relative name) of a folder; links are followed, hidden entries left out."""
    for parent, dirs, files in os.walk(folder, followlinks=True):
        dirs[:] = sorted(name for name in dirs if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                path = Path(parent) / name
                yield path, path.relative_to(folder).as_posix()


def _blocks(path: Path) -> Iterator[bytes]:
    """What of a file its digest is made of."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        if size <= _WHOLE_BYTES:
            # The same part, saved by another version of transformers, is the same part.
            yield re.sub(rb'"transformers_version": "[^"]*"', b"", file.read())
            return
        yield f"{size} ".encode()
        for i in range(_SAMPLES):
            file.seek((size - _SAMPLE_BYTES) * i // (_SAMPLES - 1))
            yield file.read(_SAMPLE_BYTES)


def _local_sources(values: dict) -> list[str]:
    found = {holder[key] for _, key, holder in find_sources(values)}
    return sorted(source for source in found if Path(source).is_dir())


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _with_defaults(values: dict) -> dict:
    """A config of an earlier version, with the keys that came since."""
    try:
        return to_dict(from_dict(Config, values))
    except ValueError:
        return values


def _differences(a, b, where: str = "") -> set[str]:
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return set() if a == b else {where}
    found: set[str] = set()
    for key in set(a) | set(b):
        found |= _differences(a.get(key), b.get(key), f"{where}.{key}" if where else str(key))
    return found
