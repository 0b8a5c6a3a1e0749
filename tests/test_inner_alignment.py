"""The two passes through the LLM, and what the loss between them may change."""

import pytest
import torch
from core_helpers import changed, difference, gradients, make_loop, same, snapshot, update

from espnet_part.alignment import transport_cost
from espnet_part.attention import packed_inputs
from espnet_part.dataset import ExampleLoader, collate
from espnet_part.hidden_states import HiddenStates
from espnet_part.inner_alignment import InnerAlignment
from espnet_part.progress import by_task
from espnet_part.prompt import LANGUAGES, TASKS
from espnet_part.trainer import dummy_batch

MIXED = ["asr", "mt", "st", "asr", "mt", "st"]
ALL = {"encoder": "all", "adapter": "all", "llm": "all"}
LORA = {"r": 4, "alpha": 8, "dropout": 0.0, "targets": ["q_proj", "v_proj", "down_proj"]}


@pytest.fixture
def aligned(make_model):
    """``aligned(layers, detach, llm_tasks, ...)``: a model with alignment on; no dropout."""

    def make(layers=(0, 1), detach=True, llm_tasks="all", policy=ALL, weight=0.5, **changes):
        model = make_model(encoder="whisper", **changes)
        model.set_trainable(policy, llm_tasks)
        model.alignment = InnerAlignment(list(layers), weight, detach_text=detach)
        return model.train()

    return make


@pytest.fixture
def batch_of(opened):
    """``batch_of(model, tasks, hide)``: the first rows of these tasks; those of `hide` are not told
    their transcripts."""

    def make(model, tasks, hide=()):
        loader = ExampleLoader(model.prompter, transcripts=True)
        rows = [m.row(i) for m in opened for i in range(len(m))]
        rows = {task: iter([row for row in rows if row.task == task]) for task in set(tasks)}
        examples = [loader.load(next(rows[task]), 0) for task in tasks]
        for b in hide:
            examples[b].transcript = []
        return collate(examples)

    return make


def states_of(model, batch, layers):
    """Row by row, both sides of the aligned rows, each from a forward of its whole prompt alone."""
    frames, lengths = model.speech_frames(batch["speech"], batch["speech_lengths"])
    embed = model.llm.get_input_embeddings()
    clips = {int(row): i for i, row in enumerate(batch["speech_row"])}
    said = batch["transcript_ids"].split(batch["transcript_lengths"].tolist())
    out, start = {}, 0
    for b, count in enumerate(batch["token_lengths"].tolist()):
        ids, place = batch["token_ids"][start : start + count], int(batch["speech_place"][b])
        start += count
        if b not in clips or not len(said[b]):
            continue
        out[b] = []
        for middle in (frames[clips[b], : lengths[clips[b]]], embed(said[b])):
            embeds = torch.cat([embed(ids[:place]), middle, embed(ids[place:])])
            with HiddenStates(model.llm, layers) as hidden:
                model.llm(**packed_inputs(embeds, torch.arange(len(embeds)), [len(embeds)]))
            out[b].append({i: s[place : place + len(middle)] for i, s in hidden.states.items()})
    return out


def cost_alone(model, speech, said):
    """Mean over the layers of the costs of one row."""
    options = model.alignment
    costs = []
    for layer in options.layers:
        x, y = speech[layer], said[layer].detach() if options.detach_text else said[layer]
        lengths = torch.tensor([len(x)]), torch.tensor([len(y)])
        settings = options.epsilon, options.iterations, options.position
        costs.append(transport_cost(x[None], lengths[0], y[None], lengths[1], *settings)[0])
    return sum(costs) / len(costs)


def backward(model, loss):
    model.zero_grad(set_to_none=True)
    loss.backward()
    return gradients(model)


# ----- the loss -----


@pytest.mark.parametrize("llm", ["byte", "sentencepiece"])
@pytest.mark.parametrize(("layers", "detach"), [((0,), True), ((1, 0), True), ((0, 2), False)])
def test_equals_both_passes_row_by_row(aligned, batch_of, layers, detach, llm):
    """The oracle runs the whole template with the transcript in it: what stands behind the
    transcript changes nothing."""
    model = aligned(layers, detach, llm=llm)
    batch = batch_of(model, MIXED, hide=[3])
    loss, stats, weight = model(**batch)
    found = backward(model, loss)

    options, model.alignment = model.alignment, None
    plain = model(**batch)[0]
    model.alignment = options
    rows = states_of(model, batch, options.layers)
    assert list(rows) == [0, 2, 5]
    row_N = torch.repeat_interleave(torch.arange(6), batch["token_lengths"])
    tokens = torch.bincount(row_N[batch["is_target"]])
    costs = {b: cost_alone(model, *sides) for b, sides in rows.items()}
    wanted = plain + 0.5 * sum(cost * tokens[b] for b, cost in costs.items()) / tokens.sum()
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-6)
    assert float((loss - plain).detach()) > 0.01 and int(weight) == int(tokens.sum())
    assert difference(found, backward(model, wanted)) < 1e-4

    values = by_task(stats["table"])
    costs = {b: float(cost.detach()) for b, cost in costs.items()}
    assert values["transport"] == pytest.approx(sum(costs.values()) / 3, rel=1e-5)
    assert values["transport/asr"] == pytest.approx(costs[0], rel=1e-5)
    assert values["transport/st.de"] == pytest.approx((costs[2] + costs[5]) / 2, rel=1e-5)
    assert "transport/mt" not in values
    assert values["loss"] == pytest.approx(float(plain.detach()), rel=1e-5)


