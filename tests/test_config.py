"""Every key of a config changes the run; what is unknown, mistyped or contradictory is refused."""

import dataclasses
import json
import logging
import sys
import types
import typing

import pytest
import torch
import transformers
import yaml
from training_runs import digest

from espnet_part import layer_choice, loop, progress, trainer
from espnet_part.build import build_model
from espnet_part.config import Config
from espnet_part.datadir import iter_rows, write_datadir
from espnet_part.inner_alignment import build_alignment
from espnet_part.llm import build_tokenizer
from espnet_part.manifest_writer import write_manifest
from espnet_part.parallel import Processes
from espnet_part.schema import from_dict, to_dict
from espnet_part.trainer import PARTTrainer

# ----- what a run shows -----


class Watched(loop.Loop):
    """A loop that notes what happens."""

    def __init__(self, *args):
        super().__init__(*args)
        self.seen = {"steps": 0, "lr": [], "moved": set()}
        self.start = {n: p.detach().clone() for n, p in self.model.named_parameters()}

    def run(self):
        self.seen["first_weights"] = digest(self.model.parameters())
        self.seen["optimizer"] = [
            {k: v for k, v in group.items() if k != "params"}
            for group in self.optimizer.param_groups
        ]
        pieces = [self.dataset[step][0] for step in range(3)]
        batches = [batch for step in pieces for batch in step]
        self.seen["micro_batches"] = [len(step) for step in pieces]
        self.seen["rows"] = [self.dataset.plan.rows(step) for step in range(3)]
        self.seen["tokens"] = [batch["token_ids"].tolist() for batch in batches]
        lengths = [batch.get("frame_lengths", batch.get("speech_lengths")) for batch in batches]
        self.seen["samples"] = [values.tolist() for values in lengths]
        super().run()

    def _update(self, *args):
        out = super()._update(*args)
        self.seen["steps"] += 1
        self.seen["lr"].append([group["lr"] for group in self.optimizer.param_groups])
        return out


@pytest.fixture
def observe(tmp_path, monkeypatch, caplog):
    """``observe(values)``: trains, and returns what could be seen of it."""
    made, saved = [], []
    plain = loop.write_atomically

    def make(*args):
        made.append(Watched(*args))
        return made[-1]

    def write(path, payload):
        saved.append((path.name, payload["step"]))
        plain(path, payload)

    monkeypatch.setattr(trainer, "Loop", make)
    monkeypatch.setattr(loop, "write_atomically", write)
    monkeypatch.setattr(progress, "draw_curves", lambda *args: None)
    # With random weights retrieval rises at no layer: the rule would always say 0.
    monkeypatch.setattr(layer_choice, "propose_layers", lambda scores, most: list(range(most)))
    calls = []
    run = types.SimpleNamespace(log=lambda values, step: calls.append(step), finish=lambda: None)
    wandb = types.SimpleNamespace(init=lambda **kwargs: calls.append(kwargs["project"]) or run)
    monkeypatch.setitem(sys.modules, "wandb", wandb)

    def get(values) -> dict:
        for log in (saved, calls):
            log.clear()
        caplog.clear()
        torch.manual_seed(0)
        config = from_dict(Config, values)
        model = build_model(config)
        with caplog.at_level(logging.INFO):
            PARTTrainer.run(model, config, Processes(), tmp_path, False, 0, False)
        seen = made[-1].seen
        seen["weights"] = digest(model.parameters())
        seen["moved"] = {n for n, p in model.named_parameters() if not same(p, made[-1].start[n])}
        seen["saved"] = [step for name, step in saved if name == "checkpoint.pth"]
        seen["history"] = made[-1].journal.history
        for split in ("train", "valid"):
            lines = [h for h in made[-1].journal.history if h["split"] == split]
            seen[split] = [(h["step"], h["loss"]) for h in lines]
            seen[f"{split}_steps"] = [h["step"] for h in lines]
        seen["listens"] = ["listen" in h for h in made[-1].journal.history if h["split"] == "valid"]
        seen["log"] = caplog.text
        seen["choices"] = [m for m in caplog.messages if "retrieval by layer" in m]
        seen["wandb"] = list(calls)
        return seen

    return get


