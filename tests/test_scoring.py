"""Numbers equal their engines', pairing is by id, checks of hypotheses are conservative."""

import json
import os
import subprocess
import sys

import jiwer
import numpy as np
import pytest

from espnet_part import hypotheses, language_match
from espnet_part.bin import score as score_command
from espnet_part.normalize import normalize
from espnet_part.pairs import Pair, pair_texts, read_text
from espnet_part.report import phase_report
from espnet_part.results import System, make_rows
from espnet_part.scoring import score_asr, score_st
from espnet_part.significance import bootstrap
from espnet_part.tables import experiment_tables, variants

GERMAN = [
    ("a", "Drei Katzen, zwei Hunde.", "drei katzen zwei hunde"),
    ("b", "Es kostet 3,50 Euro!", "es kostet vier euro"),
    ("c", "Ja.", ""),
    ("d", "Heute ist ein schöner Tag", "heute ist ein ein schöner tag da"),
]
ENGLISH = [
    ("a", "There are three cats and two dogs in the garden.", "Three cats, two dogs are there."),
    ("b", "It costs 3.50 euros, doesn't it?", "It costs 3.50 euros, doesn't it?"),
    ("c", "The weather is nice today, isn't it?", ""),
    ("d", "He went to school by bus.", "He went to the school by bus yesterday."),
]
JAPANESE = [
    ("a", "今日はカフェで会いました。", "今日カフェで会った。"),
    ("b", "はい、そうです。", "はい。"),
]


def pairs(rows):
    return [Pair(*row) for row in rows]


def value(scores, metric):
    return next(m.value for m in scores.measures if m.metric == metric)


def write_text(path, rows):
    path.write_text("".join(f"{row[0]} {row[1]}\n" for row in rows), encoding="utf-8")
    return str(path)


# --- normalization


@pytest.mark.parametrize(
    ("lang", "raw", "expected"),
    [
        ("en", "Mr. O'Neil's colour, um, 3:00 p.m.", "mister 0 neil is color 3 0 p m"),
        ("de", "Straße – „Größe“ (leise) 3.14", "straße größe 3 14"),
        ("de", "don't", "don t"),
        ("ja", "。。。", ""),
        ("zh", "今天，下 雨了！ＡＢＣ１２", "今天下雨了abc12"),
        ("ko", "안녕 하세요.", "안녕하세요"),
        ("ja", "ｶﾌｪ（仮）", "カフェ仮"),
        ("ru", "Ёлка, мой.", "ёлка мой"),
        ("de", "  ", ""),
    ],
)
def test_normalizer_edges(lang, raw, expected):
    assert normalize(raw, lang) == expected


def test_normalizer_is_whispers_own_without_importing_whisper():
    code = (
        "import sys; from espnet_part.normalize import normalize; normalize('a', 'en');"
        "print('whisper' in sys.modules, 'torch' in sys.modules, 'numba' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False"] * 3


# --- error rates


def test_wer_equals_jiwer():
    scores = score_asr(pairs(GERMAN), "de")
    refs, hyps = ([normalize(row[i], "de") for row in GERMAN] for i in (1, 2))
    expected = jiwer.process_words(refs, hyps)
    assert value(scores, "wer") == pytest.approx(100 * expected.wer)
    main = scores.measures[0]
    assert main.n_utts == 4
    assert main.n_ref_tokens == sum(len(ref.split()) for ref in refs)
    counts = np.array([a.counts for a in scores.alignments]).sum(0).tolist()
    assert counts == [
        expected.hits,
        expected.substitutions,
        expected.deletions,
        expected.insertions,
    ]
    assert main.ci95[0] <= main.value <= main.ci95[1]
    assert "jiwer:" in main.signature and "norm:whisper-basic" in main.signature


def test_cer_is_over_code_points_without_spaces():
    scores = score_asr(pairs([("a", "今日は 雨です。", "昨日は雨 です")]), "ja")
    assert value(scores, "cer") == pytest.approx(100 / 6)
    assert scores.measures[0].n_ref_tokens == 6
    # Hangul syllables stay composed: one wrong syllable of two is one error of two.
    assert value(score_asr(pairs([("a", "한국", "한굴")]), "ko"), "cer") == 50.0
    # Outside the basic plane a character is still one.
    assert value(score_asr(pairs([("a", "𠮷野家", "吉野家")]), "zh"), "cer") == pytest.approx(
        100 / 3
    )


