"""The miniature's grammar: 138 content words, four templates, thirteen languages.

A *meaning* is a template and a word for each of its slots; every meaning can be said in every
language, so all its sentences are translations of each other. Words are in miniature_words.tsv (a
cell holds one form, or several as form@gender/form@gender), word order in miniature_templates.yaml.
Each slot has one place in the sentence only, so that no other inflection is needed.

*Held-out pairs*: for some pairs of slots, each word of the longer slot has one word of the other
slot with which it occurs in test sentences only, and one with which in dev sentences only. Nothing
that trains ever says both in one sentence, in any language.
"""

import csv
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

FOLDER = Path(__file__).resolve().parent
SPOKEN = ("zh", "en", "ja", "ko", "yue", "de", "fr", "ru", "es", "it")
ILL_RESOURCED = ("sv", "id", "ar")  # text only, and little of it
TO_ENGLISH = ("zh", "ja", "de", "fr", "es", "it", "ru")
FROM_ENGLISH = ("zh", "ja", "de", *ILL_RESOURCED)
DIRECTIONS = tuple((src, "en") for src in TO_ENGLISH) + tuple(("en", tgt) for tgt in FROM_ENGLISH)
HELD_OUT = ("dev", "test")
_PAIRS_SEED = 7

Pair = tuple[str, int, str, int]  # slot, number of the word in it, other slot, number of its word


@dataclass(frozen=True)
class Meaning:
    """What a sentence says: a template, and the number of the word in each slot."""

    template: str
    words: tuple[tuple[str, int], ...]


@cache
def read_words() -> dict[str, list[dict[str, str]]]:
    """Slot -> its words, each language -> cell of the table."""
    slots: dict[str, list[dict[str, str]]] = {}
    with open(FOLDER / "miniature_words.tsv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            slots.setdefault(row.pop("slot"), []).append(row)
    return slots


@cache
def read_templates() -> dict[str, dict]:
    """Template -> share, pairs, and its form in each language."""
    return yaml.safe_load((FOLDER / "miniature_templates.yaml").read_text(encoding="utf-8"))


def slots_of(template: str) -> list[str]:
    """The slots of a template, in English order."""
    return [part.split("}")[0] for part in read_templates()[template]["en"].split("{")[1:]]


@cache
def forms_of(slot: str, word: int, language: str) -> dict[str, str]:
    """Gender ("" where there is none) -> form."""
    cell = read_words()[slot][word][language]
    return {g: form for form, _, g in (part.partition("@") for part in cell.split("/"))}


def say(meaning: Meaning, language: str) -> str:
    """Word a meaning in a language: lower case as in running text, no punctuation."""
    chosen = dict(meaning.words)
    out = []
    for part in read_templates()[meaning.template][language].split("{"):
        name, brace, rest = part.partition("}")
        if not brace:
            out.append(part)
            continue
        slot, _, noun = name.partition("@")
        forms = forms_of(slot, chosen[slot], language)
        if noun and len(forms) > 1:
            (gender,) = forms_of(noun, chosen[noun], language)
            out.append(forms[gender])
        else:
            out.append(next(iter(forms.values())))
        out.append(rest)
    return "".join(out)


@cache
def _pair_slots(template: str) -> list[tuple[str, str]]:
    """The pairs of slots of a template, the one with fewer words first."""
    words = read_words()
    return [
        (a, b) if len(words[a]) <= len(words[b]) else (b, a)
        for a, b in read_templates()[template]["pairs"]
    ]


@cache
def held_out_pairs(split: str) -> frozenset[Pair]:
    """The pairs of words that occur together in this split only ("dev" or "test")."""
    words, found = read_words(), set()
    for template in read_templates():
        for short, long in _pair_slots(template):
            order = list(range(len(words[short])))
            random.Random(f"{_PAIRS_SEED} {short} {long}").shuffle(order)
            for number in range(len(words[long])):
                partner = order[(number + HELD_OUT.index(split)) % len(order)]
                found.add((short, partner, long, number))
    return frozenset(found)


def pairs_in(meaning: Meaning, split: str) -> set[Pair]:
    """The held-out pairs of a split that a meaning has."""
    chosen, held_out = dict(meaning.words), held_out_pairs(split)
    own = {(a, chosen[a], b, chosen[b]) for a, b in _pair_slots(meaning.template)}
    return own & held_out


def belongs(meaning: Meaning, split: str) -> bool:
    """Whether a split may hold a meaning: train none of the pairs, dev and test theirs alone."""
    return all(bool(pairs_in(meaning, name)) == (name == split) for name in HELD_OUT)


def draw(split: str, rng: random.Random, avoid: set[Meaning] | None = None) -> Iterator[Meaning]:
    """Draw meanings of a split for ever.

    Args:
        split: "train", "dev" or "test".
        rng: random numbers.
        avoid: meanings left out; with it, none comes twice either.

    Yields:
        Meanings.
    """
    templates, words = read_templates(), read_words()
    shares = [template["share"] for template in templates.values()]
    seen = set(avoid or ())
    while True:
        (name,) = rng.choices(list(templates), shares)
        while True:
            chosen = tuple((slot, rng.randrange(len(words[slot]))) for slot in slots_of(name))
            meaning = Meaning(name, chosen)
            if belongs(meaning, split):
                break
        if avoid is not None:
            if meaning in seen:
                continue
            seen.add(meaning)
        yield meaning
