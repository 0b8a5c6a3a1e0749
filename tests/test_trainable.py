import ast
import dataclasses
import re

import pytest
import torch
import toy_parts
import yaml
from core_helpers import CONFORMER, changed, make_loop, same, snapshot, update

from espnet_part.adapter import build_adapter
from espnet_part.checkpoint import read_checkpoint, write_atomically
from espnet_part.config import AdapterConfig
from espnet_part.curriculum import load_curriculum, merge
from espnet_part.encoder import build_encoder
from espnet_part.llm import build_llm
from espnet_part.model import PARTModel
from espnet_part.prompt import Prompter
from espnet_part.trainable import part_table, select_names

# What trains, by hand: e encoder (8: its last eight layers), a adapter, l LLM.
PLAN = {
    "part": {"1": "a", "2a": "8a", "2b": "ea", "3": "eal"},
    "two_stage": {"1": "a", "2a": "8a", "2b": "ea"},
    "two_stage_full": {"1": "a", "2b": "ea"},
    "two_stage_llm": {"1": "a", "2a": "8al", "2b": "eal"},
    "three_stage_mixed": {"1": "a", "2a": "8a", "2b": "ea", "3": "eal"},
    "part_task_activation": {"1": "a", "2a": "8a", "2b": "ea", "3": "eal"},
    "part_llm_frozen": {"1": "a", "2a": "8a", "2b": "ea", "3": "ea"},
    "part_llm_always": {"1": "al", "2a": "8al", "2b": "eal", "3": "eal"},
    "part_no_text": {"1": "a", "2a": "8a", "2b": "ea", "3": "eal"},
    "part_ai_sta": {"1": "a", "2a": "8a", "2b": "ea", "3": "eal"},
    "part_text_first": {"0": "l", "1": "a", "2a": "8a", "2b": "ea", "3": "eal"},
    "finetune": {"3": "eal"},
}
# True sizes of the sources that the model YAMLs name.
WHISPER_LARGE_V3 = dict(
    d_model=1280,
    encoder_layers=32,
    encoder_attention_heads=20,
    encoder_ffn_dim=5120,
    num_mel_bins=128,
)
QWEN = dict(model_type="qwen2", num_hidden_layers=28)
QWEN_1_5B = dict(
    vocab_size=151936,
    hidden_size=1536,
    intermediate_size=8960,
    num_attention_heads=12,
    num_key_value_heads=2,
    tie_word_embeddings=True,
    **QWEN,
)
QWEN_7B = dict(
    vocab_size=152064,
    hidden_size=3584,
    intermediate_size=18944,
    num_attention_heads=28,
    num_key_value_heads=4,
    tie_word_embeddings=False,
    **QWEN,
)
DIGITS_LLM = dict(
    model_type="qwen2",
    vocab_size=300,
    hidden_size=160,
    intermediate_size=320,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
TOY_LLM = dict(DIGITS_LLM, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
SOURCES = {
    "openai/whisper-large-v3": WHISPER_LARGE_V3,
    "FunAudioLLM/SenseVoiceSmall": dict(num_hidden_layers=70),
    "Qwen/Qwen2.5-1.5B-Instruct": QWEN_1_5B,
    "Qwen/Qwen2.5-7B-Instruct": QWEN_7B,
    "exp/toy_parts/encoder": toy_parts.ENCODER_SIZES["sensevoice"],
    "exp/toy_parts/llm": TOY_LLM,
    "exp/digits_parts/encoder": dict(
        hidden_size=160, num_hidden_layers=10, intermediate_size=320, num_attention_heads=4
    ),
    "exp/digits_parts/llm": DIGITS_LLM,
    "local/miniature_base/encoder": dict(
        hidden_size=128, num_hidden_layers=10, intermediate_size=384, num_attention_heads=4
    ),
    "local/miniature_base/llm": DIGITS_LLM,
    "exp/miniature_large_parts/encoder": dict(
        hidden_size=416, num_hidden_layers=10, intermediate_size=1248, num_attention_heads=8
    ),
    "exp/miniature_large_parts/llm": DIGITS_LLM,
}
# Which names the encoder's last eight layers (the miniature's last three) and what follows have.
LAST8 = {
    "openai/whisper-large-v3": r"encoder\.model\.(layers\.(2[4-9]|3[01])|layer_norm)\.",
    "FunAudioLLM/SenseVoiceSmall": r"encoder\.model\.layers\.6[2-9]\.",
    "exp/toy_parts/encoder": r"encoder\.model\.layers\.[2-9]\.",
    "exp/digits_parts/encoder": r"encoder\.model\.layers\.[2-9]\.",
    "local/miniature_base/encoder": r"encoder\.model\.layers\.[7-9]\.",
    "exp/miniature_large_parts/encoder": r"encoder\.model\.layers\.[7-9]\.",
}
_WHISPER_LAYER = 4 * 1280**2 + 3 * 1280 + 2 * 2 * 1280 + 2 * 1280 * 5120 + 5120 + 1280
_SANM_LAYER = 4 * 512**2 + 4 * 512 + 11 * 512 + 2 * 2 * 512 + 2 * 512 * 2048 + 2048 + 512


def _adapter_count(d: int, h: int, ffn: int, layers: int = 2) -> int:
    conv = 3 * d * h + h
    layer = (3 * h * h + 3 * h) + (h * h + h) + (2 * h * ffn + ffn + h) + 4 * h
    return conv + (h * h + h) + layers * layer + 2 * h


def _lora_count(h: int, kv: int, r: int = 16, layers: int = 28) -> int:
    return layers * r * (2 * (h + h) + 2 * (h + kv))


# Parameters: (encoder, last eight and norm), adapter, (LLM, of which LoRA).
COUNTS = {
    "part_2b": ((635_048_960, 8 * _WHISPER_LAYER + 2560), _adapter_count(1280, 1536, 1536)),
    "part_2b_sensevoice": ((221_136_992, 8 * _SANM_LAYER + 1024), _adapter_count(512, 1536, 1536)),
    "part_8b": ((635_048_960, 8 * _WHISPER_LAYER + 2560), _adapter_count(1280, 3584, 3584)),
}
COUNTS["part_2b_lora"], COUNTS["part_8b_lora"] = COUNTS["part_2b"], COUNTS["part_8b"]
LLM_COUNTS = {
    "part_2b": (1_543_714_304, 0),
    "part_2b_sensevoice": (1_543_714_304, 0),
    "part_2b_lora": (1_543_714_304, _lora_count(1536, 256)),
    "part_8b": (7_615_616_512, 0),
    "part_8b_lora": (7_615_616_512, _lora_count(3584, 512)),
}


def all_models() -> list[str]:
    from conftest import ROOT

    return sorted(path.stem for path in (ROOT / "conf/model").glob("*.yaml"))


@pytest.fixture(scope="session")
def meta_model(conf_dir, prompts):
    """``meta_model(name)``: a model of conf/model at true size, without memory for its weights."""
    made = {}
    tokenizer = toy_parts.make_tokenizer("byte")

    def get(name: str) -> PARTModel:
        if name not in made:
            values = yaml.safe_load((conf_dir / "model" / f"{name}.yaml").read_text())
            encoder, llm = values["encoder"], values["llm"]
            with torch.device("meta"):
                built_encoder = build_encoder(
                    encoder["kind"],
                    config=dict(SOURCES[encoder["source"]]),
                    dtype=encoder.get("dtype", "float32"),
                )
                built_llm = build_llm(
                    config=dict(SOURCES[llm["source"]]),
                    dtype=llm.get("dtype", "float32"),
                    lora=llm.get("lora"),
                    gradient_checkpointing=llm.get("gradient_checkpointing", False),
                )
                adapter = build_adapter(
                    input_size=built_encoder.output_size,
                    output_size=built_llm.config.hidden_size,
                    **{**dataclasses.asdict(AdapterConfig()), **values["adapter"]},
                )
            sources = {"encoder": encoder["source"], "adapter": None, "llm": llm["source"]}
            prompter = Prompter(tokenizer, prompts)
            made[name] = PARTModel(
                built_encoder, adapter, built_llm, prompter, sources, llm.get("lora")
            )
        return made[name]

    return get


def expected_names(model, model_name: str, plan: str, source: str) -> set[str]:
    lora = model_name.endswith("_lora")
    patterns = {
        "e": r"encoder\.",
        "8": LAST8[source],
        "a": r"adapter\.",
        "l": r"llm\..*\.lora_[AB]\." if lora else r"llm\.",
    }
    names = [name for name, _ in model.named_parameters()]
    return {name for name in names if any(re.match(patterns[letter], name) for letter in plan)}


def test_the_plan_covers_all_curricula(conf_dir):
    found = {path.stem for path in (conf_dir / "curriculum").glob("*.yaml")}
    assert found == set(PLAN)
    for name, phases in PLAN.items():
        assert load_curriculum(conf_dir, name)["phases"] == list(phases)


@pytest.mark.parametrize("model_name", all_models())
def test_exact_names_and_counts_at_true_size(conf_dir, meta_model, model_name):
    model = meta_model(model_name)
    plans: dict[str, str] = {}
    for curriculum, phases in PLAN.items():
        for phase, plan in phases.items():
            config = merge(conf_dir, model_name, curriculum, phase, ["t"], ["v"])
            letters = {"encoder": "e8", "adapter": "a", "llm": "l"}
            assert set(config.lr) == {p for p, some in letters.items() if set(some) & set(plan)}
            policy = repr((sorted(config.trainable.items()), config.llm_tasks))
            assert plans.setdefault(policy, plan) == plan, (curriculum, phase)
    assert set(plans.values()) == {plan for phases in PLAN.values() for plan in phases.values()}
    for policy, plan in plans.items():
        trainable, llm_tasks = ast.literal_eval(policy)
        model.set_trainable(dict(trainable), llm_tasks)
        trains = {name for name, p in model.named_parameters() if p.requires_grad}
        expected = expected_names(model, model_name, plan, model.sources["encoder"])
        assert trains == expected, policy
        if model_name in COUNTS:
            assert counts(model) == expected_counts(model_name, plan), policy


def counts(model) -> dict[str, int]:
    return {
        row["part"]: row["trainable"] for row in part_table(model, {}) if row["part"] != "total"
    }


def expected_counts(model_name: str, plan: str) -> dict[str, int]:
    (encoder, last8), adapter = COUNTS[model_name]
    llm, lora = LLM_COUNTS[model_name]
    return {
        "encoder": encoder if "e" in plan else last8 if "8" in plan else 0,
        "adapter": adapter if "a" in plan else 0,
        "llm": (lora or llm) if "l" in plan else 0,
    }


def test_the_table_says_what_the_phase_trains(meta_model):
    model = meta_model("part_2b")
    model.set_trainable({"encoder": "last:8", "adapter": "all", "llm": "none"})
    rows = {row["part"]: row for row in part_table(model, {"encoder": 2e-5, "adapter": 1e-4})}
    assert rows["encoder"]["trainable"] == 8 * 19_676_160 + 2560
    assert rows["encoder"]["per_cent"] == pytest.approx(24.79, abs=0.01)
    assert rows["llm"]["trainable"] == 0 and rows["llm"]["lr"] is None
    assert rows["llm"]["frozen_dtype"] == "bfloat16"
    assert rows["total"]["parameters"] == sum(p.numel() for p in model.parameters())


# ----- one real step at tiny size -----

PHASES = {
    "0": ({"encoder": "none", "adapter": "none", "llm": "all"}, ["mt"]),
    "1": ({"encoder": "none", "adapter": "all", "llm": "none"}, ["asr"]),
    "2a": ({"encoder": "last:8", "adapter": "all", "llm": "none"}, ["asr"]),
    "2b": ({"encoder": "all", "adapter": "all", "llm": "none"}, ["asr"]),
    "3": ({"encoder": "all", "adapter": "all", "llm": "all"}, ["asr", "st", "mt"]),
}
ADAPTER_ONLY = {"trainable": {"adapter": "all"}, "lr": {"adapter": 1e-3}}
LORA = {"r": 2, "alpha": 4, "dropout": 0.1, "targets": ["q_proj", "v_proj"]}
ENCODERS = ["sensevoice", "whisper", "transformers", "espnet"]
# Weights that the loss does not depend on, or only by rounding: key biases cancel in the softmax.
_IDLE = re.compile(r"k_proj\.bias|linear_k\.bias")


def phase_values(config_values, phase: str, lora: bool = False, **changes) -> dict:
    policy, tasks = PHASES[phase]
    policy = dict(policy)
    if lora and policy["llm"] == "all":
        policy["llm"] = "lora"
    lr = {part: 1e-3 for part, selector in policy.items() if selector != "none"}
    return config_values(
        phase=phase, trainable=policy, tasks=tasks, lr=lr, warmup_steps=0, **changes
    )


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("phase", PHASES)
def test_one_step(make_model, make_batch, config_values, tmp_path, phase, encoder, lora):
    changes = {"encoder": encoder, "model": {"llm": {"lora": LORA if lora else None}}}
    values = phase_values(config_values, phase, lora, **changes)
    model = make_model(**changes, **ADAPTER_ONLY)
    model.set_trainable(values["trainable"])
    trains = {name for name, p in model.named_parameters() if p.requires_grad}
    before = snapshot(model)
    loop = make_loop(model, values, tmp_path)
    batch = make_batch(model, [task for task in values["tasks"] for _ in range(2)])
    for _ in range(2):  # LoRA's A moves from the second step on, when B is no longer zero
        update(loop, batch)

    moved = changed(model, before)
    assert moved <= trains, sorted(moved - trains)[:5]
    still = sorted(name for name in trains - moved if not _IDLE.search(name))
    assert not still, still[:5]
    for name, parameter in model.named_parameters():
        assert (parameter in loop.optimizer.state) == (name in trains), name
        assert parameter.grad is None
    modes_follow_the_policy(model)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("phase", ["1", "2a", "3"])
def test_one_step_beside_frozen_bf16(
    make_model, make_batch, config_values, tmp_path, phase, encoder
):
    """What trains is fp32 and moves by less than bf16 could show; what is frozen stays bf16."""
    narrow = {"dtype": "bfloat16"}
    changes = {"encoder": encoder, "model": {"llm": narrow, "encoder": narrow}}
    values = phase_values(config_values, phase, **changes)
    values["lr"] = {part: 1e-6 for part in values["lr"]}
    model = make_model(**changes, **ADAPTER_ONLY)
    model.set_trainable(values["trainable"])
    trains = {name for name, p in model.named_parameters() if p.requires_grad}
    for name, parameter in model.named_parameters():
        wide = name in trains or name.startswith("adapter.")
        assert parameter.dtype == (torch.float32 if wide else torch.bfloat16), name
    before = snapshot(model)
    loop = make_loop(model, values, tmp_path)
    update(loop, make_batch(model, values["tasks"]))
    moved = changed(model, before)
    assert moved <= trains
    assert len(moved) > 0.9 * len(trains), sorted(trains - moved)[:9]
    states = {t.dtype for state in loop.optimizer.state.values() for t in state.values()}
    assert states == {torch.float32}


def modes_follow_the_policy(model):
    model.train()
    for name, module in model.named_modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            assert not any(m.training for m in module.modules()), name
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            assert not module.training, name
        elif any(p.requires_grad for p in module.parameters(recurse=False)):
            assert module.training, name
    model.eval()
    assert not any(module.training for module in model.modules())


def state_of(model) -> dict:
    return {
        name: (p.requires_grad, p.dtype, p.grad is None) for name, p in model.named_parameters()
    } | {
        f"mode of {name}": (module.training, "forward" in vars(module))
        for name, module in model.named_modules()
    }


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_switching_leaves_no_trace(make_model, make_batch, config_values, lora):
    changes = {
        "model": {
            "encoder": {"dtype": "bfloat16"},
            "llm": {"dtype": "bfloat16", "lora": LORA if lora else None},
        }
    }
    fresh = {}
    for phase in PHASES:
        model = make_model(**changes, **ADAPTER_ONLY)
        model.set_trainable(phase_values(config_values, phase, lora)["trainable"])
        model.train()
        fresh[phase] = state_of(model)
    assert len({str(state) for state in fresh.values()}) == len(PHASES)
    model = make_model(**changes, **ADAPTER_ONLY)
    batch = make_batch(model, ["asr", "st", "mt"])
    for phase in ["3", "1", "0", "2b", "2a", "3", "2a", "1", "0"]:
        policy = phase_values(config_values, phase, lora)["trainable"]
        model.set_trainable(policy, ["st", "mt"] if policy["llm"] != "none" else "all")
        model.train()
        with torch.autocast("cpu", torch.bfloat16):
            model(**batch)[0].backward()
        model.set_trainable(policy)
        model.train()
        assert state_of(model) == fresh[phase], phase


def test_what_was_trained_stays_in_fp32_when_frozen(make_model):
    model = make_model(model={"llm": {"dtype": "bfloat16"}, "encoder": {"dtype": "bfloat16"}})
    model.set_trainable({"adapter": "all", "llm": "all"})
    weight = model.llm.model.norm.weight
    with torch.no_grad():
        weight += 2.0**-12
    after = weight.detach().clone()
    model.set_trainable({"adapter": "all"})
    assert same(weight, after)
    assert {p.dtype for p in model.llm.parameters()} == {torch.float32}
    assert {p.dtype for p in model.encoder.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_batch_norms(make_model, make_batch, dtype):
    """They keep their statistics in training, in the dtype of their weights."""
    recipe = {"encoder": "conformer", "encoder_conf": CONFORMER}
    model = make_model(model={"encoder": encoder_of(dtype, recipe)})
    batch = make_batch(model, ["asr", "asr"])
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    generator = torch.Generator().manual_seed(0)
    for norm in norms:
        norm.running_mean.copy_(torch.randn(32, generator=generator))
    means = [norm.running_mean.float() for norm in norms]
    assert len(norms) == 2
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")
    for encoder in ("all", "last:1", "none", "all"):
        model.set_trainable({"encoder": encoder, "adapter": "all"})
        model.train()
        with autocast:
            model(**batch)[0].backward()
        assert not any(norm.training for norm in norms)
        for norm, mean in zip(norms, means, strict=True):
            assert torch.equal(norm.running_mean.float(), mean)
    for encoder in ("none", "all"):
        model.set_trainable({"encoder": encoder, "adapter": "all"})
        model.set_dtype(torch.float32)
        with torch.no_grad():
            assert torch.isfinite(model.eval()(**batch)[0])
        model.set_dtype(torch.bfloat16)
    state = model.trimmed_state()
    fresh = make_model(model={"encoder": encoder_of(dtype, recipe)})
    fresh.load_trimmed_state(state, "c.pth")
    with torch.no_grad(), autocast:
        assert torch.isfinite(fresh.eval()(**batch)[0])


def encoder_of(dtype: str, recipe: dict) -> dict:
    return {"kind": "espnet", "source": None, "dtype": dtype, "config": recipe}


# ----- fp32 masters -----


ONE_PART = dict(toy_parts.ENCODER_SIZES["sensevoice"], num_hidden_layers=3)
BF16_LLM = {
    "llm": {"dtype": "bfloat16"},
    "encoder": {"source": None, "config": ONE_PART},  # only the LLM matters here
}


def test_masters_move(make_model, make_batch, config_values, tmp_path):
    values = phase_values(config_values, "0", model=BF16_LLM)
    values.update(lr={"llm": 1e-5}, schedule="constant", max_steps=100, weight_decay=0.0)
    model = make_model(model=BF16_LLM, **ADAPTER_ONLY)
    model.set_trainable(values["trainable"])
    before = snapshot(model.llm)
    loop = make_loop(model, values, tmp_path)
    batches = [make_batch(model, ["mt"] * count) for count in (1, 3)]
    for step in range(100):
        update(loop, batches[step % 2])
    assert moved_share(model.llm, before) > 0.95


def test_bf16_weights_would_stand_still(make_model, make_batch):
    """The control: the same steps on weights without masters."""
    model = make_model(model=BF16_LLM, **ADAPTER_ONLY).requires_grad_(False)
    model.llm.requires_grad_(True)
    before = snapshot(model.llm)
    batches = [make_batch(model, ["mt"] * count) for count in (1, 3)]
    optimizer = torch.optim.AdamW(model.llm.parameters(), 1e-5, betas=(0.9, 0.98), weight_decay=0)
    for step in range(100):
        with torch.autocast("cpu", torch.bfloat16):
            model(**batches[step % 2])[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert {p.dtype for p in model.llm.parameters()} == {torch.bfloat16}
    assert moved_share(model.llm, before) < 0.5


def moved_share(module, before: dict) -> float:
    moved = sum(int((p != before[name]).sum()) for name, p in module.named_parameters())
    return moved / sum(p.numel() for p in module.parameters())


# ----- selectors that cannot be meant -----


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"projector": "all"}, "unknown part.*projector.*encoder adapter llm"),
        ({"encoder": "last:10"}, "has 10 layers.*use `all`"),
        ({"encoder": "last:11"}, "from 1 to 9"),
        ({"encoder": "last:0"}, "from 1 to 9"),
        ({"encoder": "last:x"}, "from 1 to 9"),
        ({"adapter": "last:1"}, "for the encoder"),
        ({"llm": "lora"}, "selects nothing"),
        ({"encoder": "lora"}, "exist in the LLM only"),
        ({"llm": "some"}, "none, all, last:N, a list of globs, or lora"),
        ({"encoder": 8}, "found 8"),
        ({"adapter": ["conv1.*"]}, "'conv1.\\*' matches no parameter.*conv.weight"),
        ({"llm": []}, "matches nothing|empty"),
    ],
)
def test_a_selector_that_selects_nothing(make_model, policy, message):
    model = make_model()
    with pytest.raises(ValueError, match=message):
        select_names(model, policy)


