"""Perplexity against sums by hand, an LLM that knows nothing, and other packs."""

import math
from types import SimpleNamespace

import pytest
import torch

from espnet_part import perplexity
from espnet_part.perplexity import TextLoss, plain_context, summarize, text_losses

CONTEXTS = [(5, 6, 7), (9,), (5, 6, 7), (300, 2)]
TEXTS = [(20, 21), (22, 23, 24, 25), (20, 21), ()]
END = 3


@pytest.fixture(scope="module")
def model(make_model):
    return make_model().eval()


@torch.no_grad()
def by_hand(llm, ids, first):
    """Minus the log probabilities of ids[first:], one row, one forward, no packing."""
    logits_LV = llm(input_ids=torch.tensor([ids])).logits[0]
    return [-float(logits_LV[i - 1].log_softmax(-1)[ids[i]]) for i in range(first, len(ids))]


def test_losses_are_those_by_hand(model):
    found = text_losses(model.llm, END, CONTEXTS, TEXTS)
    for context, text, loss in zip(CONTEXTS, TEXTS, found, strict=True):
        *own, end = by_hand(model.llm, [*context, *text, END], len(context))
        assert loss.n_tokens == len(text)
        assert loss.nats == pytest.approx(sum(own), rel=1e-5)
        assert loss.end_nats == pytest.approx(end, rel=1e-5)
    # What stands before a text counts.
    other = text_losses(model.llm, END, [(8, 8)], [TEXTS[0]])
    assert abs(other[0].nats - found[0].nats) > 1e-4


def test_the_loss_is_the_one_of_training(model, make_batch):
    """Of an mt row, the end token among the targets."""
    batch = make_batch(model, ["mt", "mt"])
    with torch.no_grad():
        expected = float(model(**batch)[0])
    contexts, texts = [], []
    lengths = batch["token_lengths"].tolist()
    rows = (batch[name].split(lengths) for name in ("token_ids", "is_target"))
    for ids, target in zip(*rows, strict=True):
        contexts.append(ids[~target].tolist())
        texts.append(ids[target].tolist()[:-1])
    losses = text_losses(model.llm, model.prompter.end_token_ids[0], contexts, texts)
    assert summarize(losses, ["x"] * 2, 0)["loss"] == pytest.approx(expected, rel=1e-5)


def test_packs_and_order_change_nothing(model, monkeypatch):
    packs = []
    real = perplexity._pack_losses
    monkeypatch.setattr(
        perplexity,
        "_pack_losses",
        lambda llm, end, pack: packs.append(pack) or real(llm, end, pack),
    )
    together = text_losses(model.llm, END, CONTEXTS, TEXTS)
    assert [len(pack) for pack in packs] == [3]  # the third is the first again
    alone = text_losses(model.llm, END, CONTEXTS[::-1], TEXTS[::-1], positions=1)
    assert [len(pack) for pack in packs[1:]] == [1, 1, 1]
    for a, b in zip(together, alone[::-1], strict=True):
        assert (a.nats, a.end_nats) == pytest.approx((b.nats, b.end_nats), abs=1e-4)


def test_an_llm_that_knows_nothing_is_as_perplexed_as_its_vocabulary_is_large(make_model):
    llm = make_model(seed=1).eval().llm
    llm.get_output_embeddings().weight.data.zero_()
    size = llm.get_output_embeddings().weight.shape[0]
    found = summarize(text_losses(llm, END, CONTEXTS[:2], TEXTS[:2]), ["ab", "defgh"])
    assert found["perplexity"] == pytest.approx(size, rel=1e-5)
    assert found["bits_per_char"] == pytest.approx(6 * math.log2(size) / 7, rel=1e-5)
    assert found["loss"] == pytest.approx(math.log(size), rel=1e-5)


def test_sums_by_hand():
    losses = [TextLoss(math.log(8), 1.0, 2), TextLoss(math.log(2), 0.5, 2)]
    found = summarize(losses, ["abc", "d"], samples=200)
    assert found["perplexity"] == pytest.approx(2.0)  # 16 ** (1 / 4)
    assert found["bits_per_char"] == pytest.approx(1.0)  # log2(16) / 4
    assert found["loss"] == pytest.approx((math.log(16) + 1.5) / 6)
    assert (found["n_texts"], found["n_tokens"], found["n_chars"]) == (2, 4, 4)
    # Of two texts a resample has one twice, or both.
    assert found["perplexity_ci95"] == pytest.approx([2**0.5, 8**0.5])
    assert found["bits_per_char_ci95"] == pytest.approx([1.0, 1.0])
    assert summarize(losses, ["abc", "d"], 0)["perplexity_ci95"] is None
    with pytest.raises(ValueError, match="found 1 texts without a letter"):
        summarize([TextLoss(0.0, 1.0, 0)], [""])


def test_what_stands_before_a_plain_text():
    tokenizer = SimpleNamespace(bos_token_id=None)
    prompter = SimpleNamespace(tokenizer=tokenizer, end_token_ids=[4, 2])
    assert plain_context(prompter) == (2,)  # the tokenizer's own eos
    tokenizer.bos_token_id = 0
    assert plain_context(prompter) == (0,)
