"""Second normalization for Chinese and Cantonese: one script, one way to write a number.

Peers report it (Qwen2-Audio folds Cantonese to simplified and writes out numbers in Mandarin,
FunASR does both for both), Whisper's normalizer does neither: 2019年 against 二零一九年 is then
four errors of five. So it is a column beside the headline, never in place of it.

zhconv folds the script, to zh-cn as the peers do: its words too (滑鼠 becomes 鼠标). Numbers are
written out as they are read. cn2an spells them, but its own `transform` is not used: it reads
covid-19 as "covid minus nineteen", 13812345678 as thirteen billion, 1,000 as "one, zero", 10:30
as "ten: thirty". So the rules here decide what is a number and how it is read, and leave alone
what has more than one reading that nothing tells apart, or stands beside Latin letters (H5N1).
"""

import re
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

LANGUAGES = ("zh", "yue")
PACKAGES = ("zhconv", "cn2an")

# Only what takes part in a number: folding all punctuation here would make Whisper's normalizer
# drop the content of full-width brackets, which it keeps.
_HALF_WIDTH = str.maketrans("０１２３４５６７８９．：／％～－", "0123456789.:/%~-")
_HAN = r"[\u3400-\u4dbf\u4e00-\u9fff]"
# Repeats are bounded, or tried at one place of a run only: what a model says over and over again
# must not take time by the square of its length. Four thousands: cn2an reads 16 digits.
_NUMBER = r"(?:\d{1,3}(?:,\d{3}){1,4}|\d+)(?:\.\d+)?"
_START = r"(?<!\d)(?<!\d\.)"
_END = r"(?!\d|\.\d| ?[A-Za-z])"  # the number ends here, and no Latin letter follows
# What follows an amount: it tells "3-5个" from a score, "Kelly 2008年" from "iPhone 12".
_COUNTED = r"[个名人位次年月日天岁周小分秒公英里米厘毫克斤吨元块万亿千百度倍摄]"

# In order of preference; the first that matches at a place decides.
_TOKEN = re.compile(
    "|".join(
        f"(?P<{name}>{pattern})"
        for name, pattern in {
            "long": r"\d{41,}",
            "latin": r"(?:\d[\d.,:/-]{0,40} ?)?[A-Za-z][A-Za-z0-9.:/_'+-]*"
            rf"(?: \d[\d.,:]*(?![\d.,:]| ?{_COUNTED}))?",
            "iso_date": r"(?P<y>\d{4})(?P<sep>[-/.])(?P<m>0?[1-9]|1[0-2])(?P=sep)"
            rf"(?P<d>0?[1-9]|[12]\d|3[01]){_END}",
            "phone": rf"(?:0\d{{2,3}}-\d{{7,8}}|[48]00-\d{{3}}-\d{{4}}){_END}",
            "cents": rf"{_START}(?P<from>{_NUMBER})%[~–—-](?P<to>{_NUMBER})%",
            "range": rf"{_START}(?P<low>{_NUMBER})(?:~|[-–—](?={_NUMBER} ?(?:{_COUNTED}|%)))"
            rf"(?P<high>{_NUMBER}){_END}(?P<cent>%?)",
            "year": rf"{_START}(?:1[1-9]|20)\d\d(?=[财学]?年)",
            "percent": rf"{_START}(?P<share>{_NUMBER})%",
            "below": rf"(?<![\d.A-Za-z])[-−](?P<degrees>{_NUMBER})(?=摄氏度)",
            "time": r"(?P<hour>[01]?\d|2[0-4]):(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d))?"
            rf"(?!:\d){_END}",
            "list": r"\d+(?:[:/]\d+){2,}",
            "ratio": rf"{_START}(?P<left>\d{{1,3}}):(?P<right>\d{{1,3}}){_END}",
            "fraction": rf"(?P<over>\d+)/(?P<under>\d+){_END}",
            "dotted": rf"{_START}\d+(?:\.\d+){{2,}}{_END}",
            "plain": rf"{_START}{_NUMBER}{_END}",
        }.items()
    ),
    re.ASCII,  # other scripts' digits are letters here
)
_DECADE = re.compile(r"(?<![0-9])[0-9]0(?=年代)")
_CELSIUS = re.compile(r"(?<=[0-9]) ?(?:℃|° ?C(?![A-Za-z]))")
_LOOSE = re.compile(rf"(?<=[0-9]) +(?={_HAN}|%)|(?<={_HAN}) +(?=[0-9])")
_DIGITS = "零一二三四五六七八九"
_ONE = re.compile(rf"(?<=[{_DIGITS}])幺|幺(?=[{_DIGITS}幺])")
_ALIKE = str.maketrans("〇两", "零二")


