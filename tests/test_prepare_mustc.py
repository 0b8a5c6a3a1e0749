"""MuST-C's layout, as lhotse-speech/lhotse reads it: lhotse/recipes/must_c.py.

The form of the lists, v2's there and v1's without rW and uW, and that several lines may have one
segment, or one under 0.2 s, from espnet/espnet: egs/must_c/st1/local/data_prep.sh.
"""

import pytest
import yaml
from corpus_layouts import make_audio, rows_of, skipped, state

import prepare_mustc as script  # isort: skip
from mustc_segments import read_entries  # isort: skip

# offset, duration, talk, English, German
TRAIN = [
    (0.0, 0.5, 1, "Thank you so much.", "Vielen Dank."),
    (0.5, 0.5, 1, "(Laughter)", "(Lachen)"),
    (1.0, 0.5, 1, "And now (Applause) what\u2028is it?", "Und jetzt (Applaus) was?"),
    (1.5, 0.4, 1, "One of two.", "Eins von zwei."),
    (1.5, 0.4, 1, "Two of two.", "Zwei von zwei."),
    (0.0, 0.05, 2, "Hm.", "Hm."),
    (0.0, 0.5, 2, "Nothing said.", ""),
    (1.8, 0.5, 2, "Too late.", "Zu spät."),
    (0.0, 0.5, 3, "Gone.", "Weg."),
    (1.0, 0.5, 2, "", "Ohne Englisch."),
]
TEST = [
    (0.0, 0.5, 7, "Audience: Yes.", "Publikum: Ja."),
    (0.0, 0.5, 7, "Two texts.", "Zwei Texte."),
    (0.6, 0.1, 7, "(Laughter)", "(Lachen)"),
    (0.02, 0.05, 7, "So.", "So."),
]


def entry(offset, duration, talk, version=2):
    counts = "rW: 9, uW: 0, " if version == 2 else ""
    return (
        f"- {{duration: {duration:.6f}, offset: {offset:.6f}, {counts}"
        f"speaker_id: spk.{talk}, wav: ted_{talk}.wav}}\n"
    )


def make_split(root, tgt, split, lines, version=2):
    folder = root / f"en-{tgt}" / "data" / split
    (folder / "txt").mkdir(parents=True)
    table = folder / "txt" / f"{split}.yaml"
    table.write_text("".join(entry(*line[:3], version) for line in lines))
    for lang, column in (("en", 3), (tgt, 4)):
        text = "".join(f"{line[column]}\n" for line in lines)
        (folder / "txt" / f"{split}.{lang}").write_text(text, encoding="utf-8")
    for talk in {line[2] for line in lines} - {3}:
        make_audio(folder / "wav" / f"ted_{talk}.wav", 2.0)
    return folder


def make_corpus(root):
    make_split(root, "de", "train", TRAIN)
    make_split(root, "de", "tst-COMMON", TEST)
    make_split(root, "zh", "train", [(0.0, 1.5, 1, "Thank you.", "谢谢。（掌声）")], version=1)
    make_split(root, "es", "dev", [(0.0, 1.0, 5, "Yes.", "Sí.")])
    return root


def test_train_rows_and_faults(tmp_path, capsys):
    corpus, out = make_corpus(tmp_path / "c"), tmp_path / "out"
    assert script.main([str(corpus), str(out)]) == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "mustc_test_common_asr_en",
        "mustc_test_common_st_en_de",
        "train_en",
        "train_en_de",
        "train_en_zh",
    ]
    rows = rows_of(out / "train_en_de")
    assert {utt_id: (row.source, row.target) for utt_id, row in rows.items()} == {
        "ted_1-0000000-0000500-st-de": ("Thank you so much.", "Vielen Dank."),
        "ted_1-0001000-0001500-st-de": (
            "And now (Applause) what is it?",
            "Und jetzt (Applaus) was?",
        ),
        "ted_2-0001000-0001500-st-de": (None, "Ohne Englisch."),
    }
    row = rows["ted_1-0001000-0001500-st-de"]
    assert (row.task, row.src, row.tgt, row.speaker) == ("st", "en", "de", "spk.1")
    assert (row.start_sec, row.end_sec) == (1.0, 1.5)
    assert row.path == f"{corpus}/en-de/data/train/wav/ted_1.wav"
    assert skipped(out / "train_en_de") == {
        "no words": 1,
        "segment of several lines": 2,
        "shorter than 0.1 s": 1,
        "empty text": 1,
        "segment ends after the file": 1,
        "missing file": 1,
    }
    asr = rows_of(out / "train_en")  # of en-de alone
    assert set(asr) == {
        "ted_1-0000000-0000500-asr",
        "ted_1-0001000-0001500-asr",
        "ted_2-0000000-0000500-asr",
    }
    row = asr["ted_1-0000000-0000500-asr"]
    assert (row.task, row.src, row.tgt, row.target) == ("asr", "en", "en", "Thank you so much.")
    assert row.source is None and not (out / "train_en/transcript").exists()
    (row,) = rows_of(out / "train_en_zh").values()
    assert (row.utt_id, row.target) == ("ted_1-0000000-0001500-st-zh", "谢谢。（掌声）")
    said = capsys.readouterr().out
    assert "en-ar: not there, it is left out" in said and "tst-HE: not there" in said


