"""Frames of a frozen encoder, kept on disk: the same training, without the encoder's work."""

import dataclasses
import logging
import os
import shutil
import signal

import pytest
import soundfile
import torch
import yaml
from training_runs import fork_all, fork_group

from espnet_part import frame_cache_writer
from espnet_part.audio import load_audio
from espnet_part.bin import train
from espnet_part.config import Config
from espnet_part.datadir import iter_rows, write_datadir
from espnet_part.frame_cache_writer import make_frame_cache
from espnet_part.llm import build_tokenizer
from espnet_part.loop import Loop
from espnet_part.manifest import Manifest
from espnet_part.manifest_writer import write_manifest
from espnet_part.model import PARTModel
from espnet_part.parallel import Processes
from espnet_part.schema import from_dict

STEPS = 6
FROZEN = {
    "trainable": {"encoder": "none", "adapter": "all", "llm": "none"},
    "tasks": ["asr", "st"],
    "lr": {"adapter": 1e-3},
    "speed_perturb": None,
    "spec_augment": None,
    "max_steps": STEPS,
    "micro_cost": 150,
    "save_interval": 2,
    "valid_interval": 100,
}


@pytest.fixture
def encoder(make_model):
    return make_model().eval().encoder


@pytest.fixture
def cache_of(encoder, opened, tmp_path):
    """``cache_of(**changes)``: a cache of the toy data."""

    def make(
        processes=None,
        limit_gb=1.0,
        manifests=opened,
        folder=tmp_path / "frames",
        part=None,
        narrow=False,
    ):
        return make_frame_cache(
            folder,
            part or encoder,
            manifests,
            ["asr", "st"],
            150,
            limit_gb,
            processes or Processes(),
            lambda: torch.autocast("cpu", torch.bfloat16, enabled=narrow),
        )

    return make


def speech_rows(opened):
    return [row for i in range(len(opened[0])) if (row := opened[0].row(i)).path is not None]


@pytest.mark.parametrize("world_size", [1, 3])
def test_every_clip_has_its_own_frames(cache_of, encoder, opened, tmp_path, world_size):
    def check(processes):
        cache = cache_of(processes)
        rows = speech_rows(opened)
        assert len(rows) == 20 and len(cache) == 10, "asr and st rows share a clip"
        for row in rows:
            wave = torch.from_numpy(load_audio(row.path))
            with torch.no_grad():
                wanted, _ = encoder(wave[None], torch.tensor([len(wave)]))
            found = cache.read(row)
            torch.testing.assert_close(found.frames, wanted[0], rtol=1e-4, atol=1e-5)
            assert found.samples == len(wave)

    fork_group(check, world_size, tmp_path, 60)
    assert len(list((tmp_path / "frames").glob("frames.*.bin"))) == world_size


def test_frames_keep_the_type_that_the_encoder_computes_in(cache_of, encoder, opened):
    narrow = cache_of(part=encoder.to(torch.bfloat16)).read(opened[0].row(0)).frames
    assert narrow.dtype == torch.bfloat16
    assert narrow.float().abs().mean() > 0.1


def test_frames_of_another_kind_or_cut_short_are_made_again(cache_of, encoder, opened, tmp_path):
    row = opened[0].row(0)
    plain = cache_of().read(row).frames
    assert not torch.equal(cache_of(narrow=True).read(row).frames, plain)
    assert torch.equal(cache_of().read(row).frames, plain)
    for name in ("clips.0.json", "frames.0.bin"):
        path = tmp_path / "frames" / name
        path.write_bytes(path.read_bytes()[:-3])
        assert torch.equal(cache_of().read(row).frames, plain)
    assert cache_of(part=encoder.to(torch.bfloat16)).read(row).frames.dtype == torch.bfloat16


@pytest.fixture
def copied(toy_data, parts, tmp_path):
    """The toy speech in a folder of its own, where a test may change files."""
    rows = []
    for row in iter_rows(toy_data / "speech"):
        path = tmp_path / os.path.basename(row.path)
        shutil.copy(row.path, path)
        rows.append(dataclasses.replace(row, path=str(path)))
    write_datadir(tmp_path / "speech", rows)
    write_manifest(tmp_path / "speech", tmp_path / "manifest", build_tokenizer(parts("byte")))
    return Manifest.open(tmp_path / "manifest")


def test_frames_are_made_once_and_again_where_something_changed(cache_of, encoder, copied):
    made = []
    encode = encoder.encode
    encoder.encode = lambda *args: made.append(1) or encode(*args)
    first = cache_of(manifests=[copied]).read(copied.row(0)).frames
    assert made
    made.clear()
    assert torch.equal(cache_of(manifests=[copied]).read(copied.row(0)).frames, first) and not made
    os.utime(copied.row(0).path, (1, 1))
    assert torch.equal(cache_of(manifests=[copied]).read(copied.row(0)).frames, first) and made
    made.clear()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.5)
    other = cache_of(manifests=[copied]).read(copied.row(0)).frames
    assert made and not torch.allclose(other, first)