def same(a, b):
    return a.dtype == b.dtype and torch.equal(a, b)


def run_key(change, shows, *, unchanged=(), **base):
    """A key whose change a training run shows under `shows`, and not under `unchanged`."""
    return types.SimpleNamespace(change=change, shows=shows, unchanged=unchanged, base=base)


ADAPTIVE = {"layers": "adaptive", "max_layers": 1}
RUN_KEYS = {
    "phase": run_key("2b", "log", unchanged=("weights",)),
    "trainable": run_key({"adapter": ["conv.*", "out.*"], "llm": "all"}, "moved"),
    "tasks": run_key(["asr", "mt"], "rows"),
    "lr": run_key({"adapter": 3e-3, "llm": 1e-3}, "optimizer"),
    "max_steps": run_key(2, "steps"),
    "prompts": run_key("PROMPTS", "tokens", unchanged=("rows",)),
    "train": run_key("TRAIN", "rows", tasks=["st"]),
    "valid": run_key("VALID", "valid", unchanged=("weights",)),
    "init": run_key("INIT", "first_weights", unchanged=("rows",)),
    "llm_tasks": run_key(["mt"], "weights", unchanged=("rows",)),
    "batch_cost": run_key(200, "rows"),
    "micro_cost": run_key(60, "micro_batches", unchanged=("rows",)),
    "warmup_steps": run_key(2, "lr"),
    "schedule": run_key("constant", "lr"),
    "final_lr": run_key(0.5, "lr"),
    "betas": run_key([0.5, 0.98], "weights", unchanged=("rows", "lr")),
    "weight_decay": run_key(0.5, "weights", unchanged=("rows", "lr")),
    "clip_norm": run_key(1e-6, "weights", unchanged=("rows", "lr")),
    "task_shares": run_key({"asr": 1, "st": 8, "mt": 1}, "rows"),
    "temperature": run_key(50.0, "rows", unchanged=("first_weights",), train="THREE"),
    "corpus_weights": run_key({"oth*": 9.0}, "rows", train="THREE"),
    "language_weights": run_key({"de": 9.0}, "rows", train="THREE"),
    "task_weights": run_key({"asr": 5.0}, "weights", unchanged=("rows",)),
    "source_dropout": run_key(1.0, "tokens", unchanged=("rows",)),
    "speed_perturb": run_key([0.9], "samples", unchanged=("rows",)),
    "spec_augment": run_key({}, "weights", unchanged=("rows", "tokens", "samples")),
    "spec_augment.time_masks": run_key(0, "weights", unchanged=("rows",), spec_augment={}),
    "spec_augment.time_width": run_key(0.9, "weights", unchanged=("rows",), spec_augment={}),
    "spec_augment.freq_masks": run_key(0, "weights", unchanged=("rows",), spec_augment={}),
    "spec_augment.freq_width": run_key(0.9, "weights", unchanged=("rows",), spec_augment={}),
    "alignment": run_key({}, "weights", unchanged=("rows", "tokens", "samples")),
    "alignment.layers": run_key([0], "weights", unchanged=("rows",), alignment={}),
    "alignment.weight": run_key(1.0, "weights", unchanged=("rows",), alignment={}),
    "alignment.epsilon": run_key(0.5, "weights", unchanged=("rows",), alignment={}),
    "alignment.iterations": run_key(1, "weights", unchanged=("rows",), alignment={}),
    "alignment.position": run_key(0.0, "weights", unchanged=("rows",), alignment={}),
    "alignment.detach_text": run_key(False, "weights", unchanged=("rows",), alignment={}),
    "alignment.adapt_interval": run_key(2, "choices", unchanged=("rows",), alignment=ADAPTIVE),
    "alignment.max_layers": run_key(2, "weights", unchanged=("rows",), alignment=ADAPTIVE),
    "alignment.adapt_rows": run_key(3, "choices", unchanged=("rows",), alignment=ADAPTIVE),
    "encoder_cache_gb": run_key(1.0, "samples", unchanged=("rows", "tokens")),
    "compute_dtype": run_key("bfloat16", "train", unchanged=("rows", "first_weights")),
    "seed": run_key(1, "rows"),
    "valid_interval": run_key(1, "valid_steps", unchanged=("weights",)),
    "save_interval": run_key(1, "saved", unchanged=("weights",)),
    "log_interval": run_key(1, "train_steps", unchanged=("weights",)),
    "valid_rows": run_key(2, "valid", unchanged=("weights",)),
    "listen_rows": run_key(0, "listens", unchanged=("weights", "valid")),
    "wandb_project": run_key("ours", "wandb", unchanged=("weights",)),
}


