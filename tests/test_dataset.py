"""Loading, augmentation and collation; loader processes."""

import resource
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from made_manifests import make_manifest
from training_runs import FORK, fork_all

from espnet_part.audio import load_audio
from espnet_part.batching import BatchPlan
from espnet_part.datadir import Row, iter_rows, write_datadir
from espnet_part.dataset import ExampleLoader, StepDataset, collate
from espnet_part.llm import build_tokenizer
from espnet_part.manifest import Manifest
from espnet_part.manifest_writer import write_manifest
from espnet_part.prefetch import step_loader
from espnet_part.prompt import TASKS
from espnet_part.validation import spread, valid_batches


@pytest.fixture
def make_dataset(prompter, opened):
    """``make_dataset(...)``: steps of the toy data with all augmentation."""

    def make(manifests=None, rank=0, world_size=1, cost=400, micro=150, **loader):
        options = {"seed": 3, "source_dropout": 0.5, "speed_perturb": [0.9, 1.0, 1.1], **loader}
        plan = BatchPlan(manifests or opened, ["asr", "st", "mt"], cost)
        return StepDataset(plan, ExampleLoader(prompter, **options), rank, world_size, micro)

    return make


def equal(a, b) -> bool:
    """Whether two steps are the same to the bit."""
    (batches, skipped), (others, left_out) = a, b
    if skipped != left_out or len(batches) != len(others):
        return False
    for x, y in zip(batches, others, strict=True):
        if (x is None) != (y is None):
            return False
        if x is not None:
            assert x.keys() == y.keys()
            if not all(x[k].dtype == y[k].dtype and torch.equal(x[k], y[k]) for k in x):
                return False
    return True


# ----- loader processes -----


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_nothing(make_dataset, workers):
    dataset = make_dataset()
    plain = [dataset[step] for step in range(2, 9)]
    loaded = list(step_loader(dataset, 2, 9, workers))
    assert len(loaded) == 7
    assert all(equal(a, b) for a, b in zip(plain, loaded, strict=True))
    assert not equal(plain[0], plain[1])


def test_none_and_text_survive_the_way(make_dataset, opened):
    """Micro-batches without rows, without audio, and what was left out."""

    class Strange:
        def __getitem__(self, step):
            text = collate([ExampleLoader(dataset.loader.prompter).load(opened[1].row(0), 0)])
            return [None, text, None] if step else [None], [f"row{step}: gone"]

    dataset = make_dataset()
    for a, b in zip(step_loader(Strange(), 0, 2, 1), [Strange()[0], Strange()[1]], strict=True):
        assert equal(a, b)