def test_tests_stay_whole(tmp_path):
    corpus, out = make_corpus(tmp_path / "c"), tmp_path / "out"
    assert script.main([str(corpus), str(out), "--splits", "tst-COMMON"]) == 0
    rows = rows_of(out / "mustc_test_common_st_en_de")
    assert {utt_id.removeprefix("ted_7-"): row.target for utt_id, row in rows.items()} == {
        "0000000-0000500-st-de": "Publikum: Ja.",
        "0000000-0000500-2-st-de": "Zwei Texte.",
        "0000600-0000700-st-de": "(Lachen)",
        "0000020-0000070-st-de": "So.",
    }
    times = {utt_id[6:13]: (row.start_sec, row.end_sec) for utt_id, row in rows.items()}
    assert times["0000600"] == pytest.approx((0.55, 0.75))
    assert times["0000020"] == pytest.approx((0.0, 0.2))
    assert len(rows_of(out / "mustc_test_common_asr_en")) == 4


def test_langs_and_again(tmp_path):
    corpus, out = make_corpus(tmp_path / "c"), tmp_path / "out"
    args = [str(corpus), str(out), "--langs", "en-zh", "es", "en"]
    assert script.main(args) == 0
    assert sorted(p.name for p in out.iterdir()) == ["dev_en_es", "train_en", "train_en_zh"]
    assert list(rows_of(out / "train_en")) == ["ted_1-0000000-0001500-asr"]
    before = state(out)
    assert script.main(args) == 0
    assert state(out) == before
    alone = tmp_path / "alone"
    assert script.main([str(corpus), str(alone), "--langs", "en", "--splits", "train"]) == 0
    assert [p.name for p in alone.iterdir()] == ["train_en"]


def test_lists_of_any_form_give_the_same(tmp_path):
    plain = tmp_path / "plain.yaml"
    plain.write_text("".join(entry(*line[:3]) for line in TRAIN))
    expected = list(read_entries(plain))
    assert expected == yaml.load(plain.read_text(), Loader=yaml.BaseLoader)
    assert expected[2]["wav"] == "ted_1.wav" and expected[2]["offset"] == "1.000000"
    other = tmp_path / "other.yaml"
    other.write_text(yaml.dump(expected))  # quoted numbers, a line per value
    assert list(read_entries(other)) == expected
    for bad in ("- {a: 1, b: [2]}\n", "a: 1\n", "- 1\n"):
        other.write_text(plain.read_text() + bad if bad.startswith("-") else bad)
        with pytest.raises(ValueError, match="another form than a list of segments"):
            list(read_entries(other))
    other.write_text("- {a: ]\n")
    with pytest.raises(ValueError, match="other.yaml: found no YAML"):
        list(read_entries(other))


def test_files_that_do_not_belong_together(tmp_path, capsys):
    corpus, out = make_corpus(tmp_path / "c"), tmp_path / "out"
    folder = corpus / "en-de/data/tst-COMMON"
    text = folder / "txt/tst-COMMON.de"
    whole = text.read_text(encoding="utf-8")
    text.write_text(whole[: whole.rindex("So.")], encoding="utf-8")
    assert script.main([str(corpus), str(out), "--langs", "de"]) == 1
    said = capsys.readouterr().err
    assert "found 4 in tst-COMMON.yaml, 4 in tst-COMMON.en, 3 in tst-COMMON.de" in said
    assert (out / "train_en_de").is_dir()  # the other sets are made
    text.write_text(whole, encoding="utf-8")
    table = folder / "txt/tst-COMMON.yaml"
    table.write_text(table.read_text().replace("offset: 0.600000, ", ""))
    assert script.main([str(corpus), str(out), "--langs", "de"]) == 0
    assert skipped(out / "mustc_test_common_st_en_de") == {"segment lacks a value": 1}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--langs", "nl"],
            "--langs: found 'nl', expected some of en de zh ja ar es fr it ru en-de",
        ),
        (["--splits", "test"], "--splits: found 'test', expected some of train dev tst-COMMON"),
        (["--langs", "en-ja"], "holds no en-ja. MuST-C is no longer offered"),
        (["--langs", "zh", "--splits", "tst-HE"], "tst-HE: no such folder. MuST-C is no longer"),
        (["--splits", "tst-HE"], "holds none of the sets. MuST-C is no longer"),
    ],
)
def test_errors(tmp_path, capsys, more, message):
    corpus = make_corpus(tmp_path / "c")
    assert script.main([str(corpus), str(tmp_path / "out"), *more]) == 1
    assert message in capsys.readouterr().err


def test_missing_folders(tmp_path, capsys):
    corpus = make_corpus(tmp_path / "c")
    assert script.main([str(tmp_path / "no"), str(tmp_path / "out")]) == 1
    assert "no: no such folder. MuST-C is no longer offered" in capsys.readouterr().err
    (corpus / "en-zh/data/train/wav/ted_1.wav").unlink()
    (corpus / "en-zh/data/train/wav").rmdir()
    assert script.main([str(corpus), str(tmp_path / "out"), "--langs", "zh"]) == 1
    assert "train: holds no wav/, expected the audio there" in capsys.readouterr().err
