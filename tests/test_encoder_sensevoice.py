import math

import pytest
import torch
import toy_parts
from torch.nn import functional as F
from transformers import (
    FunAsrNanoEncoder,
    FunAsrNanoEncoderConfig,
    FunAsrNanoFeatureExtractor,
)

from espnet_part.encoder import build_encoder
from espnet_part.encoder_sensevoice_original import convert_weights, read_am_mvn
from espnet_part.fbank import kaldi_fbank, stack_frames

SIZES = toy_parts.ENCODER_SIZES["sensevoice"]
LENGTHS = [16000, 23456, 5000]


def noise():
    return 0.1 * torch.randn(3, max(LENGTHS), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_batches_are_what_transformers_gives():
    torch.manual_seed(0)
    encoder = build_encoder("sensevoice", config=SIZES).eval()
    assert encoder.model.config._attn_implementation == "sdpa"
    speech = noise()
    clips = [clip[:length].numpy() for clip, length in zip(speech, LENGTHS, strict=True)]
    inputs = FunAsrNanoFeatureExtractor()(clips, sampling_rate=16000)
    expected = encoder.model(**inputs).last_hidden_state
    frames, counts = encoder(speech, torch.tensor(LENGTHS))
    assert counts.tolist() == inputs["input_features_mask"].sum(1).tolist()
    for row, count in enumerate(counts):
        torch.testing.assert_close(frames[row, :count], expected[row, :count], atol=1e-4, rtol=1e-4)


def test_clips_beyond_the_table_of_positions_are_refused():
    encoder = build_encoder("sensevoice", config=SIZES | {"max_position_embeddings": 11}).eval()
    assert encoder.max_samples == 400 + 960 * 10 - 1
    with torch.no_grad():
        longest = encoder(torch.zeros(1, encoder.max_samples), torch.tensor([encoder.max_samples]))
    assert longest[1].tolist() == [10]
    with pytest.raises(ValueError, match="cut it"):
        encoder(torch.zeros(1, 10000), torch.tensor([10000]))
    with torch.device("meta"):
        true_size = build_encoder("sensevoice", config={"num_hidden_layers": 21})
    assert true_size.frame_lengths(true_size.max_samples) == 2048


def test_the_encoder_inside_a_whole_fun_asr_nano(tmp_path):
    from transformers import FunAsrNanoConfig, FunAsrNanoForConditionalGeneration

    torch.manual_seed(0)
    config = FunAsrNanoConfig(
        audio_config={"model_type": "fun_asr_nano_encoder"} | SIZES,
        adaptor_config={"hidden_size": 32, "intermediate_size": 8, "num_attention_heads": 4},
        text_config={
            "model_type": "qwen3",
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": 64,
        },
        audio_token_id=5,
    )
    model = FunAsrNanoForConditionalGeneration(config)
    model.save_pretrained(tmp_path)
    encoder = build_encoder("sensevoice", str(tmp_path))
    tower = model.model.audio_tower
    for found, expected in zip(encoder.model.parameters(), tower.parameters(), strict=True):
        assert torch.equal(found, expected)


# --- the original SenseVoiceSmall files ------------------------------------------------------

WIDTH, HEADS, BLOCKS, SECOND, KERNEL = 256, 2, 3, 2, 11


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A folder like SenseVoiceSmall's, small, and its state dict."""
    folder = tmp_path_factory.mktemp("sensevoice")
    generator = torch.Generator().manual_seed(0)

    def make(*shape):
        return 0.05 * torch.randn(*shape, generator=generator)

    state = {"embed.weight": 3 * make(16, 560), "ctc.ctc_lo.weight": make(20, WIDTH)}

    def norm(name, width):
        state[f"{name}.weight"], state[f"{name}.bias"] = 1 + make(width), make(width)

    def block(name, width):
        norm(f"{name}.norm1", width)
        norm(f"{name}.norm2", WIDTH)
        for part, out, size in (
            ("self_attn.linear_q_k_v", 3 * WIDTH, width),
            ("self_attn.linear_out", WIDTH, WIDTH),
            ("feed_forward.w_1", 512, WIDTH),
            ("feed_forward.w_2", WIDTH, 512),
        ):
            state[f"{name}.{part}.weight"] = make(out, size)
            state[f"{name}.{part}.bias"] = make(out)
        state[f"{name}.self_attn.fsmn_block.weight"] = make(WIDTH, 1, KERNEL)

    block("encoder.encoders0.0", 560)
    for index in range(BLOCKS - 1):
        block(f"encoder.encoders.{index}", WIDTH)
    for index in range(SECOND):
        block(f"encoder.tp_encoders.{index}", WIDTH)
    norm("encoder.after_norm", WIDTH)
    norm("encoder.tp_norm", WIDTH)
    torch.save(state, folder / "model.pt")
    shift, scale = -10 + make(560), 0.2 + make(560).abs()
    lines = ["<Nnet> ", "<Splice> 560 560", "[ 0 ]"]
    for tag, values in (("<AddShift>", shift), ("<Rescale>", scale)):
        numbers = " ".join(f"{value:.7f}" for value in values.tolist())
        lines += [f"{tag} 560 560 ", f"<LearnRateCoef> 0 [ {numbers} ]"]
    (folder / "am.mvn").write_text("\n".join([*lines, "</Nnet> ", ""]), encoding="utf-8")
    return folder, state, shift, scale


def funasr_encoder(state, features_TF):
    """FunASR's SenseVoiceEncoderSmall on one clip, written from its definition."""

    def norm(name, x):
        return F.layer_norm(
            x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-5
        )

    def linear(name, x):
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def block(name, x):
        residual = x
        x = norm(f"{name}.norm1", x)
        q, k, v = linear(f"{name}.self_attn.linear_q_k_v", x).split(WIDTH, -1)
        memory = F.pad(v.T[None], ((KERNEL - 1) // 2, KERNEL // 2))
        weight = state[f"{name}.self_attn.fsmn_block.weight"]
        memory = F.conv1d(memory, weight, groups=WIDTH)[0].T + v
        heads = [part.view(len(x), HEADS, -1).transpose(0, 1) for part in (q, k, v)]
        scores = heads[0] @ heads[1].transpose(1, 2) / math.sqrt(WIDTH // HEADS)
        mixed = (scores.softmax(-1) @ heads[2]).transpose(0, 1).reshape(len(x), WIDTH)
        out = linear(f"{name}.self_attn.linear_out", mixed) + memory
        x = residual + out if residual.shape == out.shape else out
        hidden = F.relu(linear(f"{name}.feed_forward.w_1", norm(f"{name}.norm2", x)))
        return x + linear(f"{name}.feed_forward.w_2", hidden)

    width = features_TF.shape[1]
    steps = torch.exp(torch.arange(width / 2) * (-math.log(10000.0) / (width / 2 - 1)))
    angles = torch.arange(1, len(features_TF) + 1)[:, None] * steps
    x = features_TF * math.sqrt(WIDTH) + torch.cat([angles.sin(), angles.cos()], 1)
    x = block("encoder.encoders0.0", x)
    for index in range(BLOCKS - 1):
        x = block(f"encoder.encoders.{index}", x)
    x = norm("encoder.after_norm", x)
    for index in range(SECOND):
        x = block(f"encoder.tp_encoders.{index}", x)
    return norm("encoder.tp_norm", x)


@pytest.mark.parametrize("query, rows", [(None, []), ("withitn", [0, 1, 2, 14])])
@torch.no_grad()
def test_original_weights_give_what_funasr_gives(original, query, rows):
    folder, state, shift, scale = original
    encoder = build_encoder("sensevoice", str(folder), config={"query": query}).eval()
    assert len(encoder.layers) == BLOCKS + SECOND and encoder.queries == len(rows)
    speech = noise()
    frames, counts = encoder(speech, torch.tensor(LENGTHS))
    assert torch.equal(counts, encoder.frame_lengths(torch.tensor(LENGTHS)))
    for row, length in enumerate(LENGTHS):
        fbank = kaldi_fbank(speech[row : row + 1, :length], scale=32768.0)
        stacked = stack_frames(fbank, torch.tensor([fbank.shape[1]]), 7, 6)[0]
        features = torch.cat([state["embed.weight"][rows], (stacked + shift) * scale])
        expected = funasr_encoder(state, features)[len(rows) :]
        torch.testing.assert_close(frames[row, : counts[row]], expected, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_original_weights_saved_as_a_transformers_folder(original, tmp_path):
    folder, _, shift, _ = original
    encoder = build_encoder("sensevoice", str(folder), config={"query": "woitn"}).eval()
    encoder.save_pretrained(tmp_path)
    again = build_encoder("sensevoice", str(tmp_path)).eval()
    assert again.fingerprint() == encoder.fingerprint()
    assert again.waveform_scale == 32768.0
    speech, lengths = noise(), torch.tensor(LENGTHS)
    expected = encoder(speech, lengths)[0]
    torch.testing.assert_close(again(speech, lengths)[0], expected, atol=1e-5, rtol=1e-5)
    again.to(torch.bfloat16)
    torch.testing.assert_close(again.frontend.shift, shift, atol=1e-6, rtol=0)


def test_original_weights_train_apart(original):
    encoder = build_encoder("sensevoice", str(original[0]))
    weights = list(encoder.parameters())
    assert all(weight.requires_grad for weight in weights)
    assert len({weight.untyped_storage().data_ptr() for weight in weights}) == len(weights)


def test_every_block_of_the_public_model_finds_its_place():
    config = FunAsrNanoEncoderConfig()
    with torch.device("meta"):
        model = FunAsrNanoEncoder(config)
        state = {}
        for stack, count in (("encoders0", 1), ("encoders", 49), ("tp_encoders", 20)):
            for index in range(count):
                width = 560 if stack == "encoders0" else 512
                name = f"encoder.{stack}.{index}."
                state |= {
                    name + "self_attn.linear_q_k_v.weight": torch.empty(1536, width),
                    name + "self_attn.linear_q_k_v.bias": torch.empty(1536),
                    name + "self_attn.linear_out.weight": torch.empty(512, 512),
                    name + "self_attn.linear_out.bias": torch.empty(512),
                    name + "self_attn.fsmn_block.weight": torch.empty(512, 1, 11),
                    name + "feed_forward.w_1.weight": torch.empty(2048, 512),
                    name + "feed_forward.w_1.bias": torch.empty(2048),
                    name + "feed_forward.w_2.weight": torch.empty(512, 2048),
                    name + "feed_forward.w_2.bias": torch.empty(512),
                    name + "norm1.weight": torch.empty(width),
                    name + "norm1.bias": torch.empty(width),
                    name + "norm2.weight": torch.empty(512),
                    name + "norm2.bias": torch.empty(512),
                }
        for norm in ("after_norm", "tp_norm"):
            state[f"encoder.{norm}.weight"] = torch.empty(512)
            state[f"encoder.{norm}.bias"] = torch.empty(512)
        converted, layers, second = convert_weights(state)
    assert (layers, second) == (70, 20)
    expected = {name: value.shape for name, value in model.state_dict().items()}
    assert {name: value.shape for name, value in converted.items()} == expected


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda folder, state: (folder / "am.mvn").unlink(), "no am.mvn"),
        (lambda folder, state: (folder / "am.mvn").write_text("<AddShift>"), "no <AddShift> "),
        (lambda folder, state: state.pop("encoder.tp_norm.bias"), "do not fit"),
        (lambda folder, state: state.update({"encoder.odd": torch.ones(1)}), "encoder.odd"),
        (lambda folder, state: state.pop("embed.weight"), "no embed.weight"),
    ],
)
def test_incomplete_originals_are_named(original, tmp_path, change, words):
    state = dict(original[1])
    (tmp_path / "am.mvn").write_bytes((original[0] / "am.mvn").read_bytes())
    change(tmp_path, state)
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=words):
        build_encoder("sensevoice", str(tmp_path), config={"query": "woitn"})


def test_code_in_a_pickle_is_not_run(original, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "am.mvn").write_bytes((original[0] / "am.mvn").read_bytes())
    torch.save({"encoder.encoders0.0.norm1.weight": Evil()}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="model.pt: .* only tensors"):
        build_encoder("sensevoice", str(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "config, words",
    [
        ({"query": "zh"}, "found 'zh', expected null, withitn or woitn"),
        ({"hidden_size": 8}, "only query, waveform_scale"),
    ],
)
def test_options_beside_a_source(original, config, words):
    with pytest.raises(ValueError, match=words):
        build_encoder("sensevoice", str(original[0]), config=config)


def test_query_frames_need_original_weights(parts):
    with pytest.raises(ValueError, match="query"):
        build_encoder("sensevoice", config=SIZES | {"query": "woitn"})
    with pytest.raises(ValueError, match="query"):
        build_encoder("sensevoice", parts("sensevoice"), config={"query": "woitn"})


def test_read_am_mvn(original):
    folder, _, shift, scale = original
    found = read_am_mvn(folder / "am.mvn")
    torch.testing.assert_close(found[0], shift, atol=1e-6, rtol=0)
    torch.testing.assert_close(found[1], scale, atol=1e-6, rtol=0)
