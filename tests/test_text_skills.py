"""What an LLM can do with text: numbers of planted answers, and before against after training."""

import json

import pytest
import torch
import yaml

from espnet_part import text_skills, text_tasks
from espnet_part.bin import text_skills as command
from espnet_part.build import build_model
from espnet_part.checkpoint import write_atomically
from espnet_part.config import Config
from espnet_part.datadir import Row, write_datadir
from espnet_part.perplexity import plain_context, summarize, text_losses
from espnet_part.results import System, load_rows
from espnet_part.schema import from_dict
from espnet_part.text_sets import read_text_set
from espnet_part.text_skills import groups, mean_of, measure, value_of
from espnet_part.text_table import text_tables

TARGETS = {
    "de": ["der Hund und die Katze sind hier", "das ist nicht der Zug nach Rom"],
    "sv": ["hunden och katten är inte här nu", "det är inte ett tåg till Rom"],
}
SOURCES = ["the dog and the cat are here", "this is not the train to Rome"]
SYSTEM = System("part", "3", "text_greedy", 0, "latest.pth")


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """A random LLM talks to the limit."""
    monkeypatch.setattr(text_tasks, "text_limit", lambda n_source: 4)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """An st folder into German, whose audio does not exist, mt into Swedish, and instructions."""
    root = tmp_path_factory.mktemp("sets")
    st = [
        Row(f"c{i}-st-de", "st", "en", "de", target, "nowhere.wav", source=SOURCES[i], speaker="s")
        for i, target in enumerate(TARGETS["de"])
    ]
    mt = [
        Row(f"c{i}-mt-sv", "mt", "en", "sv", target, source=SOURCES[i])
        for i, target in enumerate(TARGETS["sv"])
    ]
    asked = [
        Row("a", "instruct", "en", "en", "It is Rome.", source="The capital of Italy?"),
        Row("b", "instruct", "de", "de", "Paris", source="Die Hauptstadt von Frankreich?"),
    ]
    names = ("toy_test_st_en_de", "toy_test_mt_en_sv", "toy_test_instruct")
    for name, rows in zip(names, (st, mt, asked), strict=True):
        write_datadir(root / name, rows)
    return [root / name for name in names]


@pytest.fixture(scope="module")
def test_sets(folders):
    return [read_text_set(folder) for folder in folders]


@pytest.fixture(scope="module")
def model(make_model):
    return make_model().eval()


@pytest.fixture
def planted(monkeypatch):
    """The LLM translates the first sentence right, the second one into the other language."""

    def translate(llm, prompter, rows, sources, batch_size):
        other = {"de": "sv", "sv": "de"}
        return [TARGETS[r.tgt if r.utt_id[1] == "0" else other[r.tgt]][0] for r in rows]

    monkeypatch.setattr(text_skills, "translate", translate)
    monkeypatch.setattr(text_skills, "answer", lambda *more: ["it is rome", "Berlin"])


def numbers(facts):
    return {name: value for name, value in facts.items() if not name.endswith("ci95")}


def test_planted_answers(model, test_sets, planted):
    german, swedish, asked = measure(model.llm, model.prompter, test_sets, SYSTEM, samples=50)
    assert {row["metric"] for row in german.rows} >= {"bleu", "chrf", "wrong_lang_rate"}
    for row in german.rows:
        kind = [row[key] for key in ("curriculum", "phase", "test_set", "task", "src", "tgt")]
        assert kind == ["part", "3", "toy_test_st_en_de", "st", "en", "de"]
    assert 20 < value_of(german, "bleu") < 80
    assert value_of(german, "in_language") == value_of(swedish, "in_language") == 50.0
    assert german.facts["in_language_ci95"] == [0.0, 100.0]
    # Capitals and stops do not count; another answer does.
    assert value_of(asked, "exact_match") == 50.0
    assert asked.rows == [] and value_of(asked, "bleu") is None


def test_perplexities_are_of_the_right_answers(model, test_sets, planted):
    found = measure(model.llm, model.prompter, test_sets, SYSTEM, samples=0)
    prompter = model.prompter
    for skills, task in zip(found, ("mt", "mt", "instruct"), strict=True):
        rows = skills.test_set.rows
        texts = [prompter.encode(row.target) for row in rows]
        prompts = [prompter.prompt(task, r.src, r.tgt, source_text=r.source).before for r in rows]
        for name, contexts in (
            ("given_prompt", prompts),
            ("plain", [plain_context(prompter)] * len(rows)),
        ):
            losses = text_losses(model.llm, prompter.end_token_ids[0], contexts, texts)
            expected = summarize(losses, [row.target for row in rows], 0)
            assert numbers(skills.facts[name]) == pytest.approx(numbers(expected), rel=1e-4)
        assert skills.facts["plain"]["perplexity"] != skills.facts["given_prompt"]["perplexity"]


