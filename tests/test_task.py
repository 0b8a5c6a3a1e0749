"""PARTTask: the command line of training, and what ESPnet asks of a task."""

import ast
import inspect
import io
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from espnet2.train.abs_espnet_model import AbsESPnetModel
from training_runs import fork_all

import espnet_part
from espnet_part.bin import train
from espnet_part.config import Config
from espnet_part.schema import from_dict
from espnet_part.task import CONFIG_KEYS, PARTTask

PACKAGE = Path(espnet_part.__file__).parent
ROOT = PACKAGE.parent


@pytest.fixture
def config_file(config_values, manifests, tmp_path):
    """``config_file(**changes)``: a phase of two steps on the toy data."""

    def make(**changes):
        data = {"train": manifests, "valid": manifests[:1], "max_steps": 2}
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config_values(**{**data, **changes})))
        return path

    return make


def run_main(capsys, *words):
    """Runs bin.train in this process; (exit code or message, stdout, stderr)."""
    code = 0
    try:
        train.main([*map(str, words)])
    except SystemExit as stop:
        code = stop.code or 0
    out = capsys.readouterr()
    return code, out.out, out.err


# ----- the options -----


def test_help_tells_every_key_and_none_that_is_ignored():
    text = train.get_parser().format_help()
    options = set(re.findall(r"^  (--\w+)", text, re.M))
    assert {f"--{key}" for key in CONFIG_KEYS} <= options
    assert {"--config", "--output_dir", "--ngpu", "--num_workers", "--resume"} <= options
    # ESPnet's adapters are something else; its own loop's options would do nothing here.
    ignored = ("adapter", "freeze_param", "optim", "accum_grad", "batch_bins", "max_epoch")
    assert not [option for option in options if any(word in option for word in ignored)]
    for key in CONFIG_KEYS:
        help_text = re.search(rf"^  --{key} .*?(?=^  --|\Z)", text, re.M | re.S)[0]
        assert len(help_text.split()) > 2, f"--{key} has no help"


def test_print_config(capsys):
    code, out, _ = run_main(capsys, "--print_config")
    assert code == 0
    values = yaml.safe_load(out)
    assert list(values) == CONFIG_KEYS
    assert values["clip_norm"] == 1.0 and values["max_steps"] is None
    buffer = io.StringIO()
    PARTTask.print_config(buffer)
    assert yaml.safe_load(buffer.getvalue()) == values


def test_dry_run_builds_and_writes_nothing(config_file, tmp_path, capsys, caplog):
    folder = tmp_path / "out"
    code, _, err = run_main(
        capsys, "--config", config_file(), "--output_dir", folder, "--dry_run", "true"
    )
    assert code == 0 and not folder.exists()
    assert "dry run" in err + caplog.text


def test_options_replace_keys(config_file, tmp_path, capsys):
    folder = tmp_path / "out"
    words = ("--config", config_file(), "--output_dir", folder, "--num_workers", 0)
    more = ("--max_steps", 1, "--lr", "{encoder: 1e-4, adapter: 1e-3, llm: 0.01}", "--phase", "2b")
    code, _, err = run_main(capsys, *words, *more, "--valid", "[]", "--use_tensorboard", "false")
    assert code == 0, err
    # config.yaml of the folder alone repeats the run.
    written = from_dict(Config, yaml.safe_load((folder / "config.yaml").read_text()))
    assert written.max_steps == 1 and written.phase == "2b" and written.valid == []
    assert written.lr == {"encoder": 1e-4, "adapter": 1e-3, "llm": 0.01}
    assert json.loads((folder / ".finished").read_text())["step"] == 1
    assert not (folder / "tensorboard").exists()
    before = torch.load(folder / "checkpoint.pth", weights_only=True)["model"]
    code, _, err = run_main(capsys, *words, "--max_steps", 3)
    assert "holds a run of another configuration: lr" in code and "max_steps" in code
    code, _, err = run_main(capsys, *words, "--resume", "false")  # starts anew
    assert code == 0, err
    after = torch.load(folder / "checkpoint.pth", weights_only=True)
    assert after["step"] == 2 and not torch.equal(
        after["model"]["adapter.conv.weight"], before["adapter.conv.weight"]
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--max_steps", "0"), "error: max_steps: found 0, expected more than 0"),
        (("--tasks", "asr"), "error: tasks: found 'asr', expected list"),
        (("--llm_tasks", "[instruct]"), "error: llm_tasks names 'instruct'"),
        (("--train", "[nowhere]"), "error: nowhere/meta.json: no such file"),
        (("--init", "nowhere.pth"), "error: no checkpoint nowhere.pth"),
        (("--tasks", "[asr, instruct]"), "error: the phase trains on 'instruct', but no row"),
        (("--trainable", "{adapter: [nothing*]}"), "error: (lr.encoder is set|.*nothing)"),
    ],
)
def test_mistakes_end_in_one_line(config_file, tmp_path, capsys, words, message):
    at = ("--config", config_file(), "--output_dir", tmp_path / "out", "--num_workers", 0)
    code, _, _ = run_main(capsys, *at, *words)
    assert isinstance(code, str) and re.match(message, code), code
    assert "\n" not in code


def test_unknown_options_are_errors(config_file, tmp_path, capsys):
    at = ("--output_dir", tmp_path / "out")
    code, _, err = run_main(capsys, "--config", config_file(), *at, "--max_step", 3, "--adapter", 1)
    assert code == 2 and "--adapter" in err
    path = config_file()
    path.write_text(path.read_text() + "max_step: 3\n")
    code, _, err = run_main(capsys, "--config", path, *at)
    assert code and "max_step" in f"{code}{err}"
    code, _, err = run_main(capsys, "--output_dir", tmp_path / "out")
    assert "missing config keys: phase model" in code
    path = config_file()
    code, _, err = run_main(capsys, "--config", path)
    assert code and "output_dir" in f"{code}{err}"


