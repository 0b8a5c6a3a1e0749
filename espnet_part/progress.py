"""What a person sees of a run: start-up tables, one progress line, TensorBoard, learning curves."""

from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path

from torch import Tensor

from espnet_part.prompt import LANGUAGES, TASKS


def log_table(title: str, rows: list[dict], formats: dict[str, str]) -> None:
    """Logs rows of equal keys as an aligned table.

    Args:
        title: Line above it.
        rows: One dictionary per line.
        formats: Column -> format spec; also the choice and order of columns.
    """
    cells = [[*formats]]
    for row in rows:
        cells.append(
            ["-" if row[key] is None else format(row[key], spec) for key, spec in formats.items()]
        )
    widths = [max(len(line[i]) for line in cells) for i in range(len(formats))]
    lines = ["  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in cells]
    logging.info("%s\n  %s", title, "\n  ".join(lines))


def duration(seconds: float) -> str:
    """3725 -> 1h02m."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"


def by_task(table: Tensor) -> dict[str, float]:
    """Sums of loss, right tokens and tokens, see `new_table`, to named means.

    Returns:
        ``loss``, ``acc`` and, for what occurred, ``loss/asr``, ``acc/asr``, ``loss/st.de`` ...
        Where rows were aligned, likewise ``transport``, the mean cost of a row.
    """
    out: dict[str, float] = {}

    def add(name: str, sums: Tensor) -> None:
        loss, right, tokens, *aligned = sums.tolist()
        if tokens:
            out[f"loss{name}"], out[f"acc{name}"] = loss / tokens, right / tokens
        if aligned and aligned[1]:
            out[f"transport{name}"] = aligned[0] / aligned[1]

    add("", table.sum((0, 1)))
    for t, task in enumerate(TASKS):
        add(f"/{task}", table[t].sum(0))
        for i, language in enumerate(LANGUAGES):
            add(f"/{task}.{language}", table[t, i])
    return out


def _transport(values: dict[str, float]) -> str:
    return f"  transport {values['transport']:.3f}" if "transport" in values else ""


def wait_for_next_second(folder: Path) -> None:
    """Waits, at most a second, until a new event file in `folder` sorts after those that are there.

    TensorBoard reads event files in the order of their names: the second they were made in, host,
    process id. Of two files of one second the older one may come last, and what it purges is lost.
    """
    deadline = time.time() + 1.0
    made = [int(path.name.split(".")[3]) for path in folder.glob("events.out.tfevents.*")]
    while made and int(time.time()) <= max(made) and time.time() < deadline:
        time.sleep(0.02)


class Progress:
    """Writes progress for one run; used on the first process only.

    Args:
        folder: The phase's folder.
        max_steps: Where the run ends.
        tensorboard: Whether to write tensorboard/.
        wandb_project: Also log there, if given.
        first_step: Where this start of the run begins.
    """

    def __init__(
        self,
        folder: Path,
        max_steps: int,
        tensorboard: bool = True,
        wandb_project: str | None = None,
        first_step: int = 0,
    ):
        self.folder, self.max_steps = Path(folder), max_steps
        self.started, self.first_step = time.perf_counter(), first_step
        self.writers = {}
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            for name in ("train", "valid"):
                folder = self.folder / "tensorboard" / name
                wait_for_next_second(folder)
                self.writers[name] = SummaryWriter(str(folder), purge_step=first_step + 1)
        self.wandb = None
        if wandb_project:
            import wandb

            self.wandb = wandb.init(
                project=wandb_project,
                dir=str(self.folder),
                name=self.folder.parent.name + "/" + self.folder.name,
                resume="allow",
            )

    def train(self, step: int, values: dict[str, float], rate: float) -> None:
        """Logs a training interval that ended with `step` steps done."""
        passed = time.perf_counter() - self.started
        left = passed / max(1, step - self.first_step) * (self.max_steps - step)
        logging.info(
            "step %d/%d  loss %.3f  acc %.1f%%%s  grad %.2f  %.0f audio-s/s  %s left",
            step,
            self.max_steps,
            values.get("loss", math.nan),  # every row of the interval may have been left out
            100 * values.get("acc", math.nan),
            _transport(values),
            values["grad_norm/total"],
            rate,
            duration(left),
        )
        self._scalars("train", step, {**values, "audio_seconds_per_second": rate})

    def valid(self, step: int, values: dict[str, float], best: dict[str, float]) -> None:
        """Logs a validation."""
        listen = values.get("listen")
        logging.info(
            "step %d/%d  dev loss %.3f (best %.3f)  dev acc %.1f%%%s%s",
            step,
            self.max_steps,
            values["loss"],
            best["loss"],
            100 * values["acc"],
            _transport(values),
            "" if listen is None else f"  listens: {listen:+.3f} with the wrong audio",
        )
        self._scalars("valid", step, values)

    def _scalars(self, name: str, step: int, values: dict[str, float]) -> None:
        if name in self.writers:
            for key, value in values.items():
                self.writers[name].add_scalar(key, value, step)
            self.writers[name].flush()
        if self.wandb is not None:
            self.wandb.log({f"{name}/{k}": v for k, v in values.items()}, step=step)

    def close(self, history: list[dict]) -> None:
        """Draws the learning curves and closes the logs."""
        for writer in self.writers.values():
            writer.close()
        if self.wandb is not None:
            self.wandb.finish()
        draw_curves(history, self.folder / "images")


def draw_curves(history: list[dict], folder: Path) -> None:
    """Writes loss.png, acc.png, listen.png and transport.png, and their numbers as curves.json.

    Args:
        history: ``{"step", "split": "train" | "valid", "loss", "acc", ["listen"], ["transport"]}``
            in order.
        folder: Where to.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "curves.json").write_text(json.dumps(history))
    labels = {
        "loss": "cross-entropy per target token (nats)",
        "acc": "target tokens predicted right (share)",
        "listen": "dev loss, wrong audio minus right (nats)",
        "transport": "transport cost, speech to transcript (per row)",
    }
    for key, label in labels.items():
        figure, axes = pyplot.subplots(figsize=(6, 4))
        for split, color in (("train", "#0072b2"), ("valid", "#d55e00")):
            points = [
                (h["step"], h[key])
                for h in history
                if h["split"] == split and math.isfinite(h.get(key, math.nan))
            ]
            if points:
                axes.plot(*zip(*points, strict=True), label=split, color=color, marker=".")
        if axes.lines:
            axes.set_xlabel("optimizer steps")
            axes.set_ylabel(label)
            axes.legend()
            figure.tight_layout()
            figure.savefig(folder / f"{key}.png", dpi=120)
        pyplot.close(figure)
