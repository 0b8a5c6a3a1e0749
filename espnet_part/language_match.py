"""Is a sentence clearly not in the language it should be in? By script, then by common words.

No language model and no download: scripts tell most pairs apart, kana Japanese from Chinese,
marker characters Cantonese from Mandarin, common words and numerals the languages in Latin
script. A sentence that says too little is given the benefit of the doubt.

What that finds, with no alarm on text in the right language but a quotation in another
(tests/test_language_match.py): between two languages in Latin script 87 to 97 % of the lines of
NTREX, 90 to 100 % of FLORES and 44 to 85 % of Tatoeba, whose sentences are short. Between Mandarin
and Cantonese half of NTREX's lines (56 % where Mandarin is wanted, 52 % where Cantonese is), and
none of FLORES, whose Cantonese is nearly all written as Mandarin.
"""

import re
from functools import lru_cache

# (first, last code point) of the letters of each script.
_SCRIPTS = {
    "han": ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF)),
    "kana": ((0x3041, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F)),
    "hangul": ((0x1100, 0x11FF), (0x3130, 0x318F), (0xAC00, 0xD7AF)),
    "cyrillic": ((0x0400, 0x052F),),
    "arabic": ((0x0600, 0x06FF), (0x0750, 0x077F), (0xFB50, 0xFDFF), (0xFE70, 0xFEFF)),
    "latin": ((0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x24F), (0x1E00, 0x1EFF)),
}
# One ideograph says about as much as three letters, a syllable sign as two.
_WEIGHT = {"han": 3, "kana": 2, "hangul": 2}
_EXPECTED = {
    "zh": ("han",),
    "yue": ("han",),
    "ja": ("han", "kana"),
    "ko": ("hangul",),
    "ru": ("cyrillic",),
    "ar": ("arabic",),
    **dict.fromkeys(("en", "de", "fr", "es", "it", "sv", "id"), ("latin",)),
}
_CANTONESE = frozenset("嘅係唔咗喺佢哋冇嚟啲嗰乜嘢咁睇畀嗱啱攞")
_MANDARIN = frozenset("的是不了这這们們没沒那吗嗎么麼给")

# Function words and the numerals 0 to 10: what a sentence in the language can hardly do without.
_COMMON_WORDS = {
    lang: frozenset(words.split())
    for lang, words in {
        "en": """the of and to in is was he for it with as his on be at by had not are but from or
            have an they which one you were all her she there would their we him been has when who
            no if out so what up into than them can only other this that my me do i am will about
            zero two three four five six seven eight nine ten oh""",
        "de": """der die das und ist in den von zu mit sich des auf für nicht ein eine einer als
            auch es an werden aus er hat dass sie nach wird bei einem einen noch wie im am war ich
            wir ihr mir mich du man oder aber nur so wenn über sind haben kann
            null eins zwei drei vier fünf sechs sieben acht neun zehn""",
        "fr": """le la les de des du un une et est en que qui dans pour pas sur au aux ce cette ces
            il elle ils elles nous vous je tu on ne se sa son ses avec par plus mais ou où été être
            sont avait était leur comme tout fait très c'est d'un d'une l'on qu'il n'est j'ai non
            zéro deux trois quatre cinq six sept huit neuf dix""",
        "es": """el la los las de del un una y en que es no se por con para su al lo como más pero
            sus le ya o este sí porque esta entre cuando muy sin sobre también me hasta hay donde
            yo tú él ella nos mi está son fue era ser tiene
            cero uno dos tres cuatro cinco seis siete ocho nueve diez""",
        "it": """il lo la i gli le di del della dei delle un uno una e è in che non si per con da
            dal al alla nel nella sono come ma più anche su ha ho questo questa ci mi ti se o io tu
            lui lei noi voi loro era essere stato molto cosa no
            zero due tre quattro cinque sei sette otto nove dieci""",
        "sv": """och i att det som en på är av för den till med har de inte om ett han hon men var
            jag sig från vi så kan när nu då sin eller man vid också efter alla skulle vara hade
            mig dig du ni oss under över ska blev mycket
            noll ett två tre fyra fem sex sju åtta nio tio""",
        "id": """yang dan di itu dengan untuk tidak ini dari dalam akan pada juga saya ke karena
            tersebut bisa ada mereka lebih sudah atau saat oleh sebagai adalah kita kami dia anda
            telah dapat menjadi seorang tetapi bahwa orang banyak sangat apa bukan
            nol satu dua tiga empat lima enam tujuh delapan sembilan sepuluh""",
    }.items()
}
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


@lru_cache(maxsize=1 << 16)
def _script(char: str) -> str | None:
    code = ord(char)
    for script, ranges in _SCRIPTS.items():
        if any(first <= code <= last for first, last in ranges):
            return script
    return "other" if char.isalpha() else None


def script_weights(text: str) -> dict[str, int]:
    """Count the letters of each script, an ideograph as 3 and a kana or Hangul sign as 2."""
    weights: dict[str, int] = {}
    for char in text:
        script = _script(char)
        if script:
            weights[script] = weights.get(script, 0) + _WEIGHT.get(script, 1)
    return weights


def _other_latin(text: str, lang: str) -> bool:
    """Compare with each language by the words that only one of the two has, each counted once."""
    words = {word.replace("’", "'") for word in _WORD.findall(text.lower())}
    own = _COMMON_WORDS[lang]
    for name, common in _COMMON_WORDS.items():
        theirs, ours = len(words & common - own), len(words & own - common)
        if name != lang and theirs >= 2 and theirs > 3 * ours:
            return True
    return False


def _clearly_other(text: str, lang: str) -> bool:
    """Say whether a text is clearly in another language than `lang`, seen on its own."""
    weights = script_weights(text)
    total = sum(weights.values())
    if total < 4:
        return False
    if sum(weights.get(script, 0) for script in _EXPECTED[lang]) < 0.5 * total:
        return True
    if lang in ("zh", "yue"):
        return weights.get("kana", 0) >= max(6, 0.2 * total)
    return _EXPECTED[lang] == ("latin",) and _other_latin(text, lang)


def _marks(text: str, marks: frozenset[str]) -> int:
    return sum(char in marks for char in text)


def wrong_language(hyp: str, ref: str, lang: str) -> bool:
    """Say whether a hypothesis is clearly in another language and its reference is not.

    Rules, in order: most letters are of a foreign script; kana in Chinese; six or more ideographs
    without kana where the Japanese reference has some; two or more marker characters of Mandarin
    (Cantonese) and none of the expected one, where the reference has some of the expected one and
    none of the other; in Latin script, two or more common words of one other language that the
    expected one lacks, and more than three times as many as the other way around.

    Args:
        hyp: raw hypothesis.
        ref: raw reference.
        lang: language code; of a language without rules here nothing is said (False).
    """
    if lang not in _EXPECTED:
        return False
    if _clearly_other(hyp, lang):
        return not _clearly_other(ref, lang)
    if lang == "ja":
        scripts = script_weights(hyp)
        enough = scripts.get("han", 0) >= 6 * _WEIGHT["han"]
        return enough and "kana" not in scripts and "kana" in script_weights(ref)
    if lang in ("zh", "yue"):
        own, other = (_CANTONESE, _MANDARIN) if lang == "yue" else (_MANDARIN, _CANTONESE)
        return (
            _marks(hyp, other) >= 2
            and not _marks(hyp, own)
            and _marks(ref, own) > 0
            and not _marks(ref, other)
        )
    return False
