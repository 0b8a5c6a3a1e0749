"""The pre-trained parts that a model YAML names: stage 5 asks here.

    python local/parts.py list  conf/model/toy.yaml     # part and source, one per line
    python local/parts.py check conf/model/toy.yaml     # is everything on this machine?
    python local/parts.py fetch conf/model/part_2b.yaml # fetch what is named by hub id
    python local/parts.py settings conf/model/toy.yaml --expdir exp2   # for `config merge --set`

A source is a folder, or a hub id such as `openai/whisper-large-v3` (then the Hugging Face cache is
asked, and with `fetch` the hub). Folders under exp/ are those of --expdir.
"""

import argparse
import json
import sys
from pathlib import Path

from espnet_part.schema import load_yaml

# Weights as safetensors only: files of strangers are never unpickled. SenseVoiceSmall's `model.pt`
# is the exception that the encoder reads with weights_only=True.
FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.yaml", "*.mvn", "model.pt"]


def read_model(config_file: Path, expdir: str = "exp") -> dict:
    """Read a model YAML, with exp/ in sources replaced by the experiments' folder.

    Raises:
        ValueError: The YAML is missing, or holds no keys and values.
    """
    model = load_yaml(config_file)
    for part in ("encoder", "llm"):
        section = model.get(part) or {}
        for key in ("source", "tokenizer"):
            source = section.get(key)
            if source and source.startswith("exp/"):
                section[key] = f"{expdir}/{source.removeprefix('exp/')}"
    return model


def sources(model: dict) -> dict[str, tuple[str, str | None]]:
    """Name each pre-trained part of a model.

    Returns:
        Part (`encoder`, `llm`, `tokenizer`) to (source, revision or None).
    """
    found: dict[str, tuple[str, str | None]] = {}
    for part in ("encoder", "llm"):
        section = model.get(part) or {}
        if section.get("source"):
            found[part] = (str(section["source"]), section.get("revision"))
    llm = model.get("llm") or {}
    tokenizer = llm.get("tokenizer") or llm.get("source")
    if tokenizer:
        found["tokenizer"] = (str(tokenizer), llm.get("revision"))
    return found


def is_hub_id(source: str) -> bool:
    """Whether a source that is no folder here can be a hub id: `name` or `owner/name`."""
    return source.count("/") <= 1 and not source.startswith((".", "/", "~"))


def is_here(source: str, revision: str | None, fetch: bool = False) -> bool:
    """Whether a source is a folder, or in the hub cache; fetched into it when asked.

    Args:
        source: Folder or hub id.
        revision: Of the hub id.
        fetch: Ask the hub, too.

    Raises:
        ValueError: The hub has been asked and did not give it.
    """
    if Path(source).is_dir():
        return True
    if not is_hub_id(source):
        return False
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot_download(source, revision=revision, local_files_only=True)
        return True
    except LocalEntryNotFoundError:
        if not fetch:
            return False
    print(f"fetching {source} ({revision or 'newest revision'}) from the hub", flush=True)
    try:
        snapshot_download(source, revision=revision, allow_patterns=FILES)
    except Exception as error:  # many kinds: no network, no such id, no permission
        raise ValueError(
            f"{source}: could not be fetched from the hub ({error}); expected a hub id and a "
            "network, or a folder: correct `source` in the model YAML, log in with `hf auth "
            "login` if it is gated, or copy the model here and name its folder"
        ) from error
    return True


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["list", "check", "fetch", "settings"])
    parser.add_argument("model", type=Path, help="conf/model/<model>.yaml")
    parser.add_argument("--expdir", default="exp", help="folder of experiments")
    args = parser.parse_args()
    try:
        model = read_model(args.model, args.expdir)
        if args.command == "settings":
            written = read_model(args.model)
            for part in ("encoder", "llm"):
                if model.get(part) != written.get(part):
                    print(f"model.{part}={json.dumps(model[part])}")
            return
        found = sources(model)
        if args.command == "list":
            for part, (source, _) in found.items():
                print(part, source)
            return
        missing = [
            f"{part} ({source})"
            for part, (source, revision) in found.items()
            if not is_here(source, revision, fetch=args.command == "fetch")
        ]
    except ValueError as error:
        sys.exit(f"{parser.prog}: error: {error}")
    if missing:
        sys.exit(f"{args.model} names parts that are not on this machine: {', '.join(missing)}")
    print(", ".join(f"{part}: {source}" for part, (source, _) in found.items()))


if __name__ == "__main__":
    main()
