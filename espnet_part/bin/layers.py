r"""Which layers of the LLM to align: retrieval between speech and transcripts, layer by layer.

python -m espnet_part.bin.layers --part_train_config exp/miniature/part/phase3/config.yaml \
    --part_model_file exp/miniature/part/phase3/latest.pth \
    --data_dir dump/raw/miniature_dev --json layers.json --plot layers.png

Both sides of each sentence go through the LLM: its speech, and its transcript in its place. At
every layer, each side is averaged over its positions, and asks for the other among all sentences
(by cosine). Printed per layer, from the embeddings (0) to the last block's output:

  speech>text   mean reciprocal rank of the right transcript: 1 is always first
  text>speech   the other way round
  spread        mean cosine distance of the speech of different sentences: near 0 they are all alike
  transport     mean cost of moving speech onto its transcript, what `alignment` trains down

and the layers proposed for `alignment.layers` (a star): the shallow ones up to the first peak.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m espnet_part.bin.layers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--part_train_config", required=True, help="config.yaml of the phase")
    add("--part_model_file", help="its checkpoint, e.g. latest.pth; default: the sources alone")
    add(
        "--data_dir",
        nargs="+",
        required=True,
        help="speech folders; asr rows, and st rows with transcripts, are read",
    )
    add("--rows", type=int, default=500, help="sentences at most (default: %(default)s)")
    add("--max_layers", type=int, help="layers to propose at most (default: the config's, or 2)")
    add("--micro_cost", type=float, help="budget of a forward, 1 or more (default: the config's)")
    add("--ngpu", type=int, default=0, choices=[0, 1], help="0 is the CPU")
    add("--json", type=Path, metavar="FILE", help="also write the figures here")
    add("--plot", type=Path, metavar="FILE", help="also draw them: a name in .png or .svg")
    return parser


def layers(args: argparse.Namespace) -> None:
    """Measures, prints, writes, draws.

    Raises:
        ValueError: Anything that the user can mend.
    """
    if args.rows < 2:
        raise ValueError(
            f"--rows {args.rows}: expected 2 or more; a sentence is found among others"
        )
    if args.max_layers is not None and args.max_layers < 1:
        raise ValueError(f"--max_layers {args.max_layers}: expected 1 or more")
    if args.micro_cost is not None and not args.micro_cost >= 1:  # nan, too
        raise ValueError(f"--micro_cost {args.micro_cost:g}: expected 1 or more")
    if args.plot is not None and args.plot.suffix not in (".png", ".svg"):
        raise ValueError(f"--plot {args.plot}: expected a name in .png or .svg")

    import torch

    from espnet_part.config import AlignmentConfig
    from espnet_part.datadir import iter_rows
    from espnet_part.dataset import ExampleLoader
    from espnet_part.inner_alignment import build_alignment
    from espnet_part.layer_probe import distinct_rows, probe_layers, transcript_batches
    from espnet_part.loading import load_model
    from espnet_part.retrieval import propose_layers
    from espnet_part.schema import from_dict, load_yaml

    if args.ngpu and not torch.cuda.is_available():
        raise ValueError(f"--ngpu {args.ngpu}: no GPU here; use --ngpu 0")
    rows = distinct_rows((row for folder in args.data_dir for row in iter_rows(folder)), args.rows)
    if len(rows) < 2:
        raise ValueError(
            f"{' '.join(args.data_dir)}: found {len(rows)} sentence(s) with speech and a "
            "transcript, expected 2 or more: asr rows, or st rows in a folder with a file "
            "`transcript`"
        )
    values = load_yaml(args.part_train_config)
    options = from_dict(AlignmentConfig, values.get("alignment") or {}, "alignment.")
    model = load_model(args.part_train_config, args.part_model_file, "cuda" if args.ngpu else "cpu")
    device = next(model.parameters()).device
    limits = model.encoder.min_samples, model.encoder.max_samples
    loader = ExampleLoader(model.prompter, 0, 0.0, None, *limits, transcripts=True)
    budget = args.micro_cost
    if budget is None:
        budget = float(values.get("micro_cost", 20000))
    transport = build_alignment(dataclasses.replace(options, layers=[0]), 0)
    batches = transcript_batches(rows, loader, budget, device)
    # Fewer than rows where some cannot be read.
    scores, sentences = probe_layers(model, batches, transport)
    most = args.max_layers or options.max_layers
    proposed = propose_layers([score.retrieval for score in scores], most)
    print(f"{sentences} sentences of {' '.join(args.data_dir)}")
    print("layer  speech>text  text>speech  spread  transport")
    for score in scores:
        print(
            f"{score.layer:5d}  {score.speech_to_text:11.3f}  {score.text_to_speech:11.3f}  "
            f"{score.spread:6.3f}  {score.transport:9.3f}"
            + ("  *" if score.layer in proposed else "")
        )
    print(f"proposed: alignment.layers: {proposed}")
    if args.json is not None:
        about = {
            "config": args.part_train_config,
            "checkpoint": args.part_model_file,
            "data": args.data_dir,
            "sentences": sentences,
            "proposed": proposed,
            "layers": [
                {**dataclasses.asdict(score), "retrieval": score.retrieval} for score in scores
            ],
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    if args.plot is not None:
        from espnet_part.pictures_layers import draw_layers
        from espnet_part.pictures_style import save

        save(draw_layers(scores, proposed, sentences, _title(args)), args.plot)


def _title(args: argparse.Namespace) -> str:
    """Which checkpoint, on what: the last folders of both names."""
    checkpoint = Path(args.part_model_file or args.part_train_config)
    names = " ".join(Path(folder).name for folder in args.data_dir)
    return f"{'/'.join(checkpoint.parts[-4:])} on {names}"


def main(cmd: list[str] | None = None) -> None:
    """Runs; a mistake ends the command with its message."""
    try:
        layers(get_parser().parse_args(cmd))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
