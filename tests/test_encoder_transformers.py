import warnings

import pytest
import torch
import toy_parts

from espnet_part.encoder import build_encoder
from espnet_part.encoder_probe import time_axis

TOY = toy_parts.ENCODER_SIZES["transformers"] | {"num_hidden_layers": 3}
WAV2VEC2 = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
LENGTHS = [16000, 23456, 5000]


def noise():
    return 0.1 * torch.randn(3, max(LENGTHS), generator=torch.Generator().manual_seed(0))


def build(**config):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build_encoder("transformers", config=config).eval()


@torch.no_grad()
def check_against_extractor(encoder, tolerance):
    """Features equal the feature extractor's; frames those of the model on one clip."""
    speech = noise()
    features, counts = encoder.features(speech, torch.tensor(LENGTHS))
    frames, frame_counts = encoder(speech, torch.tensor(LENGTHS))
    for row, length in enumerate(LENGTHS):
        inputs = encoder.extractor(
            speech[row, :length].numpy(),
            sampling_rate=16000,
            return_tensors="pt",
            return_attention_mask=True,
        )
        expected = inputs[encoder.input_name][0]
        mask = inputs["attention_mask"][0].bool()
        found = features[row, : counts[row]].squeeze(-1)
        torch.testing.assert_close(found, expected[mask].squeeze(-1), atol=tolerance, rtol=0)
        frames_alone = encoder.model(**inputs).last_hidden_state[0]
        valid = int(frame_counts[row])
        torch.testing.assert_close(
            frames[row, :valid], frames_alone[:valid], atol=tolerance, rtol=0
        )


def test_w2v_bert():
    encoder = build(**TOY)
    assert (encoder.hop, encoder.receptive, len(encoder.layers)) == (320, 560, 3)
    assert encoder.tail == []
    # float32 against float64: single weak bins of white noise differ in the third place
    check_against_extractor(encoder, 3e-3)


def test_w2v_bert_with_its_own_adapter_behind_the_blocks():
    encoder = build(**TOY | {"add_adapter": True, "output_hidden_size": 16})
    assert (encoder.hop, encoder.output_size) == (640, 16)
    assert len(encoder.layers) == 3 and encoder.tail
    inside = {id(part) for block in encoder.layers for part in block.modules()}
    assert not [part for part in encoder.tail if id(part) in inside]


@pytest.mark.parametrize("model_type", ["wav2vec2", "wavlm", "hubert"])
def test_layer_norm_waveform_models(model_type):
    encoder = build(model_type=model_type, **WAV2VEC2, **LAYER_NORM)
    assert (encoder.hop, encoder.receptive, len(encoder.layers)) == (320, 400, 2)
    assert [type(part).__name__ for part in encoder.tail] == ["LayerNorm"]
    check_against_extractor(encoder, 1e-4)
    speech = noise()
    with torch.no_grad():
        frames, counts = encoder(speech, torch.tensor(LENGTHS))
        alone, _ = encoder(speech[2:, :5000], torch.tensor([5000]))
    torch.testing.assert_close(frames[2, : counts[2]], alone[0], atol=1e-5, rtol=1e-5)


def test_group_norm_models_are_refused():
    with pytest.raises(ValueError, match="depend on the batch.*feat_extract_norm"):
        build(model_type="wav2vec2", **WAV2VEC2, feat_extract_norm="group")


def test_other_extractors_go_clip_by_clip():
    encoder = build(
        model_type="parakeet_encoder",
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )
    lengths = torch.tensor(LENGTHS)
    with torch.no_grad():
        frames, counts = encoder(noise(), lengths)
    assert torch.equal(counts, encoder.frame_lengths(lengths)) and frames.shape[1] == counts.max()


def test_kinds_of_our_own_are_pointed_to():
    with pytest.raises(ValueError, match="set encoder.kind to whisper"):
        build(model_type="whisper", **toy_parts.ENCODER_SIZES["whisper"])


def test_masking_and_layer_drop_by_chance_are_off():
    encoder = build(**TOY | {"layerdrop": 0.9, "mask_time_prob": 0.9}).train()
    called = []
    for layer in encoder.layers:
        layer.register_forward_hook(lambda *_: called.append(1))
    speech, lengths = noise(), torch.tensor(LENGTHS)
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    first, second = encoder(speech, lengths)[0], encoder(speech, lengths)[0]
    assert len(called) == 6
    assert not [name for name, _ in encoder.named_parameters() if "masked_spec" in name]
    torch.testing.assert_close(first, second)


def test_time_axis():
    assert time_axis(lambda n: (n - 400) // 160 + 1) == (160, 400)
    assert time_axis(lambda n: max((n - 1000) // 320 + 1, 0)) == (320, 1000)
    assert time_axis(lambda n: n // 160 + 1) == (160, 0)
    with pytest.raises(ValueError, match="fixed length"):
        time_axis(lambda n: 1500)
    with pytest.raises(ValueError, match="expected"):
        time_axis(lambda n: min(n // 160, 40))
