"""Test sets for an LLM alone: read from folders of speech and text, and refused in plain words."""

import pytest

from espnet_part.datadir import Row, write_datadir
from espnet_part.text_sets import read_text_set


def speech(utt_id, task="st", tgt="de", source="one", target="eins"):
    """A row whose audio does not exist: it must not be read."""
    return Row(utt_id, task, "en", tgt, target, "nowhere.wav", source=source, speaker="s")


def text(utt_id, task="mt", src="en", tgt="de", source="one", target="eins"):
    return Row(utt_id, task, src, tgt, target, source=source)


def test_an_st_folder_is_text_by_its_transcripts(tmp_path):
    write_datadir(tmp_path / "toy_test", [speech("a"), speech("b", target=""), speech("c")])
    found = read_text_set(tmp_path / "toy_test")
    assert (found.name, found.task, found.src, found.tgt) == ("toy_test", "st", "en", "de")
    assert [(row.utt_id, row.source) for row in found.rows] == [("a", "one"), ("c", "one")]
    assert found.is_translation


def test_instructions_may_be_in_several_languages(tmp_path):
    rows = [text("a", "instruct", "de", "de"), text("b", "instruct", "ar", "ar")]
    write_datadir(tmp_path / "set", rows)
    found = read_text_set(tmp_path / "set")
    assert (found.src, found.tgt, len(found.rows)) == ("ar de", "ar de", 2)
    assert not found.is_translation


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [speech("a", "asr", "en", None, "one")],
            "found asr rows, which hold nothing",
        ),
        (
            [speech("a"), speech("b", tgt="sv")],
            "language pair, found en to de, en to sv;",
        ),
        ([text("a"), text("b", "instruct")], "has one task, found instruct mt"),
        ([speech("a"), speech("b", source=None)], "1 of 2 rows have no line in `transcript`.* b;"),
        ([text("a", source="")], "1 of 1 rows have no line in `source`"),
        ([text("a", target="")], "found 1 rows, none with a target"),
    ],
)
def test_what_is_no_test_set(tmp_path, rows, message):
    write_datadir(tmp_path / "set", rows)
    with pytest.raises(ValueError, match=message):
        read_text_set(tmp_path / "set")
    with pytest.raises(ValueError, match="none: no such data folder"):
        read_text_set(tmp_path / "none")
