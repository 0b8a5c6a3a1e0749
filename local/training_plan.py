"""What a training takes: per phase its batch, rates, steps, audio seen, GPU-hours and disk.

    python local/training_plan.py --model part_2b --curriculum part
    python local/training_plan.py --model part_8b --utilization 0.2
    python local/training_plan.py --model part_2b --hours asr=810000 st=434000   # one epoch each

Arithmetic on conf/, with the shapes in conf/benchmark/<model>.yaml; nothing is trained or fetched.
Operations per position: 2 per weight forward; as many again for the gradient of what it reads,
where something below it trains; as many again for the gradient of the weight, where it trains; and
once more forward where activations are computed again. GPU-hours follow from that, the peak rate of
the GPU, and the share of it that training reaches (--utilization), which is an assumption until
`espnet_part.bin.benchmark` has measured it on yours.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from espnet_part.adapter import build_adapter
from espnet_part.batching import row_cost
from espnet_part.config import Config, ModelConfig
from espnet_part.curriculum import load_curriculum, merge
from espnet_part.encoder import build_encoder
from espnet_part.llm import build_llm
from espnet_part.prompt import SPEECH_TASKS
from espnet_part.schema import from_dict, load_yaml

ROOT = Path(__file__).resolve().parent.parent
SAMPLE_RATE = 16000
PROMPT_TOKENS = 20
MASTER_BYTES = 4  # of a trained weight; AdamW's two moments take as much, each
GB = 1e9


@dataclass(frozen=True)
class Shape:
    """Sizes of the parts.

    Attributes:
        weights: Part -> number of weights; of the LLM without its output layer.
        head: Weights of the LLM's output layer, which works at target positions only.
        blocks: Blocks of the encoder.
        encoder_hz: Frames a second out of the encoder.
        llm_hz: Positions a second into the LLM.
        recompute: Parts whose activations are computed again.
    """

    weights: dict[str, int]
    head: int
    blocks: int
    encoder_hz: float
    llm_hz: float
    recompute: tuple[str, ...]


def measure(values: dict) -> Shape:
    """Counts the weights of a model config; all tensors are without storage."""
    parts = from_dict(ModelConfig, values, "model.")
    with torch.device("meta"):
        encoder = build_encoder(
            kind=parts.encoder.kind,
            source=None,
            revision=None,
            config=parts.encoder.config,
            dtype=parts.encoder.dtype,
        )
        llm = build_llm(None, None, parts.llm.config, parts.llm.dtype, None, False)
        shape = {**parts.adapter.__dict__}
        adapter = build_adapter(
            input_size=encoder.output_size, output_size=llm.config.hidden_size, **shape
        )
    head = llm.get_output_embeddings().weight.numel()
    embeddings = llm.get_input_embeddings().weight.numel()  # looked up, not multiplied
    tied = llm.config.tie_word_embeddings
    count = {name: sum(p.numel() for p in m.parameters()) for name, m in
             (("encoder", encoder), ("adapter", adapter), ("llm", llm))}  # fmt: skip
    count["llm"] -= embeddings if tied else head + embeddings
    recompute = [name for name in ("encoder", "llm") if getattr(parts, name).gradient_checkpointing]
    return Shape(
        count,
        head,
        len(encoder.layers),
        encoder.frame_rate_hz,
        encoder.frame_rate_hz / parts.adapter.stride,
        tuple(recompute),
    )


def encoder_share(shape: Shape, config: Config) -> float:
    """The share of the encoder that trains, where it trains."""
    how = config.trainable.get("encoder", "none")
    if isinstance(how, str) and how.startswith("last:"):
        return int(how.split(":")[1]) / shape.blocks
    return 1.0


def operations(
    shape: Shape, config: Config, clip_sec: float, target_tokens: float
) -> tuple[float, float]:
    """Floating-point operations of a speech row and of a text row, in one phase.

    Args:
        shape: Sizes.
        config: The phase.
        clip_sec: Seconds of a clip.
        target_tokens: Tokens of a target; a text row's source has as many.
    """
    trained = {part for part, how in config.trainable.items() if how != "none"}
    llm_positions = shape.llm_hz * clip_sec + PROMPT_TOKENS + target_tokens

    def part(name: str, positions: float, below_trains: bool, share: float = 1.0) -> float:
        work = 2.0  # forward
        if name in trained:
            work += 2.0 * share  # gradients of the weights
        if below_trains or (name in trained and share > 0):
            work += 2.0 * share + (2.0 * share if name in shape.recompute else 0.0)
        return work * shape.weights[name] * positions

    share = encoder_share(shape, config)
    heard = part("encoder", shape.encoder_hz * clip_sec, False, share)
    below = "encoder" in trained
    heard += part("adapter", shape.llm_hz * clip_sec, below)
    below = below or "adapter" in trained
    head = (4.0 + 2.0 * ("llm" in trained)) * shape.head * target_tokens
    speech = heard + part("llm", llm_positions, below) + head
    text = part("llm", PROMPT_TOKENS + 2 * target_tokens, False) + head
    return speech, text


def parse_hours(items: list[str] | None) -> dict[str, float]:
    """`asr=810000 st=434000` as numbers.

    Raises:
        ValueError: Another task, or no number.
    """
    hours = {}
    for item in items or []:
        task, _, number = item.partition("=")
        if task not in SPEECH_TASKS or not number.replace(".", "", 1).isdigit():
            raise ValueError(f"--hours: found {item!r}, expected asr=<hours> or st=<hours>")
        hours[task] = float(number)
    return hours


def plan_phase(
    shape: Shape, config: Config, args: argparse.Namespace, changed: dict[str, float]
) -> dict:
    """Figures of one phase.

    Args:
        shape: Sizes.
        config: The phase.
        args: Of the command.
        changed: Part -> weights that earlier phases have trained; this phase's are added, because
            a checkpoint holds all that differs from the pre-trained parts.
    """
    speech_cost = float(row_cost(args.clip_sec * SAMPLE_RATE, 0, args.target_tokens))
    text_cost = float(row_cost(0, args.target_tokens, args.target_tokens))
    shares = config.task_shares or dict.fromkeys(config.tasks, 1.0)
    share = {task: shares.get(task, 1.0) for task in config.tasks}
    whole = sum(share.values())
    heard = sum(weight for task, weight in share.items() if task in SPEECH_TASKS) / whole
    speech_rows = heard * config.batch_cost / speech_cost
    text_rows = (1 - heard) * config.batch_cost / text_cost
    minutes = speech_rows * args.clip_sec / 60
    steps = config.max_steps
    hours = parse_hours(args.hours)
    if hours and minutes:
        steps = round(sum(hours.get(task, 0.0) for task in config.tasks) * 60 / minutes)
    speech, text = operations(shape, config, args.clip_sec, args.target_tokens)
    work = steps * (speech_rows * speech + text_rows * text)
    trained = [part for part, how in config.trainable.items() if how != "none"]
    now = {part: float(shape.weights[part]) for part in trained}
    if "encoder" in now:
        now["encoder"] *= encoder_share(shape, config)
    if "llm" in now:
        now["llm"] += shape.head
    changed |= {part: max(count, changed.get(part, 0.0)) for part, count in now.items()}
    weights, state = sum(changed.values()), 2 * sum(now.values())
    return {
        "phase": config.phase,
        "rates": ", ".join(f"{part} {config.lr[part]:g}" for part in trained),
        "clips": speech_rows,
        "minutes": minutes,
        "warm-up": config.warmup_steps,
        "steps": steps,
        "hours": steps * minutes / 60,
        "gpu-hours": work / (args.peak_tflops * 1e12 * args.utilization) / 3600,
        "weights_gb": weights * MASTER_BYTES / GB,
        "checkpoint_gb": (weights + state) * MASTER_BYTES / GB,
    }


def table(rows: list[dict]) -> str:
    """The figures as a Markdown table."""
    header = ["phase", "peak rates", "clips, minutes an update", "warm-up, steps", "audio, h",
              "GPU-hours", "latest.pth, checkpoint.pth, GB"]  # fmt: skip
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in rows:
        cells = [
            f"`{row['phase']}`",
            row["rates"],
            f"{row['clips']:.0f}, {row['minutes']:.0f}",
            f"{row['warm-up']:,}, {row['steps']:,}",
            f"{row['hours']:,.0f}",
            f"{row['gpu-hours']:,.0f}",
            f"{row['weights_gb']:.1f}, {row['checkpoint_gb']:.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    total = [sum(row[key] for row in rows) for key in ("hours", "gpu-hours")]
    lines.append(f"| all | | | | {total[0]:,.0f} | {total[1]:,.0f} | |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="part_2b", help="in conf/model and conf/benchmark")
    parser.add_argument("--curriculum", default="part", help="conf/curriculum (%(default)s)")
    parser.add_argument("--clip_sec", type=float, default=7.0, help="mean clip (%(default)s)")
    parser.add_argument("--target_tokens", type=float, default=28, help="mean target (%(default)s)")
    parser.add_argument(
        "--peak_tflops", type=float, default=989, help="of the GPU, dense bf16; H100, H200: 989"
    )
    parser.add_argument(
        "--utilization", type=float, default=0.3, help="share of it in use (%(default)s, assumed)"
    )
    parser.add_argument(
        "--hours", nargs="+", metavar="TASK=H", help="steps for one pass over so much speech"
    )
    args = parser.parse_args(argv)
    try:
        shape = measure(load_yaml(ROOT / "conf" / "benchmark" / f"{args.model}.yaml"))
        phases = load_curriculum(ROOT / "conf", args.curriculum)["phases"]
        configs = [merge(ROOT / "conf", args.model, args.curriculum, p, [], []) for p in phases]
        changed: dict[str, float] = {}
        rows = [plan_phase(shape, config, args, changed) for config in configs]
    except ValueError as error:
        sys.exit(f"{parser.prog}: error: {error}")
    sizes = ", ".join(f"{part} {count / 1e6:,.0f} M" for part, count in shape.weights.items())
    print(f"weights: {sizes}, output layer {shape.head / 1e6:,.0f} M")
    print(f"{shape.encoder_hz:g} frames a second, {shape.llm_hz:g} into the LLM\n")
    print(table(rows))


if __name__ == "__main__":
    main()
