"""Transcribes or translates audio files of any format and length with a packed model."""

import argparse
import contextlib
import logging
import os
import sys
from pathlib import Path

from espnet_part.prompt import check_language

# Subtitles longer than this are unreadable, and one piece of audio becomes one subtitle.
SRT_MAX_SEC = 8.0
SRT_PAUSE_SEC = 0.5  # and nobody speaks through such a pause
MODEL_VARIABLE = "ESPNET_PART_MODEL"


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="part-transcribe", description=__doc__)
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="wav, flac, mp3, ogg, opus, sph; any rate")
    add("--model", help=f"packed model: zip, folder or hub id (default: ${MODEL_VARIABLE})")
    add("--lang", help="language spoken, e.g. de (default: left to the model)")
    add("--to", metavar="LANG", help="translate into this language")
    add("--srt", action="store_true", help="subtitles with times")
    add("--output_dir", help="write <file name>.txt or .srt there (default: to the screen)")
    add(
        "--max_sec",
        type=float,
        help=f"longest piece (default: the model's, mostly 30, with --srt at most {SRT_MAX_SEC:g})",
    )
    add(
        "--pause_sec",
        type=float,
        help="pauses of this length or longer end a piece, 0: none does (default: the model's; "
        f"where that is 0, with --srt {SRT_PAUSE_SEC:g})",
    )
    add("--batch_size", type=int, help="most pieces decoded at once")
    add("--beam_size", type=int, help="1 is greedy search")
    add("--device", default="auto", help="cpu, cuda or auto")
    add("--dtype", default="float32", choices=["float32", "bfloat16"])
    return parser


def load_model(args: argparse.Namespace):
    """Loads the model with the options of the command line over those of the pack.

    Raises:
        ValueError: If no model is given, or there is none.
    """
    import dataclasses

    source = args.model or os.environ.get(MODEL_VARIABLE)
    if not source:
        raise ValueError(
            f"no model given; name a packed one by --model (or ${MODEL_VARIABLE}): a zip made by "
            "stage 14 of the recipe, e.g. exp/digits/part/phase3/digits_part_latest.zip, a folder "
            "with one unpacked, or a hub id"
        )
    import torch
    from transformers.utils.logging import disable_progress_bar

    from espnet_part.inference import Speech2Text

    disable_progress_bar()

    device = args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: no GPU here; use cpu, or auto")
    else:
        try:
            torch.device(device)
        except RuntimeError:
            raise ValueError(f"--device: found {device!r}, expected cpu, cuda or auto") from None
    # Only the answer goes to standard output, whatever the libraries print while loading.
    with contextlib.redirect_stdout(sys.stderr):
        s2t = Speech2Text.from_pretrained(source, device=device, dtype=args.dtype)
    options = s2t.options
    if args.srt:
        options = dataclasses.replace(
            options,
            max_sec=min(options.max_sec, SRT_MAX_SEC),
            pause_sec=options.pause_sec or SRT_PAUSE_SEC,
        )
    names = ("max_sec", "pause_sec", "batch_size", "beam_size")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    s2t.set_options(dataclasses.replace(options, **given))
    return s2t


def read_files(files: list[str], s2t) -> tuple[list[str], list]:
    """Loads what can be read; complains about the rest."""
    from espnet_part.audio import load_audio

    names, waveforms = [], []
    for name in files:
        if not Path(name).is_file():
            what = "a folder, expected audio files" if Path(name).is_dir() else "no such file"
            print(f"part-transcribe: {name}: {what}", file=sys.stderr)
            continue
        try:
            waveforms.append(s2t.check_speech(load_audio(name), name))
            names.append(name)
        except ValueError as error:
            print(f"part-transcribe: {error}", file=sys.stderr)
    return names, waveforms


def show(name: str, answer, args: argparse.Namespace) -> None:
    """Prints or writes the answer for one file."""
    from espnet_part.segmentation import to_srt

    text = to_srt(answer.pieces) if args.srt else answer.text + "\n"
    if args.output_dir:
        suffix = ".srt" if args.srt else ".txt"
        target = Path(args.output_dir, Path(name).name + suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        print(target)
    elif args.srt or len(args.files) == 1:
        print(text, end="", flush=True)
    else:
        print(f"{name}: {text}", end="", flush=True)


def _on_terminal() -> bool:
    return sys.stderr.isatty()


def _show_progress(n_done: int, n_pieces: int) -> None:
    """One line that rewrites itself; the last call wipes it out."""
    line = f"part-transcribe: {n_done} of {n_pieces} pieces" if n_done < n_pieces else ""
    print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def transcribe(args: argparse.Namespace) -> bool:
    """Runs the command; returns whether every file was read.

    Raises:
        ValueError: No model, an unknown language, or options that do not go together.
    """
    if args.srt and len(args.files) > 1 and not args.output_dir:
        raise ValueError("--srt with several files: say by --output_dir where to write them")
    stems = [Path(name).name for name in args.files]
    double = next((stem for stem in stems if stems.count(stem) > 1), None)
    if args.output_dir and double:
        raise ValueError(f"two files are called {double}: --output_dir has one place for both")
    if args.to is not None and args.to == args.lang:
        raise ValueError(f"--to {args.to} is the language spoken: leave it out to transcribe")
    for code, option in ((args.lang, "--lang"), (args.to, "--to")):
        if code is not None:
            check_language(code, option)
    s2t = load_model(args)
    task = "asr" if args.to is None else "st"
    names, waveforms = read_files(args.files, s2t)
    answers = s2t.decode(
        waveforms, task, args.lang, args.to, progress=_show_progress if _on_terminal() else None
    )
    for name, answer in zip(names, answers, strict=True):
        show(name, answer, args)
    return len(names) == len(args.files)


def main(cmd: list[str] | None = None) -> None:
    """Entry point of ``part-transcribe``."""
    args = get_parser().parse_args(cmd)
    logging.basicConfig(level="WARNING", format="part-transcribe: %(message)s")
    try:
        complete = transcribe(args)
    except (ValueError, OSError) as error:
        print(f"part-transcribe: {error}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    main()
