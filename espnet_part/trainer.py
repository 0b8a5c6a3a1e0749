"""PARTTrainer: the glue between ESPnet's trainer interface and our loop."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from espnet2.train.trainer import Trainer

from espnet_part.batching import BatchPlan, plan_of
from espnet_part.checkpoint import read_checkpoint
from espnet_part.config import Config
from espnet_part.datadir import Row
from espnet_part.dataset import Example, ExampleLoader, StepDataset, collate
from espnet_part.frame_cache_writer import make_frame_cache
from espnet_part.inner_alignment import build_alignment
from espnet_part.layer_choice import LayerChoice
from espnet_part.loop import Loop
from espnet_part.manifest import Manifest
from espnet_part.model import PARTModel
from espnet_part.parallel import Processes
from espnet_part.progress import log_table
from espnet_part.trainable import part_table
from espnet_part.validation import Validation


class PARTTrainer(Trainer):
    """Trains one phase with the step-based loop of `espnet_part.loop`.

    ESPnet's own epoch loop resumes only between epochs, weights micro-batches equally, and clips
    and scales in ways that differ between one process and many; see docs/method.md.
    """

    @classmethod
    def run(
        cls,
        model: PARTModel,
        config: Config,
        processes: Processes,
        output_dir: Path,
        resume: bool,
        num_workers: int,
        use_tensorboard: bool,
    ) -> None:
        """Trains `model` as `config` says; files go to `output_dir`.

        Raises:
            ValueError: Data, checkpoint or policy that do not fit.
        """
        output_dir = Path(output_dir)
        model.set_trainable(config.trainable, config.llm_tasks)
        model.task_weights |= config.task_weights or {}
        depth = model.llm.config.num_hidden_layers
        model.alignment = build_alignment(config.alignment, depth)
        aligned = model.alignment is not None
        plan = plan_of(config)
        limits = model.encoder.min_samples, model.encoder.max_samples
        loader = ExampleLoader(
            model.prompter,
            config.seed,
            config.source_dropout,
            config.speed_perturb,
            *limits,
            aligned,
        )
        dataset = StepDataset(plan, loader, processes.rank, processes.world_size, config.micro_cost)
        dev = [Manifest.open(folder) for folder in config.valid]
        dev_loader = ExampleLoader(model.prompter, config.seed, 0.0, None, *limits, aligned)
        validation = Validation(
            dev,
            config.tasks,
            dev_loader,
            config.micro_cost,
            config.listen_rows,
            processes,
            config.valid_rows,
        )
        loop = Loop(
            model,
            config,
            dataset,
            validation,
            dummy_batch(model),
            processes,
            output_dir,
            num_workers,
            use_tensorboard,
        )
        if config.alignment is not None and config.alignment.layers == "adaptive":
            options = config.alignment
            loop.layer_choice = LayerChoice(
                dev,
                dev_loader,
                config.micro_cost,
                processes,
                options.adapt_interval,
                options.max_layers,
                options.adapt_rows,
            )
        cls.describe(model, config, plan)
        checkpoint = output_dir / "checkpoint.pth"
        if resume and checkpoint.exists():
            loop.resume(checkpoint)
        elif config.init is not None:
            report = model.load_trimmed_state(read_checkpoint(Path(config.init)), config.init)
            log_table(
                f"loaded from {config.init}:",
                report,
                {"part": "", "loaded": "d", "from_source": "d", "fresh": "d", "source": ""},
            )
        else:
            log_table(
                "no checkpoint to start from; the parts come from:",
                [{"part": p, "source": s or "random weights"} for p, s in model.sources.items()],
                {"part": "", "source": ""},
            )
        frames = output_dir / "frames"
        if config.encoder_cache_gb:
            model.eval()
            loader.cache = make_frame_cache(
                frames,
                model.encoder,
                plan.manifests,
                config.tasks,
                config.micro_cost,
                config.encoder_cache_gb,
                processes,
                loop.autocast,
            )
        if loader.cache is None and processes.first:
            shutil.rmtree(frames, ignore_errors=True)  # of a run before, with other settings
        loop.run()
        if processes.first:
            shutil.rmtree(frames, ignore_errors=True)

    @classmethod
    def describe(cls, model: PARTModel, config: Config, plan: BatchPlan) -> None:
        """Logs what trains and on what."""
        log_table(
            f"phase {config.phase}: what trains",
            part_table(model, config.lr),
            {
                "part": "",
                "parameters": ",d",
                "trainable": ",d",
                "per_cent": ".1f",
                "lr": ".2e",
                "frozen_dtype": "",
            },
        )
        if config.llm_tasks != "all":
            logging.info("only rows of %s update the LLM", " ".join(config.llm_tasks))
        logging.info("speech reaches the LLM at %.2f embeddings per second", model.llm_rate_hz)
        log_table(
            f"phase {config.phase}: what an epoch of {plan.steps_per_epoch:.1f} steps holds "
            f"({config.max_steps} steps are {config.max_steps / plan.steps_per_epoch:.1f} epochs)",
            plan.epoch_table(),
            {
                "task": "",
                "src": "",
                "tgt": "",
                "set": "",
                "times": ".2f",
                "rows": ",.0f",
                "hours": ",.2f",
                "target_tokens": ",.0f",
                "share": ".1%",
            },
        )


def dummy_batch(model: PARTModel) -> dict:
    """A batch of weight 0 for a process without rows: every unit runs, nothing is learned."""
    end = model.end_token_ids[0]
    row = Row(utt_id="dummy", task="asr", src="en", tgt="en", target="")
    said = None if model.alignment is None else []
    return collate([Example(row, None, [end, end], 0, 1, 0, transcript=said)])
