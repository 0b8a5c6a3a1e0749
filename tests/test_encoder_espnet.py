import ast
from pathlib import Path

import pytest
import torch
import toy_parts
import yaml

from espnet_part import encoder as encoder_module
from espnet_part.encoder import build_encoder

TOY = toy_parts.ENCODER_SIZES["espnet"]
CONF = TOY["encoder_conf"] | {"num_blocks": 2}
LENGTHS = [16000, 23456, 5000]
KINDS = {
    "e_branchformer": CONF,
    "owsm": {
        **CONF,
        "attention_layer_type": "selfattn",
        "pos_enc_layer_type": "abs_pos",
        "use_ffn": True,
        "macaron_ffn": True,
        "merge_conv_kernel": 31,
    },
    "conformer": {
        "output_size": 32,
        "num_blocks": 2,
        "linear_units": 64,
        "rel_pos_type": "latest",
        "pos_enc_layer_type": "rel_pos",
        "selfattention_layer_type": "rel_selfattn",
        "macaron_style": True,
        "cnn_module_kernel": 7,
    },
    "transformer": {"output_size": 32, "num_blocks": 2, "linear_units": 64},
}


def noise():
    return 0.1 * torch.randn(3, max(LENGTHS), generator=torch.Generator().manual_seed(0))


