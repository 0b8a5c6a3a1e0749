"""Trains each phase for some steps on made batches with random weights: memory, speed, sanity.

python -m espnet_part.bin.benchmark --config conf/benchmark/part_2b.yaml --ngpu 1 --steps 50
python -m espnet_part.bin.benchmark --config conf/benchmark/small.yaml --steps 5
python -m espnet_part.bin.benchmark --config conf/benchmark/small.yaml --phases 3 --alignment "{}"

Prints, per phase, steps and audio seconds per second, the peak of memory, the share of the LLM's
weights that moved, and fails on a loss that is not finite or an LLM that moved against the phase's
policy.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import yaml

from espnet_part.build import build_parts
from espnet_part.config import Config, ModelConfig
from espnet_part.inner_alignment import build_alignment
from espnet_part.loop import Loop
from espnet_part.parallel import Processes
from espnet_part.progress import by_task
from espnet_part.prompt import LANGUAGES, TASKS
from espnet_part.schema import from_dict, load_yaml

PHASES = {
    "1": ({"adapter": "all"}, ["asr"]),
    "2a": ({"encoder": "last:8", "adapter": "all"}, ["asr"]),
    "2b": ({"encoder": "all", "adapter": "all"}, ["asr"]),
    "3": ({"encoder": "all", "adapter": "all", "llm": "all"}, ["asr", "st", "mt"]),
}
TOKENS_PER_SECOND = 4
PROMPT_TOKENS = 20
# A config needs prompts; the batches made here are ids.
UNUSED_PROMPTS = {
    task: {"with_source": "{src}{tgt}", "without_source": "{tgt}"} for task in ("asr", "st", "mt")
}


def made_batch(rng: np.random.Generator, tasks: list[str], seconds: float, vocabulary: int) -> dict:
    """A batch of about `seconds` of noise, clip lengths lognormal around 6 s, random tokens."""
    lengths, rows = [], []
    while sum(lengths) < seconds:
        length = float(np.clip(rng.lognormal(np.log(6), 0.6), 1, 20))
        task = tasks[len(rows) % len(tasks)]
        rows.append((task, PROMPT_TOKENS, max(2, int(length * TOKENS_PER_SECOND))))
        if task != "mt":
            lengths.append(length)
    samples = [int(16000 * length) for length in lengths]
    speech = torch.zeros(len(samples), max(samples))
    for i, count in enumerate(samples):
        speech[i, :count] = torch.from_numpy(0.1 * rng.standard_normal(count)).float()
    counts = torch.tensor([prompt + target for _, prompt, target in rows])
    flags = [flag for _, p, t in rows for flag in [False] * p + [True] * t]
    said = [int(sec * TOKENS_PER_SECOND) for sec in lengths]  # of each row with speech, in order
    spoken = iter(said)
    return {
        "transcript_ids": torch.from_numpy(rng.integers(0, vocabulary, sum(said))),
        "transcript_lengths": torch.tensor([next(spoken) if t != "mt" else 0 for t, _, _ in rows]),
        "speech": speech,
        "speech_lengths": torch.tensor(samples),
        "speech_row": torch.tensor([b for b, (task, _, _) in enumerate(rows) if task != "mt"]),
        "augment_seed": torch.zeros(len(samples), dtype=torch.long),
        "token_ids": torch.from_numpy(rng.integers(0, vocabulary, int(counts.sum()))),
        "token_lengths": counts,
        "speech_place": torch.tensor([3 if task != "mt" else 0 for task, _, _ in rows]),
        "is_target": torch.tensor(flags),
        "task": torch.tensor([TASKS.index(task) for task, _, _ in rows]),
        "tgt": torch.tensor([i % len(LANGUAGES) for i in range(len(rows))]),
        "seconds": torch.tensor([sum(lengths)]),
    }


def run_phase(phase: str, model_values: dict, args, device: torch.device) -> dict:
    """Trains one phase from fresh random weights.

    Returns:
        phase, loss (first and last), steps_per_sec, audio_sec_per_sec, peak_gib, llm_moved_percent;
        with alignment also the transport cost (first and last).

    Raises:
        ValueError: A loss that is not finite, or an LLM that moved against the policy.
    """
    trainable, tasks = PHASES[phase]
    if trainable.get("llm") and model_values["llm"].get("lora"):
        trainable = {**trainable, "llm": "lora"}
    config = from_dict(
        Config,
        {
            "phase": phase,
            "model": model_values,
            "trainable": trainable,
            "tasks": tasks,
            "lr": {part: 1e-5 for part in trainable},
            "max_steps": args.steps,
            "warmup_steps": 1,
            "prompts": UNUSED_PROMPTS,
            "alignment": args.alignment,
        },
    )
    torch.manual_seed(0)
    model = build_parts(config.model, prompter=None).to(device)
    model.set_trainable(config.trainable)
    model.alignment = build_alignment(config.alignment, model.llm.config.num_hidden_layers)
    before = {name: p.detach().cpu().clone() for name, p in model.llm.named_parameters()}
    rng = np.random.default_rng(0)
    vocabulary = model.llm.config.vocab_size
    batches = [made_batch(rng, tasks, args.batch_sec, vocabulary) for _ in range(4)]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        processes = Processes(device=device)
        loop = Loop(model, config, None, None, batches[0], processes, Path(folder))
        values, seconds, started = [], 0.0, 0.0
        for step in range(args.steps):
            if step == args.warmup:
                _wait(device)
                started = time.perf_counter()
            update = loop._update(model, [batches[step % len(batches)]])
            loop.step += 1
            values.append(by_task(update["table"]))
            seconds += update["audio_sec"] if step >= args.warmup else 0.0
        _wait(device)
        passed = time.perf_counter() - started
    losses = [value["loss"] for value in values]
    moved = [
        float((p.detach().cpu().to(before[name].dtype) != before[name]).float().mean())
        for name, p in model.llm.named_parameters()
    ]
    result = {
        "phase": phase,
        "loss_first": losses[0],
        "loss_last": losses[-1],
        "steps_per_sec": (args.steps - args.warmup) / passed,
        "audio_sec_per_sec": seconds / passed,
        "peak_gib": _peak_gib(device),
        "llm_tensors_moved_percent": 100 * sum(share > 0 for share in moved) / len(moved),
    }
    if config.alignment is not None:
        result["transport_first"] = values[0]["transport"]
        result["transport_last"] = values[-1]["transport"]
    if not np.isfinite(losses).all():
        raise ValueError(f"phase {phase}: the loss is not finite: {losses}")
    if ("llm" in trainable) != (result["llm_tensors_moved_percent"] > 0):
        raise ValueError(f"phase {phase}: the LLM moved against the policy: {result}")
    return result


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def get_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m espnet_part.bin.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, help="YAML of conf/benchmark")
    parser.add_argument("--phases", nargs="+", default=list(PHASES), choices=list(PHASES))
    parser.add_argument("--steps", type=int, default=50, help="optimizer steps per phase")
    parser.add_argument("--warmup", type=int, default=2, help="steps before the clock starts")
    parser.add_argument("--batch_sec", type=float, default=120, help="seconds of audio per step")
    parser.add_argument("--ngpu", type=int, default=0, choices=[0, 1], help="0 is the CPU")
    parser.add_argument(
        "--alignment",
        type=yaml.safe_load,
        metavar="YAML",
        help='inner alignment, as in a phase YAML: "{layers: [0, 1]}"; on the CPU the peak of '
        "memory is the process's, so compare runs of one phase each",
    )
    parser.add_argument("--json", help="also write the figures here")
    return parser


def main(cmd=None) -> None:
    """Runs the phases one after the other."""
    args = get_parser().parse_args(cmd)
    if args.steps <= args.warmup:
        sys.exit(f"error: --steps {args.steps} must exceed --warmup {args.warmup}")
    if args.ngpu and not torch.cuda.is_available():
        sys.exit(f"error: --ngpu {args.ngpu}: no GPU here; use --ngpu 0")
    device = torch.device("cuda" if args.ngpu else "cpu")
    results = []
    try:
        values = load_yaml(args.config)
        from_dict(ModelConfig, values, "model.")
        for phase in args.phases:
            results.append(run_phase(phase, values, args, device))
            print("  ".join(f"{k} {_short(v)}" for k, v in results[-1].items()), flush=True)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    if args.json:
        about = {"torch": torch.__version__, "device": _name(device), "config": args.config}
        Path(args.json).write_text(json.dumps({**about, "phases": results}, indent=1))


def _short(value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else "cpu"


if __name__ == "__main__":
    main()
