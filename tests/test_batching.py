"""The batch plan: a pure function of (manifests, weights, seed, step)."""

import pickle
import time
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from made_manifests import CODES, make_manifest, write_meta

from espnet_part.batching import BLOCK_ROWS, BatchPlan, row_cost
from espnet_part.manifest import INDEX_DTYPE, Manifest
from espnet_part.permutation import permuted

TASKS = ["asr", "st", "mt", "instruct"]


@pytest.fixture
def made(tmp_path):
    """``made(name, rows)``: a manifest; rows are (task, samples, n_source, n_target)."""

    def make(name, rows):
        return make_manifest(tmp_path / name, [(row[0], "en", "de", *row[1:]) for row in rows])

    return make


def speech_rows(count, task="asr", seed=0, low=0.5, high=15.0):
    rng = np.random.default_rng(seed)
    return [
        (task, int(16000 * rng.uniform(low, high)), 0, int(rng.integers(3, 60)))
        for _ in range(count)
    ]


def text_rows(count, seed=0):
    rng = np.random.default_rng(seed)
    return [("mt", 0, *map(int, rng.integers(3, 60, 2))) for _ in range(count)]


@pytest.fixture
def mixed(made):
    """Two manifests: 500 rows of asr and st side by side, 300 text rows."""
    asr, st = speech_rows(250), speech_rows(250, "st", 1)
    both = [row for pair in zip(asr, st, strict=True) for row in pair]
    return [made("speech", both), made("text", text_rows(300))]


def plan_of(manifests, tasks=("asr", "st", "mt"), cost=3000, **more):
    return BatchPlan(manifests, list(tasks), cost, **more)


# ----- the permutation -----


def test_permuted_is_a_bijection():
    for size in [*range(1, 300), *range(300, 2000, 37), 4096, 65537]:
        for seed in (0, size):
            image = permuted(np.arange(size), size, seed)
            assert image.dtype == np.int64
            assert np.array_equal(np.sort(image), np.arange(size)), (size, seed)


def test_permuted_shuffles():
    size = 10000
    image = permuted(np.arange(size), size, 3)
    assert abs(np.corrcoef(image, np.arange(size))[0, 1]) < 0.05
    assert abs(np.corrcoef(image[1:], image[:-1])[0, 1]) < 0.05
    assert len(np.unique(np.diff(image))) > size / 2, "neighbors stay neighbors"
    assert not np.array_equal(image, permuted(np.arange(size), size, 4))
    # Every place is equally likely to come first.
    first = np.array([permuted(np.zeros(1, int), 10, seed)[0] for seed in range(2000)])
    assert np.bincount(first, minlength=10).min() > 140


def test_permuted_of_a_billion_needs_no_list():
    places = np.array([0, 1, 123_456_789, 999_999_999])
    image = permuted(places, 10**9, 1)
    assert len(set(image.tolist())) == 4 and image.max() < 10**9
    assert np.array_equal(permuted(places[::-1], 10**9, 1), image[::-1])


# ----- cost -----


def test_row_cost():
    assert row_cost(16000, 100, 10) == 25 + 10 + 16  # a transcript is not read by a speech row
    assert row_cost(0, 100, 10) == 100 + 10 + 16
    arrays = np.array([32000, 0], np.uint32), np.array([9, 9]), np.array([1, 2])
    assert row_cost(*arrays).tolist() == [67.0, 27.0]


# ----- which rows -----


def test_every_row_once_an_epoch(mixed):
    plan = plan_of(mixed)
    assert plan.epoch_rows == 800
    steps = plan.steps_per_epoch
    assert steps == int(steps)  # one block
    for epoch in range(3):
        seen = [row for s in range(int(steps)) for row in plan.rows(int(epoch * steps + s))]
        assert sorted(seen) == [(0, i) for i in range(500)] + [(1, i) for i in range(300)]
    orders = [[plan.rows(s) for s in range(int(e * steps), int((e + 1) * steps))] for e in (0, 1)]
    assert orders[0] != orders[1], "the second epoch repeats the first"


def test_every_row_once_an_epoch_over_blocks(mixed, monkeypatch):
    """More than one block to an epoch, and blocks across the border of two epochs."""
    monkeypatch.setattr("espnet_part.batching.BLOCK_ROWS", 300)
    plan = plan_of(mixed)
    rows = [row for step in range(8 * plan.block_steps) for row in plan.rows(step)]
    assert len(rows) == 8 * 300 == 3 * plan.epoch_rows
    assert set(Counter(rows).values()) == {3}


