"""Layer by layer: the probe, the rows it reads, the command."""

import dataclasses
import json
import shutil

import pytest
import torch
import yaml

from espnet_part.bin import layers
from espnet_part.datadir import iter_rows
from espnet_part.dataset import ExampleLoader
from espnet_part.inner_alignment import InnerAlignment
from espnet_part.layer_choice import LayerChoice
from espnet_part.layer_probe import LayerScore, distinct_rows, probe_layers, transcript_batches
from espnet_part.parallel import Processes
from espnet_part.pictures_layers import draw_layers
from espnet_part.retrieval import both_ways
from espnet_part.row import Row

CPU = torch.device("cpu")


@pytest.fixture
def rows(toy_data):
    return distinct_rows(iter_rows(toy_data / "speech"), 100)


def probe(model, rows, micro_cost=1e9, transport=None):
    loader = ExampleLoader(model.prompter, transcripts=True)
    batches = transcript_batches(rows, loader, micro_cost, CPU)
    scores, sentences = probe_layers(model, batches, transport)
    assert sentences == len(rows)
    return scores


def test_rows_with_different_words(toy_data, rows):
    every = list(iter_rows(toy_data / "speech"))
    said = [row.transcript for row in rows]
    assert len(said) == len(set(said)) and set(said) == {row.transcript for row in every}
    assert distinct_rows(every, 3) == [rows[i * len(rows) // 3] for i in range(3)]
    assert distinct_rows([dataclasses.replace(every[1], source=None)], 3) == []
    mt = Row("a", "mt", "en", "de", "eins", source="one")
    asr = Row("b", "asr", "en", "en", "One.", path="x")
    st = Row("c", "st", "en", "de", "eins", path="x", source="one")
    dots = Row("d", "asr", "en", "en", "...", path="x")
    assert distinct_rows([mt, asr, st, dots], 9) == [asr, dots]


def test_planted_speech_is_found(make_model, rows, monkeypatch):
    """An adapter that gives the transcript's own embeddings, and one that gives one vector."""
    model = make_model().eval()
    embed = model.llm.get_input_embeddings()

    def planted(batch, collapsed=False):
        lengths = torch.zeros_like(batch["token_lengths"])
        lengths[batch["speech_row"]] = batch["transcript_lengths"][batch["speech_row"]]
        ids = batch["transcript_ids"]
        return embed(ids * 0 + 7 if collapsed else ids), lengths, None

    monkeypatch.setattr(model, "speech_embeddings", planted)
    transport = InnerAlignment([0], epsilon=0.01, iterations=200)
    scores = probe(model, rows, transport=transport)
    assert [s.layer for s in scores] == list(range(model.llm.config.num_hidden_layers + 1))
    for score in scores:
        assert score.speech_to_text == score.text_to_speech == score.retrieval == 1.0
        assert score.transport < 0.02 and score.spread > 0.05
    monkeypatch.setattr(model, "speech_embeddings", lambda batch: planted(batch, True))
    collapsed = probe(model, rows, transport=transport)[0]
    # All speech asks for the same text, and finds each at another rank; all text meets a tie.
    chance = sum(1 / (i + 1) for i in range(len(rows))) / len(rows)
    assert collapsed.speech_to_text == pytest.approx(chance)
    assert collapsed.text_to_speech == pytest.approx(1 / len(rows))
    assert collapsed.spread == pytest.approx(0, abs=1e-6)
    assert collapsed.transport > 0.5


def test_batches_change_nothing(make_model, rows):
    model = make_model()
    one, many = probe(model, rows), probe(model, rows, micro_cost=60)
    for a, b in zip(one, many, strict=True):
        assert dataclasses.astuple(a)[:3] == pytest.approx(dataclasses.astuple(b)[:3])
        assert a.spread == pytest.approx(b.spread, abs=1e-5) and a.transport is None


def test_pooled_states_are_the_models(make_model, rows):
    """By hand, at the embeddings: means of the adapter's output and of token embeddings."""
    model = make_model().eval()
    loader = ExampleLoader(model.prompter, transcripts=True)
    batch = next(transcript_batches(rows, loader, 1e9, CPU))
    with torch.no_grad():
        frames, lengths = model.speech_frames(batch["speech"], batch["speech_lengths"])
        heard = torch.stack([f[:n].mean(0) for f, n in zip(frames, lengths, strict=True)])
        ids = batch["transcript_ids"].split(batch["transcript_lengths"].tolist())
        read = torch.stack([model.llm.get_input_embeddings()(i).mean(0) for i in ids])
    score = probe(model, rows)[0]
    assert (score.speech_to_text, score.text_to_speech) == pytest.approx(both_ways(heard, read))


def test_only_what_was_read_counts(make_model, rows):
    model = make_model()
    loader = ExampleLoader(model.prompter, transcripts=True)
    gone = [*rows[:2], dataclasses.replace(rows[2], path="/no/such.wav"), *rows[3:]]
    scores, sentences = probe_layers(model, transcript_batches(gone, loader, 1e9, CPU))
    assert sentences == len(rows) - 1
    assert scores == probe(model, rows[:2] + rows[3:])


def test_too_few_sentences(make_model, rows, opened):
    with pytest.raises(ValueError, match="found 1 sentences with speech and a transcript"):
        probe(make_model(), rows[:1])
    with pytest.raises(ValueError, match="alignment.layers: adaptive needs dev rows.* found 0 in"):
        LayerChoice([opened[1]], None, 1e9, Processes(), 0, 2, 200)


def test_when_a_choice_is_due(opened):
    def due(interval):
        choice = LayerChoice([opened[0]], None, 1e9, Processes(), interval, 2, 5)
        assert len(choice.rows) == 5
        return [step for step in range(7) if choice.due(step)]

    assert due(0) == [0]
    assert due(3) == [0, 3, 6]


@pytest.fixture
def config_file(config_values, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config_values()))
    return path


@pytest.mark.parametrize("picture", ["layers.png", "layers.svg"])
def test_command(config_file, toy_data, tmp_path, capsys, picture):
    out, plot = tmp_path / "out" / "layers.json", tmp_path / picture
    common = ["--part_train_config", str(config_file), "--data_dir", str(toy_data / "speech")]
    layers.main([*common, "--rows", "6", "--json", str(out), "--plot", str(plot)])
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(out.read_text())
    assert found["sentences"] == 6 and lines[0].startswith("6 sentences of ")
    assert [row["layer"] for row in found["layers"]] == list(range(len(found["layers"])))
    for line, row in zip(lines[2:], found["layers"], strict=False):
        assert line.split()[1] == f"{row['speech_to_text']:.3f}"
        assert line.endswith("*") == (row["layer"] in found["proposed"])
    assert lines[-1] == f"proposed: alignment.layers: {found['proposed']}"
    assert plot.stat().st_size > 10_000


def test_command_leaves_out_what_cannot_be_read(
    config_file, toy_data, tmp_path, capsys, caplog, monkeypatch
):
    """Lines, file and picture tell the number of sentences that were read."""
    lines = (toy_data / "speech/wav.scp").read_text().splitlines()
    folder = shutil.copytree(toy_data / "speech", tmp_path / "speech")
    name = distinct_rows(iter_rows(folder), 6)[1].utt_id
    (folder / "wav.scp").write_text(
        "".join(f"{name} /no/such.wav\n" if x.split()[0] == name else f"{x}\n" for x in lines)
    )
    out, drawn = tmp_path / "layers.json", []
    monkeypatch.setattr(
        "espnet_part.pictures_layers.draw_layers", lambda *a: drawn.append(a) or draw_layers(*a)
    )
    files = ["--json", str(out), "--plot", str(tmp_path / "layers.svg")]
    common = ["--part_train_config", str(config_file), "--data_dir", str(folder), *files]
    layers.main([*common, "--rows", "6"])
    assert capsys.readouterr().out.startswith("5 sentences of ")
    assert json.loads(out.read_text())["sentences"] == 5 and drawn[0][2] == 5
    assert f"row left out: {name}" in caplog.text


def test_the_legend_lies_on_no_curve():
    scores = [LayerScore(layer, 0.99, 0.97, 0.3, 0.5) for layer in range(4)]
    figure = draw_layers(scores, [0, 1], 6, "phase3/latest.pth on a folder of a rather long name")
    figure.draw_without_rendering()
    legend = figure.axes[0].get_legend().get_window_extent()
    assert legend.x0 >= 0 and legend.y1 <= figure.bbox.y1
    others = [part.get_window_extent() for part in (*figure.axes, *figure.texts)]
    assert len(others) == 4 and not any(legend.overlaps(other) for other in others)


@pytest.mark.parametrize(("option", "budget"), [((), 4000.0), (("--micro_cost", "1"), 1.0)])
def test_budget(config_file, toy_data, monkeypatch, option, budget):
    values = yaml.safe_load(config_file.read_text())
    config_file.write_text(yaml.safe_dump({**values, "micro_cost": 4000}))
    budgets = []

    def batches(rows, loader, micro_cost, device):
        budgets.append(micro_cost)
        return transcript_batches(rows, loader, micro_cost, device)

    monkeypatch.setattr("espnet_part.layer_probe.transcript_batches", batches)
    common = ["--part_train_config", str(config_file), "--data_dir", str(toy_data / "speech")]
    layers.main([*common, "--rows", "3", *option])
    assert budgets == [budget]


def test_mistakes_are_named(config_file, toy_data, tmp_path):
    speech, text = str(toy_data / "speech"), str(toy_data / "text")
    for arguments, message in (
        ([speech, "--rows", "1"], "--rows 1: expected 2 or more"),
        ([speech, "--plot", "a.pdf"], "--plot a.pdf: expected a name in .png or .svg"),
        ([speech, "--max_layers", "0"], "--max_layers 0: expected 1 or more"),
        ([speech, "--micro_cost", "0"], "--micro_cost 0: expected 1 or more"),
        ([speech, "--micro_cost", "nan"], "--micro_cost nan: expected 1 or more"),
        ([text], "found 0 sentence.* with speech and a transcript"),
        ([str(tmp_path / "no")], "no"),
    ):
        with pytest.raises(SystemExit, match=f"error: .*{message}"):
            layers.main(["--part_train_config", str(config_file), "--data_dir", *arguments])
    with pytest.raises(SystemExit, match="error: no file .*missing.yaml"):
        layers.main(["--part_train_config", str(tmp_path / "missing.yaml"), "--data_dir", speech])
