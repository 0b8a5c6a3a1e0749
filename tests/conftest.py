"""Tiny parts, models and data that the tests share; everything is made on the spot, on the CPU."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"  # a test that reaches for a hub must fail, not wait

import numpy as np
import pytest
import soundfile
import torch
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "local"))

import toy_parts  # noqa: E402

torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """The run of the whole recipe takes longest: it starts first, and the rest runs beside it."""
    items.sort(key=lambda item: "recipe" not in item.keywords)


@pytest.fixture(scope="session")
def conf_dir() -> Path:
    return ROOT / "conf"


@pytest.fixture(scope="session")
def prompts(conf_dir) -> dict:
    return yaml.safe_load((conf_dir / "prompts.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    """``parts(name)``: folder of a tiny part (an encoder's kind, `byte`, `sentencepiece`)."""
    made: dict[str, str] = {}
    root = tmp_path_factory.mktemp("parts")

    def get(name: str) -> str:
        if name not in made:
            folder = root / name
            llm = name in ("byte", "sentencepiece")
            make = toy_parts.make_llm if llm else toy_parts.make_encoder
            made[name] = make(folder, name)
        return made[name]

    return get


@pytest.fixture(scope="session")
def config_values(parts, prompts):
    """``config_values(**changes)``: plain values of a tiny phase's config."""

    def values(encoder="sensevoice", llm="byte", model=None, **changes) -> dict:
        whole = {
            "phase": "3",
            "model": {
                "encoder": {"kind": encoder, "source": parts(encoder)},
                "adapter": {"stride": 2, "layers": 1, "heads": 4, "ffn": 64},
                "llm": {"source": parts(llm)},
            },
            "trainable": {"encoder": "all", "adapter": "all", "llm": "all"},
            "tasks": ["asr", "st", "mt"],
            "lr": {"encoder": 1e-3, "adapter": 1e-3, "llm": 1e-3},
            "max_steps": 4,
            "warmup_steps": 1,
            "batch_cost": 400,
            "micro_cost": 300,
            "valid_interval": 2,
            "save_interval": 2,
            "log_interval": 1,
            "prompts": prompts,
        }
        for part, keys in (model or {}).items():
            whole["model"][part].update(keys)
        return {**whole, **changes}

    return values


@pytest.fixture(scope="session")
def make_model(config_values):
    """``make_model(**changes)``: a tiny PARTModel, seeded."""
    from core_helpers import wake

    from espnet_part.build import build_model
    from espnet_part.config import Config
    from espnet_part.schema import from_dict

    def make(seed: int = 0, **changes):
        torch.manual_seed(seed)
        model = build_model(from_dict(Config, config_values(**changes)))
        wake(model.adapter)
        return model

    return make


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory):
    """A small data folder of speech and one of text: asr, st and mt rows of ten made clips."""
    from espnet_part.datadir import Row, write_datadir

    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    words = {"en": ["one", "two", "three", "four"], "de": ["eins", "zwei", "drei", "vier"]}
    speech, text = [], []
    for i in range(10):
        chosen = rng.integers(0, 4, int(rng.integers(2, 5)))
        said = {code: " ".join(names[j] for j in chosen) for code, names in words.items()}
        wave = np.concatenate([_tone(200 + 150 * j) for j in chosen])
        path = root / f"clip{i}.wav"
        soundfile.write(path, wave, 16000)
        common = dict(src="en", path=str(path), speaker=f"s{i % 2}")
        speech.append(Row(f"clip{i}-asr", "asr", tgt="en", target=said["en"], **common))
        speech.append(
            Row(f"clip{i}-st-de", "st", tgt="de", target=said["de"], source=said["en"], **common)
        )
        text.append(Row(f"text{i}-mt-de", "mt", "en", "de", said["de"], source=said["en"]))
    write_datadir(root / "speech", sorted(speech, key=lambda row: row.utt_id))
    write_datadir(root / "text", sorted(text, key=lambda row: row.utt_id))
    return root


@pytest.fixture(scope="session")
def manifests(tmp_path_factory, toy_data, parts):
    """Folders of the manifests of `toy_data`, speech then text."""
    from espnet_part.llm import build_tokenizer
    from espnet_part.manifest_writer import write_manifest

    root = tmp_path_factory.mktemp("manifests")
    tokenizer = build_tokenizer(parts("byte"))
    for name in ("speech", "text"):
        write_manifest(toy_data / name, root / name, tokenizer)
    return [str(root / "speech"), str(root / "text")]


@pytest.fixture(scope="session")
def opened(manifests):
    """The manifests of `toy_data`, speech then text."""
    from espnet_part.manifest import Manifest

    return [Manifest.open(folder) for folder in manifests]


@pytest.fixture(scope="session")
def prompter(parts, prompts):
    """The templates of conf/prompts.yaml in the words of the byte-level LLM."""
    from espnet_part.llm import build_tokenizer
    from espnet_part.prompt import Prompter

    return Prompter(build_tokenizer(parts("byte")), prompts)


@pytest.fixture(scope="session")
def make_batch(opened):
    """``make_batch(model, tasks)``: a collated batch of the first rows of the given tasks."""
    from espnet_part.dataset import ExampleLoader, collate

    def make(model, tasks, seed: int = 0):
        loader = ExampleLoader(model.prompter, seed)
        everything = [m.row(i) for m in opened for i in range(len(m))]
        # Lists first: generators would all see the last task.
        rows = {task: iter([row for row in everything if row.task == task]) for task in set(tasks)}
        return collate([loader.load(next(rows[task]), 0) for task in tasks])

    return make


def _tone(hz: float, seconds: float = 0.25) -> np.ndarray:
    time = np.arange(int(16000 * seconds)) / 16000
    wave = 0.3 * np.sin(2 * np.pi * hz * time) * np.hanning(len(time))
    return wave.astype(np.float32)
