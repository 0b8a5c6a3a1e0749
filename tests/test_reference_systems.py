"""The cascade: each clip heard once, its transcript in capitals, translated by the base LLM."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "local"))

import reference_systems  # noqa: E402
from truecase import Truecaser  # noqa: E402

from espnet_part.pairs import Pair  # noqa: E402
from espnet_part.row import Row  # noqa: E402
from espnet_part.scoring import score  # noqa: E402
from espnet_part.text_tasks import translate  # noqa: E402

BASE = ROOT / "local" / "miniature_base"
RIGHT = {"c0": "das Buch im Hotel ist groß", "c1": "neun grüne Affen schlafen auf der Straße"}
HEARD = {"c0": "das buch im hotel ist groß", "c1": ""}  # in small letters, and nothing
ENGLISH = {"c0": "the book in the hotel is big", "c1": "nine green monkeys sleep in the street"}


def row(clip, task, tgt, target, source=None):
    utt_id = f"{clip}-asr" if task == "asr" else f"{clip}-st-{tgt}"
    return Row(utt_id, task, "de", tgt, target, f"{clip}.wav", source=source, speaker="s")


TRAIN = [row(f"t{i}", "asr", "de", text) for i, text in enumerate(RIGHT.values())]
TEST_SETS = {
    "toy_asr_de": [row(clip, "asr", "de", text) for clip, text in RIGHT.items()],
    "toy_st_de_en": [row(clip, "st", "en", ENGLISH[clip], RIGHT[clip]) for clip in RIGHT],
}


@pytest.fixture
def heard(monkeypatch):
    """The clips that the encoder is asked to transcribe."""
    asked = []

    def greedy(encoder, head, units, rows):
        asked.extend(row.path for row in rows)
        return [HEARD[reference_systems.clip_of(row)] for row in rows]

    monkeypatch.setattr(reference_systems, "ctc_greedy", greedy)
    return asked


def values(rows, metric):
    return {r["curriculum"]: r["value"] for r in rows if r["metric"] == metric}


def test_the_cascade_is_the_translation_of_what_was_heard(heard):
    rows = reference_systems.references(BASE, TEST_SETS, TRAIN)
    assert heard == ["c0.wav", "c1.wav"]  # asr and st rows share their clip
    llm, prompter = reference_systems.load_llm(BASE)
    st = TEST_SETS["toy_st_de_en"]
    written = "das Buch im Hotel ist groß"  # "" stays "": nothing is asked
    by_hand = [*translate(llm, prompter, st[:1], [written]), ""]
    pairs = [Pair(r.utt_id, r.target, h) for r, h in zip(st, by_hand, strict=True)]
    expected = {m.metric: m.value for m in score(pairs, "st", "de", "en").measures}
    cascade = {r["metric"]: r["value"] for r in rows if r["curriculum"] == "cascade"}
    assert cascade == pytest.approx(expected) and cascade["empty_rate"] == 50.0
    assert by_hand[0] == ENGLISH["c0"]
    # The right transcripts are translated as they stand.
    assert values(rows, "bleu")["llm_text"] == pytest.approx(100.0)
    assert values(rows, "bleu")["cascade"] < 70
    assert values(rows, "wer") == {"encoder_ctc": pytest.approx(700 / 13)}
    kinds = {(r["curriculum"], r["phase"], r["test_set"], r["task"]) for r in rows}
    assert kinds == {
        ("encoder_ctc", None, "toy_asr_de", "asr"),
        ("llm_text", None, "toy_st_de_en", "st"),
        ("cascade", None, "toy_st_de_en", "st"),
    }


def test_without_translation_there_is_no_cascade(heard):
    asr = {"toy_asr_de": TEST_SETS["toy_asr_de"]}
    rows = reference_systems.references(BASE, asr, [])
    assert {r["curriculum"] for r in rows} == {"encoder_ctc"}


def test_capitals_are_those_of_training():
    rows = [
        row("a", "asr", "de", "Die Sie die"),
        row("b", "asr", "de", "Straße"),
        row("c", "st", "en", "STREET"),
        Row("d-asr", "asr", "en", "en", "I go", "d.wav", speaker="s"),
    ]
    case = Truecaser([*rows, row("e", "asr", "de", "die")])
    assert case.restore("die straße sie hund", "de") == "die Straße Sie hund"
    assert case.restore("i die street", "en") == "I die street"
