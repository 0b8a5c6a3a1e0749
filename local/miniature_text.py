"""What the miniature's tiny LLM is trained on: lines of text, all of them made, and real pairs.

Copying and translating sentences of the grammar (none with a held-out pair), and translating real
sentences, where a folder of them is given. Swedish, Indonesian and Arabic have a tenth of the other
languages' meanings; they are drawn a third as often.
"""

import itertools
import random
from pathlib import Path

from miniature_grammar import (
    DIRECTIONS,
    HELD_OUT,
    ILL_RESOURCED,
    SPOKEN,
    Meaning,
    forms_of,
    held_out_pairs,
    read_templates,
    read_words,
    say,
)
from text_lines import Line, make_line, stretch

from espnet_part.prompt import Prompter

ILL_SHARE = 10  # one meaning in so many is said in an ill-resourced language
ILL_WEIGHT = 1 / 3  # how often a direction into one is drawn
UNSPACED = ("zh", "yue", "ja")
MOST_CHARACTERS = 40  # of a real sentence
MOST_BLANKS = (2, 4, 7)  # between two tokens; speech has about 5 positions a word at 16.7 Hz
CODES = {"zh": "cmn", "ja": "jpn", "de": "deu", "fr": "fra", "es": "spa", "it": "ita",
         "ru": "rus", "sv": "swe", "id": "ind", "ar": "ara"}  # fmt: skip


def words(meanings: list[Meaning]) -> list[str]:
    """All words of the grammar, each to be one token.

    In languages without spaces they are the slots' words and what the templates put between them.
    """
    spaced = [lang for lang in (*SPOKEN, *ILL_RESOURCED) if lang not in UNSPACED]
    out = [say(meaning, lang) for meaning in meanings for lang in spaced]
    for slot, cells in read_words().items():
        # The first word of a sentence may have a space before it where speech stands.
        for number in range(len(cells)):
            out += [f" {form}" for lang in spaced for form in forms_of(slot, number, lang).values()]
            out += [cells[number][lang] for lang in UNSPACED]
    for template in read_templates().values():
        for lang in UNSPACED:
            out += [part.rpartition("}")[2] for part in template[lang].split("{")]
    return [word for word in out if word]


def says_held_out(text: str, language: str) -> bool:
    """Whether a real sentence has both words of a held-out pair."""
    text = text.lower()

    def has(slot: str, word: int) -> bool:
        return any(form.lower() in text for form in forms_of(slot, word, language).values())

    pairs = itertools.chain.from_iterable(held_out_pairs(split) for split in HELD_OUT)
    return any(has(a, i) and has(b, j) for a, i, b, j in pairs)


def read_real(folder: Path) -> list[tuple[str, str, str, str]]:
    """Read Tatoeba pairs (tatoeba.<xxx>-eng.<xxx> and .eng) of the directions that PART has.

    Returns:
        (source language, source, target language, target), short ones without held-out pairs.

    Raises:
        ValueError: a file is missing.
    """
    rows = []
    for src, tgt in DIRECTIONS:
        code = CODES[tgt if src == "en" else src]
        both = []
        for language in (src, tgt):
            end = "eng" if language == "en" else code
            path = folder / f"tatoeba.{code}-eng.{end}"
            if not path.exists():
                raise ValueError(f"{path} is missing: expected the Tatoeba pairs of {src}-{tgt}")
            both.append(path.read_text(encoding="utf-8").splitlines())
        for source, target in zip(*both, strict=True):
            fits = max(len(source), len(target)) <= MOST_CHARACTERS
            if fits and not says_held_out(source, src) and not says_held_out(target, tgt):
                rows.append((src, source, tgt, target))
    return rows


class Text:
    """Draws lines.

    Args:
        prompter: renders prompts.
        meanings: of training.
        real: of `read_real`.
        real_share: share of lines that are real.
        seed: draws.
    """

    def __init__(self, prompter: Prompter, meanings: list[Meaning], real, real_share, seed: int):
        self.prompter, self.meanings, self.real = prompter, meanings, real
        self.real_share = real_share if real else 0.0
        self.rng = random.Random(f"{seed} llm")
        self._drawn: list[list[Line]] = []
        self.weights = [ILL_WEIGHT if tgt in ILL_RESOURCED else 1.0 for _, tgt in DIRECTIONS]

    def draw(self, n: int, share: float) -> list[Line]:
        """So many lines of like length, sources stretched by `share`; see text_llm.train_llm."""
        if not self._drawn:
            lines = sorted((self._line(share) for _ in range(16 * n)), key=lambda x: len(x[0]))
            self._drawn = [lines[i : i + n] for i in range(0, len(lines), n)]
            self.rng.shuffle(self._drawn)
        return self._drawn.pop()

    def _line(self, share: float) -> Line:
        rng = self.rng
        if rng.random() < self.real_share:
            src, source, tgt, target = rng.choice(self.real)
            return self.line(rng.choice(("mt", "st")), src, source, tgt, target, share)
        task = rng.choices(("asr", "st", "mt"), (4, 4, 2))[0]
        if task == "asr":
            src = tgt = rng.choice(SPOKEN)
        else:
            ((src, tgt),) = rng.choices(DIRECTIONS, self.weights)
        few = len(self.meanings) // ILL_SHARE if tgt in ILL_RESOURCED else len(self.meanings)
        meaning = self.meanings[rng.randrange(few)]
        return self.line(task, src, say(meaning, src), tgt, say(meaning, tgt), share)

    def line(self, task, src: str, source: str, tgt: str, target: str, share: float) -> Line:
        """One line; with speech in the prompt the source is stretched."""
        rng, prompter = self.rng, self.prompter
        lid = rng.choice(("right", "none"))
        prompt = prompter.prompt(task, src, tgt, source_text=source, lid=lid)
        soft: list[int] = []
        if prompt.has_speech:
            # With or without the space before the first word, whose token would be another one:
            # the adapter need not know which word is the first.
            space = "" if src in UNSPACED else rng.choice(("", " "))
            ids = prompter.encode(space + source)
            if rng.random() < 0.5:  # what lasts is said twice
                ids = [i for i in ids for _ in range(rng.choice((1, 1, 2)))]
            # A tenth stays as it is: clean text in the place of speech anchors the rest.
            plain = rng.random() < 0.1
            blank = prompter.tokenizer.pad_token_id
            soft = ids if plain else stretch(ids, blank, rng, share, rng.choice(MOST_BLANKS))
        return make_line(prompt, soft, prompter.target(target))
