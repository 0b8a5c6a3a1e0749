"""Dev losses, and the probe that tells how much a model listens."""

import pytest
import torch

from espnet_part.datadir import Row
from espnet_part.dataset import Example, ExampleLoader
from espnet_part.parallel import Processes
from espnet_part.prompt import LANGUAGES, TASKS
from espnet_part.validation import Validation, _wrong_clips


def validate(model, manifests, prompter, tasks=("asr", "st", "mt"), micro=1e9, listen_rows=64):
    loader = ExampleLoader(prompter)
    return Validation(manifests, list(tasks), loader, micro, listen_rows, Processes()).run(model)


class Listener(torch.nn.Module):
    """Loses nothing where the clip is the row's own, `penalty` per token where it is another."""

    def __init__(self, manifest, penalty):
        super().__init__()
        self.penalty = penalty
        self.own = {}
        loader = ExampleLoader(None)
        loader.prompter = _NoPrompts()
        for i in range(len(manifest)):
            row = manifest.row(i)
            wave = loader.load(row, 0).wave
            self.own.setdefault(float(abs(wave).sum()), set()).add(row.target)
        self.tokenizer = None

    def forward(self, **batch):
        table = torch.zeros(len(TASKS), len(LANGUAGES), 3, dtype=torch.float64)
        targets = batch["is_target"].split(batch["token_lengths"].tolist())
        ids = batch["token_ids"].split(batch["token_lengths"].tolist())
        for clip, row in enumerate(batch["speech_row"].tolist()):
            wave = batch["speech"][clip, : batch["speech_lengths"][clip]]
            said = self.tokenizer.decode(ids[row][targets[row]][:-1])
            heard = self.own[min(self.own, key=lambda s: abs(s - float(wave.abs().sum())))]
            count = int(targets[row].sum())
            loss = 0.0 if said in heard else self.penalty * count
            table[batch["task"][row], batch["tgt"][row]] += torch.tensor([loss, 0, count])
        return table[..., 0].sum(), {"table": table}, None


class _NoPrompts:
    def prompt(self, *args):
        return type("Prompt", (), {"before": (), "after": (), "has_speech": True})

    def target(self, text):
        return [0]


def test_a_model_that_listens_loses_by_the_wrong_audio(opened, prompter):
    model = Listener(opened[0], 2.5)
    model.tokenizer = prompter.tokenizer
    values = validate(model, opened[:1], prompter, ["asr"])
    assert values["loss"] == 0
    assert values["listen"] == pytest.approx(2.5), "every wrong clip says something else"


def test_a_model_that_ignores_its_ears_loses_nothing(make_model, opened, prompter):
    """A real model whose adapter gives the same whatever the audio is."""
    model = make_model()
    with torch.no_grad():
        for parameter in model.adapter.norm.parameters():
            parameter.zero_()
    lengths = {int(opened[0].index["samples"][i]) for i in range(len(opened[0]))}
    assert len(lengths) > 1
    # Clips of another length still move the text: only equal lengths leave a deaf model alone.
    plain = model.speech_frames
    model.speech_frames = lambda *args: (lambda f, n: (f[:, :4], n.clamp(max=4)))(*plain(*args))
    values = validate(model, opened, prompter)
    assert values["listen"] == pytest.approx(0.0, abs=1e-6)
    del model.speech_frames
    torch.manual_seed(1)
    torch.nn.init.normal_(model.adapter.norm.weight)
    assert abs(validate(model, opened, prompter)["listen"]) > 1e-3


def test_the_probe_counts_speech_only_and_can_be_switched_off(make_model, opened, prompter):
    model = make_model()
    assert "listen" in validate(model, opened, prompter)
    assert "listen" not in validate(model, opened, prompter, listen_rows=0)
    assert "listen" not in validate(model, opened[1:], prompter, ["mt"])
    assert "listen" not in validate(model, opened, prompter, micro=1)  # one clip has no other


def test_means_do_not_depend_on_the_batches(make_model, opened, prompter):
    model = make_model()
    whole = validate(model, opened, prompter)
    small = validate(model, opened, prompter, micro=120)
    assert whole.keys() - {"listen"} == small.keys() - {"listen"}
    for key in whole.keys() - {"listen"}:
        assert small[key] == pytest.approx(whole[key], rel=1e-5), key
    assert {"loss", "acc", "loss/asr", "loss/asr.en", "acc/st.de", "loss/mt.de"} <= whole.keys()


def test_only_the_tasks_of_the_phase(make_model, opened, prompter):
    model = make_model()
    values = validate(model, opened, prompter, ["asr"])
    assert not [key for key in values if "/st" in key or "/mt" in key]
    assert values["loss"] == pytest.approx(validate(model, opened, prompter)["loss/asr"], rel=1e-5)


def test_nothing_to_validate_on(make_model, opened, prompter):
    model = make_model()
    assert validate(model, [], prompter) == {}
    assert validate(model, opened[1:], prompter, ["asr"]) == {}


def test_it_changes_nothing_of_the_model(make_model, opened, prompter):
    model = make_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    validate(model, opened, prompter)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


# ----- which clips are wrong -----


def examples(words, source=None):
    return [
        Example(Row(f"u{i}", "asr", "en", "en", word, source=source), torch.zeros(1), [], 0, 0, 0)
        for i, word in enumerate(words)
    ]


def test_wrong_clips_say_something_else():
    for words in (["a", "b"], list("abcdefg"), list("aabbccdd"), list("aaabbb"), list("abab")):
        wrong = _wrong_clips(examples(words))
        assert sorted(wrong) == list(range(len(words))), "every clip is used once"
        assert all(words[i] != words[j] for i, j in enumerate(wrong)), words


def test_seven_rows_of_every_clip():
    """asr and st into six languages: what is said counts, not what is written."""
    rows = [
        Example(
            Row(f"c{i}-{k}", "st", "en", "de", f"t{i}{k}", source=f"said{i}"),
            torch.zeros(1),
            [],
            0,
            0,
            0,
        )
        for i in range(20)
        for k in range(7)
    ]
    wrong = _wrong_clips(rows)
    assert all(rows[i].row.source != rows[j].row.source for i, j in enumerate(wrong))


def test_no_wrong_clip_to_be_had():
    for words in ([], ["a"], ["a", "a"], list("aaab")):
        assert _wrong_clips(examples(words)) is None
    text = Row("t", "mt", "en", "de", "x", source="y")
    assert _wrong_clips([Example(text, None, [], 0, 0, 0)]) is None
