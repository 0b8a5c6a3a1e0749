"""Task-dependent activation: what rows of other tasks may and may not change."""

import pytest
import torch
import toy_parts
from core_helpers import changed, difference, gradients, make_loop, same, snapshot, update

from espnet_part.activation import Gate, gate_modules, ungate_modules
from espnet_part.attention import NAME, packed_inputs

# Three layers without dropout: gradients of different batches are compared.
ENCODER = dict(
    toy_parts.ENCODER_SIZES["sensevoice"],
    num_hidden_layers=3,
    hidden_dropout=0.0,
    attention_dropout=0.0,
)
TASKS = ["asr", "st", "asr", "mt", "asr", "st"]
CHOSEN = ["st", "mt"]
LORA = {"r": 4, "alpha": 8, "dropout": 0.0, "targets": ["q_proj", "v_proj", "down_proj"]}
SETTINGS = {
    "tied": {"llm": "byte"},
    "untied": {"llm": "sentencepiece"},
    "lora": {"llm": "byte", "model": {"llm": {"lora": LORA}}},
    "checkpointing": {"llm": "byte", "model": {"llm": {"gradient_checkpointing": True}}},
    "checkpointed_lora": {
        "llm": "sentencepiece",
        "model": {"llm": {"gradient_checkpointing": True, "lora": LORA}},
    },
}
ADAPTER_ONLY = {"trainable": {"adapter": "all"}, "lr": {"adapter": 1e-3}}


def changes_of(setting: str) -> dict:
    changes = SETTINGS[setting]
    parts = {**changes.get("model", {}), "encoder": {"source": None, "config": dict(ENCODER)}}
    return {**changes, "model": parts}


def build(make_model, setting: str, llm_tasks="all"):
    model = make_model(**changes_of(setting), **ADAPTER_ONLY)
    if "lora" in setting:
        torch.manual_seed(1)
        for name, parameter in model.llm.named_parameters():
            if ".lora_B." in name:
                torch.nn.init.normal_(parameter, std=0.3)
    model.set_trainable(policy(setting), llm_tasks)
    return model.train()


def policy(setting: str) -> dict:
    return {"encoder": "all", "adapter": "all", "llm": "lora" if "lora" in setting else "all"}


def backward(model, batch, denominator: int, autocast: bool = False):
    """Gradients of the sum of the loss / denominator, as the loop forms it."""
    model.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss, _, weight = model(**batch)
    (loss * float(weight) / denominator).backward()
    return gradients(model)


def part(grads: dict, *names: str) -> dict:
    return {name: grad for name, grad in grads.items() if name.startswith(names)}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_mixed_batch(make_model, make_batch, setting, dtype):
    autocast = dtype == "bf16"
    gated = build(make_model, setting, CHOSEN)
    mixed = make_batch(gated, TASKS)
    alone = make_batch(gated, ["st", "mt", "st"])
    tokens = int(mixed["is_target"].sum())
    found = backward(gated, mixed, tokens, autocast)

    plain = build(make_model, setting)
    whole = backward(plain, mixed, tokens, autocast)
    wanted = backward(plain, alone, tokens, autocast)

    loose, tight = (0.03, 1e-2) if autocast else (1e-5, 1e-5)
    assert difference(part(found, "llm."), part(wanted, "llm.")) < loose
    heard = ("encoder.", "adapter.")
    assert difference(part(found, *heard), part(whole, *heard)) < tight
    # The test can fail: without the gate both would be far off.
    assert difference(part(whole, "llm."), part(wanted, "llm.")) > 0.1
    assert difference(part(wanted, *heard), part(whole, *heard)) > 0.1


