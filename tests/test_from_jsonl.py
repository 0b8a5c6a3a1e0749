"""Anyone's own JSONL: forms of rows, of NeMo's and FunASR's manifests, and what is wrong with some.

NeMo's keys: NVIDIA/NeMo: docs/source/asr/datasets.rst (audio_filepath, duration, text), and for
multi-task models source_lang, target_lang, taskname, pnc: the card of its model canary-1b.
FunASR's: modelscope/FunASR: data/list/train.jsonl (key, source, source_len, target, target_len).
"""

import gzip
import json

import pytest
from corpus_layouts import make_audio, rows_of, skipped, state

import from_jsonl as script  # isort: skip
from languages import language_code  # isort: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The recipe folder, with `my/a.wav` of 2 s and `my/sub/b.flac` of 0.5 s; we are in it."""
    make_audio(tmp_path / "my/a.wav", 2.0)
    make_audio(tmp_path / "my/sub/b.flac")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path, *items):
    path.write_text(
        "".join(i + "\n" if isinstance(i, str) else json.dumps(i) + "\n" for i in items),
        encoding="utf-8",
    )


def test_speech_rows(folder):
    write(
        folder / "my/rows.jsonl",
        {"path": "a.wav", "text": "Guten Morgen!", "lang": "German", "id": "one"},
        {
            "path": "a.wav", "text": "guten abend", "start": 0.5, "end": 1.5, "speaker": "a b",
            "tgt_lang": "eng", "translation": "good evening", "id": 7,
        },
        {"path": str(folder / "my/sub/b.flac"), "text": "x", "lang": "yue", "id": "two-asr"},
    )  # fmt: skip
    args = ["my/rows.jsonl", "data/mine/train", "--lang", "de"]
    assert script.main(args) == 0
    rows = rows_of(folder / "data/mine/train")
    assert sorted(rows) == ["7-asr", "7-st-en", "one-asr", "two-asr"]
    one, asr, st = rows["one-asr"], rows["7-asr"], rows["7-st-en"]
    assert (one.task, one.src, one.tgt, one.target) == ("asr", "de", "de", "Guten Morgen!")
    assert (one.path, one.speaker) == ("my/a.wav", "one-asr")  # resolves from here
    assert (asr.target, asr.start_sec, asr.end_sec) == ("guten abend", 0.5, 1.5)
    assert (asr.speaker, st.speaker) == ("a_b", "a_b")
    assert (st.src, st.tgt, st.target, st.source) == ("de", "en", "good evening", "guten abend")
    assert rows["two-asr"].path == str(folder / "my/sub/b.flac")
    assert (rows["two-asr"].src, rows["two-asr"].tgt) == ("yue", "yue")
    before = state(folder / "data")
    assert script.main(args) == 0
    assert state(folder / "data") == before
    assert script.main([*args, "--task", "st"]) == 0  # another setting: made again
    # What names no task has no translation now, except one.
    assert list(rows_of(folder / "data/mine/train")) == ["7-st-en"]


def test_manifests_of_peers(folder, capsys):
    write(
        folder / "my/nemo.jsonl",
        {"audio_filepath": "a.wav", "duration": 2.0, "text": "hello", "source_lang": "en",
         "target_lang": "en", "taskname": "asr", "pnc": "yes"},
        {"audio_filepath": "a.wav", "offset": 0.25, "duration": 0.5, "text": "hallo",
         "source_lang": "en", "target_lang": "de", "taskname": "s2t_translation"},
        {"audio_filepath": "a.wav", "offset": 1.0, "duration": "None", "text": "good day",
         "answer": "guten Tag", "source_lang": "en", "target_lang": "de", "taskname": "ast"},
        {"audio_filepath": "a.wav", "offset": 1.25, "duration": 0.5, "text": "hallo du",
         "answer": "na", "source_lang": "en", "target_lang": "de", "taskname": "ast"},
        {"key": "fun", "source": "sub/b.flac", "target": "hi", "source_len": 50},
        {"audio": {"path": "sub/b.flac", "bytes": None}, "text": "hej", "language": "sv-SE"},
    )  # fmt: skip
    assert script.main(["my/nemo.jsonl", "train", "--lang", "en-US"]) == 0
    assert "is ignored" not in capsys.readouterr().out
    rows = list(rows_of(folder / "train").values())
    found = {(r.task, r.src, r.tgt, r.target, r.path, r.start_sec, r.end_sec) for r in rows}
    # A folder with one segment has one for every row: 0 to the end.
    assert found == {
        ("asr", "en", "en", "hello", "my/a.wav", 0.0, None),
        ("st", "en", "de", "hallo", "my/a.wav", 0.25, 0.75),
        ("st", "en", "de", "guten Tag", "my/a.wav", 1.0, None),
        ("st", "en", "de", "hallo du", "my/a.wav", 1.25, 1.75),
        ("asr", "en", "en", "hi", "my/sub/b.flac", 0.0, None),
        ("asr", "sv", "sv", "hej", "my/sub/b.flac", 0.0, None),
    }
    assert {r.target: r.source for r in rows if r.task == "st"} == {
        "hallo": None,
        "hallo du": None,
        "guten Tag": "good day",
    }
    assert "fun-asr" in {r.utt_id for r in rows}