def test_a_clip_that_cannot_be_read_is_left_out_with_its_reason(cache_of, copied):
    lost, short = copied.row(0).path, copied.row(4).path
    os.remove(lost)
    soundfile.write(short, load_audio(copied.row(2).path)[:100], 16000)
    cache = cache_of(manifests=[copied])
    for row in (copied.row(i) for i in range(len(copied))):
        if row.path == lost:
            with pytest.raises(ValueError, match="no such file"):
                cache.read(row)
        elif row.path == short:
            with pytest.raises(ValueError, match="found 0.006 s of audio"):
                cache.read(row)
        else:
            cache.read(row)


def test_more_than_the_limit_is_not_kept(encoder, cache_of, opened, tmp_path, caplog):
    clips = frame_cache_writer.find_clips(opened, ["asr", "st"], encoder, 1.0)
    size = 4 * encoder.output_size * sum(int(encoder.frame_lengths(n)) for n in clips.values())
    assert cache_of(limit_gb=size / 1e9) is not None
    made = tmp_path / "frames" / "frames.0.bin"
    assert made.stat().st_size == size
    with caplog.at_level(logging.WARNING):
        assert cache_of(limit_gb=(size - 1) / 1e9) is None
    assert "encoder_cache_gb" in caplog.text


# ----- whole runs -----


@pytest.fixture(scope="module")
def run(config_values, manifests, tmp_path_factory):
    """``run(folder, cache, hit, workers)``: a phase in a process of its own; its exit code."""

    def make(folder, cache=1.0, before=lambda: None, workers=0):
        values = config_values(train=manifests, valid=[], **FROZEN, encoder_cache_gb=cache)
        path = tmp_path_factory.mktemp("config") / "config.yaml"
        path.write_text(yaml.safe_dump(values))
        arguments = [f"--config={path}", f"--output_dir={folder}", f"--num_workers={workers}"]

        def start():
            before()
            train.main(arguments)

        (code,) = fork_all([start], 60)
        return code

    return make


def weights(folder) -> tuple[dict, list[float]]:
    """Of the last checkpoint, and the losses on the way."""
    payload = torch.load(folder / "checkpoint.pth", weights_only=True)
    return payload["model"], [entry["loss"] for entry in payload["history"]]


def test_training_is_the_same_without_the_encoders_work(run, tmp_path):
    """Also with loader processes, which change no bit."""

    def no_encoder():
        def refuse(*_):
            raise AssertionError("a training step called the encoder")

        PARTModel.speech_frames = refuse

    assert run(tmp_path / "plain", 0.0) == 0
    assert run(tmp_path / "cached", before=no_encoder) == 0
    assert run(tmp_path / "workers", before=no_encoder, workers=2) == 0
    (plain, losses), (cached, others) = weights(tmp_path / "plain"), weights(tmp_path / "cached")
    assert losses == pytest.approx(others, rel=1e-4)
    for name in plain:
        torch.testing.assert_close(cached[name], plain[name], rtol=1e-3, atol=1e-4)
    same, _ = weights(tmp_path / "workers")
    assert all(torch.equal(cached[name], same[name]) for name in cached)
    assert not (tmp_path / "cached" / "frames").exists()


def test_a_killed_run_goes_on_to_the_same_bits(run, tmp_path):
    def die_at(owner, name, times):
        def before():
            plain, left = getattr(owner, name), [times]

            def hit(*args, **kwargs):
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                return plain(*args, **kwargs)

            setattr(owner, name, hit)

        return before

    assert run(tmp_path / "whole") == 0
    folder = tmp_path / "killed"
    frames = folder / "frames" / "frames.0.bin"
    assert run(folder, before=die_at(frame_cache_writer, "load_audio", 5)) == -signal.SIGKILL
    assert frames.exists() and not list(frames.parent.glob("clips.*.json"))
    assert run(folder, before=die_at(Loop, "_update", 4)) == -signal.SIGKILL
    made = frames.stat().st_mtime_ns
    assert run(folder, before=die_at(Loop, "_update", 2)) == -signal.SIGKILL
    assert frames.stat().st_mtime_ns == made, "the frames were there"
    assert run(folder) == 0
    (whole, losses), (found, others) = weights(tmp_path / "whole"), weights(folder)
    assert all(torch.equal(whole[name], found[name]) for name in whole)
    assert losses == others


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"trainable": {"encoder": "last:1"}, "lr": {"encoder": 1e-3}}, "trainable.encoder"),
        ({"speed_perturb": [0.9, 1.1]}, "speed_perturb"),
        ({"spec_augment": {}}, "spec_augment"),
    ],
)
def test_only_frames_that_stay_the_same_are_kept(config_values, changes, named):
    values = config_values(**{**FROZEN, "encoder_cache_gb": 1.0})
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(values[key], dict) else value
    with pytest.raises(ValueError, match=f"encoder_cache_gb: found 1.0, but with {named}"):
        from_dict(Config, values)
