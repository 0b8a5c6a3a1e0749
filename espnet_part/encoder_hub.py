"""Reads pre-trained encoders from a hub id or a folder, never by unpickling."""

from __future__ import annotations

import json
import pickle
from contextlib import contextmanager
from pathlib import Path

import torch

FEATURES_FILE = "preprocessor_config.json"


def find_file(source: str, name: str, revision: str | None = None) -> Path | None:
    """Path of a file of a folder or hub repository; None where it has none of this name.

    Raises:
        ValueError: The source is neither a folder nor a repository that can be reached.
    """
    if Path(source).is_dir():
        file = Path(source) / name
        return file if file.is_file() else None
    from transformers.utils import cached_file

    try:
        path = cached_file(
            source, name, revision=revision, _raise_exceptions_for_missing_entries=False
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"encoder.source {source}: found neither a folder of this name nor a hub repository "
            f"that can be reached ({str(error).splitlines()[0]})"
        ) from error
    return None if path is None else Path(path)


def read_json(source: str, name: str, revision: str | None = None) -> dict:
    """A JSON file of the source; empty where it has none of this name."""
    path = find_file(source, name, revision)
    return {} if path is None else json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def quiet():
    """No progress bars and no lists of a decoder's unread weights."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def load_model(
    model_class,
    source: str,
    revision: str | None,
    config,
    prefixes: tuple[str, ...],
    dtype: torch.dtype,
):
    """A transformers encoder from its own checkpoint or from that of a model around it.

    Args:
        model_class: The encoder's class.
        source: Hub id or folder.
        revision: Revision of a hub id.
        config: The encoder's config.
        prefixes: What its weights' names may start with in larger checkpoints.
        dtype: Data type of the weights.

    Raises:
        ValueError: The checkpoint lacks weights of the encoder.
    """
    mapping = {"^" + prefix.replace(".", r"\."): "" for prefix in prefixes}
    with quiet():
        model, report = model_class.from_pretrained(
            source,
            revision=revision,
            config=config,
            key_mapping=mapping or None,
            dtype=dtype,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    absent = sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"]))
    if absent:
        raise ValueError(
            f"encoder.source {source}: {len(absent)} weights of {model_class.__name__} are missing "
            f"or of another shape, the first is {absent[0]}; is this a checkpoint of this encoder?"
        )
    return model


def read_config(config_class, source: str, revision: str | None):
    """The config of `source`, of `config_class` or another one.

    Raises:
        ValueError: The source has no readable config.json.
    """
    try:
        return config_class.from_pretrained(source, revision=revision)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"encoder.source {source}: found no readable config.json, expected a hub id or a "
            f"folder saved by save_pretrained ({error})"
        ) from error


def load_pickled(path: Path) -> dict:
    """A ``.pt`` or ``.pth`` file of tensors, without running what else a pickle can hold.

    Raises:
        ValueError: The file holds other things, or is no such file.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path}: found a file that does not hold only tensors, and other pickles are never "
            f"run; save its state dict with torch.save ({str(error).splitlines()[0]})"
        ) from error


def make_config(config_class, values: dict):
    """A config from the YAML's values, refusing names that the class does not know.

    Raises:
        ValueError: A name is unknown.
    """
    known = config_class().to_dict()
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(
            f"encoder.config: found {', '.join(unknown)}, unknown to {config_class.__name__}; "
            f"it knows {', '.join(sorted(known))}"
        )
    return config_class(**values)
