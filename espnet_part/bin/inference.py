"""Decodes data folders with a trained model (stage 12).

Writes, per data folder, 1best_recog/{text,token,token_int,score}, decode.json and, if audio could
not be read, `failed`: such an id has an empty hypothesis.
"""

import argparse
import dataclasses
import json
import logging
import sys
from pathlib import Path

import torch

from espnet_part.decode_options import DecodeOptions
from espnet_part.prompt import LIDS

OPTION_HELP = {
    "batch_size": "most clips decoded at once",
    "batch_sec": "most seconds of audio decoded at once, padding included",
    "beam_size": "1 is greedy search",
    "maxlenratio": "tokens allowed per second of audio",
    "maxlenextra": "tokens allowed on top, whatever the length",
    "maxlencap": "tokens allowed at most",
    "max_sec": "longer audio is cut at its pauses",
    "pause_sec": "pauses of this length or longer end a piece in any case; 0: none does",
}
LID_HELP = (
    "language named in the prompt: right, none or wrong; wrong: any but the source language (st: "
    "may be the target language), the same one for an id each time (default: right)"
)


def get_parser() -> argparse.ArgumentParser:
    """The command line; an option of decoding that is not given comes from --config."""
    parser = argparse.ArgumentParser(
        prog="python -m espnet_part.bin.inference", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("--part_train_config", help="config.yaml of the phase")
    add("--part_model_file", help="checkpoint, e.g. latest.pth")
    add("--model_tag", help="a packed model instead: zip, folder or hub id")
    add("--data_dir", nargs="+", required=True, help="data folders")
    add("--key_file", nargs="+", default=[], help="one per data folder: the ids to decode")
    add("--output_dir", nargs="+", required=True, help="one per data folder")
    add("--config", help="a file of conf/decode; its keys are the options from --batch_size on")
    add("--lid", default="right", help=LID_HELP)
    add("--ngpu", type=int, default=0, help="0 decodes on the CPU, 1 on a GPU")
    add("--dtype", default="float32", choices=["float32", "bfloat16"])
    add("--num_workers", type=int, default=2, help="threads that load audio")
    levels = ["DEBUG", "INFO", "WARNING", "ERROR"]
    add("--log_level", type=str.upper, default="INFO", choices=levels)
    for field in dataclasses.fields(DecodeOptions):
        what = f"{OPTION_HELP[field.name]} (default: {field.default})"
        add(f"--{field.name}", type=field.type, help=what)
    return parser


def read_options(args: argparse.Namespace) -> tuple[DecodeOptions | None, dict]:
    """Options of --config (None without), and those of the command line, which override them.

    Raises:
        ValueError: An unknown key, or a value out of range.
    """
    given = {
        field.name: getattr(args, field.name)
        for field in dataclasses.fields(DecodeOptions)
        if getattr(args, field.name) is not None
    }
    base = DecodeOptions.from_yaml(args.config) if args.config else None
    dataclasses.replace(base or DecodeOptions(), **given)
    return base, given


def inference(args: argparse.Namespace) -> None:
    """Decodes every folder in turn with one model.

    Raises:
        ValueError: Anything that the user can mend.
    """
    from espnet_part.decode_job import decode_rows, select_rows
    from espnet_part.decode_output import write_output
    from espnet_part.inference import Speech2Text

    if args.lid not in LIDS:
        raise ValueError(f"--lid: found {args.lid!r}, expected one of {' '.join(LIDS)}")
    if (args.model_tag is None) == (args.part_train_config is None):
        raise ValueError("give either --part_train_config and --part_model_file, or --model_tag")
    n_dirs = len(args.data_dir)
    if len(args.output_dir) != n_dirs or len(args.key_file) not in (0, n_dirs):
        raise ValueError(
            f"found {n_dirs} --data_dir, {len(args.key_file)} --key_file and "
            f"{len(args.output_dir)} --output_dir, expected as many of each (key files may be left "
            "out)"
        )
    if args.ngpu > 0 and not torch.cuda.is_available():
        raise ValueError(f"--ngpu {args.ngpu}: no GPU here; use --ngpu 0")
    options, given = read_options(args)
    # All folders are read before the model is loaded: mistakes show at once.
    keys = args.key_file or [None] * n_dirs
    rows = [select_rows(folder, key) for folder, key in zip(args.data_dir, keys, strict=True)]
    how = {
        "device": "cuda" if args.ngpu > 0 else "cpu",
        "dtype": args.dtype,
        "options": options,
    }
    if args.model_tag is not None:
        s2t = Speech2Text.from_pretrained(args.model_tag, **how)
    else:
        s2t = Speech2Text(args.part_train_config, args.part_model_file, **how)
    # A pack may bring options of its own: what the command line says goes over those too.
    s2t.set_options(dataclasses.replace(s2t.options, **given))
    for folder, selected, output in zip(args.data_dir, rows, args.output_dir, strict=True):
        outcome = decode_rows(s2t, selected, Path(folder).name, args.lid, args.num_workers)
        write_output(output, outcome)
        record = {
            "checkpoint": str(args.part_model_file or args.model_tag),
            "options": dataclasses.asdict(s2t.options),
            "dtype": args.dtype,
            "lid": args.lid,
            "n_utts": len(selected),
            "failed": dict(outcome.reasons),
            "cut_off": outcome.cut_off,
            "audio_sec": round(outcome.audio_sec, 3),
            "decode_sec": round(outcome.decode_sec, 3),
        }
        Path(output, "decode.json").write_text(
            json.dumps(record, indent=2) + "\n", encoding="utf-8"
        )
        _summarize(folder, outcome)


def _summarize(folder: str, outcome) -> None:
    counts = ", ".join(f"{n} {reason}" for reason, n in outcome.reasons.most_common())
    n_good = sum(answer is not None for answer in outcome.decoded.values())
    logging.info(
        f"{folder}: decoded {n_good} of {len(outcome.decoded)} utterances, "
        f"{outcome.audio_sec:.1f} s of audio in {outcome.decode_sec:.1f} s"
        + (f"; empty hypotheses for {len(outcome.failed)}: {counts}" if counts else "")
    )
    if outcome.cut_off:
        logging.warning(
            f"{folder}: {outcome.cut_off} hypotheses ended at the token limit: loops, or "
            "--maxlenratio is too low for this tokenizer"
        )


def main(cmd: list[str] | None = None) -> None:
    """Entry point."""
    args = get_parser().parse_args(cmd)
    logging.basicConfig(
        level=args.log_level,
        format="%(asctime)s (%(module)s:%(lineno)d) %(levelname)s: %(message)s",
    )
    try:
        inference(args)
    except (ValueError, OSError) as error:
        logging.error(error)
        sys.exit(1)


if __name__ == "__main__":
    main()