@pytest.mark.parametrize("detach", [True, False])
def test_task_weights(aligned, batch_of, detach):
    """They scale a row's cost as its cross-entropy; of weight 0, nothing is learned from it."""
    model = aligned(detach=detach)
    batch = batch_of(model, MIXED)

    def run(batch, **weights):
        model.task_weights = dict.fromkeys(TASKS, 1.0) | weights
        loss, stats, _ = model(**batch)
        return loss.detach(), backward(model, loss), stats["table"]

    # As if nobody had told the asr rows their transcripts.
    loss, grads, table = run(batch, asr=0.0)
    hidden_loss, hidden_grads, _ = run(batch_of(model, MIXED, hide=[0, 3]), asr=0.0)
    torch.testing.assert_close(loss, hidden_loss, rtol=1e-5, atol=1e-6)
    assert difference(grads, hidden_grads) < 1e-5
    assert torch.equal(table, run(batch)[2])  # logs and dev losses are without weights

    # Alone, the st rows' loss and its alignment grow alike.
    alone = batch_of(model, ["st", "st"])
    (once, grads, _), (thrice, more, _) = run(alone), run(alone, st=3.0)
    torch.testing.assert_close(thrice, 3 * once, rtol=1e-5, atol=1e-6)
    assert difference(more, {name: 3 * grad for name, grad in grads.items()}) < 1e-5
    assert not any(bool(grad.any()) for grad in run(alone, st=0.0)[1].values())


def test_off_changes_nothing(aligned, batch_of, make_batch):
    model = aligned()
    model.alignment = None
    with_keys, without = batch_of(model, MIXED), make_batch(model, MIXED)
    assert set(with_keys) - set(without) == {"transcript_ids", "transcript_lengths"}
    a, b = model(**with_keys), model(**without)
    assert torch.equal(a[0], b[0]) and torch.equal(a[1]["table"], b[1]["table"])
    assert a[1]["table"].shape == (len(TASKS), len(LANGUAGES), 3)


@pytest.mark.parametrize("detach", [True, False])
def test_a_batch_without_an_aligned_row(aligned, batch_of, detach):
    """It runs, adds nothing, and leaves every parameter that trains with a gradient."""
    model = aligned(detach=detach)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    batches = [
        batch_of(model, ["mt", "mt"]),
        batch_of(model, ["asr", "st"], hide=[0, 1]),
        dummy_batch(model),
    ]
    for batch in batches:
        loss, stats, _ = model(**batch)
        grads = backward(model, loss)
        assert set(grads) == trained
        assert stats["table"].shape == (len(TASKS), len(LANGUAGES), 5)
        assert not stats["table"][..., 3:].any()
        options, model.alignment = model.alignment, None
        plain = model(**batch)[0]
        model.alignment = options
        assert torch.equal(loss, plain)
        assert difference(grads, backward(model, plain)) < 1e-6


@pytest.mark.parametrize("layers", [(0,), (0, 1)])
def test_a_frozen_llm_passes_it_on(aligned, batch_of, layers):
    model = aligned(layers, policy={"adapter": "all"}, weight=1000.0)
    batch = batch_of(model, ["asr", "st"])
    grads = backward(model, model(**batch)[0])
    assert {name.split(".")[0] for name in grads} == {"adapter"}
    model.alignment.weight = 1e-9
    assert difference(grads, backward(model, model(**batch)[0])) > 0.5


def test_the_text_side_stands_still_or_moves(aligned, batch_of):
    """Of layer 0, the speech side is the adapter's: the embeddings of tokens move by the text."""
    moved = {}
    for detach in (True, False):
        model = aligned((0,), detach)
        batch = batch_of(model, ["asr", "st"])
        whole = backward(model, model(**batch)[0])
        model.alignment = None
        plain = backward(model, model(**batch)[0])
        name = "llm.model.embed_tokens.weight"
        moved[detach] = float((whole[name] - plain[name]).abs().max())
        assert difference(whole, plain) > 1e-3
    assert moved[True] < 1e-7 < 1e-4 < moved[False]


# ----- task-dependent activation -----

SETTINGS = {
    "tied": {"llm": "byte"},
    "untied": {"llm": "sentencepiece"},
    "lora": {"llm": "byte", "model": {"llm": {"lora": LORA}}},
    "checkpointing": {"llm": "byte", "model": {"llm": {"gradient_checkpointing": True}}},
}


