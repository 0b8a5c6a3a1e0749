"""Packs: what goes in, where it works, what is refused; upload and model card."""

import argparse
import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from inference_fakes import ROOT, TEMPLATES, listening, tone

from espnet_part.bin import pack as pack_command
from espnet_part.bin import upload as upload_command
from espnet_part.decode_options import DecodeOptions
from espnet_part.model_card import languages_of, model_card
from espnet_part.pack import pack, pinned_revision
from espnet_part.phase_folder import digest
from espnet_part.unpack import files_in, local_model_files, relocated_config, unpack


def save_weights(path: Path, value: float) -> bytes:
    """A checkpoint of one tensor; returns its bytes."""
    payload = {"format": 1, "model": {"x": torch.tensor(value)}}
    torch.save({**payload, "trained": ["x"], "sources": {}, "lora": None}, path)
    return path.read_bytes()


def make_experiment(root: Path, **llm) -> Path:
    """The files of a trained phase, without the model's weights; returns the phase's folder."""
    for part in ("encoder", "llm"):
        folder = root / "exp/parts" / part
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"0" * 100)
    (root / "exp/parts/llm/.cache").mkdir()
    (root / "exp/parts/llm/.cache/lock").write_text("x")
    (root / "exp/parts/llm/sub").mkdir()
    (root / "exp/parts/llm/sub/tokenizer.json").write_text("{}")
    phase = root / "exp/toy/part/phase3"
    (phase / "images").mkdir(parents=True)
    (phase / "images/loss.png").write_bytes(b"png")
    (root / "exp/toy/RESULTS.md").write_text("# Results\n\n|a|b|\n")
    rows = [{"src": "sv", "tgt": "sv"}, {"src": "sv", "tgt": "de"}, {"src": "sv", "tgt": None}]
    (root / "exp/toy/results.json").write_text(json.dumps({"results": rows}))
    save_weights(phase / "latest.pth", 1.0)
    (phase / "best.pth").symlink_to("latest.pth")
    config = {
        "model": {
            "encoder": {"kind": "whisper", "source": "exp/parts/encoder"},
            "llm": {"source": str(root / "exp/parts/llm"), "tokenizer": None, **llm},
        },
        "trainable": {"encoder": "last:8", "llm": "all"},
        "prompts": TEMPLATES,
        "train": [str(root / "exp/stats/train"), "/elsewhere/stats/train"],
        "output_dir": str(phase),
    }
    (phase / "config.yaml").write_text(yaml.safe_dump(config))
    return phase


@pytest.fixture
def phase(tmp_path, monkeypatch):
    monkeypatch.setenv("ESPNET_PART_CACHE", str(tmp_path / "cache"))
    (tmp_path / "recipe").mkdir()
    monkeypatch.chdir(tmp_path / "recipe")
    return make_experiment(tmp_path / "recipe")


@pytest.fixture
def packed(phase, tmp_path):
    pack(phase / "config.yaml", phase / "best.pth", tmp_path / "model.zip")
    return tmp_path / "model.zip"


def test_members(packed, phase):
    with zipfile.ZipFile(packed) as archive:
        names = sorted(archive.namelist())
        meta = yaml.safe_load(archive.read("meta.yaml"))
        config = yaml.safe_load(archive.read("config.yaml"))
        assert archive.read("model.pth") == (phase / "latest.pth").read_bytes()
    assert names == [
        "RESULTS.md",
        "config.yaml",
        "encoder/config.json",
        "encoder/model.safetensors",
        "images/loss.png",
        "llm/config.json",
        "llm/model.safetensors",
        "llm/sub/tokenizer.json",
        "meta.yaml",
        "model.pth",
        "results.json",
    ]
    assert meta["files"] == {"part_model_file": "model.pth"}
    assert meta["yaml_files"] == {"part_train_config": "config.yaml"}
    assert config["model"]["encoder"]["source"] == "encoder"
    assert config["model"]["llm"]["source"] == "llm"
    assert config["prompts"] == TEMPLATES