def test_only_the_tasks_asked_for(mixed):
    plan = plan_of(mixed, ["st"])
    assert plan.epoch_rows == 250
    rows = [row for s in range(round(plan.steps_per_epoch)) for row in plan.rows(s)]
    assert sorted(rows) == [(0, i) for i in range(1, 500, 2)]
    with pytest.raises(ValueError, match="trains on 'instruct', but no row"):
        plan_of(mixed, ["asr", "instruct"])


def test_a_pure_function_of_the_step(mixed):
    plan = plan_of(mixed)
    expected = {step: plan.rows(step) for step in range(60)}
    again = plan_of(mixed)
    for step in np.random.default_rng(0).permutation(60):  # any order, another object
        assert again.rows(int(step)) == expected[step]
    thawed = pickle.loads(pickle.dumps(plan_of(mixed)))
    assert thawed.rows(59) == expected[59]
    assert thawed.micro_batches(59, 0, 2, 500) == plan.micro_batches(59, 0, 2, 500)
    assert plan_of(mixed, seed=1).rows(0) != expected[0]


def test_the_budget_is_kept(mixed):
    plan = plan_of(mixed)
    costs = [sum(plan.cost(row) for row in plan.rows(step)) for step in range(plan.block_steps)]
    dearest = max(plan.cost(row) for step in range(plan.block_steps) for row in plan.rows(step))
    assert np.mean(costs) == pytest.approx(3000, rel=0.05)
    assert max(costs) < 3000 * 1.05 + dearest and min(costs) > 3000 * 0.95 - dearest


def test_no_step_is_empty_where_rows_are_dearer_than_the_budget(made):
    few_dear = [("asr", 16000 * 100, 0, 10)] * 5 + [("asr", 1600, 0, 3)] * 200
    for budget in (1, 30, 100, 1000, 10**9):
        plan = BatchPlan([made(f"b{budget}", few_dear)], ["asr"], budget)
        rows = [plan.rows(step) for step in range(plan.block_steps)]
        assert all(rows) and sorted(i for step in rows for _, i in step) == list(range(205))
    assert len(rows) == 1, "an epoch below the budget is one step"


def test_a_budget_below_a_row_stays_fast(made):
    plan = BatchPlan([made("many", text_rows(20000))], ["mt"], 1.0)
    started = time.perf_counter()
    assert len(plan.rows(0)) == 1
    assert time.perf_counter() - started < 1.0


def test_like_lengths_together(mixed):
    """Rows of a step are near each other in cost, which saves padding; but not in fixed order."""
    plan = plan_of(mixed)
    spread = [np.std([plan.cost(row) for row in plan.rows(s)]) for s in range(plan.block_steps)]
    everything = np.std([plan.cost(row) for s in range(plan.block_steps) for row in plan.rows(s)])
    assert np.median(spread) < 0.3 * everything
    means = [np.mean([plan.cost(row) for row in plan.rows(s)]) for s in range(plan.block_steps)]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.5, "short ones come first"


# ----- shares -----


@pytest.mark.parametrize("shares", [{"asr": 1, "st": 2, "mt": 1}, {"asr": 1, "mt": 0.1}])
def test_shares_of_the_cost(mixed, shares):
    plan = plan_of(mixed, task_shares=shares)
    cost = Counter()
    for step in range(round(4 * plan.steps_per_epoch)):
        for number, i in plan.rows(step):
            task = TASKS[mixed[number].index["task"][i]]
            cost[task] += plan.cost((number, i))
    wanted = {task: shares.get(task, 1.0) for task in ("asr", "st", "mt")}
    for task, weight in wanted.items():
        share = cost[task] / cost.total()
        assert share == pytest.approx(weight / sum(wanted.values()), rel=0.05), task
    table = {line["task"]: line["share"] for line in plan.epoch_table()}
    for task in wanted:
        assert table[task] == pytest.approx(cost[task] / cost.total(), rel=0.05)


def test_shares_use_rows_evenly(mixed):
    """No row a second time before all had their turn: a task of half its share takes two epochs."""
    plan = plan_of(mixed, task_shares={"asr": 1, "st": 5, "mt": 1})
    seen = Counter()
    for step in range(round(6 * plan.steps_per_epoch)):
        seen.update(plan.rows(step))
    for chosen in (range(0, 500, 2), range(1, 500, 2)):
        times = [seen[0, i] for i in chosen]
        assert max(times) - min(times) <= 1
    with pytest.raises(ValueError, match="task_shares names 'instruct'"):
        plan_of(mixed, task_shares={"instruct": 1})


