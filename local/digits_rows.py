"""Tokenizer and training rows of the digits corpus' tiny LLM: prompts with stretched text.

Shapes: B = rows, L = tokens.
"""

import random

import torch
from digits_text import SOURCE, TARGETS, WORDS, say

from espnet_part.prompt import LANGUAGES, Prompter

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MOST_BLANKS = 6  # between two words; speech has 2 to 9 positions per digit at 8.33 Hz
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def make_tokenizer(templates: dict, vocabulary: int):
    """Train a byte-level BPE tokenizer with a chat template on the words of the corpus.

    Digit words stand alone in the training text, so that no token ever spans two of them; any
    other text falls apart into pieces and bytes.

    Args:
        templates: conf/prompts.yaml.
        vocabulary: most tokens, special tokens included.

    Returns:
        A transformers tokenizer.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    text = [f"{space}{word}" for words in WORDS.values() for word in words for space in ("", " ")]
    for forms in templates.values():
        for form in forms.values():
            text += [
                form.format(src=a, tgt=b) for a in LANGUAGES.values() for b in LANGUAGES.values()
            ]
    text += ["user\n", "assistant\n"] * 10
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(text, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def stretch(ids: list[int], blank: int, rng: random.Random, most: float) -> list[int]:
    """Draw how a source is stretched: to about the length that speech has behind the adapter.

    Args:
        ids: tokens of the source.
        blank: token that stands for frames between words.
        rng: random numbers.
        most: 0 leaves the source as it is, 1 stretches it fully.

    Returns:
        The tokens in order with blanks before, between and behind them.
    """
    line: list[int] = []
    for token in ids:
        line += [blank] * int(most * rng.randint(0, MOST_BLANKS) + 0.5) + [token]
    return line + [blank] * int(most * rng.randint(0, MOST_BLANKS) + 0.5)


def make_rows(
    prompter: Prompter, strings: list[str], rng: random.Random, most: float = 1.0
) -> list:
    """Make a row of each digit string: a task, a target language, a stretch, all by chance.

    Args:
        prompter: renders them.
        strings: digits.
        rng: random numbers.
        most: how far sources are stretched, 0 to 1.

    Returns:
        (ids, is_soft, n_target) per row: input ids with the target at the end, which of them stand
        in the place of speech, and the target's length.
    """
    blank = prompter.tokenizer.pad_token_id
    rows = []
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
            soft = ids if rng.random() < 0.1 else stretch(ids, blank, rng, most)
        line = [*prompt.before, *soft, *prompt.after, *target]
        is_soft = [False] * len(prompt.before) + [True] * len(soft)
        is_soft += [False] * (len(line) - len(is_soft))
        rows.append((line, is_soft, len(target)))
    return rows


def collate(rows: list) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pad rows on the right, where a causal LM does not look.

    Args:
        rows: of `make_rows`.

    Returns:
        ids_BL, is_soft_BL and labels_BL (-100 but for targets).
    """
    longest = max(len(row[0]) for row in rows)
    ids_BL = torch.zeros(len(rows), longest, dtype=torch.long)
    soft_BL = torch.zeros(len(rows), longest, dtype=torch.bool)
    labels_BL = torch.full((len(rows), longest), -100)
    for i, (ids, soft, n_target) in enumerate(rows):
        ids_BL[i, : len(ids)] = torch.tensor(ids)
        soft_BL[i, : len(ids)] = torch.tensor(soft)
        labels_BL[i, len(ids) - n_target : len(ids)] = torch.tensor(ids[-n_target:])
    return ids_BL, soft_BL, labels_BL