def test_ids_that_are_not_given_are_the_same_everywhere(folder):
    write(
        folder / "my/rows.jsonl",
        {"path": "a.wav", "text": "x", "lang": "en", "offset": 0, "duration": 1},
        {"path": "a.wav", "text": "y", "lang": "en", "offset": 1, "duration": 1},
        {"path": "sub/b.flac", "text": "z", "lang": "en"},
        {"path": "sub/b.flac", "text": "z", "lang": "en"},
    )
    assert script.main(["my/rows.jsonl", "train"]) == 0
    first = list(rows_of(folder / "train"))
    assert len(first) == 3 and skipped(folder / "train") == {"id twice": 1}
    assert {name.rsplit("-", 2)[0] for name in first} == {"a", "b"}
    (folder / "my").rename(folder / "other")
    assert script.main([str(folder / "other/rows.jsonl"), "again"]) == 0
    assert list(rows_of(folder / "again")) == first


def test_text_rows_get_a_folder_of_their_own(folder):
    text = [
        {"source": "hallo", "target": "hello", "lang": "de", "tgt_lang": "en"},
        {"source": "Wie?", "target": "So!", "lang": "de", "task": "instruct", "id": "q"},
        {"source": "hallo", "target": "hello", "lang": "de"},
    ]
    write(folder / "my/rows.jsonl", {"path": "a.wav", "text": "x", "lang": "en"}, *text)
    assert script.main(["my/rows.jsonl", "data/mine/train"]) == 0
    (speech,) = rows_of(folder / "data/mine/train").values()
    assert speech.task == "asr" and skipped(folder / "data/mine/train") == {"no tgt_lang": 1}
    rows = rows_of(folder / "data/mine/train_text")
    assert {(r.task, r.src, r.tgt, r.source, r.target) for r in rows.values()} == {
        ("mt", "de", "en", "hallo", "hello"),
        ("instruct", "de", "de", "Wie?", "So!"),
    }
    assert "q-instruct-de" in rows and not skipped(folder / "data/mine/train_text")
    write(folder / "my/text.jsonl", *text)
    assert script.main(["my/text.jsonl", "data/text/train"]) == 0
    assert rows_of(folder / "data/text/train") == rows


def test_test_sets(folder):
    both = {"path": "a.wav", "text": "hallo", "lang": "de", "tgt_lang": "en", "translation": "hi"}
    write(folder / "my/t.jsonl", both, {"path": "sub/b.flac", "text": "ciao", "lang": "it"}, "{")
    assert script.main(["my/t.jsonl", "data/mine", "--test_sets", "mine"]) == 0
    folders = sorted(p.name for p in (folder / "data/mine").iterdir())
    assert folders == ["mine_test_asr_de", "mine_test_asr_it", "mine_test_st_de_en"]
    assert all(len(rows_of(folder / "data/mine" / name)) == 1 for name in folders)
    counts = [dict(skipped(folder / "data/mine" / name)) for name in folders]
    assert counts == [{"no JSON": 1}, {}, {}]