def test_few_file_descriptors_are_enough(make_dataset):
    """A descriptor per tensor would stop a run of many micro-batches without a word."""
    dataset = make_dataset(cost=5000, micro=1)

    def run():
        limits = (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        steps = step_loader(dataset, 0, 12, 2)
        held = [next(steps) for _ in range(12)]
        assert all(len(batches) > 20 for batches, _ in held)

    assert fork_all([run], 30) == [0]


def test_workers_stay_quiet_under_sigterm(make_dataset):
    """See tests/test_resume.py for a whole run; here the workers alone."""
    import os
    import signal

    done = FORK.Value("i", 0)

    def run():
        os.setsid()
        signal.signal(signal.SIGTERM, lambda *_: None)
        for number, _ in enumerate(step_loader(make_dataset(), 0, 30, 2)):
            if number == 3:
                os.killpg(0, signal.SIGTERM)
            done.value = number

    assert fork_all([run], 30) == [0]
    assert done.value == 29


def test_a_worker_that_hangs_is_ended(make_dataset, monkeypatch):
    """Workers ignore SIGTERM: nothing but a closed loader ends one that reads for ever."""
    import multiprocessing
    import time

    from torch.utils.data import _utils

    class Hanging:
        def __getitem__(self, step):
            while step:
                time.sleep(1)
            return [None], []

    monkeypatch.setattr(_utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
    before = set(multiprocessing.active_children())
    steps = step_loader(Hanging(), 0, 9, 2)
    assert next(steps) == ([None], [])
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2
    steps.close()
    assert not set(multiprocessing.active_children()) & workers


# ----- rows that cannot be read -----


@pytest.fixture
def damaged(toy_data, tmp_path, parts):
    """The toy speech with a missing, a cut and an empty file, which stage 10 saw whole."""
    rows = []
    for row in iter_rows(toy_data / "speech"):
        path = tmp_path / row.path.rsplit("/", 1)[1]
        if not path.exists():
            shutil.copy(row.path, path)
        rows.append(Row(**{**vars(row), "path": str(path)}))
    write_datadir(tmp_path / "data", rows)
    write_manifest(tmp_path / "data", tmp_path / "manifest", build_tokenizer(parts("byte")))
    (tmp_path / "clip3.wav").unlink()
    (tmp_path / "clip5.wav").write_bytes(b"RIFF")
    (tmp_path / "clip7.wav").write_bytes((tmp_path / "clip7.wav").read_bytes()[:2000])
    return Manifest.open(tmp_path / "manifest")


def test_rows_that_cannot_be_read_are_left_out(make_dataset, damaged, opened):
    dataset = make_dataset([damaged, opened[1]], cost=1e9, micro=1e9)
    ([batch], skipped) = dataset[0]
    names = sorted(line.split(":")[0] for line in skipped)
    assert names == [f"clip{i}-{task}" for i in (3, 5, 7) for task in ("asr", "st-de")]
    assert all(line.count("clip") >= 2 for line in skipped), "the reason names the file"
    assert len(batch["token_lengths"]) == 30 - 6
    assert len(batch["speech_row"]) == 20 - 6


def test_a_micro_batch_of_nothing_is_none(make_dataset, damaged):
    for path in damaged.folder.parent.glob("*.wav"):
        path.unlink(missing_ok=True)
    plan = BatchPlan([damaged], ["asr", "st"], 1e9)
    whole = StepDataset(plan, make_dataset().loader, 0, 1, 200)
    batches, skipped = whole[0]
    assert len(batches) > 1 and set(batches) == {None} and len(skipped) == 20


def test_clips_the_encoder_cannot_take(make_dataset, opened):
    rows = [opened[0].row(i) for i in range(len(opened[0]))]
    lengths = {row.utt_id: len(load_audio(row.path)) for row in rows}
    limits = {"min_samples": 9000, "max_samples": 14000}
    loader = make_dataset(**limits, speed_perturb=None).loader
    for row in rows:
        if 9000 <= lengths[row.utt_id] <= 14000:
            assert loader.load(row, 0).wave is not None
        else:
            with pytest.raises(ValueError, match=r"clip\d.wav: found \d+ samples .*9000 to 14000"):
                loader.load(row, 0)
    (_, skipped) = make_dataset(**limits, cost=1e9, micro=1e9)[0]
    assert len(skipped) == sum(not 9000 <= length <= 14000 for length in lengths.values())


def test_a_factor_does_not_push_a_clip_over_the_limit(make_dataset, opened):
    row = opened[0].row(0)
    length = len(load_audio(row.path))
    for limits, factor in (({"max_samples": length}, 0.9), ({"min_samples": length}, 1.1)):
        loader = make_dataset(speed_perturb=[factor], **limits).loader
        assert len(loader.load(row, 0).wave) == length
    assert len(make_dataset(speed_perturb=[0.9]).loader.load(row, 0).wave) > length


# ----- what is drawn -----


def test_source_dropout_rate(prompter, opened):
    loader = ExampleLoader(prompter, seed=1, source_dropout=0.3)
    row = opened[1].row(0)
    texts = [prompter.tokenizer.decode(loader.load(row, step).tokens) for step in range(600)]
    named = sum("the English text" in text for text in texts)
    assert set(["the English text" in t or "Translate the text" in t for t in texts]) == {True}
    assert 0.63 < named / 600 < 0.77
    for dropout, share in ((0.0, 600), (1.0, 0)):
        loader = ExampleLoader(prompter, seed=1, source_dropout=dropout)
        texts = [prompter.tokenizer.decode(loader.load(row, step).tokens) for step in range(600)]
        assert sum("the English text" in text for text in texts) == share


def test_speed_is_drawn_by_seed_step_and_row(make_dataset, opened):
    def lengths(seed, rows=(0,), steps=range(60)):
        loader = make_dataset(seed=seed).loader
        return [len(loader.load(opened[0].row(i), s).wave) for i in rows for s in steps]

    first = lengths(1)
    assert first == lengths(1) and first != lengths(2)
    whole = len(load_audio(opened[0].row(0).path))
    expected = {round(whole / factor) for factor in (0.9, 1.0, 1.1)}
    assert {min(expected, key=lambda n: abs(n - length)) for length in first} == expected
    counts = [sum(abs(length - n) < 5 for length in first) for n in expected]
    assert min(counts) > 8 and sum(counts) == 60
    assert lengths(1, (2,)) != lengths(1, (4,))  # two rows, same seed and steps


def test_an_example_depends_on_nothing_else(make_dataset, opened):
    loader = make_dataset().loader
    row = opened[0].row(3)
    first = loader.load(row, 5)
    torch.manual_seed(9)
    np.random.seed(9)
    loader.load(opened[0].row(1), 5)
    again = loader.load(row, 5)
    assert first.tokens == again.tokens and first.seed == again.seed
    assert np.array_equal(first.wave, again.wave)
    assert loader.load(row, 6).seed != first.seed


# ----- collation -----


def test_collate(prompter, opened):
    loader = ExampleLoader(prompter)
    rows = {r.task: r for m in opened for r in (m.row(i) for i in range(len(m)))}
    examples = [loader.load(rows[task], 0) for task in ("mt", "asr", "st")]
    batch = collate(examples)
    assert batch["speech_row"].tolist() == [1, 2]
    assert batch["speech_lengths"].tolist() == [len(ex.wave) for ex in examples[1:]]
    assert batch["speech"].shape == (2, max(batch["speech_lengths"]))
    assert batch["task"].tolist() == [TASKS.index(task) for task in ("mt", "asr", "st")]
    assert float(batch["seconds"]) == pytest.approx(int(batch["speech_lengths"].sum()) / 16000)
    assert batch["speech_place"].tolist()[0] == 0
    pieces = batch["token_ids"].split(batch["token_lengths"].tolist())
    flags = batch["is_target"].split(batch["token_lengths"].tolist())
    for example, ids, flag in zip(examples, pieces, flags, strict=True):
        assert ids.tolist() == example.tokens
        assert ids[flag].tolist() == prompter.target(example.row.target)
        assert flag.tolist() == sorted(flag.tolist())  # targets come last
    text = collate(examples[:1])
    assert text["speech_row"].tolist() == [-1] and float(text["seconds"]) == 0


# ----- dev batches -----


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("micro_cost", [100, 1e9])
def test_dev_batches_hold_every_row_once(prompter, opened, world_size, micro_cost):
    loader = ExampleLoader(prompter)
    by_rank = [
        list(valid_batches(opened, ["asr", "mt"], loader, micro_cost, rank, world_size))
        for rank in range(world_size)
    ]
    assert len({len(batches) for batches in by_rank}) == 1
    names = [ex.row.utt_id for batches in by_rank for _, examples in batches for ex in examples]
    expected = [f"clip{i}-asr" for i in range(10)] + [f"text{i}-mt-de" for i in range(10)]
    assert sorted(names) == sorted(expected)
    for batch, examples in (item for batches in by_rank for item in batches):
        assert (batch is None) == (not examples)


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_part_of_the_dev_rows(prompter, opened, world_size):
    """At most so many of each dev set, the same whoever reads them, and of every task its share."""
    loader = ExampleLoader(prompter)

    def read(most, micro_cost=100):
        return sorted(
            ex.row.utt_id
            for rank in range(world_size)
            for _, examples in valid_batches(
                opened, ["asr", "st", "mt"], loader, micro_cost, rank, world_size, most
            )
            for ex in examples
        )

    names = read(8)
    assert len(names) == len(set(names)) == 16 and names == read(8, 1e9)
    assert Counter(name.split("-")[1] for name in names) == {"asr": 4, "st": 4, "mt": 8}
    clips = sorted(int(name[4]) for name in names if name.endswith("-asr"))
    assert clips == [0, 2, 5, 7], "spread over the file"
    assert len(read(0)) == len(read(20)) == len(read(1000)) == 30


def test_a_part_of_the_dev_rows_keeps_rare_ones(tmp_path):
    """Seven rows to a clip, and every seventh row is wanted: not all of the same task."""
    directions = [("asr", "en", "en"), *(("st", "en", tgt) for tgt in "zh ja de sv id ar".split())]
    rows = [(*pair, 16000, 0, 5) for _ in range(300) for pair in directions]
    rows += [("st", "yue", "en", 16000, 0, 5)] * 30
    manifest = make_manifest(tmp_path / "dev", rows)
    chosen = spread(manifest.index, np.arange(len(rows)), 300)
    counts = Counter((rows[i][0], rows[i][2]) for i in chosen)
    assert len(chosen) == len(set(chosen.tolist())) == 300 and np.all(np.diff(chosen) > 0)
    wanted = {(task, tgt): 300 * 300 / 2130 for task, _, tgt in directions}
    wanted["st", "en"] = 30 * 300 / 2130
    for key, count in wanted.items():
        assert abs(counts[key] - count) < 1, key
