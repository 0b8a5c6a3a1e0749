import json

import pytest
import yaml

from espnet_part.bin import benchmark
from espnet_part.config import ModelConfig
from espnet_part.schema import from_dict


@pytest.fixture
def tiny(tmp_path):
    values = {
        "encoder": {
            "kind": "whisper",
            "config": {
                "d_model": 32,
                "encoder_layers": 9,
                "encoder_attention_heads": 2,
                "encoder_ffn_dim": 32,
                "num_mel_bins": 80,
            },
        },
        "adapter": {"stride": 4, "layers": 1, "heads": 2, "ffn": 32},
        "llm": {
            "config": {
                "model_type": "qwen2",
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "intermediate_size": 32,
                "vocab_size": 100,
            }
        },
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_all_phases(tiny, tmp_path):
    out = tmp_path / "out.json"
    benchmark.main(
        ["--config", str(tiny), "--steps", "2", "--warmup", "1", "--batch_sec", "4"]
        + ["--json", str(out)]
    )
    phases = json.loads(out.read_text())["phases"]
    assert [row["phase"] for row in phases] == ["1", "2a", "2b", "3"]
    assert [row["llm_tensors_moved_percent"] > 0 for row in phases] == [False, False, False, True]
    assert all(row["audio_sec_per_sec"] > 0 for row in phases)


def test_with_alignment(tiny, tmp_path):
    out = tmp_path / "out.json"
    common = ["--config", str(tiny), "--steps", "3", "--warmup", "1", "--batch_sec", "4"]
    benchmark.main(
        [*common, "--phases", "1", "3", "--alignment", "{layers: [0, 2]}", "--json", str(out)]
    )
    phases = json.loads(out.read_text())["phases"]
    assert all(row["transport_first"] > 0.5 and row["steps_per_sec"] > 0 for row in phases)
    with pytest.raises(SystemExit, match="alignment.layers: found layer 5"):
        benchmark.main([*common, "--alignment", "{layers: [0, 5]}"])


def test_wrong_key_is_named(tiny, capsys):
    values = yaml.safe_load(tiny.read_text())
    values["encoder"]["sourc"] = "x"
    tiny.write_text(yaml.safe_dump(values))
    with pytest.raises(SystemExit, match="model.encoder.sourc; did you mean model.encoder.source"):
        benchmark.main(["--config", str(tiny)])


def test_shipped_sizes_are_read(conf_dir):
    paths = sorted((conf_dir / "benchmark").glob("*.yaml"))
    assert len(paths) >= 3
    for path in paths:
        from_dict(ModelConfig, yaml.safe_load(path.read_text()), "model.")
