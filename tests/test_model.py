import numpy as np
import pytest
import torch
import torch.nn.functional as F
from core_helpers import difference, gradients
from transformers import AutoModelForCausalLM

from espnet_part.augment import SpecAugment
from espnet_part.dataset import Example, collate
from espnet_part.prompt import LANGUAGES, TASKS
from espnet_part.row import Row

MIXED = ["asr", "mt", "st", "asr", "mt", "st"]
ENCODERS = ["sensevoice", "whisper", "transformers", "espnet"]
LLMS = ["byte", "sentencepiece"]
LORA = {"r": 4, "alpha": 8, "dropout": 0.0, "targets": ["q_proj", "v_proj", "down_proj"]}


def split_rows(model, batch):
    """Per row: token ids, target flags, embeddings in order, labels (-100 but for the targets)."""
    frames, lengths = model.speech_frames(batch["speech"], batch["speech_lengths"])
    embed = model.llm.get_input_embeddings()
    clip = {int(row): i for i, row in enumerate(batch["speech_row"])}
    rows, start = [], 0
    for b, count in enumerate(batch["token_lengths"].tolist()):
        ids = batch["token_ids"][start : start + count]
        target = batch["is_target"][start : start + count]
        place = int(batch["speech_place"][b])
        middle = frames[clip[b], : lengths[clip[b]]] if b in clip else frames.new_zeros(0, 32)
        embeds = torch.cat([embed(ids[:place]), middle, embed(ids[place:])])
        wanted = torch.where(target, ids, torch.tensor(-100))
        gap = torch.full((len(middle),), -100)
        rows.append((ids, target, embeds, torch.cat([wanted[:place], gap, wanted[place:]])))
        start += count
    return rows


def padded_loss(model, batch, llm=None):
    """Transformers' own loss on the same rows, padded right."""
    rows = split_rows(model, batch)
    longest = max(len(embeds) for _, _, embeds, _ in rows)
    embeds = torch.stack([F.pad(row, (0, 0, 0, longest - len(row))) for _, _, row, _ in rows])
    mask = torch.stack([(torch.arange(longest) < len(row)).long() for _, _, row, _ in rows])
    labels = [F.pad(x, (0, longest - len(x)), value=-100) for _, _, _, x in rows]
    llm = llm or model.llm
    return llm(inputs_embeds=embeds, attention_mask=mask, labels=torch.stack(labels)).loss


def backward(model, loss) -> dict:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return gradients(model)


# ----- the loss -----


