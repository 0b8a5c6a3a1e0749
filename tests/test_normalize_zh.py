"""The second column for Chinese and Cantonese: one script, one way to write a number."""

import json
import sys
import time

import pytest

from espnet_part import scoring
from espnet_part.bin import score as score_command
from espnet_part.normalize import normalize
from espnet_part.normalize_zh import fold, write_out_numbers
from espnet_part.pairs import Pair
from espnet_part.scoring import score_asr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Amounts.
        ("有3个、2500人和１２３人", "有三个、二千五百人和一百二十三人"),
        ("100500, 20000, 101", "十万零五百, 二万, 一百零一"),
        ("10万、3.5亿、0.05", "十万、三点五亿、零点零五"),
        ("1,000 磅，1,234,567.8元", "一千磅，一百二十三万四千五百六十七点八元"),
        ("100000000 和 0", "一亿和零"),
        ("第 1000 张", "第一千张"),
        # Years digit by digit, decades and spans of years as amounts.
        ("1998年8月8日", "一九九八年八月八日"),
        ("2005 财年", "二零零五财年"),
        ("2019-2020年", "二零一九到二零二零年"),
        ("1950-53年，2-5年", "一九五零到五三年，二到五年"),
        ("20 世纪 60 年代，1990年代", "二十世纪六十年代，一九九零年代"),
        ("1000年前，10年后", "一千年前，十年后"),
        ("2020-01-03", "二零二零年一月三日"),
        # Per cent, fractions, times, scores, temperatures, ranges.
        ("80%，3.5％", "百分之八十，百分之三点五"),
        ("1/2", "二分之一"),
        ("晚上10：08，8:30，9:00", "晚上十点零八分，八点三十分，九点"),
        ("12:05:30", "十二点零五分三十秒"),
        ("3:1，31:27，2005:3月", "三比一，三十一比二十七，二千零五:三月"),
        ("70-90%", "百分之七十到九十"),
        ("10%-20%，1.5％～3％", "百分之十到百分之二十，百分之一点五到百分之三"),
        ("-5℃，30 °C", "零下五摄氏度，三十摄氏度"),
        ("56-64公里，3~5", "五十六到六十四公里，三到五"),
        # Telephone and serial numbers, versions and addresses.
        ("13812345678", "一三八一二三四五六七八"),
        ("0421-33441122，400-123-4567", "零四二一三三四四一一二二，四零零一二三四五六七"),
        ("007", "零零七"),
        ("12345678901234567890", "一二三四五六七八九零一二三四五六七八九零"),
        ("192.168.1.1", "一九二点一六八点一点一"),
        ("1" * 50, "一" * 50),
        ("0." + "3" * 20, "零点" + "三" * 20),
        # Two readings of one digit.
        ("两个〇，幺幺零", "二个零，一一零"),
        # Left alone: beside Latin letters, lists, other scripts' digits.
        ("COVID-19，H5N1，mp3，A380，2.4Ghz", "COVID-19，H5N1，mp3，A380，2.4Ghz"),
        ("iPhone 12，65 km，802.11n", "iPhone 12，65 km，802.11n"),
        ("19:30 BST，1/2 mile，35-40 km", "19:30 BST，1/2 mile，35-40 km"),
        ("Kelly 2008 年", "Kelly 二零零八年"),
        ("1:2:3，3/4/5，٣", "1:2:3，3/4/5，٣"),
        # A hyphen is no minus sign, full-width brackets stay.
        ("波音-747（约5米）", "波音-七百四十七（约五米）"),
        ("", ""),
    ],
)
def test_numbers_are_written_as_they_are_read(text, expected):
    assert write_out_numbers(text) == expected
    assert write_out_numbers(expected) == expected


def test_every_amount_is_read_as_cn2an_reads_it_back():
    from cn2an import cn2an

    for number in [*range(0, 11000, 7), 10**6, 10**7 + 1, 12345678]:
        assert cn2an(write_out_numbers(f"{number}"), "normal") == number


@pytest.mark.parametrize(
    "said", ["1,", "1-", "111,", "1.", "1%-", "1/1:", "12月1日", ",1万亿", "1"]
)
@pytest.mark.parametrize("end", ["", " a", "个"])
def test_what_a_model_repeats_without_end_takes_no_time(said, end):
    start = time.process_time()
    write_out_numbers(said * (100_000 // len(said)) + end)
    assert time.process_time() - start < 1  # 1, and 1- took minutes; 111, was an error of cn2an


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("後臺的計程車，滑鼠", "后台的计程车，鼠标"),
        ("佢買咗兩本書，喺2019年", "佢买咗二本书，喺二零一九年"),
        ("10點30分", "十点三十分"),
        ("皇后", "皇后"),
    ],
)
def test_script_is_folded(text, expected):
    assert fold(text) == expected


def test_what_is_the_same_sentence_scores_as_such():
    """And what is not does not: the folded column is no second chance for errors."""
    pairs = [
        Pair("a", "在 2019 年，有 25% 的人买了 2 个。", "在二零一九年，有百分之二十五的人買了兩個"),
        Pair("b", "北京（首都）", "北京首都。"),
    ]
    main = score_asr(pairs, "zh").measures[0]
    assert main.value > 50
    folded = main.also["cer_folded"]
    assert folded["value"] == 0.0 and folded["ci95"] == [0.0, 0.0]
    assert folded["n_ref_tokens"] == len("在二零一九年有百分之二十五的人买了二个") + 4
    assert "|fold:zh-cn+numbers.2|zhconv:" in folded["signature"]
    assert folded["signature"].endswith(main.signature.split("|", 1)[1])
    wrong = [Pair("a", "在2019年，有25%的人买了2个", "在2018年，有35%的人卖了3个")]
    assert score_asr(wrong, "yue").measures[0].also["cer_folded"]["value"] == pytest.approx(
        100 * 4 / len("在二零一九年有百分之二十五的人买了二个")
    )


def test_the_headline_and_other_languages_are_untouched():
    assert normalize("後臺 2019 年", "zh") == "後臺2019年"
    for lang in ("ja", "ko", "de"):
        also = score_asr([Pair("a", "2019 Katzen", "x")], lang).measures[0].also
        assert set(also) == {"sub_rate", "del_rate", "ins_rate"}


def test_a_missing_package_costs_the_column_and_says_so_once(monkeypatch, capsys):
    scoring._say_missing.cache_clear()
    monkeypatch.setitem(sys.modules, "zhconv", None)
    pairs = [Pair("a", "三", "三"), Pair("b", "四", "三")]
    for _ in range(2):
        scores = score_asr(pairs, "zh")
        assert scores.measures[0].value == 50.0
        assert "cer_folded" not in scores.measures[0].also
    assert capsys.readouterr().err == "cer_folded is left out, it needs: pip install zhconv\n"


def test_the_command_prints_and_writes_the_flagged_column(tmp_path, capsys):
    for name, text in (("ref", "有3個人"), ("hyp", "有三个人")):
        (tmp_path / name).write_text(f"u1 {text}\nu2 好\n", encoding="utf-8")
    out = tmp_path / "out.json"
    options = ["--ref", f"{tmp_path}/ref", "--hyp", f"{tmp_path}/hyp", "--json", str(out)]
    score_command.main([*options, "--task", "asr", "--lang", "yue"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("cer                40.00  [")
    assert printed[1].startswith("- cer_folded        0.00  [0.00, 0.00]")
    assert "zhconv:" in printed[1] and "zhconv:" not in printed[0]
    row = json.loads(out.read_text())["results"][0]
    assert (row["metric"], row["value"], row["cer_folded"]["value"]) == ("cer", 40.0, 0.0)
