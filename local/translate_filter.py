"""Which machine translations are not fit to train on, seen from the two texts alone.

    python local/translate_filter.py news.en news.de news.ja    # measure on parallel text

Each filter is meant to be trusted when it says no: the bounds are set so that human translations
pass. The command measures that: for line-aligned files named `<anything>.<language code>` it
prints the characters of each language per English one, and how many of the human translations
each filter would drop, per direction. What it found on NTREX-128 (1,997 news sentences, 13
languages, https://github.com/MicrosoftTranslator/NTREX, the Chinese one being `zho-CN`), all 156
directions: at most 0.30 % dropped in any of them; `EXPANSION` is from there. On Tatoeba's short
everyday sentences (12 languages to and from English, 1,000 each): at most 0.2 %.
"""

import argparse
import itertools
import unicodedata
from collections import Counter
from pathlib import Path

from espnet_part.hypotheses import is_empty, is_loop, is_refusal
from espnet_part.language_match import wrong_language
from espnet_part.normalize import CER_LANGUAGES
from espnet_part.prompt import LANGUAGES

# Characters without spaces per English one, of the same news text.
EXPANSION = {
    "zh": 0.40,
    "en": 1.00,
    "ja": 0.53,
    "ko": 0.50,
    "yue": 0.38,
    "de": 1.23,
    "fr": 1.19,
    "ru": 1.15,
    "es": 1.16,
    "it": 1.18,
    "sv": 1.03,
    "id": 1.20,
    "ar": 0.94,
}
# A translation may be so many times longer or shorter than expected, and so many English letters
# more: "Danke" is "Thank you very much" without being runaway.
LENGTH_FACTOR, LENGTH_SLACK = 2.5, 10
# What may be copied: names stay what they are ("Barack Obama"), and so do figures. From three words
# (of the languages written without spaces: five characters) on it is a sentence left as it was.
COPIED_WORDS, COPIED_CHARS = 2, 4
# Shows the check what the language cannot do without: there is no reference to learn it from. None
# for Cantonese: 6 % of NTREX's, which is formal, has Mandarin's characters and none of its own.
_OWN_CHARACTERS = {"ja": "の", "zh": "的"}

# Of the filters: folders made with others are made again out of the logs, without a model.
VERSION = 2

EMPTY_SOURCE = "empty source"
SOURCE_TOO_LONG = "source too long"
CUT = "hit max_new_tokens"


def find_fault(source: str, translation: str, src: str, tgt: str, cut: bool = False) -> str | None:
    """Say why a translation is not to be trained on.

    Args:
        source: what was translated.
        translation: what the model gave.
        src: language code of the source.
        tgt: language code asked for.
        cut: whether the model was stopped before it came to its end.

    Returns:
        The reason, the same words for all of a kind; None: nothing found.
    """
    if is_empty(source):
        return EMPTY_SOURCE
    if is_empty(translation):
        return "empty"
    if is_refusal(translation, source):
        return "refusal"
    # Who says "no no no no" is translated by a repetition, of another word.
    if is_loop(translation, "", tgt) and not is_loop(source, "", src):
        return "loop"
    if cut:
        return CUT
    if is_copy(source, translation, src):
        return "copied source"
    if wrong_language(translation, _OWN_CHARACTERS.get(tgt, ""), tgt):
        return "wrong language"
    return find_length_fault(source, translation, src, tgt)


def is_copy(source: str, translation: str, src: str) -> bool:
    """Say whether a text was left as it was, case, punctuation and spaces aside.

    Copies of texts without letters and of very short ones (names) are rightful.
    """
    if not any(char.isalpha() for char in source):
        return False
    plain = _plain(source)
    if plain != _plain(translation):
        return False
    if src in CER_LANGUAGES and src != "ko":
        return len(plain) > COPIED_CHARS
    return len(source.split()) > COPIED_WORDS


def find_length_fault(source: str, translation: str, src: str, tgt: str) -> str | None:
    """Say whether a translation is far longer or shorter than others of its direction."""
    expected = _letters(source) * EXPANSION[tgt] / EXPANSION[src]
    slack = LENGTH_SLACK * EXPANSION[tgt]
    found = _letters(translation)
    if found > LENGTH_FACTOR * expected + slack:
        return "too long"
    if found < expected / LENGTH_FACTOR - slack:
        return "too short"
    return None


def _plain(text: str) -> str:
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))


def _letters(text: str) -> int:
    return len("".join(text.split()))


def measure(texts: dict[str, list[str]]) -> tuple[dict[str, float], dict[tuple[str, str], Counter]]:
    """Measure human translations.

    Args:
        texts: language code to lines; line i says the same in all of them.

    Returns:
        Characters per English one (nothing without English text), and per direction how many lines
        each filter drops.
    """
    letters = {lang: sum(map(_letters, lines)) for lang, lines in texts.items()}
    expansion = {lang: n / letters["en"] for lang, n in letters.items() if "en" in letters}
    dropped = {}
    for src, tgt in itertools.permutations(texts, 2):
        pairs = zip(texts[src], texts[tgt], strict=True)
        faults = (find_fault(source, human, src, tgt) for source, human in pairs)
        dropped[src, tgt] = Counter(fault for fault in faults if fault)
    return expansion, dropped


def read_parallel(files: list[Path]) -> dict[str, list[str]]:
    """Read line-aligned files, named by language code.

    Raises:
        ValueError: a file is missing, has no known language code, or another number of lines.
    """
    texts: dict[str, list[str]] = {}
    for path in files:
        lang = path.suffix.removeprefix(".")
        if not path.is_file() or lang not in LANGUAGES:
            raise ValueError(
                f"{path}: expected a file whose name ends in a language code, as news.de; "
                f"codes: {' '.join(LANGUAGES)}"
            )
        texts[lang] = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        first = files[0].suffix.removeprefix(".")
        if len(texts[lang]) != len(texts[first]):
            raise ValueError(
                f"{path}: found {len(texts[lang])} lines, {files[0]} has {len(texts[first])}; "
                "expected the same number: line i of each file says the same"
            )
    return texts


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, help="line-aligned text, NAME.LANGUAGE")
    args = parser.parse_args()
    try:
        texts = read_parallel(args.files)
    except ValueError as error:
        raise SystemExit(f"{parser.prog}: error: {error}") from None
    expansion, dropped = measure(texts)
    for lang, ratio in expansion.items():
        print(f"{lang}: {ratio:.2f} characters per English one")
    for (src, tgt), faults in sorted(dropped.items(), key=lambda item: -sum(item[1].values())):
        lines = len(texts[src])
        each = ", ".join(f"{n} {fault}" for fault, n in sorted(faults.items()))
        print(f"{src} -> {tgt}: {100 * sum(faults.values()) / lines:.2f} % of {lines}  {each}")


if __name__ == "__main__":
    main()