def build(name, **config):
    torch.manual_seed(0)
    kind = "e_branchformer" if name == "owsm" else name
    return build_encoder("espnet", config={"encoder": kind, "encoder_conf": KINDS[name], **config})


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("normalize", [None, "utterance_mvn"])
@torch.no_grad()
def test_batches_are_what_espnet_gives_on_single_clips(name, normalize):
    from espnet2.layers.log_mel import LogMel
    from espnet2.layers.stft import Stft
    from espnet2.layers.utterance_mvn import UtteranceMVN

    encoder = build(name, normalize=normalize, frontend_conf={"hop_length": 160, "n_mels": 40})
    encoder.eval()
    assert encoder.hop == 640 and encoder.frame_rate_hz == 25.0
    speech = noise()
    frames, counts = encoder(speech, torch.tensor(LENGTHS))
    stft, log_mel = Stft(hop_length=160), LogMel(n_mels=40)
    for row, length in enumerate(LENGTHS):
        spectrum, lengths = stft(speech[row : row + 1, :length], torch.tensor([length]))
        features, lengths = log_mel(spectrum.square().sum(-1), lengths)
        if normalize:
            features, lengths = UtteranceMVN()(features, lengths)
        expected, expected_counts, _ = encoder.model(features, lengths)
        assert counts[row] == expected_counts[0] == encoder.frame_lengths(length)
        torch.testing.assert_close(frames[row, : counts[row]], expected[0], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("layer", ["conv2d1", "conv2d2", "conv2d6", "conv2d8", "conv1d2", "linear"])
@torch.no_grad()
def test_every_subsampling_counts_exactly(layer):
    conf = KINDS["transformer"] | {"num_blocks": 1, "input_layer": layer}
    encoder = build("transformer", encoder_conf=conf).eval()
    for length in (400, 2000, 2047, 2048, 4095, 16001):
        frames, counts = encoder(torch.zeros(1, length), torch.tensor([length]))
        assert frames.shape[1] == counts[0] == encoder.frame_lengths(length) >= 1


def test_legacy_positions_are_refused():
    conf = KINDS["conformer"] | {
        "rel_pos_type": "legacy",
        "pos_enc_layer_type": "legacy_rel_pos",
        "selfattention_layer_type": "legacy_rel_selfattn",
    }
    with pytest.raises(ValueError, match="depend on the batch.*rel_pos_type"):
        build("conformer", encoder_conf=conf)


def test_batch_norm_keeps_its_statistics():
    encoder = build("conformer").train()
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    speech, lengths = noise(), torch.tensor(LENGTHS)
    frames, counts = encoder(speech, lengths)
    alone, _ = encoder(speech[2:, :5000], lengths[2:])
    torch.testing.assert_close(frames[2, : counts[2]], alone[0], atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_positions_are_exact_after_a_pass_in_bfloat16():
    encoder = build("e_branchformer").eval()
    speech, lengths = noise(), torch.tensor(LENGTHS)
    before = encoder(speech, lengths)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoder(speech, lengths)
    assert torch.equal(encoder(speech, lengths)[0], before)


@pytest.fixture
def trained(tmp_path):
    """A folder as ESPnet leaves it: a whole model's weights, names of other parts in the config."""
    source = build("owsm")
    weights = {f"encoder.{name}": value for name, value in source.model.state_dict().items()}
    weights |= {
        "frontend.logmel.melmat": source.frontend.melmat,
        "normalize.mean": torch.full((80,), -5.0),
        "normalize.std": torch.full((80,), 2.0),
        "decoder.output_layer.weight": torch.zeros(3, 3),
    }
    torch.save(weights, tmp_path / "valid.acc.ave.pth")
    config = {
        "frontend": "default",
        "frontend_conf": {"fs": "16k"},
        "specaug": "specaug",
        "normalize": "global_mvn",
        "normalize_conf": {"stats_file": "nowhere/feats_stats.npz"},
        "encoder": "e_branchformer",
        "encoder_conf": KINDS["owsm"],
        "decoder": "transformer",
        "postencoder": None,
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return tmp_path, config, source


@torch.no_grad()
def test_a_trained_folder(trained, tmp_path_factory):
    folder, _, source = trained
    encoder = build_encoder("espnet", str(folder)).eval()
    features = torch.randn(1, 50, 80)
    counts = torch.tensor([50])
    expected, _ = source.eval().encode((features + 5) / 2, counts)
    torch.testing.assert_close(encoder.encode(features, counts)[0], expected)
    packed = tmp_path_factory.mktemp("packed")
    exp = packed / "exp/s2t"
    exp.mkdir(parents=True)
    for file in folder.iterdir():
        (exp / file.name).write_bytes(file.read_bytes())
    meta = {
        "files": {"s2t_model_file": "exp/s2t/valid.acc.ave.pth"},
        "yaml_files": {"s2t_train_config": "exp/s2t/config.yaml"},
    }
    (packed / "meta.yaml").write_text(yaml.safe_dump(meta), encoding="utf-8")
    again = build_encoder("espnet", str(packed)).eval()
    assert torch.equal(again.encode(features, counts)[0], encoder.encode(features, counts)[0])
    saved = tmp_path_factory.mktemp("saved")
    encoder.save_pretrained(saved)
    again = build_encoder("espnet", str(saved)).eval()
    assert again.normalize.kind == "global_mvn"
    torch.testing.assert_close(
        again.encode(features, counts)[0], encoder.encode(features, counts)[0]
    )


@pytest.mark.parametrize(
    "change, words",
    [
        ({"frontend": "s3prl"}, "found frontend 's3prl'"),
        ({"postencoder": "length_adaptor"}, "found postencoder"),
        ({"frontend_conf": {"fs": 8000}}, "frontend_conf.fs is 8000, expected 16000"),
        ({"frontend_conf": {"frontend_conf": {"use_wpe": True}}}, "dereverberation"),
        ({"encoder_conf": {"nix": 1}}, "does not fit e_branchformer"),
        ({"encoder_conf": {"interctc_use_conditioning": True}}, "conditioned on CTC"),
        ({"encoder_conf": {"output_size": 64}}, "weights do not fit"),
        ({"encoder": "rnn"}, "expected one of e_branchformer"),
        ({"normalize": "odd"}, "found normalize 'odd'"),
    ],
)
def test_what_is_not_supported_is_named(trained, change, words):
    folder, config, _ = trained
    text = yaml.safe_dump(config | change)
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        build_encoder("espnet", str(folder))


def test_several_checkpoints_are_named(trained):
    folder = trained[0]
    (folder / "latest.pth").write_bytes(b"")
    with pytest.raises(ValueError, match="latest.pth, valid.acc.ave.pth"):
        build_encoder("espnet", str(folder))


def test_global_statistics_need_weights():
    with pytest.raises(ValueError, match="needs statistics"):
        build("transformer", normalize="global_mvn")


def test_espnet_is_imported_only_when_asked_for():
    for file in Path(encoder_module.__file__).parent.glob("encoder*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert "espnet2" not in ast.unparse(node), file