@pytest.fixture(scope="session")
def three(manifests, toy_data, parts, tmp_path_factory):
    """The manifests, and one of four clips of another language."""
    rows = [row for row in iter_rows(toy_data / "speech") if row.task == "st"][:4]
    root = tmp_path_factory.mktemp("other")
    german = [dataclasses.replace(row, task="asr", src="de", source=None) for row in rows]
    write_datadir(root / "data", german)
    write_manifest(root / "data", root / "other", build_tokenizer(parts("byte")))
    return [*manifests, str(root / "other")]


@pytest.fixture(scope="session")
def run_base(config_values, manifests, three):
    """``run_base(**changes)``: a quick run, encoder frozen."""

    def make(**changes):
        if changes.get("train") == "THREE":
            changes["train"] = three
        return config_values(
            **{
                "trainable": {"adapter": "all", "llm": "all"},
                "lr": {"adapter": 1e-3, "llm": 1e-3},
                "train": manifests,
                "valid": manifests[:1],
                "max_steps": 3,
                "batch_cost": 300,
                "micro_cost": 10000,
                "valid_interval": 3,
                "save_interval": 3,
                "log_interval": 3,
                "source_dropout": 0.0,
                **changes,
            }
        )

    return make


@pytest.fixture(scope="module")
def bases():
    """Observations of the unchanged runs, shared by the tests of the keys."""
    return {}


@pytest.fixture
def values_of(run_base, manifests, prompts, tmp_path):
    """``values_of(key, entry)``: the values with `key` changed."""

    def make(key, entry):
        new = entry.change
        if new == "PROMPTS":
            new = {**prompts, "asr": {**prompts["asr"], "with_source": "What is said in {src}?"}}
        elif new == "TRAIN":
            new = [manifests[1], manifests[0]]
        elif new == "VALID":
            new = manifests
        elif new == "INIT":
            torch.manual_seed(5)
            other = build_model(from_dict(Config, run_base()))
            new = str(tmp_path / "other.pth")
            torch.save(other.trimmed_state(), new)
        values = run_base(**entry.base)
        first, _, rest = key.partition(".")
        return {**values, first: {**values[first], rest: new} if rest else new}

    return make


@pytest.mark.parametrize("key", RUN_KEYS)
def test_key_changes_the_run(key, observe, run_base, values_of, bases):
    entry = RUN_KEYS[key]
    name = repr(entry.base)
    if name not in bases:
        bases[name] = observe(run_base(**entry.base))
    before, after = bases[name], observe(values_of(key, entry))
    assert before[entry.shows] != after[entry.shows], f"{key} changes nothing"
    for other in entry.unchanged:
        assert before[other] == after[other], f"{key} must not change {other}"


def test_the_same_config_gives_the_same_run(observe, run_base, bases):
    """Or else every key would seem to change it."""
    first, second = observe(run_base()), observe(run_base())
    for key in first:
        if key not in ("log",):
            assert first[key] == second[key], key