@pytest.mark.parametrize("llm", LLMS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_packed_equals_padded(make_model, make_batch, encoder, llm):
    model = make_model(encoder=encoder, llm=llm).eval()
    batch = make_batch(model, MIXED)
    packed, _, weight = model(**batch)
    padded = padded_loss(model, batch)
    torch.testing.assert_close(packed, padded, rtol=1e-5, atol=1e-6)
    assert int(weight) == int(batch["is_target"].sum())
    found, wanted = backward(model, packed), backward(model, padded)
    for part in ("encoder.", "adapter.", "llm."):
        a = {name: grad for name, grad in found.items() if name.startswith(part)}
        b = {name: grad for name, grad in wanted.items() if name.startswith(part)}
        assert difference(a, b) < 1e-4, part


@pytest.mark.parametrize("encoder", ENCODERS)
def test_packed_equals_row_by_row(make_model, make_batch, encoder):
    model = make_model(encoder=encoder).eval()
    batch = make_batch(model, MIXED)
    total = int(batch["is_target"].sum())
    packed = model(**batch)[0]
    found = backward(model, packed)
    model.zero_grad(set_to_none=True)
    summed = 0.0
    for i, task in enumerate(MIXED):
        single = make_batch(model, MIXED[: i + 1])
        single = only_row(model, single, i)
        loss, _, weight = model(**single)
        assert TASKS[int(single["task"][0])] == task and int(weight) < total
        (loss * weight / total).backward()
        summed += float(loss.detach()) * int(weight) / total
    assert summed == pytest.approx(float(packed.detach()), rel=1e-5)
    assert difference(gradients(model), found) < 1e-4


def only_row(model, batch, b: int) -> dict:
    """Row `b` of a batch as a batch of its own."""
    ends = torch.cumsum(batch["token_lengths"], 0).tolist()
    tokens = slice(ends[b] - int(batch["token_lengths"][b]), ends[b])
    out = {key: batch[key][tokens] for key in ("token_ids", "is_target")}
    keys = ("token_lengths", "speech_place", "task", "tgt")
    out |= {key: batch[key][b : b + 1] for key in keys}
    clip = (batch["speech_row"] == b).nonzero()[:, 0]
    if len(clip):
        length = batch["speech_lengths"][clip]
        out["speech"] = batch["speech"][clip, : int(length)]
        out["speech_lengths"] = length
        out["speech_row"] = torch.tensor([0])
    else:
        out["speech"], out["speech_lengths"] = torch.zeros(1, 8000), torch.tensor([8000])
        out["speech_row"] = torch.tensor([-1])
    return out


@pytest.mark.parametrize("llm", LLMS)
def test_an_llm_of_transformers_own(make_model, make_batch, parts, llm):
    """The same files, loaded without our attention: text rows by ids, speech rows by embeddings."""
    model = make_model(llm=llm).eval()
    own = AutoModelForCausalLM.from_pretrained(parts(llm), attn_implementation="eager").eval()
    with torch.no_grad():
        batch = make_batch(model, MIXED)
        torch.testing.assert_close(model(**batch)[0], padded_loss(model, batch, own))
        text = make_batch(model, ["mt", "mt", "mt"])
        losses = []
        for ids, target, _, _ in split_rows(model, text):
            labels = torch.where(target, ids, torch.tensor(-100))
            losses.append((own(input_ids=ids[None], labels=labels[None]).loss, int(target.sum())))
        wanted = sum(loss * n for loss, n in losses) / sum(n for _, n in losses)
        torch.testing.assert_close(model(**text)[0], wanted)


@pytest.mark.parametrize("llm", LLMS)
def test_targets_are_the_answer_and_its_end(make_model, make_batch, llm):
    model = make_model(llm=llm)
    batch = make_batch(model, MIXED)
    for ids, target, _, _ in split_rows(model, batch):
        answer = ids[target].tolist()
        assert answer[-1] == model.end_token_ids[0]
        assert model.prompter.target(model.prompter.decode(answer)) == answer
        first = int(target.nonzero()[0])
        assert target[first:].all(), "the targets are the row's last tokens"


def test_logits_at_target_positions_only(make_model, make_batch):
    model = make_model().eval()
    batch = make_batch(model, MIXED)
    asked = []
    model.llm.lm_head.register_forward_hook(lambda module, args, out: asked.append(out.shape))
    with torch.no_grad():
        assert int(model(**batch)[2]) == int(batch["is_target"].sum())
        ends = torch.zeros_like(batch["is_target"])
        ends[torch.cumsum(batch["token_lengths"], 0) - 1] = True
        loss, _, weight = model(**{**batch, "is_target": ends})
        assert int(weight) == len(MIXED)
        torch.testing.assert_close(loss, padded_loss(model, {**batch, "is_target": ends}))
    assert [shape[1] for shape in asked[:2]] == [int(batch["is_target"].sum()), len(MIXED)]


def test_a_row_that_starts_with_its_speech(make_model):
    """Its first target may be predicted from a speech frame."""
    model = make_model().eval()
    row = Row("a", "asr", "en", "en", "x")
    wave = np.sin(np.arange(8000) / 9).astype(np.float32)
    target = model.prompter.target("one")
    batch = collate([Example(row, wave, target, 0, len(target), 0)])
    torch.testing.assert_close(model(**batch)[0], padded_loss(model, batch))


def test_the_table_sums_by_task_and_language(make_model, make_batch):
    model = make_model().eval()
    with torch.no_grad():
        loss, stats, weight = model(**make_batch(model, MIXED))
        table = stats["table"]
        assert table.shape == (len(TASKS), len(LANGUAGES), 3)
        assert float(table[..., 0].sum() / weight) == pytest.approx(float(loss), rel=1e-6)
        assert int(table[..., 2].sum()) == int(weight)
        en, de = list(LANGUAGES).index("en"), list(LANGUAGES).index("de")
        for task, language in (("asr", en), ("st", de), ("mt", de)):
            alone = model(**make_batch(model, [task, task]))
            cell = table[TASKS.index(task), language]
            assert float(cell[0]) == pytest.approx(float(alone[0] * alone[2]), rel=1e-4)
            assert int(cell[2]) == int(alone[2])
        assert int((table[..., 2] > 0).sum()) == 3


def test_task_weights(make_model, make_batch):
    model = make_model().eval()
    batch = make_batch(model, MIXED)
    with torch.no_grad():
        _, stats, weight = model(**batch)
        model.task_weights["st"] = 3.0
        loss, weighted, _ = model(**batch)
    sums = stats["table"].sum(1)[:, 0]
    wanted = (sums.sum() + 2 * sums[TASKS.index("st")]) / weight
    assert float(loss) == pytest.approx(float(wanted), rel=1e-5)
    assert torch.equal(stats["table"], weighted["table"])


# ----- parts that take no part -----


def test_text_alone_runs_all_parts_and_teaches_one(make_model, make_batch):
    model = make_model()
    model.set_trainable({"encoder": "all", "adapter": "all", "llm": "all"})
    model.train()
    grads = backward(model, model(**make_batch(model, ["mt", "mt"]))[0])
    assert {name.split(".")[0] for name in grads} == {"encoder", "adapter", "llm"}
    assert not any(bool(g.any()) for name, g in grads.items() if not name.startswith("llm."))
    assert any(bool(g.any()) for name, g in grads.items() if name.startswith("llm."))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert set(grads) == trained, "a parameter without gradient would make other ranks wait"


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_dummy_clip_does_not_sound(make_model, make_batch, encoder):
    model = make_model(encoder=encoder).eval()
    batch = make_batch(model, ["mt", "mt"])
    loud = {**batch, "speech": torch.randn_like(batch["speech"])}
    with torch.no_grad():
        assert torch.equal(model(**batch)[0], model(**loud)[0])


def test_frozen_parts_get_no_gradient_but_pass_it_on(make_model, make_batch):
    model = make_model()
    model.set_trainable({"encoder": "last:2"})
    model.train()
    grads = backward(model, model(**make_batch(model, ["asr", "st"]))[0])
    layers = {name.split(".")[3] for name in grads}
    assert layers == {"8", "9"} and all(bool(g.any()) for g in grads.values() if g.dim() > 1)


def test_masks_in_training_only(make_model, make_batch):
    model = make_model(encoder="whisper")  # no dropout
    model.spec_augment = SpecAugment(2, 0.5, 2, 0.5)
    model.set_trainable({"adapter": "all"})
    batch = make_batch(model, ["asr", "asr"])
    with torch.no_grad():
        plain = model.eval()(**batch)[0]
        masked = model.train()(**batch)[0]
        again = model(**batch)[0]
        other = model(**{**batch, "augment_seed": batch["augment_seed"] + 1})[0]
        model.spec_augment = None
        unmasked = model(**batch)[0]
    assert torch.equal(plain, unmasked)
    assert torch.equal(masked, again)
    assert masked != plain and masked != other


# ----- LoRA -----


@pytest.mark.parametrize("llm", LLMS)
def test_merged_lora_says_the_same(make_model, make_batch, llm):
    from peft.tuners.tuners_utils import BaseTunerLayer

    model = make_model(
        llm=llm,
        model={"llm": {"lora": LORA}},
        trainable={"adapter": "all", "llm": "lora"},
        lr={"adapter": 1e-3, "llm": 1e-3},
    ).eval()
    batch = make_batch(model, MIXED)
    with torch.no_grad():
        without = model(**batch)[0]
        for name, parameter in model.llm.named_parameters():
            if ".lora_B." in name:
                torch.nn.init.normal_(parameter, std=0.2)
        unmerged = model(**batch)[0]
        assert abs(unmerged - without) > 1e-3
        waves = [batch["speech"][0].numpy(), None]
        prompter = model.prompter
        prompts = [prompter.prompt("asr", "en", "en"), prompter.prompt("mt", "en", "de", "one")]
        said = model.generate(waves, prompts, [8, 8])
        for module in model.llm.modules():
            if isinstance(module, BaseTunerLayer):
                module.merge()
        torch.testing.assert_close(model(**batch)[0], unmerged, rtol=1e-5, atol=1e-5)
        merged = model.generate(waves, prompts, [8, 8])
    assert [h.token_ids for h in said] == [h.token_ids for h in merged]
    for a, b in zip(said, merged, strict=True):
        assert a.score == pytest.approx(b.score, rel=1e-3)