def missing_packages() -> tuple[str, ...]:
    """Return which of the packages `zhconv` and `cn2an` are not installed, or do not work."""
    return tuple(name for name in PACKAGES if not _works(name))


def _works(package: str) -> bool:
    try:
        import_module(package)
    except Exception:  # whatever is wrong with it must not cost the other scores
        return False
    return True


def _spell(digits: str) -> str:
    """Read digit by digit: 110 -> 一一零."""
    return "".join("点" if c == "." else _DIGITS[int(c)] for c in digits)


@lru_cache(maxsize=1 << 16)
def _read(number: str) -> str:
    """Read a number as an amount where it is one, else digit by digit.

    A leading zero (007) or more than eight digits without a round end (telephone and serial
    numbers) is none.
    """
    from cn2an import an2cn

    whole, point, decimals = number.replace(",", "").partition(".")
    amount = "," in number or len(whole) <= 8 or (whole.endswith("0000") and len(whole) <= 16)
    if not amount or re.match(r"0\d", whole):
        return _spell(whole + point + decimals)
    return an2cn(whole, "low") + _spell(point + decimals)  # it would cut long decimals


def _read_range(low: str, high: str, rest: str) -> str:
    years = rest.startswith("年") and re.fullmatch(r"\d{4}", low) and len(high) in (2, 4)
    read = _spell if years else _read
    return f"{read(low)}到{read(high)}"


def _read_time(hour: str, minute: str, second: str | None) -> str:
    text = _read(str(int(hour))) + "点"
    for digits, unit in ((minute, "分"), (second, "秒")):
        if digits == "00" and not second or digits is None:
            continue
        zero = "零" if digits.startswith("0") and digits != "00" else ""
        text += zero + _read(str(int(digits))) + unit
    return text


def _read_token(match: re.Match) -> str:
    text = match.group()
    match match.lastgroup:
        case "latin" | "list":
            return text
        case "iso_date":
            month, day = (_read(match[name].lstrip("0")) for name in "md")
            return f"{_spell(match['y'])}年{month}月{day}日"
        case "range":
            text = _read_range(match["low"], match["high"], match.string[match.end() :])
            return f"百分之{text}" if match["cent"] else text
        case "cents":
            return f"百分之{_read(match['from'])}到百分之{_read(match['to'])}"
        case "percent":
            return f"百分之{_read(match['share'])}"
        case "below":
            return f"零下{_read(match['degrees'])}"
        case "time":
            return _read_time(match["hour"], match["minute"], match["second"])
        case "ratio":
            return f"{_read(match['left'])}比{_read(match['right'])}"
        case "fraction":
            return f"{_read(match['under'])}分之{_read(match['over'])}"
        case "long" | "phone" | "year" | "dotted":
            return _spell(text.replace("-", ""))
    return _read(text)


def write_out_numbers(text: str) -> str:
    """Write Arabic numbers in Chinese, as they are read.

    Two readings that digits cannot tell apart become one: 两 is written 二, 幺 beside a numeral
    一, 〇 零.

    Args:
        text: a raw sentence in simplified characters.
    """
    text = _LOOSE.sub("", _CELSIUS.sub("摄氏度", text.translate(_HALF_WIDTH)))
    # The nineties: an amount, where ninety-eight is a year that two readings are common for.
    text = _DECADE.sub(lambda found: _read(found.group()), text)
    text = _TOKEN.sub(_read_token, text)
    return _ONE.sub("一", text.translate(_ALIKE))


def fold(text: str) -> str:
    """Fold a raw sentence to simplified characters and written-out numbers.

    What is left to do is Whisper's basic normalization.
    """
    from zhconv import convert

    return write_out_numbers(convert(text, "zh-cn"))


def signature() -> str:
    """Return what a number's signature says about the folding."""
    releases = []
    for name in PACKAGES:
        try:
            releases.append(f"{name}:{version(name)}")
        except PackageNotFoundError:
            releases.append(f"{name}:unknown")
    return "fold:zh-cn+numbers.2|" + "|".join(releases)