# ----- keys of the model: what is built shows them -----


def forward(model, batch):
    return float(model.eval()(**batch)[0].detach())


def shape(name):
    return lambda model, batch: tuple(model.get_parameter(name).shape)


def training_noise(part, layer):
    """Whether training mode draws random numbers in `part`."""

    def probe(model, batch):
        model.set_trainable({part: "lora"} if layer == "lora" else {part: "all"})
        model.train()
        torch.manual_seed(0)
        first = float(model(**batch)[0].detach())
        torch.manual_seed(1)
        return first == float(model(**batch)[0].detach())

    return probe


def layer_calls(model, batch, part="llm"):
    """How often a part's first block runs in an update: twice if it is recomputed, also frozen."""
    calls = []
    model.set_trainable({"adapter": "all"} if part == "llm" else {part: "all"})
    model.train()
    layers = model.llm.model.layers if part == "llm" else model.encoder.layers
    inner = next(m for m in layers[0].modules() if "Norm" in type(m).__name__)
    hook = inner.register_forward_hook(lambda *args: calls.append(1))
    model(**batch)[0].backward()
    hook.remove()
    return len(calls)


def with_lora_tensors(model, batch):
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.constant_(parameter, 0.05)
    return forward(model, batch)


LORA = {"r": 4, "alpha": 8}
TINY_ENCODER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_timestamp_prediction_layers": 1,
}
TINY_LLM = {
    "model_type": "qwen2",
    "vocab_size": 500,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CONV = "adapter.conv.weight"
# Key of the model -> (base, change, what shows it). PART:name is the folder of a tiny part.
MODEL_KEYS = {
    "encoder.kind": (
        {"kind": "sensevoice"},
        {"kind": "whisper", "source": "PART:whisper"},
        lambda model, batch: model.encoder.kind,
    ),
    "encoder.source": ({}, {"source": "PART:other"}, forward),
    "encoder.config": (
        {"source": None, "config": TINY_ENCODER},
        {"source": None, "config": {**TINY_ENCODER, "num_hidden_layers": 4}},
        lambda model, batch: len(model.encoder.layers),
    ),
    "encoder.dtype": ({}, {"dtype": "bfloat16"}, lambda model, batch: model.encoder.weight_dtype),
    "adapter.kind": ({}, {"kind": "stack_mlp"}, lambda model, batch: type(model.adapter)),
    "adapter.stride": ({}, {"stride": 3}, lambda model, batch: model.llm_rate_hz),
    "adapter.kernel": ({}, {"kernel": 5}, shape(CONV)),
    "adapter.channels": ({}, {"channels": 12}, shape(CONV)),
    "adapter.layers": ({}, {"layers": 2}, lambda model, batch: len(model.adapter.layers)),
    "adapter.heads": ({}, {"heads": 2}, forward),
    "adapter.ffn": ({}, {"ffn": 32}, shape("adapter.layers.0.ffn_in.weight")),
    "adapter.dropout": ({}, {"dropout": 0.5}, training_noise("adapter", "all")),
    "llm.source": ({}, {"source": "PART:sentencepiece"}, lambda model, batch: type(model.llm)),
    "llm.config": (
        {"source": None, "config": TINY_LLM, "tokenizer": "PART:byte"},
        {
            "source": None,
            "config": {**TINY_LLM, "num_hidden_layers": 2},
            "tokenizer": "PART:byte",
        },
        lambda model, batch: model.llm.config.num_hidden_layers,
    ),
    "llm.tokenizer": (
        {},
        {"tokenizer": "PART:tokenizer"},
        lambda model, batch: model.prompter.target("eins zwei"),
    ),
    "llm.dtype": ({}, {"dtype": "bfloat16"}, lambda model, batch: model.llm.dtype),
    "llm.lora": ({}, {"lora": LORA}, lambda model, batch: len(list(model.llm.parameters()))),
    "llm.lora.r": (
        {"lora": LORA},
        {"lora": {**LORA, "r": 2}},
        shape("llm.model.layers.0.self_attn.q_proj.lora_A.default.weight"),
    ),
    "llm.lora.alpha": ({"lora": LORA}, {"lora": {**LORA, "alpha": 16}}, with_lora_tensors),
    "llm.lora.dropout": (
        {"lora": LORA},
        {"lora": {**LORA, "dropout": 0.5}},
        lambda model, batch: (
            with_lora_tensors(model, batch) and training_noise("llm", "lora")(model, batch)
        ),
    ),
    "llm.lora.targets": (
        {"lora": LORA},
        {"lora": {**LORA, "targets": ["q_proj"]}},
        lambda model, batch: [n for n, _ in model.named_parameters() if "lora" in n],
    ),
    "llm.gradient_checkpointing": ({}, {"gradient_checkpointing": True}, layer_calls),
    "encoder.gradient_checkpointing": (
        {},
        {"gradient_checkpointing": True},
        lambda model, batch: layer_calls(model, batch, "encoder"),
    ),
}


@pytest.fixture(scope="module")
def folder_of(parts, tmp_path_factory):
    """A tiny part by name; `other` has other weights than the encoder, `tokenizer` no merges."""
    import toy_parts
    from tokenizers import Tokenizer

    def get(name):
        folder = tmp_path_factory.getbasetemp() / f"config_{name}"
        if name == "other":
            return toy_parts.make_encoder(folder, "sensevoice", seed=7)
        if name == "tokenizer":
            tokenizer = toy_parts.make_tokenizer("byte")
            plain = json.loads(tokenizer.backend_tokenizer.to_str())
            plain["model"]["merges"] = []
            tokenizer._tokenizer = Tokenizer.from_str(json.dumps(plain))
            tokenizer.save_pretrained(folder)
            return str(folder)
        return parts(name)

    return get


@pytest.mark.parametrize("key", MODEL_KEYS)
def test_key_changes_the_model(key, make_model, make_batch, folder_of):
    part = key.partition(".")[0]
    base, change, probe = MODEL_KEYS[key]

    def build(changes):
        values = {
            k: folder_of(v.removeprefix("PART:"))
            if isinstance(v, str) and v.startswith("PART:")
            else v
            for k, v in changes.items()
        }
        quiet = {"trainable": {"adapter": "all"}, "lr": {"adapter": 1e-3}}
        model = make_model(model={part: values}, **quiet)
        return probe(model, make_batch(model, ["asr", "st", "mt"]))

    assert build(base) != build({**base, **change}), f"model.{key} changes nothing"


@pytest.mark.parametrize("part", ["encoder", "llm"])
def test_revision_reaches_the_hub(part, config_values, monkeypatch):
    """A revision has no meaning for a folder: what shows it is the request."""
    asked, plain = [], transformers.utils.cached_file

    def hub(source, name, revision=None, **kwargs):
        if source != "some/model":
            return plain(source, name, revision=revision, **kwargs)
        asked.append(revision)
        raise OSError("offline")

    monkeypatch.setattr("transformers.utils.cached_file", hub)
    monkeypatch.setattr("transformers.utils.hub.cached_file", hub)
    monkeypatch.setattr("transformers.configuration_utils.cached_file", hub)
    values = config_values(model={part: {"source": "some/model", "revision": "abc123"}})
    with pytest.raises((ValueError, OSError)):
        build_model(from_dict(Config, values))
    assert set(asked) == {"abc123"}


# ----- nothing is left out -----


def keys_of(cls, prefix=""):
    """Every key of a config class, those of classes within it by dotted names."""
    hints = typing.get_type_hints(cls)
    for item in dataclasses.fields(cls):
        options = typing.get_args(hints[item.name]) or (hints[item.name],)
        nested = [option for option in options if dataclasses.is_dataclass(option)]
        if not nested or type(None) in options:
            yield prefix + item.name
        for option in nested:
            yield from keys_of(option, f"{prefix}{item.name}.")


def test_every_key_has_its_proof():
    proofs = [*RUN_KEYS, *(f"model.{key}" for key in MODEL_KEYS)]
    proofs += [f"model.{part}.revision" for part in ("encoder", "llm")]
    assert sorted(proofs) == sorted(keys_of(Config)), "a key without a test that it does something"


# ----- what is refused -----


def with_key(values, path, value):
    """A copy of nested values with one key set."""
    first, _, rest = path.partition(".")
    inner = values.get(first)
    new = with_key(inner if isinstance(inner, dict) else {}, rest, value) if rest else value
    return {**values, first: new}


UNKNOWN = [
    ("max_step", "max_steps"),
    ("lora", "llm_tasks|lr|valid|init|model"),
    ("adapter_conf", "adapter|model|.*"),
    ("model.encodr", "model.encoder"),
    ("model.encoder.sorce", "model.encoder.source"),
    ("model.adapter.strid", "model.adapter.stride"),
    ("model.llm.tokeniser", "model.llm.tokenizer"),
    ("model.llm.lora.rank", "model.llm.lora.(r|targets|alpha)"),
    ("spec_augment.time_mask", "spec_augment.time_masks"),
    ("trainable.projector", "trainable.(encoder|adapter|llm)"),
    ("trainable.adaptor", "trainable.adapter"),
    ("lr.encodr", "lr.encoder"),
]


@pytest.mark.parametrize(("key", "nearest"), UNKNOWN)
def test_unknown_key_names_itself_and_the_nearest(config_values, key, nearest):
    values = with_key(config_values(), key, "all" if key.startswith("trainable") else 1.0)
    with pytest.raises(ValueError, match=rf"unknown key {key}; did you mean ({nearest})\?"):
        from_dict(Config, values)


WRONG = [
    ("max_steps", "many", "max_steps: found 'many', expected int"),
    ("max_steps", 1.5, "max_steps: found 1.5, expected int"),
    ("max_steps", True, "max_steps: found True, expected int"),
    ("max_steps", 0, "max_steps: found 0, expected more than 0"),
    ("phase", 1, "phase: found 1, expected str"),
    ("tasks", "asr", r"tasks: found 'asr', expected list"),
    ("tasks", ["asr", "sst"], "tasks: unknown task 'sst'"),
    ("tasks", [], "tasks: found none"),
    ("llm_tasks", "st", r"llm_tasks: found 'st', expected all, or a list such as \[st\]"),
    ("llm_tasks", ["instruct"], "llm_tasks names 'instruct', but the phase trains on"),
    ("llm_tasks", [], "llm_tasks: found no task"),
    ("task_shares", {"instruct": 1}, "task_shares names 'instruct'"),
    ("task_shares", {"asr": 0}, "task_shares.asr: found 0.0, expected more than 0"),
    ("task_shares", {"asr": -1}, "task_shares.asr: found -1.0"),
    ("temperature", 0, "temperature: found 0.0, expected more than 0"),
    ("temperature", float("nan"), "temperature: found nan"),
    ("corpus_weights", {"a_*": 0}, r"corpus_weights.a_\*: found 0.0, expected more than 0"),
    ("corpus_weights", {"": 1}, "corpus_weights: found an empty name"),
    ("corpus_weights", {"a_*": float("inf")}, r"corpus_weights.a_\*: found inf"),
    ("corpus_weights", ["a"], "corpus_weights: found .*, expected dict"),
    ("language_weights", {"yue": -3}, "language_weights.yue: found -3.0, expected more than 0"),
    ("language_weights", {"cantonese": 1}, "language_weights: found 'cantonese', expected"),
    ("language_weights", {"en-xx": 1}, "language_weights: found 'en-xx', expected a language"),
    ("language_weights", {"en-en": 1}, "language_weights: found 'en-en', expected a language"),
    ("alignment", True, "alignment.?: found True, expected keys and values"),
    ("alignment", {"layer": [0]}, "unknown key alignment.layer; did you mean alignment.layers"),
    ("alignment.layers", "all", r"alignment.layers: found 'all', expected adaptive, or a list"),
    ("alignment.layers", [], r"alignment.layers: found \[\], expected different layers from 0"),
    ("alignment.layers", [-1], r"alignment.layers: found \[-1\], expected different layers"),
    ("alignment.layers", [1, 1], r"alignment.layers: found \[1, 1\], expected different layers"),
    ("alignment.layers", [0.5], r"alignment.layers\[0\]: found 0.5, expected int"),
    ("alignment.layers", "adaptive", "alignment.layers: adaptive chooses .*, but valid is empty"),
    ("alignment.weight", 0, "alignment.weight: found 0.0, expected more than 0"),
    ("alignment.weight", float("nan"), "alignment.weight: found nan, expected more than 0"),
    ("alignment.epsilon", 0, "alignment.epsilon: found 0.0, expected more than 0"),
    ("alignment.iterations", 0, "alignment.iterations: found 0, expected 1 or more"),
    ("alignment.position", -1, "alignment.position: found -1.0, expected 0 or more"),
    ("alignment.detach_text", "no", "alignment.detach_text: found 'no', expected bool"),
    ("alignment.adapt_interval", 100, r"alignment.adapt_interval: .* the layers stay \[0, 1\]"),
    ("alignment.max_layers", 3, r"alignment.max_layers: .* set alignment.layers: adaptive"),
    ("alignment.adapt_rows", 50, r"alignment.adapt_rows: found 50, but the layers stay \[0, 1\]"),
    ("valid_rows", -1, "valid_rows: found -1, expected 0 or more"),
    ("task_weights", {"asr": -1}, "task_weights.asr: found -1.0"),
    ("task_weights", {"asr": 0, "st": 0, "mt": 0}, "task_weights: all are 0"),
    ("lr", {"adapter": 1e-3, "llm": 1e-3}, "lr.encoder is missing"),
    ("lr.adapter", "fast", "lr.adapter: found 'fast', expected float"),
    ("lr.adapter", -1.0, "lr.adapter: found -1.0, expected more than 0"),
    ("lr.adapter", None, "lr.adapter: found None"),
    ("trainable.encoder", 3, "trainable.encoder: found 3, expected str"),
    ("trainable.encoder", None, "trainable.encoder: found None"),
    ("trainable.llm", "none", "lr.llm is set, but llm is frozen"),
    ("trainable.llm", "lora", "trainable.llm: lora, but the model has none"),
    ("trainable", {"llm": "none"}, "trainable: no part trains"),
    ("schedule", "cosin", r"schedule: found 'cosin', expected cosine \| linear"),
    ("compute_dtype", "float16", "compute_dtype: found 'float16'"),
    ("betas", [0.9], "betas: found .*, expected two numbers"),
    ("betas", [0.9, 1.0], "betas: found .*, expected two numbers"),
    ("warmup_steps", -1, "warmup_steps: found -1, expected 0 or more"),
    ("final_lr", 2.0, "final_lr: found 2.0, expected 0 to 1"),
    ("weight_decay", -0.1, "weight_decay: found -0.1"),
    ("seed", -1, "seed: found -1, expected 0 or more"),
    ("clip_norm", 0, "clip_norm: found 0.0, expected more than 0"),
    ("clip_norm", float("nan"), "clip_norm: found nan"),
    ("source_dropout", 1.2, "source_dropout: found 1.2, expected 0 to 1"),
    ("speed_perturb", [9.0], r"speed_perturb: found \[9.0\], expected factors from 0.5 to 2"),
    ("speed_perturb", 0.9, "speed_perturb: found 0.9, expected list"),
    ("spec_augment", True, "spec_augment.?: found True, expected keys and values"),
    ("spec_augment", {"time_width": 1.5}, "spec_augment: found 2 time masks of width 1.5"),
    ("model.encoder", "whisper", "model.encoder.?: found 'whisper', expected keys and values"),
    ("model.encoder", {}, "missing key model.encoder.kind"),
    ("model.adapter.stride", "2", "model.adapter.stride: found '2', expected int"),
    ("model.llm.lora", {"targets": "q_proj"}, "model.llm.lora.targets: found 'q_proj'"),
    ("model.llm.gradient_checkpointing", 1, "gradient_checkpointing: found 1, expected bool"),
    ("prompts", {}, "prompts, task asr"),
    ("prompts.asr.with_source", "Transcribe.", r"prompts, asr.with_source: .* lacks \{src\}"),
    ("train", "data", "train: found 'data', expected list"),
]


@pytest.mark.parametrize(("key", "value", "message"), WRONG)
def test_wrong_values_name_their_key(config_values, key, value, message):
    values = config_values()
    if key == "model.encoder":
        values = {**values, "model": {**values["model"], "encoder": value}}
    else:
        values = with_key(values, key, value)
    with pytest.raises(ValueError, match=message):
        from_dict(Config, values)


WRONG_ADAPTIVE = [
    ("adapt_interval", -1, "alignment.adapt_interval: found -1, expected 0 or more"),
    ("max_layers", 0, "alignment.max_layers: found 0, expected 1 or more"),
    ("adapt_rows", 1, "alignment.adapt_rows: found 1, expected 2 or more"),
]


@pytest.mark.parametrize(("key", "value", "message"), WRONG_ADAPTIVE)
def test_wrong_values_of_adaptive_alignment(config_values, key, value, message):
    with pytest.raises(ValueError, match=message):
        from_dict(
            Config, config_values(valid=["dev"], alignment={"layers": "adaptive", key: value})
        )


def test_alignment_that_the_phase_cannot_have(config_values, make_model):
    with pytest.raises(ValueError, match=r"alignment: phase 3 trains on \['mt'\], which have no"):
        from_dict(Config, config_values(tasks=["mt"], alignment={}))
    frozen = dict(trainable={"adapter": "all"}, lr={"adapter": 1e-3})
    assert from_dict(Config, config_values(**frozen, alignment={})).alignment.detach_text
    with pytest.raises(ValueError, match="alignment.detach_text: false, but the LLM is frozen"):
        from_dict(Config, config_values(**frozen, alignment={"detach_text": False}))
    options = from_dict(Config, config_values(alignment={"layers": [0, 9]})).alignment
    depth = make_model().llm.config.num_hidden_layers
    with pytest.raises(ValueError, match=f"alignment.layers: found layer 9, .* to {depth}"):
        build_alignment(options, depth)


def test_missing_keys_are_named(config_values):
    for key in ("phase", "model", "trainable", "tasks", "lr", "max_steps", "prompts"):
        values = {k: v for k, v in config_values().items() if k != key}
        with pytest.raises(ValueError, match=f"missing key {key}"):
            from_dict(Config, values)


def test_numbers_as_yaml_reads_them(config_values):
    """YAML 1.1 takes 1e-4 for a string; people write it all the same."""
    text = "lr: {encoder: 1e-4, adapter: 5E-5, llm: 1}\nfinal_lr: 1e-1"
    config = from_dict(Config, {**config_values(), **yaml.safe_load(text)})
    assert config.lr == {"encoder": 1e-4, "adapter": 5e-5, "llm": 1.0} and config.final_lr == 0.1


def test_plain_values_and_back(config_values):
    config = from_dict(Config, config_values(spec_augment={}))
    assert from_dict(Config, yaml.safe_load(yaml.safe_dump(to_dict(config)))) == config