def test_no_path_of_this_machine_goes_in(packed, tmp_path):
    with zipfile.ZipFile(packed) as archive:
        text = archive.read("config.yaml").decode()
    assert str(tmp_path) not in text and "/elsewhere" not in text


def test_espnets_own_unpack_reads_it(packed, tmp_path):
    from espnet2.main_funcs.pack_funcs import unpack as espnet_unpack

    files = espnet_unpack(packed, tmp_path / "espnet")
    assert set(files) == {"part_train_config", "part_model_file"}
    config = relocated_config(files["part_train_config"])
    assert Path(config["model"]["llm"]["source"], "sub/tokenizer.json").is_file()


def test_zip_and_folder_are_found(packed, phase, tmp_path, monkeypatch):
    files = local_model_files(packed)
    weights = (phase / "latest.pth").read_bytes()
    assert Path(files["part_model_file"]).read_bytes() == weights
    assert local_model_files(packed) == files  # the second time from the cache
    moved = tmp_path / "moved"
    unpack(packed, moved)
    monkeypatch.chdir(tmp_path)
    files = local_model_files("moved")
    config = relocated_config(files["part_train_config"])
    assert config["model"]["encoder"]["source"] == str(moved / "encoder")
    # The pack itself is as it was: it may be moved again.
    assert yaml.safe_load((moved / "config.yaml").read_text())["model"]["llm"]["source"] == "llm"


def test_a_new_zip_of_the_same_name_is_unpacked_anew(packed, phase):
    local_model_files(packed)
    newer = save_weights(phase / "latest.pth", 2.0)
    pack(phase / "config.yaml", phase / "best.pth", packed)
    assert Path(local_model_files(packed)["part_model_file"]).read_bytes() == newer


def test_configs_of_the_recipe_stay_as_they_are(phase):
    config = yaml.safe_load((phase / "config.yaml").read_text())
    assert relocated_config(phase / "config.yaml") == config


def test_decode_options_go_in(phase, tmp_path):
    greedy = ROOT / "conf/decode/greedy.yaml"
    pack(phase / "config.yaml", phase / "best.pth", tmp_path / "m.zip", greedy)
    files = local_model_files(tmp_path / "m.zip")
    assert Path(files["inference_config"]).read_text() == greedy.read_text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [("", (20, 1)), ("--lid none", (20, 1)), ("--lid=none --max_sec 12 --beam_size=2", (12, 2))],
)
def test_the_pack_decodes_as_stage_12(phase, tmp_path, arguments, expected):
    """Options of --inference_args go over the file's, as they do there."""
    decode, out = tmp_path / "decode.yaml", tmp_path / "m.zip"
    decode.write_text("max_sec: 20\nmaxlencap: 99\n")
    at = ["--part_train_config", phase / "config.yaml", "--part_model_file", phase / "best.pth"]
    at += ["--outpath", out, "--inference_config", decode, f"--inference_args={arguments}"]
    pack_command.main([str(word) for word in at])
    options = DecodeOptions.from_yaml(local_model_files(out)["inference_config"])
    assert (options.max_sec, options.beam_size, options.maxlencap) == (*expected, 99)


def test_parts_made_again_are_not_packed(phase, tmp_path):
    config = yaml.safe_load((phase / "config.yaml").read_text())
    sources = [config["model"][part]["source"] for part in ("encoder", "llm")]
    noted = {source: digest(Path(source)) for source in sources}
    (phase / ".sources.json").write_text(json.dumps(noted))
    pack(phase / "config.yaml", phase / "best.pth", tmp_path / "m.zip")
    Path(sources[1], "model.safetensors").write_bytes(b"1" * 100)
    with pytest.raises(ValueError, match=f"other files than {sources[1]} holds now"):
        pack(phase / "config.yaml", phase / "best.pth", tmp_path / "n.zip")


