"""The contract that every kind of encoder keeps."""

import numpy as np
import pytest
import torch
import toy_parts

from espnet_part.encoder import Constants, build_encoder

KINDS = ["sensevoice", "whisper", "transformers", "espnet"]
LENGTHS = [400, 16000, 23456, 5000]
HOP = {"sensevoice": 960, "whisper": 320, "transformers": 320, "espnet": 512}


@pytest.fixture(scope="module")
def encoders():
    made = {}
    for kind in KINDS:
        torch.manual_seed(0)
        made[kind] = build_encoder(kind, config=toy_parts.ENCODER_SIZES[kind]).eval()
    return made


@pytest.fixture(params=KINDS)
def encoder(request, encoders):
    return encoders[request.param]


@pytest.fixture(scope="module")
def speech():
    generator = torch.Generator().manual_seed(1)
    waves = 0.1 * torch.randn(4, max(LENGTHS), generator=generator)
    waves[1] *= 20
    # What lies past the ends is loud: nothing but the lengths may tell where a clip ends.
    return waves


@torch.no_grad()
def run(encoder, speech, lengths):
    return encoder(speech, torch.tensor(lengths))


def test_a_clip_in_a_batch_is_the_clip_alone(encoder, speech):
    frames, counts = run(encoder, speech, LENGTHS)
    for row, length in enumerate(LENGTHS):
        alone, count = run(encoder, speech[row : row + 1, :length], [length])
        assert count.tolist() == [alone.shape[1]] == [counts[row]]
        torch.testing.assert_close(frames[row, : counts[row]], alone[0], atol=1e-5, rtol=1e-5)


def test_the_order_of_the_batch_changes_nothing(encoder, speech):
    order = [2, 0, 3, 1]
    frames, counts = run(encoder, speech, LENGTHS)
    other, _ = run(encoder, speech[order], [LENGTHS[i] for i in order])
    for place, row in enumerate(order):
        valid = int(counts[row])
        torch.testing.assert_close(other[place, :valid], frames[row, :valid], atol=1e-5, rtol=1e-5)


def test_features_of_a_clip_do_not_depend_on_the_batch(encoder, speech):
    features, counts = encoder.features(speech, torch.tensor(LENGTHS))
    assert features.dtype == torch.float32 and not features.requires_grad
    for row, length in enumerate(LENGTHS):
        alone, count = encoder.features(speech[row : row + 1, :length], torch.tensor([length]))
        assert count[0] == counts[row]
        torch.testing.assert_close(
            features[row, : counts[row]], alone[0, : count[0]], atol=2e-5, rtol=1e-5
        )


def test_frame_lengths_are_exact(encoder):
    rng = np.random.default_rng(0)
    lengths = [*range(400, 6000, 97), *rng.integers(400, 48000, 12).tolist()]
    predicted = encoder.frame_lengths(np.array(lengths, dtype=np.uint32))
    assert predicted.min() >= 1
    for length, expected in zip(lengths, predicted, strict=True):
        speech = torch.zeros(1, length)
        features, counts = encoder.features(speech, torch.tensor([length]))
        frames, counts = run(encoder, speech, [length])
        assert frames.shape[1] == counts[0] == expected == encoder.frame_lengths(length)
        assert frames.shape[2] == encoder.output_size
        assert torch.isfinite(frames).all()
    assert torch.equal(encoder.frame_lengths(torch.tensor(lengths)), torch.tensor(predicted))


def test_frame_lengths_of_nothing_are_zero(encoder):
    assert encoder.frame_lengths(0) == 0
    assert encoder.frame_lengths(np.array([0, 399], dtype=np.uint32)).tolist() == [0, 1]


def test_an_empty_row_has_no_frames_and_stays_finite(encoder, speech):
    frames, counts = run(encoder, speech[:2], [0, 16000])
    assert counts[0] == 0 and torch.isfinite(frames).all()


def test_frame_rate(encoder):
    assert encoder.hop == HOP[encoder.kind]
    assert encoder.frame_rate_hz == 16000 / encoder.hop
    assert encoder.min_samples == 400
    assert encoder.stacked_frames == (2 if encoder.kind == "transformers" else 1)


