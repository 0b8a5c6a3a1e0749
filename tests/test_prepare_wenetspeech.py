"""WenetSpeech's layout, as wenet-e2e/WenetSpeech reads it: toolkits/espnet/local/extract_meta.py.

The subsets' names are those of wenetspeech_data_prep.sh beside it; spaces within Chinese text, the
ideographic one too, are what utils/fix_json.py there mends. Recordings are long opus files.
"""

import json

import ijson
import pytest
from corpus_layouts import make_audio, rows_of, skipped, state

import json_items  # isort: skip
import one_pass  # isort: skip
import prepare_wenetspeech as script  # isort: skip
from corpus import Bad  # isort: skip

TALK, NET, MEETING = (
    "Y0000000000_--5llN02F84",
    "TEST_NET_Y0000000001_-KT",
    "TEST_MEETING_T0000000001",
)


def segment(aid, number, subsets, text, **changes):
    made = {
        "sid": f"{aid}_S{number:05d}",
        "begin_time": number * 0.5,
        "end_time": number * 0.5 + 0.4,
        "subsets": subsets,
        "confidence": 1.0,
        "text": text,
    }
    return {key: value for key, value in (made | changes).items() if value is not None}


def make_corpus(root):
    paths = {
        TALK: f"audio/train/youtube/B00000/{TALK}.opus",
        "D": "audio/dev/B00000/D.opus",
        NET: f"audio/test_net/B00000/{NET}.opus",
        MEETING: f"audio/test_meeting/B00000/{MEETING}.opus",
        "GONE": "audio/train/podcast/B00001/GONE.opus",
    }
    segments = {
        TALK: [
            segment(TALK, 0, ["L", "M", "S"], "我 是　一\u00a0个 good  boy 对"),
            segment(TALK, 1, ["L", "M"], "二"),
            segment(TALK, 2, ["L"], "三"),
            segment(TALK, 3, ["W"], "四"),
            segment(TALK, 4, ["L"], "", end_time=2.4),
            segment(TALK, 5, ["L"], "结束得太晚", end_time=99.0),
            segment(TALK, 6, ["L"], None),
            segment(TALK, 7, ["L"], "什么时候", begin_time="soon"),
            segment(TALK, 8, ["L"], "不要空格", sid="a b"),
            segment(TALK, 0, ["L"], "又一次"),
            segment(TALK, 9, [], "没有人要"),
        ],
        "D": [segment("D", 0, ["DEV"], "开发")],
        NET: [segment(NET, 0, ["TEST_NET"], "网络")],
        MEETING: [segment(MEETING, number, ["TEST_MEETING"], "会议") for number in (0, 1)],
        "GONE": [segment("GONE", 0, ["L", "S"], "没有录音")],
    }
    audios = [
        {"aid": aid, "duration": 5.5, "path": paths[aid], "tags": ["drama"], "segments": parts}
        for aid, parts in segments.items()
    ]
    audios.append({"aid": "U", "path": "audio/train/u.opus"})  # nobody transcribed it
    for aid in (TALK, "D", NET, MEETING):
        make_audio(root / paths[aid], 5.5, format="OGG", subtype="OPUS")
    text = json.dumps({"dataset": "WenetSpeech", "audios": audios}, indent=4, ensure_ascii=False)
    (root / "WenetSpeech.json").write_text(text, encoding="utf-8")
    return root


def test_rows_and_faults(tmp_path, capsys):
    corpus, out = make_corpus(tmp_path / "c"), tmp_path / "out"
    assert script.main([str(corpus), str(out)]) == 0
    tests = ["wenetspeech_test_meeting_asr_zh", "wenetspeech_test_net_asr_zh"]
    assert sorted(p.name for p in out.iterdir()) == ["dev", "train_l", *tests]
    rows = rows_of(out / "train_l")
    assert sorted(rows) == [f"{TALK}_S0000{number}-asr" for number in range(3)]
    row = rows[f"{TALK}_S00000-asr"]
    assert (row.task, row.src, row.tgt, row.target) == ("asr", "zh", "zh", "我是一个 good boy 对")
    assert (row.start_sec, row.end_sec, row.speaker) == (0.0, 0.4, f"{TALK}_S00000")
    assert row.path == f"{corpus}/audio/train/youtube/B00000/{TALK}.opus"
    assert skipped(out / "train_l") == {
        "empty text": 1,
        "segment ends after the file": 1,
        "segment lacks a value": 2,
        "bad id": 1,
        "id twice": 1,
        "missing file": 1,
    }
    assert [row.target for row in rows_of(out / "dev").values()] == ["开发"]
    assert list(rows_of(out / tests[0])) == [f"{MEETING}_S00000-asr", f"{MEETING}_S00001-asr"]
    assert list(rows_of(out / tests[1])) == [f"{NET}_S00000-asr"]
    said = capsys.readouterr().out
    assert "3 of 10 rows" in said and "1 rows, 24,774 were published" in said


