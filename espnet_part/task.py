"""PARTTask: ESPnet's task interface. The only file that sees `args`.

The parser has ESPnet's names for what we honor and one option per config key; options of ESPnet's
that this task would ignore (its --adapter is something else) are not there.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import logging
import re
import sys
from pathlib import Path

import torch
import yaml
from espnet2.tasks.abs_task import AbsTask
from espnet2.train.distributed_utils import DistributedOption
from espnet2.utils import config_argparse
from espnet2.utils.build_dataclass import build_dataclass
from espnet2.utils.types import int_or_none, str2bool, str_or_none

from espnet_part.build import build_model
from espnet_part.config import Config
from espnet_part.loading import load_model
from espnet_part.loop import Stopped
from espnet_part.model import PARTModel
from espnet_part.parallel import Processes
from espnet_part.phase_folder import write_config
from espnet_part.schema import from_dict, load_yaml, to_dict
from espnet_part.splice import pad_waves
from espnet_part.trainer import PARTTrainer
from espnet_part.unpack import relocated_config

CONFIG_KEYS = [item.name for item in dataclasses.fields(Config)]
STOPPED_EXIT_CODE = 143  # as a shell reports SIGTERM


class PARTTask(AbsTask):
    """Training and loading of PART models through ESPnet's interface."""

    num_optimizers = 1
    class_choices_list: list = []
    trainer = PARTTrainer

    # ----- parser -----

    @classmethod
    def get_parser(cls) -> config_argparse.ArgumentParser:
        """Options: the run's own, the processes', and one per key of the config."""
        parser = config_argparse.ArgumentParser(
            prog="python -m espnet_part.bin.train",
            description="Trains one phase. config.yaml, written by espnet_part.bin.config merge, "
            "holds all keys; `--key value` (YAML) replaces one of them.",
        )
        run = parser.add_argument_group("run")
        run.add_argument("--output_dir", type=str_or_none, help="folder of the phase")
        run.add_argument("--print_config", action="store_true", help="print the keys and exit")
        run.add_argument(
            "--log_level", default="INFO", type=str.upper, help="DEBUG, INFO, WARNING or ERROR"
        )
        run.add_argument(
            "--dry_run", type=str2bool, default=False, help="build and describe, do not train"
        )
        run.add_argument("--ngpu", type=int, default=0, help="GPUs; 0 is CPU")
        run.add_argument("--num_workers", type=int, default=1, help="loader processes")
        run.add_argument(
            "--resume", type=str2bool, default=True, help="continue from checkpoint.pth if there"
        )
        run.add_argument(
            "--use_tensorboard", type=str2bool, default=True, help="write tensorboard/"
        )
        cls.add_process_options(parser.add_argument_group("processes"))
        cls.add_task_arguments(parser)
        parser.set_defaults(required=["output_dir"], pretrain_path=None, version=None)
        return parser

    @classmethod
    def add_process_options(cls, group) -> None:
        """ESPnet's options for several processes, as its launcher passes them."""
        group.add_argument("--dist_backend", default="nccl", help="nccl; CPUs use gloo")
        group.add_argument("--dist_init_method", default="env://", help="as in torch.distributed")
        group.add_argument("--dist_world_size", type=int_or_none, help="number of nodes")
        group.add_argument("--dist_rank", type=int_or_none, help="rank of this node")
        group.add_argument("--local_rank", type=int_or_none, help="rank within the node")
        group.add_argument("--dist_master_addr", type=str_or_none, help="host of rank 0")
        group.add_argument("--dist_master_port", type=int_or_none, help="its port")
        group.add_argument(
            "--dist_launcher",
            type=str_or_none,
            choices=["slurm", "mpi", None],
            help="who starts us",
        )
        group.add_argument(
            "--multiprocessing_distributed",
            type=str2bool,
            default=True,
            help="start one process per GPU here; false under torchrun",
        )

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """One option per key of `Config`; its help is the comment beside the key."""
        group = parser.add_argument_group("config keys")
        comments = dict(re.findall(r"^    (\w+):.*?  # (.*)$", inspect.getsource(Config), re.M))
        for item in dataclasses.fields(Config):
            missing = item.default is dataclasses.MISSING
            default = None if missing else item.default
            if item.default_factory is not dataclasses.MISSING:
                default = item.default_factory()
            text = comments.get(item.name, "")
            # A string option is taken as it stands: phase 1 is "1".
            plain = item.type in ("str", "str | None")
            group.add_argument(
                f"--{item.name}",
                type=str_or_none if plain else _yaml_value,
                default=default,
                help=text.replace("%", "%%") + ("" if missing else f" (default: {default})"),
            )

    @classmethod
    def print_config(cls, file=None) -> None:
        """Writes every key with its default; required ones are null."""
        parser = cls.get_parser()
        values = {key: parser.get_default(key) for key in CONFIG_KEYS}
        print(yaml.safe_dump(values, sort_keys=False), end="", file=file)

    # ----- building -----

    @classmethod
    def config_of(cls, args: argparse.Namespace) -> Config:
        """The checked config among the arguments."""
        values = {key: getattr(args, key) for key in CONFIG_KEYS if hasattr(args, key)}
        missing = [
            item.name
            for item in dataclasses.fields(Config)
            if item.default is dataclasses.MISSING
            and item.default_factory is dataclasses.MISSING
            and values.get(item.name) is None
        ]
        if missing:
            raise ValueError(
                f"missing config keys: {' '.join(missing)}; give a config.yaml by --config "
                "(python -m espnet_part.bin.config merge writes one)"
            )
        return from_dict(Config, values)

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> PARTModel:
        """Builds the three parts from their sources and composes them."""
        return build_model(cls.config_of(args))

    @classmethod
    def build_model_from_file(cls, config_file=None, model_file=None, device: str = "cpu"):
        """Builds a model and loads a checkpoint; the result is in eval mode.

        Args:
            config_file: config.yaml of a phase; default: beside the checkpoint.
            model_file: latest.pth or valid.*.best.pth; None loads no checkpoint.
            device: Where to put it.

        Returns:
            The model, and the arguments as ESPnet returns them.

        Raises:
            ValueError: Files that are missing or do not belong together.
        """
        if config_file is None:
            if model_file is None:
                raise ValueError("give a config file or a model file")
            config_file = Path(model_file).parent / "config.yaml"
        if not Path(config_file).is_file():
            raise ValueError(f"no config file {config_file}; it lies in the folder of the phase")
        model = load_model(config_file, model_file, device)
        args = argparse.Namespace(**relocated_config(config_file))
        return model, args

    # ----- training -----

    @classmethod
    def main(cls, args: argparse.Namespace | None = None, cmd=None) -> None:
        """Checks the config file, then does as ESPnet: one process here, or one per GPU."""
        if args is None:
            first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
            first.add_argument("--config")
            config_file = first.parse_known_args(cmd)[0].config
            if config_file is not None:
                load_yaml(config_file)
        super().main(args=args, cmd=cmd)

    @classmethod
    def main_worker(cls, args: argparse.Namespace) -> None:
        """Runs one process of a training run."""
        option = build_dataclass(DistributedOption, args)
        option.init_options()
        rank = option.dist_rank or 0 if option.distributed else 0
        world_size = option.dist_world_size or 1 if option.distributed else 1
        logging.basicConfig(
            level=args.log_level if rank == 0 else "ERROR",
            format="%(asctime)s %(levelname)s: %(message)s",
            datefmt="%H:%M:%S",
            force=True,
        )
        for name in ("httpx", "matplotlib", "PIL"):
            logging.getLogger(name).setLevel(logging.WARNING)
        if args.ngpu == 0 and option.dist_backend == "nccl":
            option.dist_backend = "gloo"  # ESPnet's default is for GPUs only
        option.init_torch_distributed()
        device = torch.device("cpu")
        if args.ngpu > 0:
            if not torch.cuda.is_available():
                raise ValueError(f"--ngpu {args.ngpu}: no GPU here; use --ngpu 0")
            device = torch.device("cuda", option.local_rank or 0)
        processes = Processes(rank, world_size, device)
        config = cls.config_of(args)
        torch.manual_seed(config.seed)
        model = build_model(config).to(device)
        if args.dry_run:
            logging.info("dry run: built %s", type(model).__name__)
            model.set_trainable(config.trainable, config.llm_tasks)
            logging.info("%s", yaml.safe_dump(to_dict(config), sort_keys=False))
            return
        if processes.first:
            # Also where options replaced keys of --config: this file alone repeats the run.
            write_config(config, Path(args.output_dir), restart=not args.resume)
        stopped = False
        try:
            cls.trainer.run(
                model=model,
                config=config,
                processes=processes,
                output_dir=Path(args.output_dir),
                resume=args.resume,
                num_workers=args.num_workers,
                use_tensorboard=args.use_tensorboard,
            )
        except Stopped as message:
            logging.warning("%s", message)
            stopped = True
        finally:
            if option.distributed:
                torch.distributed.destroy_process_group()
        if stopped:
            sys.exit(STOPPED_EXIT_CODE)

    # ----- what ESPnet's interface asks for beside that -----

    @classmethod
    def build_collate_fn(cls, args: argparse.Namespace, train: bool):
        """Collates waveforms only: for ESPnet's statistics and streaming iterators."""

        def collate_fn(data):
            speech, lengths = pad_waves([values["speech"] for _, values in data])
            return [key for key, _ in data], {"speech": speech, "speech_lengths": lengths}

        return collate_fn

    @classmethod
    def build_preprocess_fn(cls, args: argparse.Namespace, train: bool):
        """None: rows are rendered by `espnet_part.dataset`."""
        return None

    @classmethod
    def required_data_names(cls, train: bool = True, inference: bool = False) -> tuple[str, ...]:
        """Names in ESPnet's data triplets."""
        return ("speech",)

    @classmethod
    def optional_data_names(cls, train: bool = True, inference: bool = False) -> tuple[str, ...]:
        """No more than the required ones."""
        return ()


def _yaml_value(text: str):
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"not YAML: {text!r}: {error}") from error
