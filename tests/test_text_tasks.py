"""An LLM's answers to text: the same as the whole model's, whatever the batch, and once each."""

import pytest
import torch

from espnet_part import text_tasks
from espnet_part.datadir import iter_rows
from espnet_part.decode_options import DecodeOptions
from espnet_part.decoding import Request, decode
from espnet_part.row import Row

LORA = {"r": 4, "alpha": 8, "dropout": 0.0, "targets": ["q_proj", "v_proj"]}
ADAPTER = {"trainable": {"adapter": "all"}, "lr": {"adapter": 1e-3}}
# As text_limit has it.
OPTIONS = DecodeOptions(maxlenratio=4, maxlenextra=32)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """A random LLM talks to the limit."""
    monkeypatch.setattr(text_tasks, "text_limit", lambda n_source: 6 + n_source % 3)


@pytest.fixture(scope="module")
def model(make_model):
    return make_model().eval()


@pytest.fixture(scope="module")
def rows(toy_data):
    return list(iter_rows(toy_data / "text"))


def test_the_limit_is_that_of_a_decode_option():
    assert [OPTIONS.token_limit(n) for n in (0, 9)] == [32, 68]
    assert (text_tasks.MORE_TOKENS, text_tasks.TOKENS_PER_SOURCE_TOKEN) == (32, 4)


@pytest.mark.parametrize("lora", [None, LORA])
def test_the_llm_says_what_the_whole_model_says(make_model, rows, monkeypatch, lora):
    model = make_model(model={"llm": {"lora": lora}}, **ADAPTER).eval()
    before = text_tasks.translate(model.llm, model.prompter, rows)
    for name, parameter in model.llm.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter.data, std=0.5)
    monkeypatch.setattr(
        DecodeOptions, "token_limit", lambda self, length: text_tasks.text_limit(int(length))
    )
    requests = [Request("mt", r.src, r.tgt, source_text=r.source) for r in rows]
    expected = [one.text for one in decode(model, requests, OPTIONS)]
    found = text_tasks.translate(model.llm, model.prompter, rows)
    assert found == expected and len(set(found)) > 1
    assert (found == before) == (lora is None)  # the adapter of LoRA takes part


def test_batches_and_order_change_nothing(model, rows):
    found = text_tasks.translate(model.llm, model.prompter, rows)
    alone = text_tasks.translate(model.llm, model.prompter, rows, batch_size=1)
    backwards = text_tasks.translate(model.llm, model.prompter, rows[::-1], batch_size=3)
    assert found == alone == backwards[::-1]


def test_equal_sentences_are_translated_once(model, rows, monkeypatch):
    asked = []
    real = text_tasks.generate

    def counting(llm, embeds_BLD, *more):
        asked.append(len(embeds_BLD))
        return real(llm, embeds_BLD, *more)

    monkeypatch.setattr(text_tasks, "generate", counting)
    distinct = len({(row.source, row.tgt) for row in rows})
    found = text_tasks.translate(model.llm, model.prompter, [*rows, *rows[:4]])
    assert found[len(rows) :] == found[:4] and sum(asked) == distinct


def test_other_texts_than_the_rows_own(model, rows):
    """What a cascade does; the translation of nothing is nothing."""
    said = text_tasks.translate(model.llm, model.prompter, rows[:2], ["two two", " "])
    other = Row("a", "mt", "en", "de", "", source="two two")
    assert said == [*text_tasks.translate(model.llm, model.prompter, [other]), ""]


def test_no_text_to_translate(model):
    with pytest.raises(ValueError, match="id a-st-de: no text to translate; expected a line in"):
        text_tasks.translate(model.llm, model.prompter, [Row("a-st-de", "st", "en", "de", "x")])