def test_subsets_come_from_one_pass(tmp_path, monkeypatch):
    corpus, out = make_corpus(tmp_path / "c"), tmp_path / "out"
    passes = []
    read = script._read
    monkeypatch.setattr(script, "_read", lambda *args: passes.append(1) or read(*args))
    monkeypatch.setattr(one_pass, "_PIECE_ROWS", 1)
    wanted = [str(corpus), str(out), "--subset", "l", "w", "--splits", "train", "dev"]
    assert script.main(wanted) == 0
    assert len(passes) == 1
    texts = {folder.name: len(rows_of(folder)) for folder in out.iterdir()}
    assert texts == {"train_l": 3, "train_w": 1, "dev": 1}
    before = state(out)
    assert script.main(wanted) == 0
    assert state(out) == before and len(passes) == 1


@pytest.mark.parametrize("subset", ["m", "s"])
def test_one_of_the_nested_subsets(tmp_path, subset):
    corpus = make_corpus(tmp_path / "c")
    out = tmp_path / subset
    assert script.main([str(corpus), str(out), "--subset", subset, "--splits", "train"]) == 0
    assert len(rows_of(out / f"train_{subset}")) == {"m": 2, "s": 1}[subset]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--subset", "s", "w", "m"],
            "--subset: found m s, expected one of l m s, with w or without: m holds the rows of s,",
        ),
        (["--subset", "l", "m", "s"], "l holds the rows of m and s, which would be trained on tw"),
        (["--subset", "xl"], "--subset: found 'xl', expected some of l m s w"),
        (["--splits", "test"], "--splits: found 'test', expected some of train dev test_net"),
    ],
)
def test_errors(tmp_path, capsys, more, message):
    corpus = make_corpus(tmp_path / "c")
    assert script.main([str(corpus), str(tmp_path / "out"), *more]) == 1
    assert message in capsys.readouterr().err
    (corpus / "WenetSpeech.json").unlink()
    assert script.main([str(corpus), str(tmp_path / "out")]) == 1
    assert "WenetSpeech.json: no such file. Ask for WenetSpeech at" in capsys.readouterr().err
    assert script.main([str(tmp_path / "no"), str(tmp_path / "out")]) == 1
    assert "no: no such folder. Ask for WenetSpeech at" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (lambda text: text[: len(text) // 2], "found damaged JSON after 0 items of audios.item"),
        (lambda text: text.replace("audios", "audio"), "found no audios.item, expected some"),
    ],
)
def test_a_bad_table_is_told_once(tmp_path, capsys, cut, message):
    corpus = make_corpus(tmp_path / "c")
    table = corpus / "WenetSpeech.json"
    table.write_text(cut(table.read_text(encoding="utf-8")), encoding="utf-8")
    assert script.main([str(corpus), str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.count(message) == 1


def test_the_fast_parser_is_here_and_its_absence_told(tmp_path, monkeypatch, caplog):
    assert ijson.get_backend(json_items.BACKEND).backend_name == "yajl2_c"
    table = tmp_path / "a.json"
    table.write_text('{"a": [1, 2.5]}')

    def no_backend(name):
        raise ImportError(name)

    monkeypatch.setattr(ijson, "get_backend", no_backend)
    assert list(json_items.stream_items(table, "a.item")) == [1, 2.5]
    assert "ijson has no yajl2_c here" in caplog.text


def test_a_pass_that_nobody_ends_leaves_nothing(tmp_path):
    rows = [("a", Bad("1", "x", "")), ("b", Bad("2", "x", "")), ("a", Bad("3", "x", ""))]
    table = one_pass.OnePass(lambda: iter(rows), ["a", "b"], tmp_path)
    next(table.rows("a"))
    assert [bad.utt_id for bad in table.rows("a")] == ["1", "3"]  # read again, from the start
    assert [bad.utt_id for bad in table.rows("b")] == ["2"]
    assert list(tmp_path.iterdir()) == []