def test_one_task_in_two_manifests(made):
    plan = plan_of(
        [made("a", speech_rows(100)), made("b", speech_rows(50, seed=1))],
        ["asr"],
        task_shares={"asr": 3},
    )
    rows = [row for s in range(round(plan.steps_per_epoch)) for row in plan.rows(s)]
    assert Counter(number for number, _ in rows) == {0: 100, 1: 50}


# ----- dealt out to processes -----


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("micro_cost", [300, 1000, 1e9])
def test_processes_share_a_step(mixed, world_size, micro_cost):
    plan = plan_of(mixed)
    loads = []
    for step in range(12):
        pieces = [plan.micro_batches(step, r, world_size, micro_cost) for r in range(world_size)]
        assert len({len(mine) for mine in pieces}) == 1, "as many micro-batches on every process"
        everything = [row for mine in pieces for piece in mine for row in piece]
        assert sorted(everything) == sorted(plan.rows(step))
        for piece in (piece for mine in pieces for piece in mine):
            assert len(piece) <= 1 or sum(map(plan.cost, piece)) <= micro_cost
        loads.append([sum(plan.cost(row) for piece in mine for row in piece) for mine in pieces])
    dearest = max(plan.cost(row) for step in range(12) for row in plan.rows(step))
    for step in loads:
        assert max(step) - min(step) <= dearest, "a process has much more to do"


def test_more_processes_than_rows(made):
    plan = BatchPlan([made("few", speech_rows(3))], ["asr"], 1e9)
    pieces = [plan.micro_batches(0, rank, 8, 1e9) for rank in range(8)]
    assert sum(len(piece) for mine in pieces for piece in mine) == 3
    assert all(len(mine) == 1 for mine in pieces)


# ----- scale -----


def sparse_manifest(folder, rows, totals):
    """An index of zeros that takes no room on the disk."""
    folder.mkdir()
    np.lib.format.open_memmap(folder / "index.npy", "w+", INDEX_DTYPE, (rows,)).flush()
    (folder / "rows.jsonl").touch()
    write_meta(folder, rows, totals)
    return folder


def total(rows):
    return {"rows": rows, "hours": 0.0, "target_tokens": 0, "source_tokens": 0, "cost": 16.0 * rows}


def test_twenty_million_rows(tmp_path):
    rows = 20_000_000
    folder = sparse_manifest(tmp_path / "big", rows, {"asr en en": total(rows)})
    tracemalloc.start()
    started = time.perf_counter()
    plan = BatchPlan([Manifest.open(folder)], ["asr"], 50000)
    opened = time.perf_counter() - started
    far = int(7.3 * plan.steps_per_epoch)
    batch = plan.rows(far)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert opened < 1.0, "opening a plan reads the rows"
    assert peak < 60 * 2**20, f"{peak / 2**20:.0f} MiB for 20 million rows"
    assert len(batch) > 1000
    assert plan.block_rows == BLOCK_ROWS
    assert max(i for _, i in batch) > rows / 2


def test_mixed_rows_take_four_bytes_each(tmp_path):
    rows = 2_000_000
    totals = {"asr en en": total(rows // 2), "st en de": total(rows // 2)}
    folder = sparse_manifest(tmp_path / "big", rows, totals)
    index = np.lib.format.open_memmap(folder / "index.npy", "r+")
    index["task"][: rows // 2] = 1
    index.flush()
    manifest = Manifest.open(folder)
    tracemalloc.start()
    plan = BatchPlan([manifest], ["asr", "st"], 50000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * rows + 16 * 2**20, f"{peak / rows:.1f} bytes a row"
    (asr, st) = plan.places
    assert int(asr[0]) == rows // 2 and int(st[-1]) == rows // 2 - 1
    assert len(asr) == len(st) == rows // 2


def test_groups_take_no_more_memory_than_tasks(tmp_path):
    rows, groups = 2_000_000, ("de", "es", "fr", "it")
    totals = {f"asr {code} {code}": total(rows // 4) for code in groups}
    folder = sparse_manifest(tmp_path / "big", rows, totals)
    index = np.lib.format.open_memmap(folder / "index.npy", "r+")
    for number, code in enumerate(groups):
        index["src"][number::4] = index["tgt"][number::4] = CODES.index(code)
    index.flush()
    manifest = Manifest.open(folder)
    weights = {code: 1.0 + number for number, code in enumerate(groups)}
    tracemalloc.start()
    plan = BatchPlan([manifest], ["asr"], 50000, language_weights=weights)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * rows + 16 * 2**20, f"{peak / rows:.1f} bytes a row"
    for number, (source, places) in enumerate(zip(plan.sources, plan.places, strict=True)):
        assert np.array_equal(places, np.arange(number, rows, 4))
        assert source.draws == round(rows / 4 * (number + 1) / 2.5)
