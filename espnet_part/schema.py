"""Plain values of a YAML file to typed dataclasses and back; nothing unknown passes."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from pathlib import Path

import yaml

# libyaml's, where PyYAML has it: a phase's config is merged of several files, in tens of calls.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def from_dict(cls, values: dict, where: str = ""):
    """Builds a config dataclass from plain values.

    Raises:
        ValueError: Unknown key (the nearest one is named), missing key, or a value of another type.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{where or 'config'}: found {values!r}, expected keys and values")
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1, cutoff=0.0)
            raise ValueError(f"unknown key {where}{key}; did you mean {where}{near[0]}?")
    for item in dataclasses.fields(cls):
        no_default = item.default is dataclasses.MISSING
        if no_default and item.default_factory is dataclasses.MISSING and item.name not in values:
            raise ValueError(f"missing key {where}{item.name}")
    return cls(**{k: _convert(v, hints[k], f"{where}{k}") for k, v in values.items()})


def to_dict(config) -> dict:
    """The reverse of `from_dict`."""
    return dataclasses.asdict(config)


def load_yaml(path: str | Path) -> dict:
    """Reads a YAML file of keys and values.

    Raises:
        ValueError: No such file, or not YAML of keys and values.
    """
    path = Path(path)
    if not path.is_file():
        near = difflib.get_close_matches(path.stem, [p.stem for p in path.parent.glob("*.yaml")], 3)
        hint = f"; {path.parent} has {' '.join(sorted(p.stem for p in path.parent.glob('*.yaml')))}"
        raise ValueError(f"no file {path}{hint}" + (f"; did you mean {near[0]}?" if near else ""))
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: found {values!r}, expected keys and values")
    return values


def _convert(value, hint, where: str):
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        errors = []
        for option in (a for a in args if a is not type(None)):
            try:
                return _convert(value, option, where)
            except ValueError as error:
                errors.append(error)
        raise errors[0]
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, where + ".")
    if origin is list and isinstance(value, list):
        return [_convert(item, args[0], f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {str(k): _convert(v, args[1], f"{where}.{k}") for k, v in value.items()}
    if hint is dict and isinstance(value, dict):
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):
        try:
            return float(value)  # YAML 1.1 reads 1e-4 as a string
        except ValueError:
            pass
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint in (str, bool) and isinstance(value, hint):
        return value
    name = getattr(hint, "__name__", str(hint)) if origin is None else str(hint)
    raise ValueError(f"{where}: found {value!r}, expected {name}")
