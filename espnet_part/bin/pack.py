"""Packs a trained model into one zip (stage 14)."""

import argparse
import dataclasses
import logging
import sys
from pathlib import Path

from espnet_part.bin import inference
from espnet_part.decode_options import DecodeOptions
from espnet_part.pack import pack


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m espnet_part.bin.pack", description=__doc__)
    parser.add_argument("--part_train_config", required=True, help="config.yaml of the phase")
    parser.add_argument("--part_model_file", required=True, help="checkpoint, e.g. latest.pth")
    parser.add_argument("--outpath", required=True, help="the zip to write")
    parser.add_argument("--inference_config", help="file of conf/decode to decode with by default")
    parser.add_argument(
        "--inference_args",
        default="",
        help="what was given to espnet_part.bin.inference: options of decoding go over the file's",
    )
    return parser


def decode_options(inference_config: str | None, inference_args: str) -> DecodeOptions | None:
    """Options that stage 12 decodes with, where `inference_args` replaces some of the file's.

    Raises:
        ValueError: An unknown key, or a value out of range.
    """
    words = ["--data_dir", "none", "--output_dir", "none"]  # it cannot be without
    if inference_config:
        words += ["--config", inference_config]
    args = inference.get_parser().parse_args([*words, *inference_args.split()])
    base, given = inference.read_options(args)
    return dataclasses.replace(base or DecodeOptions(), **given) if given else None


def main(cmd: list[str] | None = None) -> None:
    """Entry point."""
    args = get_parser().parse_args(cmd)
    logging.basicConfig(level="INFO", format="%(levelname)s: %(message)s")
    try:
        names = pack(
            args.part_train_config,
            args.part_model_file,
            args.outpath,
            args.inference_config,
            decode_options(args.inference_config, args.inference_args),
        )
    except (ValueError, OSError) as error:
        logging.error(error)
        sys.exit(1)
    for name in names:
        print(f"adding: {name}")
    print(f"{args.outpath}: {len(names)} files, {Path(args.outpath).stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
