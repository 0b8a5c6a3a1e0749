"""Training lines of the digits corpus' tiny LLM: prompts with stretched text (see text_llm.py).

Tokens that last (several times in a row) are left out on purpose: a doubled digit is a thing of its
own here, and telling the two apart took the LLM longer than all the rest.
"""

import random

from digits_text import SOURCE, TARGETS, WORDS, say
from text_lines import Line, make_line, stretch

from espnet_part.prompt import Prompter

MOST_BLANKS = 6  # between two words; speech has 2 to 9 positions per digit at 8.33 Hz


def token_words() -> list[str]:
    """Each is one token: digit words, with and without the space before them."""
    return [f"{space}{word}" for words in WORDS.values() for word in words for space in ("", " ")]


def make_lines(
    prompter: Prompter, strings: list[str], rng: random.Random, share: float = 1.0
) -> list[Line]:
    """Make a line of each digit string: a task, a target language, a stretch, all by chance.

    Args:
        prompter: renders them.
        strings: digits.
        rng: random numbers.
        share: how far sources are stretched, 0 to 1.

    Returns:
        Lines, see text_llm.py.
    """
    blank = prompter.tokenizer.pad_token_id
    lines = []
    for digits in strings:
        task = rng.choices(("asr", "st", "mt"), (3, 4, 3))[0]
        tgt = SOURCE if task == "asr" else rng.choice(TARGETS)
        source = say(digits, SOURCE)
        lid = rng.choice(("right", "none"))
        prompt = prompter.prompt(task, SOURCE, tgt, source_text=source, lid=lid)
        target = prompter.target(say(digits, tgt))
        soft: list[int] = []
        if prompt.has_speech:
            # Word by word, with or without the space before it: the adapter need not know which
            # word is the first, whose token would be another one.
            words = [rng.choice(("", " ")) + word for word in source.split()]
            ids = [i for word in words for i in prompter.encode(word)]
            # A tenth stays as it is: clean text in the place of speech anchors the rest.
            soft = ids if rng.random() < 0.1 else stretch(ids, blank, rng, share, MOST_BLANKS)
        lines.append(make_line(prompt, soft, target))
    return lines
