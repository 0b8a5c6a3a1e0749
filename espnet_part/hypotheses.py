"""Checks of single hypotheses: loops, empty ones, refusals, answers in another language.

Each check looks at the raw hypothesis and is meant to be trusted when it says yes: what the
reference shows too (a quotation in English, "no no no no") is never held against a hypothesis.
So the rates are lower bounds; `language_match` says how much of a wrong language is found.
"""

import re
from collections.abc import Sequence

from espnet_part.language_match import wrong_language
from espnet_part.normalize import CER_LANGUAGES

SIGNATURE = "espnet_part.hypotheses:2"

# A unit must come this many times more in a row than it does in the reference.
WORD_REPEATS = 4
CHAR_REPEATS = 8
_WORD_LOOP = re.compile(rf"(.{{1,20}}?)\1{{{WORD_REPEATS - 1},}}", re.DOTALL)
_CHAR_LOOP = re.compile(rf"(.{{1,40}}?)\1{{{CHAR_REPEATS - 1},}}", re.DOTALL)
_SYLLABLE_LOOP = re.compile(rf"(.{{2,20}}?)\1{{{WORD_REPEATS - 1},}}", re.DOTALL)

# What chat models say instead of doing the task. Only phrases that name the assistant or its
# inability to help: "I'm sorry" alone is ordinary speech.
_REFUSAL = re.compile(
    "|".join(
        (
            r"\bas an? (?:ai|artificial intelligence|large language|language)\b",
            r"\bi(?: am|['’]?m) (?:just )?an? "
            r"(?:ai|artificial intelligence|(?:large )?language model)\b",
            r"\bi(?: am|['’]?m)(?: sorry,?)? (?:but )?(?:i )?(?:unable|not able) to "
            r"(?:help|assist|listen|hear|transcribe|translate|process|access|play)\b",
            r"\bi (?:cannot|can ?not|can['’]?t|am unable to) "
            r"(?:help (?:you|with)|assist|listen to|transcribe|translate|fulfil\w*)\b",
            r"\bplease provide (?:me with )?(?:the|an|your) (?:audio|speech|text|recording)\b",
            r"作为(?:一个|一名)?(?:ai|人工智能|(?:大型?)?语言模型)",
            r"(?:我|无法|不能).{0,4}(?:无法|不能)(?:协助|提供帮助|识别音频|处理音频|听取|转录|翻译)",
            r"作為(?:一個|一名)?(?:ai|人工智能|人工智慧)",
            r"(?:ai|人工知能|言語モデル)(?:です|として)(?:ので|、)",
            r"お手伝い(?:することは)?できません",
            r"(?:인공지능|언어 모델)(?:이라|로서|입니다)",
            r"도와\s?드릴 수 없",
            r"\bals (?:ein |eine )?(?:ki|künstliche intelligenz|sprachmodell|ki-\w+)\b",
            r"\bich kann (?:ihnen |dir )?(?:dabei |damit )?(?:leider )?nicht "
            r"(?:helfen|weiterhelfen)\b",
            r"\ben tant qu(?:e |['’])(?:ia|intelligence artificielle|modèle de langage)\b",
            r"\bje ne peux pas (?:vous )?(?:aider|transcrire|traduire)\b",
            r"\bcomo (?:una? )?(?:ia|inteligencia artificial|modelo de lenguaje)\b",
            r"\bno puedo (?:ayudar(?:te|le)?|transcribir|traducir)\b",
            r"\bcome (?:una? )?(?:ia|intelligenza artificiale|modello linguistico)\b",
            r"\bnon posso (?:aiutar(?:ti|la)?|trascrivere|tradurre)\b",
            r"\bкак (?:ии|искусственный интеллект|языковая модель)\b",
            r"\bя не могу (?:помочь вам|вам помочь|расшифровать|перевести)\b",
            r"\bsom (?:en )?(?:ai|språkmodell)\b",
            r"\bjag kan (?:tyvärr )?inte (?:hjälpa dig|hjälpa till|transkribera|översätta)\b",
            r"\bsebagai (?:sebuah )?(?:ai|model bahasa|kecerdasan buatan)\b",
            r"\bsaya tidak (?:dapat|bisa) (?:membantu|mentranskripsi|menerjemahkan)\b",
            r"(?:كنموذج لغوي|كذكاء اصطناعي|لا (?:أستطيع|يمكنني) (?:مساعدتك|المساعدة))",
        )
    ),
    re.IGNORECASE,
)


def _words_as_chars(words: Sequence[str], ids: dict[str, int]) -> str:
    """Map each distinct word to one private character, so that a regex repeats words."""
    return "".join(chr(0xF0000 + ids.setdefault(word, len(ids))) for word in words)


def _repeats_more(pattern: re.Pattern, hyp: str, ref: str, least: int) -> bool:
    for match in pattern.finditer(hyp):
        unit = match.group(1)
        run = 0
        while unit * (run + 1) in ref:
            run += 1
        if len(match.group()) // len(unit) - run >= least:
            return True
    return False


def is_loop(hyp: str, ref: str, lang: str) -> bool:
    """Say whether a hypothesis is stuck in a repetition.

    It is when a unit of 1 to 20 words (of 2 to 20 characters for zh ja ko yue) comes at least 4
    times more in a row than in the reference, or a unit of 1 to 40 characters 8 times more.
    """
    hyp, ref = (" ".join(text.casefold().split()) for text in (hyp, ref))
    if _repeats_more(_CHAR_LOOP, hyp, ref, CHAR_REPEATS):
        return True
    if lang in CER_LANGUAGES:
        hyp, ref = hyp.replace(" ", ""), ref.replace(" ", "")
        return _repeats_more(_SYLLABLE_LOOP, hyp, ref, WORD_REPEATS)
    ids: dict[str, int] = {}
    words = [_words_as_chars(re.findall(r"\w+", text), ids) for text in (hyp, ref)]
    return _repeats_more(_WORD_LOOP, words[0], words[1], WORD_REPEATS)


def is_empty(hyp: str) -> bool:
    """Say whether a hypothesis has neither a letter nor a digit."""
    return not any(char.isalnum() for char in hyp)


def is_refusal(hyp: str, ref: str) -> bool:
    """Say whether a hypothesis is a chat model's excuse and the reference is not."""
    return bool(_REFUSAL.search(hyp)) and not _REFUSAL.search(ref)


def check_all(refs_hyps: Sequence[tuple[str, str]], lang: str) -> dict[str, list[bool]]:
    """Run all checks.

    Args:
        refs_hyps: raw (reference, hypothesis) of each utterance.
        lang: language that the hypotheses should be in.

    Returns:
        Metric name -> one flag per utterance.
    """
    return {
        "loop_rate": [is_loop(hyp, ref, lang) for ref, hyp in refs_hyps],
        "empty_rate": [is_empty(hyp) for _, hyp in refs_hyps],
        "wrong_lang_rate": [wrong_language(hyp, ref, lang) for ref, hyp in refs_hyps],
        "refusal_rate": [is_refusal(hyp, ref) for ref, hyp in refs_hyps],
    }
