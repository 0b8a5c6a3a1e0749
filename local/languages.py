"""Languages as others write them ("English", "eng", "en-US") to this recipe's codes."""

from __future__ import annotations

import re

from espnet_part.prompt import LANGUAGES

_NAMES = {name.lower(): code for code, name in LANGUAGES.items()}
# ISO 639-2 and 639-3, and what else manifests have for the same languages.
_OTHERS = {
    "cmn": "zh", "zho": "zh", "chi": "zh", "mandarin": "zh", "mandarin chinese": "zh",
    "eng": "en", "jpn": "ja", "kor": "ko", "zh-yue": "yue", "cantonese chinese": "yue",
    "deu": "de", "ger": "de", "fra": "fr", "fre": "fr", "rus": "ru", "spa": "es",
    "castilian": "es", "ita": "it", "swe": "sv", "ind": "id", "ara": "ar", "arb": "ar",
    "modern standard arabic": "ar",
}  # fmt: skip
# Written in Chinese, spoken in either: whoever has the corpus must say which.
_UNCLEAR = {"zh-hk", "zh-mo"}


def language_code(name: str) -> str | None:
    """The code of a language; None for one that this recipe does not know.

    Args:
        name: A code of this recipe, another ISO code, an English name, with or without a region or
            script: zh, cmn, "Mandarin", zh-CN, cmn_hans_cn, en_US, "English". zh-HK is none: it
            stands for Cantonese in some corpora and for Mandarin in others.
    """
    key = re.sub(r"[\s_]+", " ", name.strip().lower())
    for known in (key, key.replace(" ", "-")):
        if known in _UNCLEAR:
            return None
        if known in LANGUAGES:
            return known
        if known in _NAMES or known in _OTHERS:
            return _NAMES.get(known) or _OTHERS[known]
    # A region or a script follows: only after codes, of which a longer name is no case.
    first = re.split(r"[ -]", key)[0]
    return (first if first in LANGUAGES else _OTHERS.get(first)) if len(first) <= 3 else None
