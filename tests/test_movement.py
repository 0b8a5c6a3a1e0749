"""How far weights moved: exact ratios, every parameter counted once, LoRA as what it amounts to."""

import pytest
import torch

from espnet_part.movement import block_names, movement, plain_weights

LORA = {
    "model": {"llm": {"lora": {"r": 2, "alpha": 4, "targets": ["q_proj", "v_proj"]}}},
    "trainable": {"llm": "lora"},
    "lr": {"llm": 1e-3},
}


def by_block(rows):
    return {(row["part"], row["block"]): row["moved"] for row in rows}


def test_blocks_hold_every_parameter_once(make_model):
    for changes in ({}, {"encoder": "whisper", "llm": "sentencepiece"}):
        model = make_model(**changes)
        blocks = block_names(model)
        for part in ("encoder", "adapter", "llm"):
            names = [n for (p, b), own in blocks.items() if p == part and b != "all" for n in own]
            assert len(names) == len(set(names))
            expected = {f"{part}.{n}" for n, _ in getattr(model, part).named_parameters()}
            assert set(names) == expected == set(blocks[part, "all"])
        order = [block for part, block in blocks if part == "encoder"]
        assert order[:10] == [str(i) for i in range(1, 11)]  # 10 behind 9, not behind 1
        assert {block for part, block in blocks if part == "llm"} >= {"1", "2", "embeddings", "all"}


def test_only_what_moved_has_moved_and_by_how_much(make_model):
    model = make_model()
    before = plain_weights(model)
    with torch.no_grad():
        for parameter in model.encoder.layers[4].parameters():
            parameter.mul_(1.25)
        for parameter in model.llm.parameters():
            parameter.mul_(-1)
    found = by_block(movement(before, plain_weights(model), block_names(model)))
    assert found["encoder", "5"] == pytest.approx(0.25, rel=1e-5)
    assert {found["encoder", str(i)] for i in (1, 2, 3, 4, 6, 7, 8, 9, 10)} == {0.0}
    assert 0 < found["encoder", "all"] < 0.25
    assert found["adapter", "all"] == 0
    assert {found["llm", b] for b in ("1", "2", "embeddings", "rest", "all")} == {2.0}


def test_lora_counts_as_the_change_of_the_weights_under_it(make_model):
    plain, lora = make_model(), make_model(**LORA)
    start = plain_weights(plain)
    # LoRA begins as zero: with it or without, the same weights under the same names.
    assert plain_weights(lora).keys() == start.keys()
    blocks = block_names(lora)
    found = by_block(movement(start, plain_weights(lora), blocks))
    assert {found[key] for key in found if key[0] == "llm"} == {0.0}
    layer = lora.llm.model.layers[1].self_attn.q_proj
    with torch.no_grad():
        layer.lora_B.default.weight.normal_()
        change = 2 * layer.lora_B.default.weight @ layer.lora_A.default.weight  # alpha / r
    found = by_block(movement(start, plain_weights(lora), blocks))
    names = blocks["llm", "2"]
    size = sum(start[name].square().sum() for name in names) ** 0.5
    assert found["llm", "2"] == pytest.approx(float(change.norm() / size), rel=1e-4)
    assert found["llm", "1"] == 0


def test_another_model_is_refused(make_model):
    one = make_model()
    other = plain_weights(make_model(llm="sentencepiece"))
    with pytest.raises(ValueError, match="movement of llm"):
        movement(other, plain_weights(one), block_names(one))
