import pytest
import torch
import toy_parts
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import WhisperEncoder as WhisperBlocks

from espnet_part.encoder import build_encoder

SIZES = toy_parts.ENCODER_SIZES["whisper"] | {"encoder_layers": 3}
FULL = 480000


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A whole Whisper with its folder, and our encoder read from that."""
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(WhisperConfig(**SIZES)).eval()
    folder = tmp_path_factory.mktemp("whisper")
    model.save_pretrained(folder)
    return model, build_encoder("whisper", str(folder)).eval()


@torch.no_grad()
def test_a_full_clip_is_what_transformers_gives(whole):
    model, encoder = whole
    speech = 0.1 * torch.randn(2, FULL, generator=torch.Generator().manual_seed(0))
    features = WhisperFeatureExtractor(feature_size=80)(
        list(speech.numpy()), sampling_rate=16000, return_tensors="pt"
    ).input_features
    expected = model.model.encoder(features).last_hidden_state
    frames, counts = encoder(speech, torch.tensor([FULL, FULL]))
    assert counts.tolist() == [1500, 1500]
    torch.testing.assert_close(frames, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_full_clip_beside_a_short_one(whole):
    _, encoder = whole
    speech = 0.1 * torch.randn(2, FULL, generator=torch.Generator().manual_seed(0))
    frames, counts = encoder(speech, torch.tensor([8000, FULL]))
    assert counts.tolist() == [25, 1500]
    alone, _ = encoder(speech[:1, :8000], torch.tensor([8000]))
    torch.testing.assert_close(frames[0, :25], alone[0], atol=1e-5, rtol=1e-5)
    alone, _ = encoder(speech[1:], torch.tensor([FULL]))
    torch.testing.assert_close(frames[1], alone[0], atol=1e-5, rtol=1e-5)


def test_longer_clips_are_refused_wider_padding_is_not(whole):
    _, encoder = whole
    with pytest.raises(ValueError, match="30.00 s .480001 samples.*at most 30.00 s .480000"):
        encoder(torch.zeros(1, FULL + 1), torch.tensor([FULL + 1]))
    with torch.no_grad():
        assert encoder(torch.zeros(1, FULL + 99), torch.tensor([800]))[1].tolist() == [3]
    assert encoder.max_sec == 30.0


def test_the_encoder_alone_is_a_source_too(whole, tmp_path):
    model, encoder = whole
    model.model.encoder.save_pretrained(tmp_path)
    again = build_encoder("whisper", str(tmp_path))
    for found, expected in zip(again.parameters(), encoder.parameters(), strict=True):
        assert torch.equal(found, expected)


def test_sinusoids_never_train(whole):
    _, encoder = whole
    assert not [name for name, _ in encoder.named_parameters() if "embed_positions" in name]
    assert "model.embed_positions.weight" in encoder.state_dict()


def test_a_checkpoint_with_missing_weights_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    WhisperBlocks(WhisperConfig(**SIZES)).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["layers.1.fc1.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="1 weights of .*layers.1.fc1.weight"):
        build_encoder("whisper", str(tmp_path))


def test_config_beside_a_source_is_refused(tmp_path):
    with pytest.raises(ValueError, match="leave config out"):
        build_encoder("whisper", str(tmp_path), config={"d_model": 8})


def test_layer_drop_is_not_used():
    torch.manual_seed(0)
    encoder = build_encoder("whisper", config=SIZES | {"encoder_layerdrop": 0.99}).train()
    called = []
    for layer in encoder.layers:
        layer.register_forward_hook(lambda *_: called.append(1))
    encoder(torch.zeros(1, 8000), torch.tensor([8000]))
    assert len(called) == 3
