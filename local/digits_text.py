"""The words of the digits corpus: one fixed word per digit and language, one way of joining them.

Each language reads a digit in one way only (no "oh" for zero, no yo-n / shi), so that a reference
is never one of several right answers. Japanese is written in hiragana with spaces between words, as
books for beginners are: in kanji it would be the very text of the Chinese reference, and a model
that answers in the wrong language would score full marks. sacrebleu's `char` tokenizer ignores
the spaces, `ja-mecab` uses them. Chinese has no spaces (`zh` cuts it into characters), the other
languages have (`13a`).
"""

SOURCE = "en"
TARGETS = ("zh", "ja", "de", "sv", "id", "ar")
MIN_DIGITS, MAX_DIGITS = 3, 6  # length of one connected string

WORDS: dict[str, tuple[str, ...]] = {
    "en": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "zh": ("零", "一", "二", "三", "四", "五", "六", "七", "八", "九"),
    "ja": ("ぜろ", "いち", "に", "さん", "よん", "ご", "ろく", "なな", "はち", "きゅう"),
    "de": ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"),
    "sv": ("noll", "ett", "två", "tre", "fyra", "fem", "sex", "sju", "åtta", "nio"),
    "id": (
        "nol", "satu", "dua", "tiga", "empat", "lima", "enam", "tujuh", "delapan", "sembilan",
    ),
    "ar": (
        "صفر", "واحد", "اثنان", "ثلاثة", "أربعة", "خمسة", "ستة", "سبعة", "ثمانية", "تسعة",
    ),
}  # fmt: skip


def say(digits: str, language: str) -> str:
    """Write a string of digits in words.

    Args:
        digits: "305".
        language: a key of `WORDS`.

    Returns:
        "three zero five" in English, "三零五" in Chinese.

    Raises:
        ValueError: language without a word list, or a character that is no digit.
    """
    if language not in WORDS:
        raise ValueError(f"No digit words for language {language!r}; known: {', '.join(WORDS)}.")
    if not digits or not all(d in "0123456789" for d in digits):
        raise ValueError(f"Expected a string of digits 0-9, found {digits!r}.")
    words = [WORDS[language][int(d)] for d in digits]
    return ("" if language == "zh" else " ").join(words)


def unsay(text: str, language: str = SOURCE) -> str:
    """Read digit words back into digits: the inverse of `say`.

    Args:
        text: "three zero five".
        language: a key of `WORDS`.

    Returns:
        "305".

    Raises:
        ValueError: a word that is no digit word of the language.
    """
    words = list(text) if language == "zh" else text.split()
    unknown = [w for w in words if w not in WORDS[language]]
    if unknown:
        raise ValueError(f"{unknown[0]!r} in {text!r} is no {language} digit word.")
    return "".join(str(WORDS[language].index(w)) for w in words)