def test_hub_ids_go_in_as_id_and_revision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    phase = make_experiment(tmp_path, source="org/llm", revision="main", tokenizer=None)
    snapshot = tmp_path / "hub/models--org--llm/snapshots/abc123"
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache",
        lambda hub_id, name, revision: str(snapshot / name) if hub_id == "org/llm" else None,
    )
    loaded = []

    class FakeTokenizer:
        @classmethod
        def from_pretrained(cls, source, revision=None):
            loaded.append((source, revision))
            return cls()

        def save_pretrained(self, folder):
            folder.mkdir()
            (folder / "tokenizer.json").write_text("{}")

    monkeypatch.setattr("transformers.AutoTokenizer", FakeTokenizer)
    names = pack(phase / "config.yaml", phase / "latest.pth", tmp_path / "m.zip")
    unpack(tmp_path / "m.zip", tmp_path / "out")
    llm = yaml.safe_load((tmp_path / "out/config.yaml").read_text())["model"]["llm"]
    assert (llm["source"], llm["revision"], llm["tokenizer"]) == ("org/llm", "abc123", "tokenizer")
    assert loaded == [("org/llm", "abc123")]
    assert "tokenizer/tokenizer.json" in names
    assert not any(name.startswith("llm/") for name in names)
    llm = relocated_config(tmp_path / "out/config.yaml")["model"]["llm"]
    assert (llm["source"], llm["tokenizer"]) == ("org/llm", str(tmp_path / "out/tokenizer"))


def test_models_on_the_hub(packed, tmp_path, monkeypatch):
    folder = unpack(packed, tmp_path / "store")
    snapshot = tmp_path / "snapshot"  # as the hub's cache has it: links to files elsewhere
    for path in folder.rglob("*"):
        if path.is_file():
            link = snapshot / path.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    asked = []

    def download(hub_id, revision):
        asked.append((hub_id, revision))
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    for name in ("org/name", "org/name@v1.0"):
        files = local_model_files(name)
        config = relocated_config(files["part_train_config"])
        assert config["model"]["llm"]["source"] == str(snapshot / "llm")
    assert asked == [("org/name", None), ("org/name", "v1.0")]


def test_an_unknown_revision_stays(monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a, **k: None)
    assert pinned_revision("org/x", "v1") == "v1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda phase: (phase / "latest.pth").unlink(), "best.pth: no such file"),
        (lambda phase: (phase / "config.yaml").unlink(), "config.yaml: no such file"),
        (lambda phase: os.rename("exp/parts", "exp/gone"), "no such folder here and no hub id"),
        (lambda phase: (phase / "latest.pth").write_bytes(b"x"), "best.pth cannot be read"),
    ],
)
def test_what_is_missing_is_named(phase, tmp_path, change, message):
    change(phase)
    with pytest.raises(ValueError, match=message):
        pack(phase / "config.yaml", phase / "best.pth", tmp_path / "out/m.zip")
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        pack_command.main(
            ["--part_train_config", str(phase / "config.yaml")]
            + ["--part_model_file", str(phase / "best.pth"), "--outpath", str(tmp_path / "m.zip")]
        )


def test_the_command(phase, tmp_path, capsys):
    pack_command.main(
        ["--part_train_config", str(phase / "config.yaml")]
        + ["--part_model_file", str(phase / "best.pth"), "--outpath", str(tmp_path / "a/m.zip")]
    )
    assert "adding: llm/config.json" in capsys.readouterr().out
    with pytest.raises(ValueError, match="ends in .zip"):
        pack(phase / "config.yaml", phase / "best.pth", tmp_path / "m.tar")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["m.zip"]


# ----- strangers' zips -----


def evil_zip(path: Path, name: str, mode: int = 0) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("meta.yaml", "files: {}\nyaml_files: {}\n")
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        archive.writestr(info, "/etc/passwd")
    return path


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("../out.txt", 0),
        ("a/../../out.txt", 0),
        ("/out.txt", 0),
        ("..\\out.txt", 0),
        ("C:\\out.txt", 0),
        ("link", stat.S_IFLNK | 0o777),
    ],
)
def test_members_that_lead_out_are_refused(tmp_path, name, mode):
    path = evil_zip(tmp_path / "evil.zip", name, mode)
    with pytest.raises(ValueError, match="leads out of the folder"):
        unpack(path, tmp_path / "in/here")
    assert not (tmp_path / "in").exists() and not (tmp_path / "out.txt").exists()