def test_layers_run_in_order_and_the_tail_after_them(encoder, speech):
    called = []
    parts = [*encoder.layers, *encoder.tail]
    hooks = [
        part.register_forward_hook(lambda *_, place=place: called.append(place))
        for place, part in enumerate(parts)
    ]
    run(encoder, speech, LENGTHS)
    for hook in hooks:
        hook.remove()
    assert called == list(range(len(parts)))


def test_last_block_and_tail_alone_take_gradients(encoder, speech):
    encoder.requires_grad_(False)
    for part in [encoder.layers[-1], *encoder.tail]:
        part.requires_grad_(True)
    frames, _ = encoder(speech, torch.tensor(LENGTHS))
    frames.square().sum().backward()
    took = {name for name, weight in encoder.named_parameters() if weight.grad is not None}
    asked = {name for name, weight in encoder.named_parameters() if weight.requires_grad}
    assert took == asked and asked
    encoder.requires_grad_(True)
    encoder.zero_grad()


def test_every_weight_takes_a_gradient(encoder, speech):
    encoder.train()
    encoder(speech, torch.tensor(LENGTHS))[0].square().sum().backward()
    without = [name for name, weight in encoder.named_parameters() if weight.grad is None]
    encoder.zero_grad()
    encoder.eval()
    assert without == []


def test_training_twice_with_one_seed_is_one_result(encoder, speech):
    encoder.train()
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(encoder(speech, torch.tensor(LENGTHS))[0])
    encoder.eval()
    assert torch.equal(*results)


def test_gradient_checkpointing_changes_no_gradient(kind_copy, speech):
    encoder = kind_copy
    gradients = []
    for _ in range(2):
        torch.manual_seed(4)
        encoder.train()
        encoder.zero_grad()
        # Two batches before one backward pass, as accumulation in one graph would do.
        first = encoder(speech[:2], torch.tensor(LENGTHS[:2]))[0].square().sum()
        (first + encoder(speech[2:], torch.tensor(LENGTHS[2:]))[0].square().sum()).backward()
        gradients.append([weight.grad.clone() for weight in encoder.parameters()])
        encoder.gradient_checkpointing_enable()
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain, atol=1e-4, rtol=1e-4)


@pytest.fixture(params=KINDS)
def kind_copy(request):
    torch.manual_seed(0)
    return build_encoder(request.param, config=toy_parts.ENCODER_SIZES[request.param])


def test_augment_acts_between_features_and_blocks(encoder, speech):
    lengths = torch.tensor(LENGTHS)
    seen = {}

    def augment(features, counts):
        seen["counts"] = counts
        return torch.zeros_like(features)

    with torch.no_grad():
        frames, counts = encoder(speech, lengths, augment)
        features, feature_counts = encoder.features(speech, lengths)
        expected, _ = encoder.encode(torch.zeros_like(features), feature_counts)
    assert torch.equal(seen["counts"], feature_counts)
    assert torch.equal(frames, expected)