def test_means_and_tables(model, test_sets, planted):
    found = measure(model.llm, model.prompter, test_sets, SYSTEM, samples=0)
    assert {name: [s.test_set.tgt for s in group] for name, group in groups(found).items()} == {
        "all": ["de", "sv"],
        "into sv id ar": ["sv"],
        "the others": ["de"],
    }
    german, swedish = found[:2]
    bleu = [value_of(one, "bleu") for one in (german, swedish)]
    assert mean_of(found[:2], "bleu") == pytest.approx(sum(bleu) / 2)
    assert mean_of(found, "bleu") is None  # one of them has none
    german.facts["plain"]["perplexity"], swedish.facts["plain"]["perplexity"] = 4.0, 9.0
    assert mean_of(found[:2], "plain.perplexity") == pytest.approx(6.0)
    text = text_tables(found)
    first, second = [part for part in text.split("\n\n") if part.startswith("| ")]
    assert [line.split("|")[1].strip() for line in first.splitlines()[2:]] == [
        "toy_test_st_en_de",
        "toy_test_mt_en_sv",
        "mean of 2",
        "mean of 1, into sv id ar",
        "mean of 1, the others",
    ]
    assert first.splitlines()[4].split("|")[8].strip() == "6.000"
    assert second.splitlines()[2].split("|")[2].strip() == "50.00"
    assert max(map(len, text.splitlines())) <= 100
    assert "Instructions" not in text_tables(found[:2])


@pytest.fixture
def phase(tmp_path, config_values):
    """Config and checkpoint of a phase that has changed the LLM."""
    values = config_values()
    torch.manual_seed(0)
    model = build_model(from_dict(Config, values)).eval()
    model.set_trainable(values["trainable"])
    with torch.no_grad():
        for parameter in model.llm.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    folder = tmp_path / "exp/toy/part/phase3"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({**values, "seed": 7}))
    write_atomically(folder / "latest.pth", model.trimmed_state())
    return folder, model


def run(folder, out, folders, *more):
    command.main(
        ["--part_train_config", str(folder / "config.yaml"), "--json", str(out)]
        + ["--bootstrap", "0", "--data_dir", *map(str, folders), *more]
    )
    return json.loads(out.read_text())


def test_before_and_after_differ_by_the_checkpoint_alone(phase, folders, tmp_path, capsys):
    folder, model = phase
    checkpoint = ("--part_model_file", str(folder / "latest.pth"))
    without = run(folder, tmp_path / "a.json", folders)
    before = run(folder, tmp_path / "b.json", folders, *checkpoint, "--before")
    after = run(folder, tmp_path / "c.json", folders, *checkpoint)
    assert before == without and before["model"]["before"] and not after["model"]["before"]
    for old, new in zip(before["text"], after["text"], strict=True):
        assert abs(old["plain"]["perplexity"] - new["plain"]["perplexity"]) > 1
    # The LLM in memory, which was saved, says the same.
    found = measure(model.llm, model.prompter, list(map(read_text_set, folders)), SYSTEM, 0)
    for one, facts in zip(found, after["text"], strict=True):
        expected = numbers(one.facts["given_prompt"])
        assert numbers(facts["given_prompt"]) == pytest.approx(expected, rel=1e-5)
    assert "LLM as pre-trained: 6 rows" in capsys.readouterr().out
    # Stage 13 reads the rows.
    rows = load_rows(tmp_path / "c.json")
    named = {tuple(r[k] for k in ("curriculum", "phase", "decode", "seed")) for r in rows}
    assert named == {("part", "3", "text_greedy", 7)}
    assert {r["checkpoint"] for r in rows} == {"latest.pth"}
    assert {r["curriculum"] for r in load_rows(tmp_path / "a.json")} == {"llm_text"}


def test_mistakes_end_with_a_message(phase, folders, tmp_path):
    folder, _ = phase
    out = tmp_path / "out.json"
    with pytest.raises(SystemExit, match="found toy_test_st_en_de more than once"):
        run(folder, out, [folders[0]] * 2)
    with pytest.raises(SystemExit, match="none.pth: no such file"):
        run(folder, out, folders, "--part_model_file", "none.pth")
    with pytest.raises(SystemExit, match="--batch_size 0 and --bootstrap 0, expected at least 1"):
        run(folder, out, folders, "--batch_size", "0")
    assert not out.exists()
