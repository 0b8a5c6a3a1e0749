"""Lines of training text for the recipe's tiny LLMs (text_llm.py), and a tokenizer for them.

A *line* is (ids, is_soft, n_target): input ids with the target at the end, which of them stand in
the place of speech, and the target's length. Shapes: B = lines, L = tokens.
"""

import random
from collections.abc import Iterable

import torch

from espnet_part.prompt import LANGUAGES, RenderedPrompt

Line = tuple[list[int], list[bool], int]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def make_tokenizer(words: Iterable[str], templates: dict):
    """Make a byte-level BPE tokenizer with a chat template, where each of some words is one token.

    Args:
        words: with the space before them, where there is one. No token ever spans two of them;
            other text falls apart into pieces of words and bytes.
        templates: conf/prompts.yaml, whose words become tokens, too.

    Returns:
        A transformers tokenizer. Its model is plain BPE, since AutoTokenizer makes a
        Qwen2Tokenizer of whatever lies beside a Qwen2, by its vocabulary and merges alone.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    names = LANGUAGES.values()
    prompts = [
        form.format(src=a, tgt=b)
        for forms in templates.values()
        for form in forms.values()
        for a in names
        for b in names
    ]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    split, join = bpe.pre_tokenizer, bpe.decoder
    parts = {
        part
        for text in [*words, *prompts, "user\n", "assistant\n"]
        for part, _ in split.pre_tokenize_str(text)
    }
    trainer = trainers.BpeTrainer(
        vocab_size=1 << 20,  # merging ends when each word is one token
        min_frequency=1,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # A list: what asks `bpe` for anything while it trains waits for ever.
    bpe.train_from_iterator([join.decode([part]) for part in sorted(parts)], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def stretch(
    ids: list[int], blank: int, rng: random.Random, share: float, most: int = 6
) -> list[int]:
    """Draw how a source is stretched: to about the length that speech has behind the adapter.

    Args:
        ids: tokens of the source.
        blank: token that stands for frames between words.
        rng: random numbers.
        share: 0 leaves the source as it is, 1 stretches it fully.
        most: blanks between two tokens.

    Returns:
        The tokens in order with blanks before, between and behind them.
    """
    line: list[int] = []
    for token in ids:
        line += [blank] * int(share * rng.randint(0, most) + 0.5) + [token]
    return line + [blank] * int(share * rng.randint(0, most) + 0.5)


def make_line(prompt: RenderedPrompt, soft: list[int], target: list[int]) -> Line:
    """Put a prompt, what stands in the place of speech, and a target into a line."""
    ids = [*prompt.before, *soft, *prompt.after, *target]
    is_soft = [False] * len(prompt.before) + [True] * len(soft)
    is_soft += [False] * (len(ids) - len(is_soft))
    return ids, is_soft, len(target)


def collate(lines: list[Line]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pad lines on the right, where a causal LM does not look.

    Args:
        lines: see above.

    Returns:
        ids_BL, is_soft_BL and labels_BL (-100 but for targets).
    """
    longest = max(len(line[0]) for line in lines)
    ids_BL = torch.zeros(len(lines), longest, dtype=torch.long)
    soft_BL = torch.zeros(len(lines), longest, dtype=torch.bool)
    labels_BL = torch.full((len(lines), longest), -100)
    for i, (ids, soft, n_target) in enumerate(lines):
        ids_BL[i, : len(ids)] = torch.tensor(ids)
        soft_BL[i, : len(ids)] = torch.tensor(soft)
        labels_BL[i, len(ids) - n_target : len(ids)] = torch.tensor(ids[-n_target:])
    return ids_BL, soft_BL, labels_BL