def test_what_augment_leaves_in_the_padding_is_ignored(encoder, speech):
    lengths = torch.tensor(LENGTHS)
    with torch.no_grad():
        features, feature_counts = encoder.features(speech, lengths)
        expected, counts = encoder.encode(features, feature_counts)
        past = torch.arange(features.shape[1]) >= feature_counts[:, None]
        found, _ = encoder.encode(features.masked_fill(past[..., None], 1e3), feature_counts)
    for row, count in enumerate(counts):
        torch.testing.assert_close(found[row, :count], expected[row, :count], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_weights(kind, encoders, speech):
    torch.manual_seed(0)
    encoder = build_encoder(kind, config=toy_parts.ENCODER_SIZES[kind], dtype="bfloat16").eval()
    assert {weight.dtype for weight in encoder.parameters()} == {torch.bfloat16}
    lengths = torch.tensor(LENGTHS)
    assert encoder.features(speech, lengths)[0].dtype == torch.float32
    frames, counts = run(encoder, speech, LENGTHS)
    assert frames.dtype == torch.bfloat16
    exact, _ = run(encoders[kind], speech, LENGTHS)
    for row, count in enumerate(counts):
        error = (frames[row, :count].float() - exact[row, :count]).abs().mean()
        assert error < 0.1 * exact[row, :count].abs().mean()


@pytest.mark.parametrize("kind", KINDS)
def test_trained_float32_blocks_behind_frozen_bfloat16_ones(kind, speech):
    encoder = build_encoder(kind, config=toy_parts.ENCODER_SIZES[kind], dtype="bfloat16").eval()
    for part in [*encoder.layers[-2:], *encoder.tail]:
        part.float()
    assert run(encoder, speech, LENGTHS)[0].dtype == torch.float32


def test_autocast_leaves_the_features_alone(encoder, speech):
    lengths = torch.tensor(LENGTHS)
    expected, _ = encoder.features(speech, lengths)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(encoder.features(speech, lengths)[0], expected)
        frames, _ = run(encoder, speech, LENGTHS)
    assert torch.isfinite(frames).all()


def test_save_and_read_again(encoder, speech, tmp_path):
    encoder.save_pretrained(tmp_path)
    again = build_encoder(encoder.kind, str(tmp_path)).eval()
    assert again.fingerprint() == encoder.fingerprint()
    assert torch.equal(run(again, speech, LENGTHS)[0], run(encoder, speech, LENGTHS)[0])
    assert not list(tmp_path.glob("*.bin")) and not list(tmp_path.glob("*.pth"))


@pytest.mark.parametrize("kind", ["sensevoice", "whisper", "transformers"])
def test_toy_folders(kind, parts):
    assert len(build_encoder(kind, parts(kind)).layers) in (8, 10)


@pytest.mark.parametrize(
    "kind, sizes, millions, blocks",
    [
        ("sensevoice", {"num_hidden_layers": 70}, 221.1, 70),
        (
            "whisper",
            {
                "d_model": 1280,
                "encoder_layers": 32,
                "encoder_attention_heads": 20,
                "encoder_ffn_dim": 5120,
                "num_mel_bins": 128,
            },
            635.0,  # 637.0 with the table of positions, which is no parameter here
            32,
        ),
        ("transformers", {"model_type": "wav2vec2-bert"}, 580.5, 24),
    ],
)
def test_true_sizes_on_the_meta_device(kind, sizes, millions, blocks):
    with torch.device("meta"):
        encoder = build_encoder(kind, config=sizes)
    weights = list(encoder.parameters())
    assert {weight.device.type for weight in weights} == {"meta"}
    assert round(sum(weight.numel() for weight in weights) / 1e6, 1) == millions
    assert len(encoder.layers) == blocks


def test_fingerprints_differ(encoders):
    prints = [str(encoder.fingerprint()) for encoder in encoders.values()]
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"kind": "wisper", "source": "x"}, "found 'wisper', expected one of whisper"),
        ({"kind": "whisper"}, "neither source nor config"),
        ({"kind": "whisper", "config": {"d_model": 8}, "dtype": "int8"}, "found 'int8'"),
        ({"kind": "whisper", "config": {"hidden": 8}}, "found hidden, unknown to WhisperConfig"),
        ({"kind": "sensevoice", "config": {"d_model": 8}}, "found d_model"),
        ({"kind": "espnet", "config": {"blocks": 8}}, "found blocks"),
        ({"kind": "espnet", "config": {"encoder": "rnn"}}, "found encoder 'rnn'"),
        ({"kind": "transformers", "config": {"hidden_size": 8}}, "no model_type"),
        ({"kind": "transformers", "config": {"model_type": "nix"}}, "model_type 'nix'"),
    ],
)
def test_errors_name_what_was_found_and_expected(arguments, words):
    with pytest.raises(ValueError, match=words):
        build_encoder(**arguments)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_folder_is_named(kind, tmp_path):
    with pytest.raises(ValueError, match=str(tmp_path)):
        build_encoder(kind, str(tmp_path))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", ["exp/no/such/folder", "nobody/no-such-model"])
def test_a_source_that_is_not_there_is_named(kind, source):
    with pytest.raises(ValueError, match=f"encoder.source {source}"):
        build_encoder(kind, source)


@pytest.mark.parametrize("kind", ["sensevoice", "transformers"])
def test_a_folder_of_another_kind_is_refused(kind, parts):
    with pytest.raises(ValueError, match="encoder.kind to"):
        build_encoder(kind, parts("whisper"))


def test_constants_stay_float32():
    class Table(Constants):
        def __init__(self):
            super().__init__()
            self.register_buffer("values", torch.tensor([1.00001]))
            self.register_buffer("none", None)

    table = Table().to(torch.bfloat16)
    assert table.values.dtype == torch.float32
    assert table.values.item() == pytest.approx(1.00001, abs=1e-7)
