"""Rows of test sets are found among those to train on, by the clip or by the pair of texts."""

from espnet_part.datadir import Row, write_datadir
from espnet_part.filtering import Limits, filter_datadir
from espnet_part.leakage import HeldOut

CLIP = "cv-4/de/clips/common_voice_de_17.mp3"


def make_test_set(tmp_path):
    rows = [
        Row(
            "17-st-en",
            "st",
            "de",
            "en",
            "Good morning, ladies and gentlemen.",
            CLIP,
            source="Guten Morgen, meine Herrschaften!",
        )
    ]
    write_datadir(tmp_path / "test_st", rows)
    segment = Row("t-asr", "asr", "en", "en", "Thank you.", "ted.sph", 10.0, 11.5)
    write_datadir(tmp_path / "test_asr", [segment])
    return HeldOut([tmp_path / "test_st", tmp_path / "test_asr"])


def asr(text, path, start=None, end=None, lang=None, utt_id="x"):
    lang = lang or ("en" if path == "ted.sph" else "de")
    return Row(utt_id, "asr", lang, lang, text, path, start, end)


def test_clips(tmp_path):
    held_out = make_test_set(tmp_path)
    other_release = "/data/cv-15/de/clips/common_voice_de_17.flac"
    assert held_out.problem(asr("guten morgen meine herrschaften", other_release)) == (
        "clip of a test set",
        "common_voice_de_17.flac: a test set holds it as well",
    )
    st = Row(
        "y", "st", "de", "en", "Morning!", other_release, source="Guten Morgen meine Herrschaften"
    )
    assert held_out.problem(st)[0] == "clip of a test set"
    # The same words in another clip, other words under the same name: both are something else.
    assert (
        held_out.problem(asr("Guten Morgen, meine Herrschaften!", "common_voice_de_18.mp3")) is None
    )
    assert held_out.problem(asr("Gute Nacht!", other_release)) is None
    assert held_out.problem(asr("thank you", "ted.sph", 10.0, 11.5))[0] == "clip of a test set"
    assert held_out.problem(asr("thank you", "ted.sph", 70.0, 71.5)) is None
    assert held_out.problem(asr("thank you", "ted.sph", 10.04, 11.5))[0] == "clip of a test set"
    # Another language's clip of the same name.
    assert (
        held_out.problem(asr("guten morgen meine herrschaften", other_release, lang="fr")) is None
    )
    # Stages 2 and 3 may have written the audio anew: the id tells.
    for utt_id in ("17-asr", "sp0.9-17-asr"):
        row = asr("guten morgen meine herrschaften", "dump/0af3.flac", utt_id=utt_id)
        assert held_out.problem(row)[0] == "clip of a test set"
    no_transcript = Row("y", "st", "de", "en", "Good morning, ladies and gentlemen.", "x.wav")
    assert held_out.problem(no_transcript) is None


def test_pairs_of_texts(tmp_path):
    held_out = make_test_set(tmp_path)

    def mt(src, tgt, source, target):
        return held_out.problem(Row("z", "mt", src, tgt, target, source=source))

    found = "pair of texts of a test set"
    assert (
        mt("de", "en", "guten morgen meine herrschaften", "GOOD MORNING LADIES AND GENTLEMEN")[0]
        == found
    )
    assert (
        mt("en", "de", "Good morning ladies and gentlemen", "Guten Morgen meine Herrschaften")[0]
        == found
    )
    assert mt("de", "en", "Guten Morgen meine Herrschaften", "Morning") is None
    write_datadir(tmp_path / "short", [Row("s", "mt", "en", "de", "Danke.", source="Thank you.")])
    thanks = Row("t", "mt", "en", "de", "Danke.", source="Thank you.")
    assert HeldOut([tmp_path / "short"]).problem(thanks) is None
    assert (
        held_out.problem(
            Row("z", "instruct", "en", "en", "Hi", source="Good morning, ladies and gentlemen.")
        )
        is None
    )


def test_stage_4_drops_and_counts(tmp_path):
    make_test_set(tmp_path)
    rows = [
        Row(
            "a",
            "mt",
            "de",
            "en",
            "Good morning, ladies and gentlemen.",
            source="Guten Morgen, meine Herrschaften.",
        ),
        Row("b", "mt", "de", "en", "Good night.", source="Gute Nacht."),
    ]
    write_datadir(tmp_path / "in", rows)
    args = (tmp_path / "in", tmp_path / "out", Limits(0.1, 30))
    assert filter_datadir(*args)["kept"] == 2
    result = filter_datadir(*args, held_out=HeldOut([tmp_path / "test_st"]))
    assert result == {"rows": 2, "kept": 1, "skipped": {"pair of texts of a test set": 1}}
    assert "Guten Morgen, meine Herrschaften." in (tmp_path / "out/skipped.tsv").read_text()
    # A test set that changes is seen.
    write_datadir(tmp_path / "test_st", [Row("c", "mt", "de", "en", "Yes.", source="Ja.")])
    assert filter_datadir(*args, held_out=HeldOut([tmp_path / "test_st"]))["kept"] == 2