def test_all_is_refused_beside_lora(make_model):
    model = make_model(model={"llm": {"lora": LORA}}, **ADAPTER_ONLY)
    with pytest.raises(ValueError, match="use `lora`"):
        select_names(model, {"llm": "all"})


def test_globs(make_model):
    model = make_model()
    names = select_names(model, {"llm": ["model.layers.1.mlp.*", "*.norm.weight"], "adapter": None})
    parts = ("gate_proj", "up_proj", "down_proj")
    assert names == {f"llm.model.layers.1.mlp.{part}.weight" for part in parts} | {
        "llm.model.norm.weight"
    }


def test_a_failed_policy_changes_nothing(make_model):
    model = make_model()
    model.set_trainable({"adapter": "all"})
    before = state_of(model)
    with pytest.raises(ValueError):
        model.set_trainable({"adapter": "all", "encoder": "last:99"})
    assert state_of(model) == before


def test_a_saved_phase_holds_what_an_earlier_policy_trained(make_model, tmp_path):
    model = make_model()
    assert not any(name.startswith(("encoder", "llm")) for name in model.trimmed_state()["model"])
    model.set_trainable({"encoder": "last:1"})
    model.set_trainable({"adapter": "all"})
    write_atomically(tmp_path / "c.pth", model.trimmed_state())
    held = read_checkpoint(tmp_path / "c.pth")["model"]
    layers = {name.split(".")[3] for name in held if name.startswith("encoder.model.layers.")}
    assert layers == {"9"}
    assert not any(name.startswith("llm.") for name in held)