def test_what_is_wrong(folder, capsys):
    good = {"path": "a.wav", "text": "x", "lang": "en"}
    wrong = {
        "no JSON": ['{"path": ', "nonsense"],
        "no JSON object": ["3", '["a"]'],
        "no path": [
            {"text": "x", "lang": "en"}, good | {"path": 3}, good | {"path": {"bytes": "x"}},
            {"source": "a", "lang": "en", "tgt_lang": "de"},
        ],
        "no language": [{"path": "a.wav", "text": "x"}],
        "unknown lang": [good | {"lang": "xx"}, good | {"lang": 3}, good | {"lang": "zh-HK"}],
        "unknown tgt_lang": [good | {"tgt_lang": "Klingon"}],
        "unknown task": [good | {"task": "sing"}, good | {"task": ["asr"]}],
        "text task with audio": [good | {"task": "mt"}],
        "no tgt_lang": [good | {"translation": "y"}, good | {"task": "st", "tgt_lang": "en"}],
        "no task": [good | {"tgt_lang": "de"}],
        "bad time": [
            good | {"start": "soon"}, good | {"start": -1}, good | {"start": 2, "end": 1},
            good | {"offset": 0, "duration": 0}, good | {"start": True},
            '{"path": "a.wav", "text": "x", "lang": "en", "end": NaN}',
        ],
        "bad id": [good | {"id": 1.5}],
        "text is no string": [good | {"text": 7}, good | {"text": ["x"]}],
        "empty text": [good | {"text": " \u3000"}, good | {"text": None, "id": "e"}],
        "not Unicode": ['{"path": "a.wav", "text": "\\ud800", "lang": "en", "id": "s"}'],
        "white space in path": [good | {"path": "two  spaces.wav"}],
        "missing file": [good | {"path": "no.wav"}],
        "pipe": [good | {"path": "touch run |"}],
        "segment ends after the file": [good | {"start": 1, "end": 2.5}],
    }  # fmt: skip
    items = [item for group in wrong.values() for item in group]
    lines = [item if isinstance(item, str) else json.dumps(item) for item in items]
    text = "\ufeff" + json.dumps(good | {"Lang_": "de", "colour": "red"}) + "\n\n"
    bad_bytes = b'{"path": "a.wav", "text": "\xff", "lang": "en"}\n'
    (folder / "my/rows.jsonl").write_bytes((text + "\n".join(lines) + "\n").encode() + bad_bytes)
    assert script.main(["my/rows.jsonl", "train"]) == 0
    counts = {reason: len(group) for reason, group in wrong.items()}
    counts["no JSON"] += 1
    assert dict(skipped(folder / "train")) == counts
    assert len(rows_of(folder / "train")) == 1 and not (folder / "run").exists()
    said = capsys.readouterr().out
    assert said.count("key 'Lang_' is ignored; did you mean 'lang'?") == 1
    assert "colour" not in said
    assert f"1 of {1 + len(items) + 1} rows" in said


def test_errors(folder, capsys):
    def error(*args):
        assert script.main(list(args)) == 1
        return capsys.readouterr().err

    assert "no.jsonl: no such file" in error("no.jsonl", "train")
    (folder / "list.jsonl").write_text('[{"path": "a.wav"}]')
    assert "list.jsonl: a JSON list, expected one object a line" in error("list.jsonl", "train")
    write(folder / "bad.jsonl", {"text": "x", "lang": "en"})
    assert "train: no row is left: skipped 1 rows: 1 no path" in error("bad.jsonl", "train")
    assert "lang 'xx'; expected zh en" in error("bad.jsonl", "train", "--lang", "xx")
    with gzip.open(folder / "my/rows.jsonl.gz", "wt") as file:
        file.write('{"path": "b.flac", "text": "x", "lang": "en"}\n')
    args = ["my/rows.jsonl.gz", "train", "--audio_root", "my/sub"]
    assert script.main(args) == 0
    assert [row.path for row in rows_of(folder / "train").values()] == ["my/sub/b.flac"]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("de", "de"), (" German ", "de"), ("ger", "de"), ("DE_de", "de"), ("cmn_hans_cn", "zh"),
        ("Mandarin Chinese", "zh"), ("zh-CN", "zh"), ("zh_TW", "zh"), ("yue_hant_hk", "yue"),
        ("Cantonese", "yue"), ("zh-yue", "yue"), ("es-419", "es"), ("sv-SE", "sv"), ("arb", "ar"),
        ("Indonesian", "id"), ("zh-HK", None), ("zh_hk", None), ("Slovak", None), ("", None),
        ("Singaporean English", None), ("Korean sign language", None), ("x-de", None),
    ],
)  # fmt: skip
def test_names_of_languages(name, code):
    assert language_code(name) == code
