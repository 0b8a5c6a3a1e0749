"""Decode options, batches, pieces; hypotheses do not depend on the batch."""

import numpy as np
import pytest
import torch
import yaml
from inference_fakes import RATE, ROOT, FakeModel, listening, tone
from toy_parts import ENCODER_SIZES

from espnet_part.decode_options import DecodeOptions
from espnet_part.decoding import Request, decode, plan_batches

CONF = ROOT / "conf/decode"


def speech(seconds: float, **how) -> Request:
    return Request(**{"task": "asr", "src": "de", "tgt": "de", **how}, speech_T=tone(seconds))


# ----- options -----


def test_greedy_yaml_is_the_default():
    assert DecodeOptions.from_yaml(CONF / "greedy.yaml") == DecodeOptions()
    assert DecodeOptions.from_yaml(CONF / "beam4.yaml").beam_size == 4


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.name)
def test_every_key_stands_in_every_file(path):
    keys = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(keys) == set(DecodeOptions.__dataclass_fields__)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("beam: 4", "unknown decode option 'beam'.*beam_size"),
        ("beam_size: 0", "beam_size: found 0, expected at least 1"),
        ("beam_size: 1.5", "beam_size: found 1.5, expected a whole number"),
        ("batch_size: true", "batch_size: found True"),
        ("batch_sec: 0", "batch_sec"),
        ("max_sec: 1", "max_sec: found 1, expected at least 2"),
        ("maxlenratio: many", "maxlenratio: found 'many', expected a number"),
        ("maxlenratio: .nan", "maxlenratio"),
        ("[1]", "expected keys and values"),
    ],
)
def test_bad_options(tmp_path, text, message):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        DecodeOptions.from_yaml(tmp_path / "bad.yaml")


def test_token_limit():
    options = DecodeOptions(maxlenratio=10, maxlenextra=5, maxlencap=100)
    assert [options.token_limit(length) for length in (0, 1.05, 9.4, 9.5, 1000)] == [
        5, 15, 99, 100, 100,
    ]  # fmt: skip
    assert DecodeOptions(maxlenratio=0, maxlenextra=0).token_limit(3) == 1


# ----- batches -----


def test_batches_are_sorted_and_bounded():
    seconds = [1.0, 9.0, 2.0, 30.0, 8.0, 2.0]
    assert plan_batches(seconds, 3, 20.0) == [[3], [1, 4], [2, 5, 0]]
    assert plan_batches(seconds, 2, 1000.0) == [[3, 1], [4, 2], [5, 0]]
    assert plan_batches([], 2, 10.0) == []


@pytest.mark.parametrize(
    ("key", "value", "seen"),
    [
        ("batch_size", 1, lambda model: len(model.calls) == 3),
        ("batch_sec", 4.0, lambda model: [len(c.speech) for c in model.calls] == [1, 2]),
        ("beam_size", 4, lambda model: model.calls[0].beams == 4),
        ("maxlenratio", 100.0, lambda model: model.calls[0].limits == [320, 120, 120]),
        ("maxlenextra", 0, lambda model: model.calls[0].limits == [90, 30, 30]),
        ("maxlencap", 25, lambda model: model.calls[0].limits == [25, 25, 25]),
        ("max_sec", 2.0, lambda model: max(map(len, model.calls[0].speech)) <= 2 * RATE),
    ],
)
def test_every_option_acts(key, value, seen):
    model = FakeModel()
    requests = [speech(1.0), speech(3.0), speech(1.0)]
    decode(model, requests, DecodeOptions())
    assert not seen(model)
    model = FakeModel()
    decode(model, requests, DecodeOptions(**{key: value}))
    assert seen(model)


def test_answers_come_in_order_with_their_prompts():
    requests = [
        speech(1.0),
        Request("mt", "sv", "en", source_text="hej"),
        speech(2.5, task="st", tgt="zh", lid="none"),
    ]
    answers = decode(FakeModel(), requests, DecodeOptions())
    assert [answer.text for answer in answers] == [
        "10 asr de de right",
        "hej mt sv en right",
        "25 st de zh none",
    ]
    assert answers[0].tokens[:3] == ["1", "0", " "]
    assert 0 not in answers[0].token_ids and len(answers[0].token_ids) == len(answers[0].text)