def test_english_digit_strings_have_a_second_wer():
    """Whisper's English rules make one word of them: its WER nearly counts wrong sentences."""
    rows = [
        ("a", "three five eight two", "three five nine two"),
        ("b", "one two six", "one two six"),
    ]
    scores = score_asr(pairs(rows), "en")
    assert value(scores, "wer") == 50.0
    basic = scores.measures[0].also["wer_basic"]
    assert basic["value"] == pytest.approx(100 / 7)
    assert basic["n_ref_tokens"] == 7
    assert "norm:whisper-basic" in basic["signature"]
    assert "wer_basic" not in score_asr(pairs(GERMAN), "de").measures[0].also


def test_empty_references_are_left_out_and_counted():
    scores = score_asr(pairs([("a", "...", "noise"), ("b", "ja nein", "ja")]), "de")
    assert scores.n_empty_refs == 1
    assert scores.measures[0].n_utts == 1
    assert value(scores, "wer") == 50.0
    with pytest.raises(ValueError, match="all 1 references are empty"):
        score_asr(pairs([("a", "!", "x")]), "de")
    with pytest.raises(ValueError, match="all 1 references are empty"):
        score_st(pairs([("a", " ", "x")]), "de")


def test_one_utterance_and_an_empty_hypothesis():
    scores = score_asr(pairs([("a", "ja nein", "")]), "de")
    assert value(scores, "wer") == 100.0
    assert value(scores, "empty_rate") == 100.0
    assert scores.measures[0].ci95 is None
    assert value(score_st(pairs([("a", "One two three four.", "")]), "en"), "bleu") == 0.0


# --- BLEU and chrF


@pytest.mark.parametrize(
    ("rows", "tgt", "tokenizer"),
    [
        (ENGLISH, "en", "13a"),
        (JAPANESE, "ja", "char"),
        ([("a", "今天下雨了，我们在家。", "今天下雨，我们在家里。")], "zh", "zh"),
        ([("a", "今日落雨,我哋喺屋企。", "今日落雨,我哋喺屋企度。")], "yue", "zh"),
    ],
)
def test_bleu_and_chrf_equal_the_sacrebleu_command(tmp_path, rows, tgt, tokenizer):
    for name, column in (("ref", 1), ("hyp", 2)):
        lines = "".join(row[column] + "\n" for row in rows)
        (tmp_path / name).write_text(lines, encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", "ref", "-i", "hyp", "-m", "bleu", "chrf"]
    command += ["-tok", tokenizer, "-w", "6"]
    out = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    expected = {result["name"].lower(): result for result in json.loads(out.stdout)}
    scores = score_st(pairs(rows), tgt)
    for measure in scores.measures[:2]:
        result = expected[{"bleu": "bleu", "chrf": "chrf2"}[measure.metric]]
        assert measure.value == pytest.approx(result["score"], abs=1e-5)
        assert measure.signature == result["signature"]


def test_bleu_interval_holds_the_score_and_is_repeatable():
    rows = pairs([(f"{i}{row[0]}", *row[1:]) for i in range(10) for row in ENGLISH])
    first, second = score_st(rows, "en"), score_st(rows, "en")
    low, high = first.measures[0].ci95
    assert low < first.measures[0].value < high
    assert first.measures == second.measures


def test_bootstrap_is_as_wide_as_theory_says():
    stats = np.stack([np.repeat([0.0, 1.0], 200), np.ones(400)], axis=1)
    low, high = bootstrap(stats, lambda sums: sums[:, 0] / sums[:, 1], samples=2000)
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.1)


# --- pairing


def test_pairing_is_by_id(tmp_path):
    ref = write_text(tmp_path / "ref", GERMAN)
    hyp = write_text(tmp_path / "hyp", [(row[0], row[1]) for row in reversed(GERMAN)])
    paired = pair_texts(read_text(ref), read_text(hyp))
    assert [p.utt_id for p in paired] == ["a", "b", "c", "d"]
    assert value(score_asr(paired, "de"), "wer") == 0.0


def test_missing_and_extra_ids_are_named():
    refs = {"a": "x", "b": "y"}
    with pytest.raises(ValueError, match="1 of 2 utterances have no hypothesis: b.*allow_missing"):
        pair_texts(refs, {"a": "x"})
    assert pair_texts(refs, {"a": "x"}, allow_missing=True)[1].hyp == ""
    with pytest.raises(ValueError, match="not in the reference: c"):
        pair_texts(refs, {"a": "x", "b": "y", "c": "z"}, allow_missing=True)
    with pytest.raises(ValueError, match="the reference is empty"):
        pair_texts({}, {})


