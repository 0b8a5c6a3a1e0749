"""Corpora of 100,000 clips and of 10^6 text rows: minutes at most, and memory that does not grow.

Each measurement is printed: `python -m pytest -m slow -s tests/test_corpus_scale.py`.
"""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from corpus_layouts import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
CLIPS, MP3_CLIPS = 100_000, 20_000

# Prepares one set in a process of its own, and prints what it took.
MEASURE = r"""
import hashlib, json, re, sys, time
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
import prepare_librispeech
from corpus import CorpusSet, write_set
from espnet_part.datadir import Row

kind, source, out, jobs = sys.argv[3], Path(sys.argv[4]), Path(sys.argv[5]), int(sys.argv[6])

def text_rows():
    for number in range(jobs):
        name = hashlib.md5(str(number).encode()).hexdigest()
        yield Row(f"{name}-mt-de", "mt", "en", "de", f"ein Satz, so lang wie die meisten, {number}",
                  source=f"a sentence, as long as most of them are, number {number}")

def mp3_rows():
    for path in source.glob("*.mp3"):
        yield Row(f"{path.stem}-asr", "asr", "de", "de", f"ein Satz, {path.stem}", str(path))

if kind == "librispeech":
    (corpus_set,) = prepare_librispeech.make_sets(
        prepare_librispeech.get_parser("", [], [], True).parse_args([str(source), str(out)]))
else:
    corpus_set = CorpusSet("train", (), text_rows if kind == "text" else mp3_rows)
start = time.monotonic()
result = write_set(out, corpus_set, 1 if kind == "text" else jobs)
seconds = time.monotonic() - start
cpu = time.process_time()
# getrusage would count the memory of the process that this one was forked from.
status = Path("/proc/self/status").read_text()
peak = int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 1024
print(json.dumps(result | {"seconds": seconds, "cpu": cpu, "peak_mb": peak}))
"""


def measure(kind, source, out, jobs):
    paths = [str(ROOT / "local"), str(ROOT), kind, str(source), str(out), str(jobs)]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *paths], capture_output=True, text=True, check=True
    )
    result = json.loads(done.stdout)
    print(
        f"\n{kind} {jobs}: {result['kept']:,} rows, {result['seconds']:.0f} s "
        f"({result['cpu']:.0f} s of CPU), {result['peak_mb']:.0f} MB"
    )
    return result


def clip(audio_format, seconds, rate, **options):
    wave = np.random.default_rng(0).standard_normal(round(seconds * rate)) * 0.001
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=audio_format, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def flac(tmp_path_factory):
    """LibriSpeech's layout: chapters of 100 clips, each a file of its own."""
    root, data = tmp_path_factory.mktemp("flac"), clip("FLAC", 0.2, 16000)
    for number in range(CLIPS // 100):
        name = f"{number // 10}-{number}"
        folder = root / "LibriSpeech/train-clean-100" / name.replace("-", "/")
        folder.mkdir(parents=True)
        for utt in range(100):
            (folder / f"{name}-{utt:04d}.flac").write_bytes(data)
        lines = [f"{name}-{utt:04d} AS MANY WORDS AS A SHORT SENTENCE HAS\n" for utt in range(100)]
        (folder / f"{name}.trans.txt").write_text("".join(lines))
    return root


@pytest.fixture(scope="module")
def mp3(tmp_path_factory):
    """Clips as long as Common Voice's; half of them without the header that tells the length."""
    root = tmp_path_factory.mktemp("mp3")
    data = clip("MP3", 5, 32000, bitrate_mode="CONSTANT", compression_level=0.9)
    assert b"Info" in data[:200]
    bare = data[data.index(data[:2], 4) :]  # from the second frame on
    for number in range(MP3_CLIPS):
        (root / f"{number:06d}.mp3").write_bytes(bare if number % 2 else data)
    return root


@pytest.mark.parametrize("jobs", [1, 8])
def test_a_hundred_thousand_clips(flac, tmp_path, jobs):
    result = measure("librispeech", flac, tmp_path, jobs)
    assert result["kept"] == CLIPS and result["skipped"] == {}
    assert result["cpu"] < 120 and result["peak_mb"] < 250


@pytest.mark.parametrize("jobs", [1, 8])
def test_mp3(mp3, tmp_path, jobs):
    result = measure("mp3", mp3, tmp_path, jobs)
    assert result["kept"] == MP3_CLIPS and result["skipped"] == {}
    assert result["cpu"] < 60


def test_memory_does_not_grow_with_rows(tmp_path):
    small = measure("text", tmp_path, tmp_path / "small", 100_000)
    big = measure("text", tmp_path, tmp_path / "big", 1_000_000)
    assert (small["kept"], big["kept"]) == (100_000, 1_000_000)
    assert big["peak_mb"] < small["peak_mb"] + 40