def test_long_audio_goes_in_pieces():
    model = FakeModel()
    options = DecodeOptions(max_sec=10.0, batch_size=2)
    short, long = decode(model, [speech(2.0), speech(35.0, join_language="de")], options)
    assert short.pieces[0].end_sec == 2.0
    assert long.pieces[0].start_sec == 0.0 and long.pieces[-1].end_sec == 35.0
    assert all(a.end_sec == b.start_sec for a, b in zip(long.pieces, long.pieces[1:], strict=False))
    assert max(piece.end_sec - piece.start_sec for piece in long.pieces) <= 10.0
    assert long.text == " ".join(piece.text for piece in long.pieces)
    assert long.score == -len(long.pieces)
    assert all(len(call.speech) <= 2 for call in model.calls)
    joined = decode(FakeModel(), [speech(35.0, join_language="zh")], options)[0]
    assert joined.text == "".join(piece.text for piece in joined.pieces)


def test_loops_are_counted():
    options = DecodeOptions(max_sec=10.0, maxlencap=30)
    answer = decode(FakeModel(endless=True), [speech(15.0)], options)[0]
    assert answer.cut_off == 2 and len(answer.token_ids) == 60
    assert decode(FakeModel(), [speech(15.0)], options)[0].cut_off == 0


def test_out_of_memory_halves_the_batch():
    class Small(FakeModel):
        def generate(self, speech, *rest, **how):
            if len(speech) > 2:
                raise torch.cuda.OutOfMemoryError("full")
            return super().generate(speech, *rest, **how)

    requests = [speech(1.0 + i / 10) for i in range(5)]
    expected = [answer.text for answer in decode(FakeModel(), requests, DecodeOptions())]
    assert [answer.text for answer in decode(Small(), requests, DecodeOptions())] == expected


# ----- the real model -----


@pytest.fixture(scope="module")
def clips():
    rng = np.random.default_rng(0)
    lengths = [0.5, 1.7, 3.1, 0.2, 2.2, 2.9, 1.0, 0.9]
    return [
        tone(seconds, 150 + 80 * i) + 0.05 * rng.standard_normal(int(seconds * RATE), np.float32)
        for i, seconds in enumerate(lengths)
    ]


def encoder_settings(kind: str) -> dict:
    """How `make_model` makes this kind: ESPnet's have no folder form, but a config."""
    if kind != "espnet":
        return {"encoder": kind}
    config = {"kind": "espnet", "source": None, "config": ENCODER_SIZES["espnet"]}
    return {"model": {"encoder": config}}


@pytest.mark.parametrize("beam_size", [1, 3])
@pytest.mark.parametrize(
    ("encoder", "llm"),
    [
        ("sensevoice", "byte"),
        ("whisper", "sentencepiece"),
        ("transformers", "byte"),
        ("espnet", "byte"),
    ],
)
def test_hypotheses_do_not_depend_on_the_batch(make_model, clips, encoder, llm, beam_size):
    model = listening(make_model(**encoder_settings(encoder), llm=llm))
    options = DecodeOptions(maxlenratio=8, maxlenextra=4, beam_size=beam_size)
    requests = [Request("st", "en", "de", wave) for wave in clips]
    # Random LLMs seldom end an answer: a token that about half of the rows say shall be an end.
    said = [answer.token_ids for answer in decode(model, requests, options)]
    count = {token: sum(token in ids[1:] for ids in said) for ids in said for token in ids}
    model.prompter.end_token_ids.append(min(count, key=lambda token: abs(count[token] - 4)))
    alone = [decode(model, [request], options)[0] for request in requests]
    batch = decode(model, requests, options)
    longer = [Request("asr", "en", "en", np.tile(clips[2], 2))] * 2
    text = Request("mt", "en", "de", source_text="one two three")
    among = decode(model, [text, *longer, *requests], options)[3:]
    for others in (batch, among):
        assert [answer.token_ids for answer in others] == [answer.token_ids for answer in alone]
        np.testing.assert_allclose(
            [answer.score for answer in others], [answer.score for answer in alone], atol=1e-3
        )
    # Not vacuous: clips differ, and some answers end by themselves, some at their limit.
    assert len({tuple(answer.token_ids) for answer in alone}) > 2
    if beam_size == 1:
        assert len({answer.cut_off for answer in alone}) == 2


@pytest.mark.parametrize("encoder", ["sensevoice", "whisper", "transformers", "espnet"])
def test_bfloat16(make_model, clips, encoder):
    model = listening(make_model(**encoder_settings(encoder)))
    mel = {name: buffer.dtype for name, buffer in model.named_buffers()}
    model.set_dtype(torch.bfloat16)
    requests = [Request("asr", "en", "en", wave) for wave in clips[:4]]
    answers = decode(model, requests, DecodeOptions(maxlenratio=4, maxlenextra=2))
    assert all(np.isfinite(answer.score) and answer.token_ids for answer in answers)
    assert {name: buffer.dtype for name, buffer in model.named_buffers()} == mel