def test_text_files(tmp_path):
    path = tmp_path / "text"
    path.write_bytes("u1 \nu2\nu3\tzwei  Wörter \r\nu4 a\u2028b\n".encode())
    assert read_text(path) == {"u1": "", "u2": "", "u3": "zwei  Wörter", "u4": "a\u2028b"}
    path.write_bytes(b"\xef\xbb\xbfu1\tone\ttwo\r\n\r\nu2\t\r\n")
    assert read_text(path) == {"u1": "one\ttwo", "u2": ""}
    path.write_text("u1 a\nu1 b\n")
    with pytest.raises(ValueError, match="line 2: the utterance id u1 occurs twice"):
        read_text(path)
    path.write_bytes(b"u1 \xff\n")
    with pytest.raises(ValueError, match="not UTF-8"):
        read_text(path)
    with pytest.raises(ValueError, match="No such text file"):
        read_text(tmp_path / "none")


# --- checks of hypotheses


@pytest.mark.parametrize(
    ("lang", "hyp", "ref", "expected"),
    [
        ("en", "okay okay okay okay okay", "okay then", True),
        ("en", "I think so. I think so. I think so. I think so. I think so.", "I think so.", True),
        ("en", "six six six six", "six six six five", False),
        ("en", "no no no no", "no no no no", False),
        ("en", "!!!!!!!!!!!!!", "Hello there.", True),
        ("en", "it was very very good", "it was good", False),
        ("zh", "我们我们我们我们我们去", "我们去", True),
        ("zh", "三三三三三", "三三三", False),
        ("ja", "ははははははははは", "はい", True),
        ("de", "", "ja", False),
    ],
)
def test_loops(lang, hyp, ref, expected):
    assert hypotheses.is_loop(hyp, ref, lang) is expected


@pytest.mark.parametrize(
    ("hyp", "expected"), [("", True), (" …!", True), ("7", False), ("あ", False)]
)
def test_empty(hyp, expected):
    assert hypotheses.is_empty(hyp) is expected


@pytest.mark.parametrize(
    ("hyp", "ref", "expected"),
    [
        ("I'm sorry, but as an AI language model I cannot listen to audio.", "Hello.", True),
        ("I can't help you with that.", "Hello.", True),
        ("作为一个人工智能语言模型，我无法处理音频。", "你好", True),
        ("I'm sorry I am late.", "I'm sorry I'm late.", False),
        ("I cannot help it.", "I cannot help it.", False),
        ("He said he could not come.", "He could not come.", False),
    ],
)
def test_refusals(hyp, ref, expected):
    assert hypotheses.is_refusal(hyp, ref) is expected


@pytest.mark.parametrize(
    ("lang", "hyp", "ref", "expected"),
    [
        ("de", "three five eight two", "drei fünf acht zwei", True),
        ("de", "drei fünf acht", "drei fünf acht zwei", False),
        ("de", "three", "drei", False),
        ("id", "the cat is on the table", "kucing itu ada di atas meja", True),
        ("sv", "hunden är i huset och den sover", "hunden sover i huset", False),
        ("es", "la casa no es tan grande", "la casa no es grande", False),
        ("it", "no se por la casa", "non so", False),
        ("zh", "the weather is nice", "今天天气很好", True),
        ("zh", "今日は天気がいいです", "今天天气很好", True),
        ("zh", "OpenAI GPT", "OpenAI GPT", False),
        ("ja", "今天天气非常好我们出去", "今日は天気がいいです", True),
        ("ja", "東京都", "東京都です", False),
        ("ko", "今天天气很好", "오늘 날씨가 좋다", True),
        ("yue", "我们不是这样的", "我哋唔係咁樣", True),
        ("yue", "我哋唔係咁樣", "我哋唔係咁樣", False),
        ("yue", "今日天氣好好", "我哋唔係咁樣", False),
        ("ru", "the weather", "погода", True),
        ("ar", "الطقس جميل", "الطقس", False),
        ("en", "", "hello", False),
        ("xx", "whatever it is", "der die das", False),
    ],
)
def test_wrong_language(lang, hyp, ref, expected):
    assert language_match.wrong_language(hyp, ref, lang) is expected


# --- rows and tables


def test_parts_of_an_error_rate_and_variants_reach_rows_and_tables(tmp_path):
    """A variant is marked with a dash wherever it stands, and has interval and signature."""
    rows = [("a", "one two three four", "one two tree"), ("b", "five", "five"), ("c", "a b", "a c")]
    scores = score_asr(pairs(rows), "en")
    made = make_rows(scores, System("part", "1", "greedy", 0), "t", "asr", "en", "en")
    main = made[0]
    parts = [main[f"{name}_rate"] for name in ("sub", "del", "ins")]
    assert sum(parts) == pytest.approx(main["value"])
    counts = np.array([a.counts for a in scores.alignments]).sum(0)
    assert parts == pytest.approx((100 * counts[1:] / counts[:3].sum()).tolist())
    assert list(variants(main)) == ["wer_basic"]
    assert not any(variants(row) for row in made[1:])
    other = main["wer_basic"]
    low, high = other["ci95"]
    report = phase_report(tmp_path / "part" / "phase1", made)
    [line] = [line for line in report.split("\n") if "- wer_basic" in line]
    cells = [cell.strip() for cell in line.strip("| ").split("|")]
    assert cells == [
        "greedy/t",
        "- wer_basic",
        f"{other['value']:.2f}",
        f"{low:.2f}-{high:.2f}",
        "3",
    ]
    tables = experiment_tables(made)
    assert f"| - wer_basic |   {other['value']:.2f} | " in tables
    assert f"- wer: `{main['signature']}`" in tables
    assert f"- wer_basic: `{other['signature']}`" in tables


