"""The check for a wrong language: how much it finds, and that it says yes with reason only."""

import itertools

import pytest
import real_data

from espnet_part.language_match import wrong_language

LATIN = "en de fr es it sv id".split()
READ = {"ntrex": real_data.ntrex, "flores": real_data.flores, "tatoeba": real_data.tatoeba}
FOLDERS = {"ntrex": "ntrex128", "flores": "flores200_devtest", "tatoeba": "tatoeba"}
needs_text = real_data.needs(*FOLDERS.values())


def caught(hyps: list[str], refs: list[str], lang: str) -> float:
    """Per cent of hypotheses that are said to be in a wrong language."""
    found = [wrong_language(hyp, ref, lang) for hyp, ref in zip(hyps, refs, strict=True)]
    return 100 * sum(found) / len(found)


@pytest.mark.parametrize(
    ("lang", "said", "hyp"),
    [
        ("fr", "es", "no se por qué la casa es tan grande"),
        ("es", "fr", "je ne sais pas pourquoi la maison est si grande"),
        ("it", "es", "el perro de la casa no es mi perro"),
        ("es", "it", "il cane della casa non è il mio cane"),
        ("sv", "es", "la casa de mi hermano es muy grande en verano"),
        ("sv", "fr", "en été il y a du vin et de la soupe"),
    ],
)
def test_near_languages_are_told_apart(lang, said, hyp):
    """By what one of them lacks: `la`, `de` and `en` say nothing for either."""
    assert wrong_language(hyp, "", lang)
    assert not wrong_language(hyp, "", said)


@pytest.mark.parametrize(
    ("lang", "hyp"),
    [
        ("fr", "Non, non, non, non !"),
        ("it", "Oh, no, no."),
        ("de", "Oh, oh, oh!"),
        ("sv", "Ha ha ha, ja."),
        ("es", "Mi hermana pequeña se parece a mi madre."),
    ],
)
def test_repeated_and_shared_words_are_no_evidence(lang, hyp):
    assert not wrong_language(hyp, "", lang)


def test_a_reference_that_shows_the_same_excuses():
    quoted = "Il faut bien le faire."
    assert wrong_language(quoted, "", "en")
    assert not wrong_language(quoted, quoted, "en")


# --- on real text


@needs_text
@pytest.mark.parametrize("lang", LATIN)
@pytest.mark.parametrize("text", READ)
def test_alarms_on_text_in_the_right_language(text, lang):
    """Without a reference to excuse it: none but a French quotation that NTREX leaves as it is."""
    found = [line for line in READ[text](lang) if wrong_language(line, "", lang)]
    quoting = text == "ntrex" and lang in ("en", "de", "sv", "id")
    assert found == (["Il faut bien le faire."] if quoting else [])


@needs_text
@pytest.mark.parametrize(
    ("text", "step", "least"), [("ntrex", 12, 85), ("flores", 8, 86), ("tatoeba", 4, 33)]
)
def test_what_is_caught_between_languages_in_latin_script(text, step, least):
    """News and articles nearly all; everyday sentences of five words too often say too little."""
    lines = {lang: READ[text](lang)[::step] for lang in LATIN}
    for said, wanted in itertools.permutations(LATIN, 2):
        blank = [""] * len(lines[said])
        assert caught(lines[said], blank, wanted) > least, f"{wanted} wanted, {said} said"


@needs_text
def test_what_is_caught_between_mandarin_and_cantonese():
    """Half of NTREX's lines; none of FLORES, whose Cantonese is Mandarin in Cantonese spelling."""
    zh, yue = (READ["ntrex"](lang) for lang in ("zh", "yue"))
    assert 50 < caught(yue, zh, "zh") < 60
    assert 45 < caught(zh, yue, "yue") < 60
    zh, yue = (READ["flores"](lang) for lang in ("zh", "yue"))
    assert caught(yue, zh, "zh") == caught(zh, yue, "yue") == 0
