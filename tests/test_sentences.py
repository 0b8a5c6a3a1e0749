"""Which rows are parallel: ids of the corpora, files of pairs, and corpora that cannot tell."""

import pytest
from miniature_speech import plan
from prepare_miniature import asr_row

from espnet_part.datadir import Row
from espnet_part.sentences import choose, read_pairs, sentence_of


def row(utt_id, lang, speaker=None):
    return Row(utt_id, "asr", lang, lang, "x", path=f"{utt_id}.wav", speaker=speaker)


def miniature(tmp_path, count=6):
    """Rows of the miniature's test sets, as stage 1 names them."""
    codes = ("de", "en", "yue")
    return {c: [asr_row(clip) for clip in plan("test", c, count, tmp_path, 0)] for c in codes}


def test_ids_of_the_miniature_and_of_toy_tell_the_sentence(tmp_path):
    rows = miniature(tmp_path)
    names = {c: [sentence_of(r) for r in own] for c, own in rows.items()}
    assert names["de"] == names["en"] == names["yue"]
    assert names["de"][3] == "test-00003-asr"
    assert sentence_of(row("toyen-test-01-asr", "en", "toyen")) == "test-01-asr"
    assert sentence_of(row("common_voice_de_17-asr", "de")) == "common-voice-17-asr"


def test_most_shared_sentences_come_first(tmp_path):
    rows = miniature(tmp_path)
    rows["en"] = rows["en"][2:]  # has 2, 3, 4, 5
    rows["yue"] = rows["yue"][:4]  # has 0, 1, 2, 3
    chosen = choose(rows, 3)
    assert chosen.pairing == "ids"
    by_language = {}
    for code, name in zip(chosen.languages, chosen.sentences, strict=True):
        by_language.setdefault(code, []).append(int(name.split("-")[1]))
    assert by_language == {"de": [0, 2, 3], "en": [2, 3, 4], "yue": [0, 2, 3]}
    assert [sentence_of(r) for r in chosen.rows] == chosen.sentences
    assert chosen.shared == ["test-00000-asr", "test-00002-asr", "test-00003-asr"]


def test_ids_that_name_a_sentence_twice_name_none():
    """FLEURS: each clip is a speaker of its own, and nothing of its id is left."""
    rows = {c: [row(f"{c}-{n}-asr", c, f"{c}-{n}") for n in range(8)] for c in ("de", "fr")}
    chosen = choose(rows, 4)
    assert chosen.pairing is None and chosen.shared == []
    assert [r.utt_id for r in chosen.rows[:4]] == ["de-0-asr", "de-2-asr", "de-4-asr", "de-6-asr"]
    assert len(set(chosen.sentences)) == 8


def test_a_file_tells_and_the_first_reading_is_taken(tmp_path):
    rows = {c: [row(f"{c}-{n}-asr", c, f"{c}-{n}") for n in range(4)] for c in ("de", "fr")}
    path = tmp_path / "pairs"
    path.write_text("de-0-asr\t7\nde-1-asr\t7\nde-2-asr\t8\nfr-3-asr\t7\nfr-1-asr\t8\n\n")
    chosen = choose(rows, 2, read_pairs(path))
    assert chosen.pairing == "file"
    found = [(r.utt_id, s) for r, s in zip(chosen.rows, chosen.sentences, strict=True)]
    assert found == [("de-0-asr", "7"), ("de-2-asr", "8"), ("fr-1-asr", "8"), ("fr-3-asr", "7")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b\n", "pairs:1: found 'a b'"),
        ("a\tb\tc\n", "expected <utt id> TAB <sentence id>"),
        ("a\t1\n\na\t2\n", "pairs:3: id a comes a second time"),
    ],
)
def test_bad_files_are_refused(tmp_path, text, message):
    path = tmp_path / "pairs"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_pairs(path)


def test_a_file_of_other_ids_is_refused(tmp_path):
    with pytest.raises(ValueError, match="names none of the 1 rows"):
        choose({"de": [row("de-1", "de")]}, 5, {"x": "1"})
    with pytest.raises(ValueError, match="no such file"):
        read_pairs(tmp_path / "none")
