"""Instructions, in the forms of the public sets.

Alpaca: tatsu-lab/stanford_alpaca, README.md (a JSON array; instruction, input, output). Bactrian-X:
mbzuai-nlp/bactrian-x, data/README.md (the same fields, a file for each language). ShareGPT
(conversations, from, value): lm-sys/FastChat, fastchat/data/convert_alpaca.py. Messages:
ninehills/GraphGen, resources/README.md.
"""

import json

import pytest
from corpus_layouts import rows_of, skipped, state

import prepare_instruct as script  # isort: skip


def alpaca(instruction, output, given="", **more):
    return {"instruction": instruction, "input": given, "output": output, **more}


def chat(*turns, **more):
    return {"messages": [{"role": role, "content": text} for role, text in turns], **more}


def share_gpt(*turns):
    return {"conversations": [{"from": role, "value": text} for role, text in turns]}


def write(path, items, form="lines"):
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == "array":
        path.write_text(json.dumps(items, indent=2, ensure_ascii=False), encoding="utf-8")
    else:
        lines = [item if isinstance(item, str) else json.dumps(item) for item in items]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def run(tmp_path, *more):
    return script.main([str(tmp_path / "c"), str(tmp_path / "out"), *more])


def test_alpaca(tmp_path):
    items = [
        alpaca("Name a color.", "Blue."),
        alpaca("Translate.", "Guten Tag.", "Good day.", lang="de"),
        alpaca("Write a poem.", "One\n\ntwo\nthree\r\nfour"),
        alpaca("List ten.", "1\n2\n3\n4\n5"),
        alpaca("Write code.", "```print()```"),
        alpaca("Say nothing.", "  "),
        alpaca("", "Nobody asked."),
        alpaca("In Klingon?", "HIja'.", lang="tlh"),
        alpaca("In?", "?", lang=["de"]),
        {"prompt": "Another form", "completion": "x"},
        alpaca("Numbers", 7),
        "text",
    ]
    write(tmp_path / "c/alpaca data.json", items, "array")
    assert run(tmp_path, "--lang", "en", "--splits", "train") == 0
    rows = rows_of(tmp_path / "out/train")
    assert {i[-18:]: (row.src, row.source, row.target) for i, row in rows.items()} == {
        "-00000001-instruct": ("en", "Name a color.", "Blue."),
        "-00000002-instruct": ("de", "Translate. Good day.", "Guten Tag."),
        "-00000003-instruct": ("en", "Write a poem.", "One two three four"),
    }
    row = rows["alpaca_data.json-00000002-instruct"]
    assert (row.task, row.tgt, row.path, row.speaker) == ("instruct", "de", None, None)
    assert skipped(tmp_path / "out/train") == {
        "answer with over 3 line breaks": 1,
        "answer with a code block": 1,
        "empty text": 1,
        "empty source": 1,
        "language not ours": 2,
        "unknown form": 2,
        "no text": 1,
    }


def test_chats(tmp_path):
    items = [
        chat(("system", "Be short."), ("user", "Hi?"), ("assistant", "Hi.")),
        share_gpt(("human", "One?"), ("gpt", "1."), ("human", "Two?"), ("gpt", "2.")),
        share_gpt(("gpt", "I start."), ("human", "Why?")),
        chat(("user", "Anyone?")),
        chat(("user", "Weather?"), ("tool", "{}"), ("assistant", "Fine.")),
        chat(("user", [{"type": "image"}]), ("assistant", "A cat.")),
        chat(),
        {"messages": "none"},
        '{"messages": [',
        "",
    ]
    write(tmp_path / "c/chats.fr.jsonl", items)
    assert run(tmp_path, "--splits", "train") == 0
    rows = rows_of(tmp_path / "out/train")
    assert {i[-11:-9]: (row.src, row.source, row.target) for i, row in rows.items()} == {
        "01": ("fr", "Be short. Hi?", "Hi."),  # the language is in the file's name
        "02": ("fr", "One?", "1."),
    }
    assert skipped(tmp_path / "out/train") == {
        "later turns left out": 1,
        "no question and answer": 4,
        "no text": 1,
        "unknown form": 1,
        "not JSON": 1,
    }


def test_dev_shares_no_question_with_train(tmp_path, monkeypatch):
    monkeypatch.setattr("text_split.DEV_ROWS", 1)
    items = [alpaca(f"Is {number} odd?", "Yes.") for number in range(1, 121)]
    items[70] = alpaca("is 50 ODD", "Perhaps.")
    write(tmp_path / "c/ja.json", items, "array")
    write(tmp_path / "c/more/de.jsonl", [alpaca("Is 50 odd?", "Nein.")])
    test = tmp_path / "test.txt"
    test.write_text("Is 9 odd\n")
    assert run(tmp_path, "--exclude", str(test)) == 0
    (row,) = rows_of(tmp_path / "out/dev").values()
    assert (row.source, row.src) == ("Is 50 odd?", "ja")
    assert skipped(tmp_path / "out/train") == {"text of dev": 2, "excluded text": 1}
    assert len(rows_of(tmp_path / "out/train")) == 120 - 1 - 1 - 1
    before = state(tmp_path / "out")
    assert run(tmp_path, "--exclude", str(test)) == 0
    assert state(tmp_path / "out") == before
    assert run(tmp_path) == 0
    assert len(rows_of(tmp_path / "out/train")) == 118


def test_another_language_is_seen(tmp_path):
    write(tmp_path / "c/a.jsonl", [alpaca("Ja?", "Ja.")])
    for lang in ("de", "sv"):
        assert run(tmp_path, "--splits", "train", "--lang", lang) == 0
        assert [row.tgt for row in rows_of(tmp_path / "out/train").values()] == [lang]


@pytest.mark.parametrize(
    ("text", "more", "message"),
    [
        (None, [], "c: found no *.jsonl or *.json there. Put *.jsonl"),
        ("[]", ["--lang", "xx"], "--lang: unknown language 'xx'"),
        ('[{"instruction": "a", "output": "b"}, {"instr', ["--lang", "de"], "damaged JSON after 1"),
        ('[{"instruction": "a", "output": "b"}]', [], "skipped 1 rows: 1 no language"),
    ],
)
def test_errors(tmp_path, capsys, text, more, message):
    if text is not None:
        (tmp_path / "c").mkdir()
        (tmp_path / "c/a.json").write_text(text)
    assert run(tmp_path, "--splits", "train", *more) == 1
    assert message in capsys.readouterr().err


def test_rows_without_a_language_say_what_to_do(tmp_path):
    write(tmp_path / "c/a.jsonl", [alpaca("a", "b"), alpaca("c", "d", lang="ko")])
    assert run(tmp_path, "--splits", "train") == 0
    assert skipped(tmp_path / "out/train") == {"no language": 1}
    assert "by --lang" in (tmp_path / "out/train/skipped.tsv").read_text()