@pytest.mark.parametrize("place", ["../model.pth", "/etc/passwd"])
def test_a_meta_file_that_leads_out_is_refused(packed, tmp_path, place):
    folder = unpack(packed, tmp_path / "out")
    meta = {"files": {"part_model_file": place}, "yaml_files": {}}
    (folder / "meta.yaml").write_text(yaml.safe_dump(meta))
    with pytest.raises(ValueError, match="leads out"):
        files_in(folder)


def test_what_is_no_pack(packed, tmp_path):
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(ValueError, match="not a whole zip file"):
        unpack(tmp_path / "text.zip", tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme", "x")
    with pytest.raises(ValueError, match="no meta.yaml in it"):
        unpack(tmp_path / "other.zip", tmp_path / "a")
    with pytest.raises(ValueError, match="no meta.yaml in it"):
        local_model_files(tmp_path)
    for name in ("nowhere.zip", "exp/nothing/here", "word", "org/name.zip"):
        with pytest.raises(ValueError, match="no such file or folder"):
            local_model_files(name)
    folder = unpack(packed, tmp_path / "out")
    (folder / "model.pth").unlink()
    with pytest.raises(ValueError, match="part_model_file is 'model.pth', which is missing"):
        files_in(folder)
    for path in (folder / "llm").rglob("*"):
        if path.is_file():
            path.unlink()
    os.rename(folder / "llm", tmp_path / "gone")
    with pytest.raises(ValueError, match="llm.source is 'llm', which the pack lacks"):
        relocated_config(folder / "config.yaml")


# ----- upload -----


class FakeApi:
    def __init__(self):
        self.calls = []

    def create_repo(self, **how):
        self.calls.append(("create_repo", how))

    def upload_folder(self, folder_path, **how):
        files = sorted(p.name for p in Path(folder_path).rglob("*") if p.is_file())
        card = Path(folder_path, "README.md").read_text(encoding="utf-8")
        self.calls.append(("upload_folder", {**how, "files": files, "card": card}))


def arguments(packed, *extra) -> argparse.Namespace:
    given = ["--pack", str(packed), "--hf_repo", "org/name", *extra]
    return upload_command.get_parser().parse_args(given)


def test_upload(packed, capsys):
    api = FakeApi()
    upload_command.upload(arguments(packed, "--private"), api)
    (create, created), (send, sent) = api.calls
    assert (create, send) == ("create_repo", "upload_folder")
    assert created == {"repo_id": "org/name", "private": True, "exist_ok": True}
    assert sent["repo_id"] == "org/name"
    assert {"meta.yaml", "model.pth", "config.yaml", "README.md"} <= set(sent["files"])
    header = yaml.safe_load(sent["card"].split("---")[1])
    assert header["tags"][:2] == ["espnet", "audio"] and header["license"] == "cc-by-4.0"
    assert header["language"] == ["de", "sv"]
    assert "|a|b|" in sent["card"] and 'from_pretrained("org/name")' in sent["card"]
    assert "uploaded: org/name" in capsys.readouterr().out


def test_dry_run_sends_nothing(packed, capsys):
    api = FakeApi()
    upload_command.upload(arguments(packed, "--dry_run", "--languages", "fr"), api)
    shown = capsys.readouterr().out
    assert api.calls == [] and "nothing was sent" in shown
    assert "model.pth" in shown and "language:\n- fr" in shown


def test_wrong_uploads(packed, tmp_path):
    api = FakeApi()
    for extra, message in [
        (("--hf_repo", "name"), "expected org/name"),
        (("--pack", str(tmp_path / "x.zip")), "stage 14"),
        (("--languages", "xx"), "unknown language 'xx'"),
    ]:
        with pytest.raises(ValueError, match=message):
            upload_command.upload(arguments(packed, *extra), api)
    assert api.calls == []


def test_card_without_results(tmp_path):
    llm = {"source": "org/llm"}
    (tmp_path / "encoder.pth").write_text("x")
    config = {"model": {"encoder": {"source": "encoder.pth"}, "llm": llm}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    card = model_card(tmp_path, "org/name", "apache-2.0", [])
    assert languages_of(tmp_path) == []
    assert "None yet." in card
    assert yaml.safe_load(card.split("---")[1])["base_model"] == ["org/llm"]


# ----- the real model -----

ELSEWHERE = """
import socket, sys
import numpy as np

def refuse(*args, **kwargs):
    raise OSError("no network")

socket.socket.connect = refuse
from espnet_part.inference import Speech2Text
s2t = Speech2Text.from_pretrained(sys.argv[1])
clips = [np.load(name) for name in sys.argv[2:]]
print(*s2t.transcribe(clips, task="st", lang="sv", tgt_lang="de"), sep="\\n")
"""


def make_real(root: Path, parts, config_values) -> tuple[Path, Path]:
    """Trains nothing, but writes a phase's config and checkpoint for tiny parts."""
    from espnet_part.build import build_model
    from espnet_part.checkpoint import write_atomically
    from espnet_part.config import Config
    from espnet_part.schema import from_dict, to_dict

    for name, kind in (("encoder", "sensevoice"), ("llm", "byte")):
        shutil.copytree(parts(kind), root / "exp/parts" / name)
    values = config_values(
        model={"encoder": {"source": "exp/parts/encoder"}, "llm": {"source": "exp/parts/llm"}},
        trainable={"encoder": "last:2", "adapter": "all", "llm": "none"},
        lr={"encoder": 1e-4, "adapter": 1e-3},
    )
    config = from_dict(Config, values)
    torch.manual_seed(3)
    model = listening(build_model(config))
    model.set_trainable(config.trainable)
    phase = root / "exp/toy/part/phase3"
    phase.mkdir(parents=True)
    (phase / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    write_atomically(phase / "latest.pth", model.trimmed_state())
    return phase / "config.yaml", phase / "latest.pth"


def test_the_same_text_elsewhere_in_a_fresh_process(tmp_path, monkeypatch, parts, config_values):
    from espnet_part.inference import Speech2Text

    recipe = tmp_path / "recipe"
    recipe.mkdir()
    monkeypatch.chdir(recipe)
    config, checkpoint = make_real(recipe, parts, config_values)
    clips = [tone(1.3, 200.0), tone(2.1, 500.0), tone(0.7, 900.0)]
    s2t = Speech2Text(config, checkpoint)
    expected = s2t.transcribe(clips, task="st", lang="sv", tgt_lang="de")
    assert len(set(expected)) == 3
    pack(config, checkpoint, tmp_path / "model.zip")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for number, clip in enumerate(clips):
        np.save(elsewhere / f"{number}.npy", clip)
    os.rename(recipe, tmp_path / "gone")
    os.rename(tmp_path / "model.zip", elsewhere / "model.zip")
    env = {**os.environ, "ESPNET_PART_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    env |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1"}
    names = [f"{number}.npy" for number in range(3)]
    ran = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, "model.zip", *names],
        cwd=elsewhere,
        env=env,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split("\n")[:-1] == expected
    # A folder with it unpacked, moved, and read-only, gives the same.
    (unpacked,) = (tmp_path / "cache").iterdir()
    os.rename(unpacked, tmp_path / "moved")
    s2t = Speech2Text.from_pretrained(tmp_path / "moved")
    assert s2t.transcribe(clips, task="st", lang="sv", tgt_lang="de") == expected
    # A checkpoint that would run code when read is refused.
    torch.save({"format": 1, "model": Path("x")}, tmp_path / "moved/model.pth")
    with pytest.raises(ValueError, match="cannot be read as tensors"):
        Speech2Text.from_pretrained(tmp_path / "moved")