# ----- processes -----


def as_torchrun(rank, world_size, port, words):
    """A process of torchrun's, with its variables."""

    def run():
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        train.main([*map(str, words)])

    return run


def free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_two_processes_of_torchrun(config_file, tmp_path):
    folder, port = tmp_path / "out", free_port()
    words = ["--config", config_file(), "--output_dir", folder, "--num_workers", 1]
    words += ["--multiprocessing_distributed", "false", "--ngpu", 0]
    assert fork_all([as_torchrun(rank, 2, port, words) for rank in range(2)], 60) == [0, 0]
    assert json.loads((folder / ".finished").read_text())["step"] == 2
    assert (folder / "images" / "loss.png").exists()
    payload = torch.load(folder / "checkpoint.pth", weights_only=True)
    assert [h["split"] for h in payload["history"]] == ["train", "train", "valid"]
    # Started once more, they see that there is nothing to do.
    port = free_port()
    assert fork_all([as_torchrun(rank, 2, port, words) for rank in range(2)], 60) == [0, 0]


def test_a_stop_reaches_all_processes(config_file, tmp_path):
    """SIGTERM to one of them: all save and exit alike."""
    import signal

    from espnet_part import loop

    folder, port = tmp_path / "out", free_port()
    words = ["--config", config_file(max_steps=50), "--output_dir", folder, "--num_workers", 0]
    words += ["--multiprocessing_distributed", "false"]

    def signalled(rank):
        inner = as_torchrun(rank, 2, port, words)

        def run():
            plain = loop.Loop._update

            def update(self, *args):
                if self.step == 2 and rank == 1:
                    os.kill(os.getpid(), signal.SIGTERM)
                return plain(self, *args)

            loop.Loop._update = update
            inner()

        return run

    codes = fork_all([signalled(rank) for rank in range(2)], 60)
    assert set(codes) <= {143, -9} and 143 in codes
    assert torch.load(folder / "checkpoint.pth", weights_only=True)["step"] == 3


def test_the_launchers_options_are_taken(config_file, tmp_path):
    """What espnet2.bin.launch passes on, for ssh, Slurm and MPI."""
    parser = train.get_parser()
    words = ["--output_dir", "x", "--ngpu", "2", "--multiprocessing_distributed", "true"]
    words += ["--dist_world_size", "2", "--dist_rank", "1", "--dist_master_addr", "host1"]
    words += ["--dist_master_port", "1234", "--dist_launcher", "slurm"]
    words += ["--dist_init_method", "file:///tmp/x", "--dist_backend", "gloo", "--local_rank", "0"]
    args = parser.parse_args(words)
    assert (args.dist_world_size, args.dist_rank, args.dist_launcher) == (2, 1, "slurm")


# ----- ESPnet's interface -----


def test_what_espnet_asks_of_a_task(config_file, tmp_path):
    args = PARTTask.get_parser().parse_args(["--config", str(config_file())])
    model = PARTTask.build_model(args)
    assert isinstance(model, AbsESPnetModel)
    assert PARTTask.required_data_names() == ("speech",)
    assert PARTTask.optional_data_names(train=False, inference=True) == ()
    assert PARTTask.build_preprocess_fn(args, True) is None
    waves = [("a", {"speech": np.ones(5, np.float32)}), ("b", {"speech": np.ones(3, np.float32)})]
    keys, batch = PARTTask.build_collate_fn(args, False)(waves)
    assert keys == ["a", "b"] and batch["speech"].shape == (2, 5)
    assert batch["speech_lengths"].tolist() == [5, 3] and float(batch["speech"][1].sum()) == 3
    long = {"speech": torch.randn(2, 9000), "speech_lengths": torch.tensor([9000, 5000])}
    feats = model.collect_feats(**long)
    assert set(feats) == {"feats", "feats_lengths"} and len(feats["feats"]) == 2
    with pytest.raises(ValueError, match="no config file"):
        PARTTask.build_model_from_file(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="give a config file or a model file"):
        PARTTask.build_model_from_file()


# ----- what the package imports -----


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module
        elif isinstance(node, ast.Call) and "import_module" in ast.dump(node.func):
            yield from (a.value for a in node.args if isinstance(a, ast.Constant))


def test_only_espnet2_of_espnet():
    """ESPnet's next release has no packages espnet and espnetez."""
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "local").rglob("*.py")]
    assert len(files) > 50
    seen = set()
    for path in files:
        for name in imports_of(path):
            top = name.partition(".")[0]
            seen.add(top)
            assert top not in ("espnet", "espnetez"), f"{path} imports {name}"
    assert {"espnet2", "espnet_part", "torch"} <= seen


def test_args_stop_at_the_task():
    """Constructors take plain values: only the task and the commands see argparse."""
    for path in PACKAGE.glob("*.py"):
        names = set(imports_of(path))
        if "argparse" in names:
            assert path.name == "task.py", f"{path.name} imports argparse"
    assert "argparse" in inspect.getsource(sys.modules[PARTTask.__module__])


def test_no_gpu_is_one_clear_line(tmp_path, config_values):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config_values()))
    with pytest.raises(SystemExit, match="--ngpu 1: no GPU here"):
        train.main(["--config", str(path), "--output_dir", str(tmp_path), "--ngpu", "1"])


def test_config_that_is_a_list_is_named(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("- a\n")
    with pytest.raises(SystemExit, match="config.yaml: found .*expected keys and values"):
        train.main(["--config", str(path), "--output_dir", str(tmp_path)])
