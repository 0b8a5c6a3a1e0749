"""How often an epoch draws the rows of a task, training set and language pair."""

from collections import Counter

import pytest
from made_manifests import CODES, made_rows, make_manifest, plan_digest

from espnet_part.batching import BatchPlan
from espnet_part.mixing import set_factor, set_names
from espnet_part.prompt import TASKS

SETS = {
    "a_train": {
        ("asr", "en", "en"): 60,
        ("asr", "de", "de"): 25,
        ("st", "en", "de"): 40,
        ("st", "de", "en"): 10,
    },
    "b_train": {("asr", "en", "en"): 200},
    "c_text": {("mt", "en", "de"): 50, ("mt", "en", "ar"): 9},
    "d_train": {("asr", "yue", "yue"): 7, ("asr", "en", "en"): 30},
}
PHASE = ["asr", "st", "mt"]
SHARES = {"asr": 1, "st": 2, "mt": 0.5}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Four training sets of several tasks, languages and sizes."""
    root = tmp_path_factory.mktemp("sets")
    rows = [made_rows(counts, seed) for seed, counts in enumerate(SETS.values())]
    return [make_manifest(root / name, own) for name, own in zip(SETS, rows, strict=True)]


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """The same with eight times the rows, so that a few epochs draw what they should on average."""
    root = tmp_path_factory.mktemp("large")
    many = {name: {key: 8 * n for key, n in counts.items()} for name, counts in SETS.items()}
    rows = [made_rows(counts, seed) for seed, counts in enumerate(many.values())]
    return [make_manifest(root / name, own) for name, own in zip(many, rows, strict=True)]


def plan_of(manifests, cost=1000, seed=3, **more):
    return BatchPlan(manifests, PHASE, cost, seed=seed, **more)


def drawn(plan, epochs=6) -> Counter:
    """Cost by (task, src, tgt, set) of the rows that some epochs draw."""
    times = Counter()
    for step in range(round(epochs * plan.steps_per_epoch)):
        times.update(plan.rows(step))
    cost = Counter()
    for (number, i), count in times.items():
        entry = plan.manifests[number].index[i]
        pair = CODES[entry["src"]], CODES[entry["tgt"]]
        group = (TASKS[entry["task"]], *pair, plan.names[number])
        cost[group] += count * plan.cost((number, i))
    return cost


def in_the_data(manifests) -> dict:
    """Cost by (task, src, tgt, set) of all rows."""
    return {
        (*key.split(), manifest.folder.name): total["cost"]
        for manifest in manifests
        for key, total in manifest.meta["totals"].items()
    }


def expected(manifests, temperature=1.0, shares=None, factor=lambda group: 1.0) -> dict:
    """Share of the whole of each group, from the definition."""
    data = in_the_data(manifests)
    whole = sum(data.values())
    out = {}
    for task in PHASE:
        own = {group: cost for group, cost in data.items() if group[0] == task}
        weights = {g: factor(g) * (c / whole) ** (1 / temperature) for g, c in own.items()}
        share = sum(own.values()) / whole if shares is None else shares[task] / sum(shares.values())
        out |= {g: share * weight / sum(weights.values()) for g, weight in weights.items()}
    return out


# ----- as it was before there were weights -----

# Digests of the rows that the plan drew before mixing.py existed: (shares, rows a block) -> digest.
BEFORE = [
    (None, 1 << 16, "156ef4fbfbf201ec"),
    (None, 100, "19ba8c7094412e2b"),
    (SHARES, 1 << 16, "26fdd85f11817cb3"),
    (SHARES, 100, "936f7db07a30902e"),
    ({"st": 3}, 1 << 16, "90106592720f3aaf"),
    ({"st": 3}, 100, "5c8d52798430e356"),
]


@pytest.mark.parametrize(("shares", "block", "digest"), BEFORE)
def test_without_weights_the_plan_is_what_it_was(sets, monkeypatch, shares, block, digest):
    monkeypatch.setattr("espnet_part.batching.BLOCK_ROWS", block)
    assert plan_digest(plan_of(sets, task_shares=shares), 150) == digest
    # Factors that change nothing make no other sources.
    neutral = {"corpus_weights": {"*": 1.0}, "language_weights": {"yue": 1.0}}
    assert plan_digest(plan_of(sets, task_shares=shares, **neutral), 150) == digest


def test_sources_are_no_more_than_are_needed(sets):
    assert [(s.manifest, s.task, len(s.keys)) for s in plan_of(sets).sources] == [
        (0, "asr", 2), (0, "st", 2), (1, "asr", 1), (2, "mt", 2), (3, "asr", 2)
    ]  # fmt: skip
    weighted = plan_of(sets, corpus_weights={"a_*": 3.0})
    assert len(weighted.sources) == 5, "a set's groups stay together"
    assert [places is None for places in weighted.places] == [False, False, True, True, True]
    split = plan_of(sets, language_weights={"yue": 2.0})
    assert [(s.manifest, s.keys) for s in split.sources if s.manifest == 3] == [
        (3, ("asr en en",)), (3, ("asr yue yue",))
    ]  # fmt: skip
    assert len(split.sources) == 6
    assert len(plan_of(sets, temperature=2.0).sources) == 9


# ----- the shares -----


@pytest.mark.parametrize("shares", [None, SHARES])
@pytest.mark.parametrize("temperature", [0.8, 1.0, 2.0, 1000.0, float("inf")])
def test_temperature(large, temperature, shares):
    plan = plan_of(large, temperature=temperature, task_shares=shares)
    check(plan, expected(large, temperature, shares))


def test_a_high_temperature_evens_groups_out(sets):
    lines = plan_of(sets, temperature=1000.0, task_shares=SHARES).epoch_table()
    for task, groups in (("asr", 5), ("st", 2), ("mt", 2)):
        shares = [line["share"] for line in lines if line["task"] == task]
        assert len(shares) == groups and max(shares) / min(shares) < 1.1
        assert sum(shares) == pytest.approx(SHARES[task] / 3.5, rel=0.02)


def test_weights_of_corpora_and_languages(large):
    def factor(group):
        task, src, tgt, name = group
        corpus = {"a_train": 0.5 * 3, "b_train": 0.5, "d_train": 0.5}.get(name, 1.0)
        return corpus * (2.0 if "yue" in (src, tgt) else 1.0) * (4.0 if tgt == "ar" else 1.0)

    weights = {
        "corpus_weights": {"*_train": 0.5, "a_*": 3.0},
        "language_weights": {"yue": 2.0, "en-ar": 4.0},
    }
    for temperature, shares in ((1.0, None), (1.0, SHARES), (2.0, SHARES)):
        plan = plan_of(large, temperature=temperature, task_shares=shares, **weights)
        check(plan, expected(large, temperature, shares, factor))


def check(plan, wanted):
    """The draws, and the table in the log, have the shares that the definition says."""
    cost = drawn(plan)
    table = {(x["task"], x["src"], x["tgt"], x["set"]): x for x in plan.epoch_table()}
    assert set(table) == set(cost) == set(wanted)
    assert sum(line["share"] for line in table.values()) == pytest.approx(1)
    for group, share in wanted.items():
        # Draws are whole rows.
        slack = 0.5 / plan.epoch_rows
        assert table[group]["share"] == pytest.approx(share, rel=0.02, abs=slack), group
        assert cost[group] / cost.total() == pytest.approx(share, rel=0.05, abs=slack), group
    for manifest in plan.manifests:
        for key, total in manifest.meta["totals"].items():
            line = table[(*key.split(), manifest.folder.name)]
            assert line["rows"] == pytest.approx(line["times"] * total["rows"])
    # About as long an epoch as that of the data.
    whole = sum(in_the_data(plan.manifests).values())
    assert sum(line["cost"] for line in table.values()) == pytest.approx(whole, rel=0.02)


def test_rows_of_a_group_come_equally_often(sets):
    plan = plan_of(sets, temperature=3.0, language_weights={"de-en": 2.0})
    seen = Counter()
    for step in range(round(6 * plan.steps_per_epoch)):
        seen.update(plan.rows(step))
    for source, places in zip(plan.sources, plan.places, strict=True):
        rows = range(source.size) if places is None else places
        times = [seen[source.manifest, int(i)] for i in rows]
        assert len(times) == source.size and max(times) - min(times) <= 1, source


def test_weighted_plans_resume_at_once(sets):
    weights = {"temperature": 2.0, "corpus_weights": {"b_train": 2.0}}
    first, again = plan_of(sets, **weights), plan_of(sets, **weights)
    assert again.rows(777) == first.rows(777) and again.rows(3) == first.rows(3)
    whole = sorted(first.rows(50))
    for world_size in (1, 3):
        parts = [first.micro_batches(50, rank, world_size, 400) for rank in range(world_size)]
        assert sorted(row for mine in parts for piece in mine for row in piece) == whole


# ----- names -----


def test_names_of_sets():
    assert set_names([]) == []
    assert set_names(["exp/stats/a"]) == ["a"]
    assert set_names(["exp/stats/a", "exp/stats/mt/a", "exp/stats/b/"]) == ["a", "mt/a", "b"]
    assert set_names(["x/stats/a", "y/stats/a"]) == ["x/stats/a", "y/stats/a"]


def test_globs_multiply():
    weights = {"cv_*": 0.5, "*_train": 4.0, "mt/*": 3.0}
    names = ("cv_train", "cv_dev", "mt/cv_train", "mt/other", "other")
    assert [set_factor(name, weights) for name in names] == [2.0, 0.5, 6.0, 3.0, 1.0]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            {"corpus_weights": {"a_trian": 2.0}},
            "corpus_weights: no training set matches 'a_trian'; the nearest of 4 .*: a_train",
        ),
        (
            {"language_weights": {"de-ar": 2.0}},
            "language_weights: no training set has rows of 'de-ar'; the nearest of 6 .*: en-ar",
        ),
        ({"language_weights": {"ar": 2.0}}, "no training set has rows of 'ar'"),
    ],
)
def test_a_weight_of_nothing_is_an_error(sets, weights, message):
    with pytest.raises(ValueError, match=message):
        plan_of(sets, **weights)


def test_weights_of_tasks_not_trained_on_wait(sets):
    """Phase 1 trains on asr alone; the same weights serve all phases."""
    plan = BatchPlan(sets, ["asr"], 1000, language_weights={"en-ar": 2.0, "yue": 3.0})
    assert {line["task"] for line in plan.epoch_table()} == {"asr"}