@pytest.mark.parametrize("setting", ["tied", "untied", "lora"])
def test_each_tensor_for_itself(make_model, make_batch, setting):
    """A small tensor (a bias, a norm) must not hide behind the largest one."""
    gated, plain = build(make_model, setting, CHOSEN), build(make_model, setting)
    mixed, alone = make_batch(gated, TASKS), make_batch(gated, ["st", "mt", "st"])
    found, wanted = backward(gated, mixed, 50), backward(plain, alone, 50)
    for name in part(wanted, "llm."):
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-3, atol=2e-6, msg=name)


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_asr_steps_leave_the_llm_alone(
    make_model, make_batch, config_values, tmp_path, setting, compute
):
    model = build(make_model, setting, CHOSEN)
    values = config_values(
        **changes_of(setting),
        trainable=policy(setting),
        llm_tasks=CHOSEN,
        weight_decay=0.1,
        max_steps=10,
        compute_dtype=compute,
    )
    loop = make_loop(model, values, tmp_path)
    update(loop, make_batch(model, ["st", "mt"]))
    update(loop, make_batch(model, ["mt", "asr"]), make_batch(model, ["st"]))
    before, state = snapshot(model), optimizer_state(loop, "llm.")
    assert state, "AdamW has momentum for the LLM"

    update(loop, make_batch(model, ["asr", "asr"]))
    update(loop, make_batch(model, ["asr"]), make_batch(model, ["asr", "asr"]))
    update(loop, None, make_batch(model, ["asr"]))
    moved = changed(model, before)
    assert not [name for name in moved if name.startswith("llm.")]
    assert any(name.startswith("encoder.") for name in moved)
    assert any(name.startswith("adapter.") for name in moved)
    now = optimizer_state(loop, "llm.")
    assert all(same(now[name], value) for name, value in state.items())

    update(loop, make_batch(model, ["asr", "asr"]), make_batch(model, ["st"]))
    trained = {name for name, p in model.llm.named_parameters() if p.requires_grad}
    moved = {name.removeprefix("llm.") for name in changed(model, before)}
    assert not [name for name in trained - moved if "k_proj.bias" not in name]


def optimizer_state(loop, prefix: str) -> dict:
    names = {p: name for name, p in loop.model.named_parameters()}
    return {
        f"{names[p]}/{key}": value.clone()
        for p, state in loop.optimizer.state.items()
        for key, value in state.items()
        if names[p].startswith(prefix)
    }


def test_text_steps_leave_encoder_and_adapter_alone(
    make_model, make_batch, config_values, tmp_path
):
    model = build(make_model, "tied")
    loop = make_loop(model, config_values(weight_decay=0.1), tmp_path)
    update(loop, make_batch(model, ["st", "mt"]))
    before, state = snapshot(model), optimizer_state(loop, ("encoder.", "adapter."))
    update(loop, make_batch(model, ["mt", "mt"]))
    assert all(name.startswith("llm.") for name in changed(model, before))
    now = optimizer_state(loop, ("encoder.", "adapter."))
    assert state and all(same(now[name], value) for name, value in state.items())


@pytest.mark.parametrize("setting", ["tied", "lora", "checkpointing"])
def test_accumulation(make_model, make_batch, config_values, tmp_path, setting):
    """Rows in micro-batches of one task each give the step of the whole batch."""
    after = []
    for pieces in ([TASKS], [["asr", "asr", "asr"], ["st", "st"], ["mt"]]):
        model = build(make_model, setting, CHOSEN)
        values = config_values(**changes_of(setting), trainable=policy(setting), llm_tasks=CHOSEN)
        loop = make_loop(model, values, tmp_path)
        grads = {}
        loop.optimizer.step = lambda model=model, grads=grads: grads.update(gradients(model))
        update(loop, *(make_batch(model, piece) for piece in pieces))
        after.append(grads)
    assert difference(*after) < 1e-5


@pytest.mark.parametrize(("setting", "runs"), [("tied", 1), ("checkpointing", 2)])
def test_checkpointing_recomputes_trained_blocks(make_model, make_batch, setting, runs):
    model = build(make_model, setting, CHOSEN)
    calls = []
    model.llm.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    backward(model, make_batch(model, TASKS), 50)
    assert len(calls) == runs


def test_nothing_is_left_when_switched_off(make_model, make_batch):
    plain = build(make_model, "tied")
    batch = make_batch(plain, TASKS)
    wanted = backward(plain, batch, 50)
    model = build(make_model, "tied", CHOSEN)
    gated = backward(model, batch, 50)
    model.set_trainable(policy("tied"), "all")
    model.train()
    assert not [name for name, m in model.named_modules() if "forward" in vars(m)]
    found = backward(model, batch, 50)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert not torch.equal(gated["llm.model.norm.weight"], wanted["llm.model.norm.weight"])


def test_the_gate_does_not_change_the_loss(make_model, make_batch):
    plain, gated = build(make_model, "tied"), build(make_model, "tied", ["mt"])
    batch = make_batch(plain, TASKS)
    assert torch.equal(plain(**batch)[0], gated(**batch)[0])
    plain.eval(), gated.eval()
    assert torch.equal(plain(**batch)[0], gated(**batch)[0])


