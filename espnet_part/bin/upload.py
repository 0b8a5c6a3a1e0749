"""Uploads a packed model to the Hugging Face hub, with a model card (stage 15)."""

import argparse
import logging
import re
import sys
import tempfile
from pathlib import Path

from espnet_part.model_card import languages_of, model_card
from espnet_part.prompt import check_language
from espnet_part.unpack import files_in, unpack


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m espnet_part.bin.upload", description=__doc__)
    add = parser.add_argument
    add("--pack", required=True, help="the zip of stage 14")
    add("--hf_repo", required=True, help="where to: org/name; made if it is not there")
    add("--license", default="cc-by-4.0", help="of the weights; those of your sources bind you")
    add("--languages", nargs="*", help="codes for the card (default: those of the results)")
    add("--private", action="store_true", help="make a new repository private")
    add("--dry_run", action="store_true", help="show what would go up, send nothing")
    return parser


def upload(args: argparse.Namespace, api=None) -> None:
    """Unpacks, writes the card, and sends the folder; the login is that of ``hf auth login``.

    Args:
        args: The command line.
        api: A `huggingface_hub.HfApi`, or what stands in for it in a test.

    Raises:
        ValueError: No such pack, a bad repository name or language.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", args.hf_repo):
        raise ValueError(f"--hf_repo: found {args.hf_repo!r}, expected org/name")
    if not Path(args.pack).is_file():
        raise ValueError(f"{args.pack}: no such file; pack the model first (stage 14)")
    for code in args.languages or ():
        check_language(code, "--languages")
    with tempfile.TemporaryDirectory() as scratch:
        folder = unpack(args.pack, Path(scratch) / "pack")
        files_in(folder)
        languages = args.languages if args.languages is not None else languages_of(folder)
        card = model_card(folder, args.hf_repo, args.license, languages)
        (folder / "README.md").write_text(card, encoding="utf-8")
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        total = sum(path.stat().st_size for path in files)
        for path in files:
            print(f"{path.stat().st_size:>14,}  {path.relative_to(folder)}")
        print(f"{total:>14,}  bytes in {len(files)} files for {args.hf_repo}")
        if args.dry_run:
            print(f"\n{card}\nDry run: nothing was sent.")
            return
        if api is None:
            from huggingface_hub import HfApi

            api = HfApi()
        api.create_repo(repo_id=args.hf_repo, private=args.private, exist_ok=True)
        api.upload_folder(
            repo_id=args.hf_repo,
            folder_path=str(folder),
            commit_message="Upload of a model packed by espnet-part",
        )
        print(f"uploaded: {args.hf_repo}")


def main(cmd: list[str] | None = None) -> None:
    """Entry point."""
    args = get_parser().parse_args(cmd)
    logging.basicConfig(level="INFO", format="%(levelname)s: %(message)s")
    try:
        upload(args)
    except (ValueError, OSError) as error:
        logging.error(error)
        sys.exit(1)


if __name__ == "__main__":
    main()
