"""The training loop: step-based, resumable at any step, the same for one process and many."""

from __future__ import annotations

import logging
import math
import signal
import time
from pathlib import Path

import torch
from torch import Tensor

from espnet_part.augment import utterance_seed
from espnet_part.checkpoint import read_checkpoint, remove_leftovers, write_atomically
from espnet_part.config import Config
from espnet_part.dataset import StepDataset
from espnet_part.journal import Journal
from espnet_part.layer_choice import LayerChoice
from espnet_part.model import PARTModel
from espnet_part.optim import (
    build_optimizer,
    clip_gradients,
    gradient_norms,
    lr_factor,
    set_learning_rates,
)
from espnet_part.parallel import Processes, no_sync, unused_parameters
from espnet_part.prefetch import step_loader
from espnet_part.validation import Validation

MAX_BAD_STEPS = 10  # in a row, with a gradient that is not finite


class Stopped(Exception):
    """SIGTERM arrived; the state is saved."""


class Loop:
    """Trains one phase.

    Args:
        model: With its trainable policy applied, on its device.
        config: The phase.
        dataset: Micro-batches by step, for this process.
        validation: Computes dev losses.
        dummy: A batch that stands in, with weight 0, where a process has no rows.
        processes: The run's processes.
        folder: The phase's folder.
        workers: Loader processes.
        tensorboard: Whether to write tensorboard/.

    Attributes:
        layer_choice: Chooses the layers of inner alignment as training goes on; None: they stay.
    """

    layer_choice: LayerChoice | None = None

    def __init__(
        self,
        model: PARTModel,
        config: Config,
        dataset: StepDataset,
        validation: Validation,
        dummy: dict,
        processes: Processes,
        folder: Path,
        workers: int = 0,
        tensorboard: bool = True,
    ):
        self.model, self.config, self.dataset = model, config, dataset
        self.validation, self.dummy = validation, dummy
        self.processes, self.folder, self.workers = processes, Path(folder), workers
        self.journal = Journal(config, processes, self.folder, tensorboard)
        self.optimizer = build_optimizer(model, config.lr, config.betas, config.weight_decay)
        self.trained = [n for n, p in model.named_parameters() if p.requires_grad]
        self.step = 0
        self.bad_steps = 0
        self._stop = False
        self._saved_step = -1

    # ----- state -----

    def resume(self, path: Path) -> None:
        """Continues where checkpoint.pth stands.

        Raises:
            ValueError: A checkpoint of another policy or model.
        """
        payload = read_checkpoint(path)
        if payload.get("trained_now") != self.trained:
            raise ValueError(
                f"{path} was written while training other parameters; remove it to start the "
                "phase again, or restore the phase's config.yaml"
            )
        self.model.load_trimmed_state(payload, str(path))
        self.optimizer.load_state_dict(payload["optimizer"])
        self.journal.load(payload)
        if self.model.alignment is not None and self.layer_choice is not None:
            self.model.alignment.layers = payload["alignment_layers"]
        self.step, self.bad_steps = payload["step"], payload["bad_steps"]
        self._saved_step = self.step
        logging.info("resuming at step %d of %d from %s", self.step, self.config.max_steps, path)

    def save(self) -> None:
        """Writes latest.pth (the model) and checkpoint.pth (everything)."""
        if self._saved_step == self.step:
            return
        journal = self.journal.state()
        if self.processes.first:
            state = self.model.trimmed_state()
            extra = {"phase": self.config.phase, "step": self.step}
            alignment = self.model.alignment if self.layer_choice is not None else None
            chosen = {} if alignment is None else {"alignment_layers": alignment.layers}
            # In this order: a run killed in between starts from the older checkpoint.pth and writes
            # both again. The other way round, a finished run could keep an old latest.pth.
            write_atomically(self.folder / "latest.pth", {**state, **extra})
            write_atomically(
                self.folder / "checkpoint.pth",
                {
                    **state,
                    **extra,
                    "optimizer": self.optimizer.state_dict(),
                    "trained_now": self.trained,
                    **journal,
                    **chosen,
                    "bad_steps": self.bad_steps,
                },
            )
        self._saved_step = self.step
        self.processes.barrier()

    # ----- running -----

    def run(self) -> None:
        """Trains to the end.

        Raises:
            Stopped: On SIGTERM, after saving.
            RuntimeError: The gradient is not finite for too long.
        """
        config = self.config
        previous = signal.signal(signal.SIGTERM, self._request_stop)
        self.journal.open(self.step)
        if self.processes.first:
            remove_leftovers(self.folder)
        wrapped = self._wrap()
        started = time.perf_counter()
        loader = step_loader(self.dataset, self.step, config.max_steps, self.workers)
        try:
            for batches, skipped in loader:
                self.journal.rows_left_out(skipped)
                self._choose_layers()
                self.journal.meter.add(**self._update(wrapped, batches))
                self.step += 1
                ended = self.step == config.max_steps
                if self.step % config.log_interval == 0 or ended:
                    self.journal.train(self.step, self._rates())
                trained = time.perf_counter()
                if self.step % config.valid_interval == 0 or ended:
                    self._validate()
                stop = self.processes.any(self._stop)
                if self.step % config.save_interval == 0 or ended or stop:
                    self.save()
                self.journal.meter.pause(time.perf_counter() - trained)
                if stop and not ended:
                    raise Stopped(f"stopped by SIGTERM at step {self.step}, saved")
            self.journal.finish(self.step, time.perf_counter() - started)
        finally:
            loader.close()
            signal.signal(signal.SIGTERM, previous)
            self.journal.close()

    def _wrap(self):
        """The model as `_update` calls it: its backward averages gradients over the processes."""
        if self.processes.world_size == 1:
            return self.model
        self.model.train()
        with self.autocast():
            unused = unused_parameters(self.model, _to(self.dummy, self.processes.device))
        return self.processes.wrap(self.model, bool(unused))

    def _request_stop(self, *_) -> None:
        logging.warning("SIGTERM: saving after this step")
        self._stop = True

    def _choose_layers(self) -> None:
        if self.layer_choice is not None and self.layer_choice.due(self.step):
            started = time.perf_counter()
            with self.autocast():
                self.layer_choice.choose(self.model, self.step)
            self.journal.meter.pause(time.perf_counter() - started)

    def _update(self, wrapped, batches: list[dict | None]) -> dict:
        """One optimizer step over the micro-batches of this process."""
        config, processes, model = self.config, self.processes, self.model
        model.train()
        # Dropout needs no saved random state: each step starts from its own seed.
        torch.manual_seed(utterance_seed(config.seed, self.step, f"rank{processes.rank}"))
        real = [batch is not None for batch in batches]
        moved = [_to(batch or self.dummy, processes.device) for batch in batches]
        tokens, audio, llm, seconds = self._count(moved, real).tolist()
        table = None
        for i, batch in enumerate(moved):
            with no_sync(wrapped, i < len(moved) - 1), self.autocast():
                loss, stats, weight = wrapped(**batch)
                share = float(weight) * processes.world_size / max(tokens, 1.0) * real[i]
                (loss * share).backward()
            if real[i]:
                table = stats["table"] if table is None else table + stats["table"]
        self._drop_unused(audio, llm)
        norms = gradient_norms(model)
        norms["total"] = clip_gradients(model, norms, config.clip_norm)
        if math.isfinite(norms["total"]):
            factor = lr_factor(
                self.step, config.max_steps, config.warmup_steps, config.schedule, config.final_lr
            )
            set_learning_rates(self.optimizer, factor)
            self.optimizer.step()
            self.bad_steps = 0
        else:
            self._bad_step()
        self.optimizer.zero_grad(set_to_none=True)
        if table is None:
            table = torch.zeros_like(stats["table"])
        return {"table": table, "norms": norms, "audio_sec": seconds}

    def _count(self, batches: list[dict], real: list[bool]) -> Tensor:
        """Over all processes: target tokens, clips, batches that update the LLM, seconds."""
        counts = torch.zeros(4, dtype=torch.float64, device=self.processes.device)
        for batch, counted in zip(batches, real, strict=True):
            if counted:
                counts[0] += batch["is_target"].sum()
                counts[1] += (batch["speech_row"] >= 0).sum()
                counts[2] += self.model.updates_llm(batch)[0]
                counts[3] += batch["seconds"][0]
        return self.processes.sum(counts)

    def _drop_unused(self, audio: float, llm: float) -> None:
        """No row had a say: no gradient, or AdamW would still move by momentum and decay."""
        unused = [] if llm else [self.model.llm]
        unused += [] if audio else [self.model.encoder, self.model.adapter]
        for part in unused:
            for parameter in part.parameters():
                parameter.grad = None

    def autocast(self):
        """What the model computes in."""
        wanted = self.config.compute_dtype == "bfloat16"
        if self.config.compute_dtype == "auto":
            # A frozen bf16 part and an fp32 one meet in autocast only.
            narrow = any(p.dtype == torch.bfloat16 for p in self.model.parameters())
            wanted = narrow or self.processes.device.type == "cuda"
        return torch.autocast(self.processes.device.type, torch.bfloat16, enabled=wanted)

    def _bad_step(self) -> None:
        self.bad_steps += 1
        logging.warning("step %d: gradient not finite, step skipped", self.step + 1)
        if self.bad_steps >= MAX_BAD_STEPS:
            raise RuntimeError(
                f"the gradient was not finite for {MAX_BAD_STEPS} steps in a row at step "
                f"{self.step + 1}; lower the learning rates (lr.*) or raise warmup_steps"
            )

    def _rates(self) -> dict[str, float]:
        return {group["part"]: group["lr"] for group in self.optimizer.param_groups}

    def _validate(self) -> None:
        with self.autocast():
            values = self.validation.run(self.model)
        if not values:
            return
        for key in self.journal.valid(self.step, values):
            if self.processes.first:
                extra = {"phase": self.config.phase, "step": self.step}
                path = self.folder / f"valid.{key}.best.pth"
                write_atomically(path, {**self.model.trimmed_state(), **extra})


def _to(batch: dict, device: torch.device) -> dict:
    return {key: value.to(device, non_blocking=True) for key, value in batch.items()}
