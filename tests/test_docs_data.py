"""docs/data.md: its example lines are a data folder, its script runs, its table is complete."""

import re
import runpy
import sys

import pytest
from corpus_layouts import ROOT, make_audio, rows_of, skipped, state

DOC = (ROOT / "docs/data.md").read_text(encoding="utf-8")
MADE = {"toy", "miniature", "digits"}  # by the recipe; not corpora that one gets somewhere


def section(title):
    return DOC.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_example_lines_are_data_folders(tmp_path):
    tables = re.split(r"\n\| file \| lines \| what \|\n", section("Data folders"))[1:]
    for name, table in zip(("speech", "text"), tables, strict=True):
        (tmp_path / name).mkdir()
        for file, lines in re.findall(r"^\| `(\w[\w.]*)` \| (.*?) \|", table, re.MULTILINE):
            if file != "segments":
                content = "".join(f"{line}\n" for line in re.findall(r"`([^`]+)`", lines))
                (tmp_path / name / file).write_text(content, encoding="utf-8")
    speech, text = rows_of(tmp_path / "speech"), rows_of(tmp_path / "text")
    assert list(speech) == ["clip7-asr", "clip7-st-en", "clip8-asr"]
    st = speech["clip7-st-en"]
    assert (st.src, st.tgt, st.target, st.source) == ("de", "en", "Good morning!", "Guten Morgen!")
    assert (st.path, st.speaker) == ("audio/clip7.flac", "anna")
    assert [(row.task, row.src, row.tgt) for row in text.values()] == [
        ("mt", "de", "en"),
        ("instruct", "de", "de"),
    ]
    # With `segments`, as the table says.
    example = re.search(r"`segments` \| `(\S+) (talk3 12.5 15.25)`.*?`(talk3 \S+)`", DOC)
    lines = [f"{name} {example[2]}\n" for name in (example[1], "clip7-st-en", "clip8-asr")]
    (tmp_path / "speech/segments").write_text("".join(lines))
    (tmp_path / "speech/wav.scp").write_text(f"{example[3]}\n")
    row = rows_of(tmp_path / "speech")["clip7-asr"]
    assert (row.path, row.start_sec, row.end_sec) == ("audio/talk3.opus", 12.5, 15.25)


def test_the_worked_example(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)
    assert code.count("\n") < 60
    corpus, out = tmp_path / "corpus", tmp_path / "out"
    for name in ("a", "b", "c", "d"):
        make_audio(corpus / "clips" / f"{name}.mp3", 1.0, 32000)
    head = "clip\tspeaker\ttranscript\ttranslation\n"
    (corpus / "train.tsv").write_text(
        head + 'b\tanna\tdas "Haus\tthe "house\na\tanna\tja\tyes\nc\tuwe\t?\t?\nx\tuwe\tweg\tgone\n'
        "d\tuwe\tfehlt\n"
    )
    (corpus / "dev.tsv").write_text(head + "c\tuwe\tnein\tno\n")
    (corpus / "test.tsv").write_text(head + "d\tuwe\tda\tthere\n")
    script = tmp_path / "prepare_mycorpus.py"
    script.write_text(code, encoding="utf-8")

    def call(*more):
        monkeypatch.setattr(sys, "argv", [str(script), str(corpus), str(out), *more])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(script), run_name="__main__")
        return stop.value.code, capsys.readouterr()

    assert call()[0] == 0
    folders = ["dev", "mycorpus_test_asr_de", "mycorpus_test_st_de_en", "train"]
    assert sorted(path.name for path in out.iterdir()) == folders
    train = rows_of(out / "train")
    assert list(train) == ["a-asr", "a-st-en", "b-asr", "b-st-en"]
    row = train["b-st-en"]
    assert (row.target, row.source, row.speaker) == ('the "house', 'das "Haus', "anna")
    assert row.path == str(corpus / "clips/b.mp3")
    assert skipped(out / "train") == {
        "not understood": 1,
        "missing file": 2,
        "wrong number of fields": 1,
    }
    (test,) = rows_of(out / "mycorpus_test_st_de_en").values()
    assert (test.utt_id, test.target, test.source) == ("d-st-en", "there", "da")
    before = state(out)
    assert call()[0] == 0 and state(out) == before
    assert "--splits: found 'tset'" in call("--splits", "tset")[1].err
    assert "German (asr), German to English (st)" in call("--help")[1].out


def test_the_table_has_every_corpus():
    scripts = {path.stem.removeprefix("prepare_") for path in (ROOT / "local").glob("prepare_*.py")}
    listed = re.findall(r"^\| `(\w+)` \|", section("Corpora"), re.MULTILINE)
    assert sorted(listed) == sorted(scripts - MADE)
    database = (ROOT / "egs2/part_multilingual/s2t1/db.sh").read_text()
    for name in listed:
        assert f"\n{name.upper()}=" in database


def test_times_are_told_once_and_shared_talks_are_warned_of():
    assert "\n## Speed\n" not in DOC
    assert "only stage 1's writing is measured" in section("How long it takes")
    assert "TED-LIUM" in section("Corpora") and "does not match" in section("Corpora")