def gated(aligned, setting, detach, llm_tasks):
    policy = {**ALL, "llm": "lora" if setting == "lora" else "all"}
    rates = {part: 1e-3 for part in policy}
    changes = {**SETTINGS[setting], "trainable": policy, "lr": rates}
    model = aligned((0, 1), detach, llm_tasks, policy, **changes)
    torch.manual_seed(1)
    for name, parameter in model.llm.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def part(grads, name):
    return {key: grad for key, grad in grads.items() if key.startswith(name)}


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("setting", SETTINGS)
def test_rows_of_other_tasks_do_not_update_the_llm(aligned, batch_of, setting, detach):
    """The LLM's gradient is that of the st and mt rows alone, encoder's and adapter's of all."""

    def run(model, batch, tokens):
        loss, _, weight = model(**batch)
        return backward(model, loss * weight / tokens)

    gates = gated(aligned, setting, detach, ["st", "mt"])
    batch = batch_of(gates, MIXED)
    tokens = int(batch["is_target"].sum())
    found = run(gates, batch, tokens)
    plain = gated(aligned, setting, detach, "all")
    whole = run(plain, batch, tokens)
    wanted = run(plain, batch_of(plain, ["mt", "st", "mt", "st"]), tokens)
    assert difference(part(found, "llm."), part(wanted, "llm.")) < 1e-5
    assert difference(part(whole, "llm."), part(wanted, "llm.")) > 0.1
    for name in ("encoder.", "adapter."):
        assert difference(part(found, name), part(whole, name)) < 1e-5


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("setting", SETTINGS)
def test_asr_steps_leave_the_llm_alone(aligned, batch_of, config_values, tmp_path, setting, detach):
    model = gated(aligned, setting, detach, ["st", "mt"])
    values = config_values(
        encoder="whisper",
        **SETTINGS[setting],
        trainable={**ALL, "llm": "lora" if setting == "lora" else "all"},
        llm_tasks=["st", "mt"],
        weight_decay=0.1,
    )
    loop = make_loop(model, values, tmp_path)
    update(loop, batch_of(model, ["st", "mt"]))
    before = snapshot(model)
    moments = {
        (name, key): value.clone()
        for name, p in model.llm.named_parameters()
        for key, value in loop.optimizer.state.get(p, {}).items()
    }
    assert moments
    update(loop, batch_of(model, ["asr", "asr"]))
    update(loop, None, batch_of(model, ["asr"]))
    moved = changed(model, before)
    assert not [name for name in moved if name.startswith("llm.")]
    assert {name.split(".")[0] for name in moved} == {"encoder", "adapter"}
    for name, p in model.llm.named_parameters():
        for key, value in loop.optimizer.state.get(p, {}).items():
            assert same(value, moments[name, key])
    update(loop, batch_of(model, ["asr", "st"]))
    assert any(name.startswith("llm.") for name in changed(model, before))


@pytest.mark.parametrize("setting", ["tied", "checkpointing"])
def test_accumulation(aligned, batch_of, config_values, tmp_path, setting):
    """Rows in micro-batches give the step of the whole batch, and the same statistics."""
    grads, tables = [], []
    for pieces in ([MIXED], [["asr", "asr"], ["st", "st"], ["mt", "mt"]]):
        model = gated(aligned, setting, False, ["st", "mt"])
        loop = make_loop(
            model, config_values(**SETTINGS[setting], llm_tasks=["st", "mt"]), tmp_path
        )
        loop.optimizer.step = lambda model=model: grads.append(gradients(model))
        tables.append(update(loop, *(batch_of(model, piece) for piece in pieces))["table"])
    assert difference(*grads) < 1e-5
    torch.testing.assert_close(tables[0], tables[1], rtol=1e-5, atol=1e-6)
    assert int(tables[0][..., 4].sum()) == 4


# ----- data -----


def test_transcripts_of_rows(opened, prompter):
    loader = ExampleLoader(prompter, transcripts=True)
    for manifest in opened:
        for i in range(4):
            example = loader.load(manifest.row(i), 0)
            row = example.row
            wanted = {"asr": row.target, "st": row.source, "mt": ""}[row.task]
            assert prompter.decode(example.transcript) == wanted
            assert prompter.end_token_ids[0] not in example.transcript


# ----- what it is for -----


def test_training_with_it_lowers_the_cost_of_transport(aligned, batch_of, config_values, tmp_path):
    """Beside the same training without it; cross-entropy falls in both."""
    rates, after = {"encoder": 1e-2, "adapter": 1e-2, "llm": 1e-2}, {}
    for weight in (1e-9, 1.0):
        model = aligned(weight=weight)
        loop = make_loop(model, config_values(encoder="whisper", max_steps=8, lr=rates), tmp_path)
        batch = batch_of(model, ["asr", "st"])
        values = [by_task(update(loop, batch)["table"]) for _ in range(8)]
        assert values[-1]["loss"] < values[0]["loss"]
        after[weight] = values[-1]["transport"] / values[0]["transport"]
    assert after[1.0] < 0.6 * after[1e-9], after