# --- the command


def test_score_command(tmp_path, capsys):
    ref = write_text(tmp_path / "ref", GERMAN)
    hyp = write_text(tmp_path / "hyp", [(row[0], row[2]) for row in GERMAN])
    out = tmp_path / "out.json"
    options = ["--ref", ref, "--hyp", hyp, "--task", "asr", "--lang", "de", "--json", str(out)]
    score_command.main(options)
    rows = json.loads(out.read_text())["results"]
    assert [row["metric"] for row in rows][0] == "wer"
    assert f"{rows[0]['value']:.2f}" in capsys.readouterr().out
    options[5] = "st"
    with pytest.raises(SystemExit):
        score_command.main(options)
    assert "--tgt-lang" in capsys.readouterr().err
    score_command.main([*options, "--tgt-lang", "de"])
    rows = json.loads(out.read_text())["results"]
    assert [row["metric"] for row in rows][:2] == ["bleu", "chrf"]


def test_score_command_says_what_is_wrong(tmp_path):
    ref = write_text(tmp_path / "ref", GERMAN)
    hyp = write_text(tmp_path / "hyp", GERMAN[:2])
    options = ["--ref", ref, "--hyp", hyp, "--task", "asr", "--lang", "de"]
    with pytest.raises(SystemExit, match="2"):
        score_command.main([*options, "--bootstrap", "-1"])
    with pytest.raises(SystemExit, match="--lang: unknown language 'xx'"):
        score_command.main([*options[:-1], "xx"])
    with pytest.raises(SystemExit, match="2 of 4 utterances have no hypothesis: c, d"):
        score_command.main(options)


def test_score_command_into_a_pipe_that_is_closed(tmp_path):
    """`| head` ends before the command has written: no traceback, and the JSON is there."""
    ref = write_text(tmp_path / "ref", GERMAN)
    command = [sys.executable, "-m", score_command.__name__, "--ref", ref, "--hyp", ref]
    command += ["--task", "asr", "--lang", "de", "--bootstrap", "0", "--json", tmp_path / "out"]
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out").exists()


def test_score_command_on_files_from_anywhere(tmp_path, capsys):
    """Windows line ends, tabs, an empty hypothesis, no resamples."""
    (tmp_path / "ref").write_bytes(b"\xef\xbb\xbfa\teins\tzwei\r\nb\tdrei\r\n")
    (tmp_path / "hyp").write_bytes(b"b\r\na eins  zwei\r\n")
    out = tmp_path / "deep" / "out.json"
    options = ["--ref", f"{tmp_path}/ref", "--hyp", f"{tmp_path}/hyp", "--task", "asr"]
    score_command.main([*options, "--lang", "de", "--bootstrap", "0", "--json", str(out)])
    rows = {row["metric"]: row for row in json.loads(out.read_text())["results"]}
    assert rows["wer"]["value"] == rows["wer"]["del_rate"] == pytest.approx(100 / 3)
    assert rows["empty_rate"]["value"] == 50.0
    assert [row["ci95"] for row in rows.values()] == [None] * 5
    assert {row["test_set"] for row in rows.values()} == {tmp_path.name}
    printed = capsys.readouterr().out.split("\n")
    assert printed[0].startswith("wer                33.33  " + " " * 18 + "jiwer:")
    assert printed[1] == "  substituted 0.00, deleted 33.33, inserted 0.00 % of 3 tokens"


def test_means_over_seeds_are_told_where_there_are_any():
    """Curricula of one run each, one of them without a seed, are not averaged."""

    def made(curriculum, seed):
        scores = score_asr(pairs([("a", "one two", "one too"), ("b", "five", "five")]), "en", 0)
        return make_rows(scores, System(curriculum, "1", "greedy", seed), "t", "asr", "en", "en")

    apart = [*made("part", 7), *made("two_stage", None), *made("part_b", 8)]
    assert "means over" not in experiment_tables(apart)
    assert "means over the seeds 7, 9." in experiment_tables([*apart, *made("part", 9)])