def test_decoding_between_steps(make_model, make_batch):
    """A decoding step has other shapes than the batch whose rows the gate knows."""
    model = build(make_model, "tied", CHOSEN)
    batch = make_batch(model, TASKS)
    backward(model, batch, 50)
    model.eval()
    prompt = model.prompter.prompt("mt", "en", "de", "one two")
    first = model.generate([None], [prompt], [4])
    fresh = build(make_model, "tied").eval()
    assert first == fresh.generate([None], [prompt], [4])


def test_a_frozen_embedding_stays_without_gradient(make_model, make_batch):
    model = build(make_model, "untied")
    model.set_trainable({"llm": ["model.layers.*"], "adapter": "all"}, ["st"])
    model.train()
    grads = backward(model, make_batch(model, TASKS), 50)
    assert {name.split(".")[2] for name in part(grads, "llm.")} == {"layers"}


# ----- any causal LM -----

SIZES = dict(vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=4)
LLAMA = dict(**SIZES, num_key_value_heads=2, intermediate_size=32, max_position_embeddings=64)
LLMS = {
    "qwen2": dict(**LLAMA, tie_word_embeddings=True),
    "llama": dict(**LLAMA, tie_word_embeddings=False, attention_bias=True, mlp_bias=True),
    "qwen3": dict(**LLAMA, head_dim=8),  # a norm within each head
    "gemma2": dict(**LLAMA, head_dim=4, sliding_window=5),  # tied, scaled embeddings
    "gpt2": dict(vocab_size=64, n_embd=16, n_layer=2, n_head=4, n_positions=64),  # Conv1D
    "olmo2": dict(**LLAMA),  # norms of whole queries and keys
}


def packed_llm(kind: str):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **LLMS[kind])
    config.attn_pdrop = config.resid_pdrop = config.embd_pdrop = 0.0
    return AutoModelForCausalLM.from_config(config, attn_implementation=NAME).train()


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", LLMS)
def test_any_causal_lm(kind, autocast):
    """Three rows, of which the second may not update: as the other two alone."""
    llm = packed_llm(kind)
    lengths = [5, 7, 4]
    ids = torch.arange(16) * 5 % 61
    row = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))
    chosen = (row != 1).nonzero()[:, 0]

    def run(positions, gates=None):
        llm.zero_grad(set_to_none=True)
        kept = [n for i, n in enumerate(lengths) if bool((row[positions] == i).any())]
        at = torch.cat([torch.arange(n) for n in kept])
        if gates is not None:
            for gate in gates.values():
                gate.chosen_M = (row != 1)[positions]
        embeds = llm.get_input_embeddings()(ids[positions])
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = llm(**packed_inputs(embeds, at, kept)).logits[0].float()
        torch.nn.functional.cross_entropy(logits, ids[positions] // 2, reduction="sum").backward()
        return gradients(llm)

    wanted, ungated = run(chosen), run(torch.arange(16))
    gates = {name: Gate() for name in ("embeddings", "head", "body")}
    ends = {llm.get_input_embeddings(): "embeddings", llm.get_output_embeddings(): "head"}
    gated = gate_modules(llm, lambda name: gates[ends.get(llm.get_submodule(name), "body")])
    found = run(torch.arange(16), gates)
    assert difference(found, wanted) < (0.02 if autocast else 1e-5)
    assert difference(ungated, wanted) > 0.05
    ungate_modules(gated)
    again = run(torch.arange(16))
    assert all(torch.equal(again[name], ungated[name]) for name in again)


def test_a_module_that_mixes_positions_is_refused():
    class Mixing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv1d(4, 4, 3)

    with pytest.raises(ValueError, match="conv is a convolution over positions.*llm_tasks: all"):
        gate_modules(Mixing(), lambda name: Gate())


def test_a_module_of_two_inputs_is_refused():
    layer = torch.nn.Bilinear(4, 4, 4)
    gate = Gate()
    gate_modules(layer, lambda name: gate)
    gate.chosen_M = torch.tensor([True, False])
    with pytest.raises(ValueError, match="Bilinear takes more than one input.*llm_tasks: all"):
        layer(torch.ones(2, 4), torch.ones(2, 4))


def test_positions_elsewhere_are_refused():
    layer, gate = torch.nn.LayerNorm(4), Gate()
    gate_modules(layer, lambda name: gate)
    gate.chosen_M = torch.tensor([True, False, True])
    with pytest.raises(ValueError, match=r"sees \(1, 2, 3, 4\) where 3 positions"):
        layer(torch.ones(1, 2, 3, 4))
