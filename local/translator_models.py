"""The two kinds of translation models, loaded: sequence-to-sequence models and chat LLMs.

A result depends on nothing but its text (in fp32; in bf16 a near-tie may fall out otherwise): rows
are masked, limits are per row, and the settings that a model ships for sampling, repetition
penalties and the like are set aside, because some of them count padding.
"""

import copy
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from transformers.generation import StoppingCriteriaList
from translator_languages import find_codes

from espnet_part.generation import RowLimits
from espnet_part.prompt import LANGUAGES

MARK = "\ue001"  # stands for the text in a chat template; a private-use character
_THOUGHT = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)
_NO_LIMIT = 1 << 20  # tokenizers that know no longest input say far more


@dataclass(frozen=True)
class Asking:
    """How a model is asked.

    Attributes:
        prompt: with {text}, and {src} and {tgt} for the languages in English; None: the bare text.
        num_beams: 1 is greedy search.
        max_ratio: new tokens at most, per token of the source (and 16 more).
    """

    prompt: str | None = None
    num_beams: int = 1
    max_ratio: float = 3.0


@dataclass(frozen=True)
class Translation:
    """What a model gave: the text, and whether it was stopped before its end."""

    text: str
    cut: bool


class Translator(ABC):
    """What both kinds share: limits, padding, cutting at the end token.

    Args:
        model: a transformers model in eval mode.
        tokenizer: of the model.
        asking: how it is asked.
    """

    def __init__(self, model, tokenizer, asking: Asking):
        self.model, self.tokenizer, self.asking = model, tokenizer, asking
        self.end_ids = self._find_end_ids()
        pad = tokenizer.pad_token_id
        self.pad_id = self.end_ids[0] if pad is None else pad
        most = getattr(model.config, "max_position_embeddings", None)
        self.positions = min(most or _NO_LIMIT, tokenizer.model_max_length or _NO_LIMIT)

    @abstractmethod
    def encode(self, texts: list[str], src: str, tgt: str) -> list[list[int]]:
        """Token ids of what the model reads for each text."""

    def fits(self, ids: list[int]) -> bool:
        """Whether the model can read so long an input."""
        return len(ids) <= self.positions

    @abstractmethod
    def generate(self, ids: list[list[int]], src: str, tgt: str) -> list[Translation]:
        """Translate a batch.

        Args:
            ids: of `encode`, all for one direction, and each such that it `fits`.
            src: code of the source language.
            tgt: code of the target language.
        """

    def _max_new_tokens(self, source_tokens: int) -> int:
        return 16 + int(self.asking.max_ratio * source_tokens)

    def _generate(self, ids, left: bool, limits: list[int], start: int, **settings):
        """Pad, search, cut: token ids behind `start`, and whether the end was not reached."""
        longest = max(map(len, ids))
        rows, mask = [], []
        for row in ids:
            pad, ones = [self.pad_id] * (longest - len(row)), [1] * len(row)
            rows.append(pad + row if left else row + pad)
            mask.append([0] * len(pad) + ones if left else ones + [0] * len(pad))
        config = self._search_config(max(limits), settings)
        device = self.model.device
        own, self.model.generation_config = self.model.generation_config, config
        try:
            with torch.inference_mode():
                out = self.model.generate(
                    input_ids=torch.tensor(rows, device=device),
                    attention_mask=torch.tensor(mask, device=device),
                    generation_config=config,
                    stopping_criteria=StoppingCriteriaList(
                        [RowLimits([start + limit for limit in limits])]
                    ),
                )
        finally:
            self.model.generation_config = own
        results = []
        for sequence, limit in zip(out[:, start:].tolist(), limits, strict=True):
            new = sequence[:limit]
            end = next((i for i, token in enumerate(new) if token in self.end_ids), None)
            results.append((new if end is None else new[:end], end is None))
        return results

    def _search_config(self, max_new_tokens: int, settings: dict):
        config = copy.deepcopy(self.model.generation_config)
        config.update(
            do_sample=False,
            num_beams=self.asking.num_beams,
            max_new_tokens=max_new_tokens,
            max_length=None,
            min_length=0,
            temperature=None,
            top_p=None,
            top_k=None,
            repetition_penalty=None,
            no_repeat_ngram_size=None,
            forced_eos_token_id=None,  # would hide that a row was cut
            eos_token_id=self.end_ids,
            pad_token_id=self.pad_id,
            use_cache=True,
            **settings,
        )
        return config

    def _find_end_ids(self) -> list[int]:
        found = self.model.generation_config.eos_token_id
        ids = found if isinstance(found, list) else [found]
        ids = [i for i in (*ids, self.tokenizer.eos_token_id) if i is not None]
        if not ids:
            raise ValueError(
                f"--model {self.tokenizer.name_or_path}: no end token; it could not stop"
            )
        return list(dict.fromkeys(ids))

    def _text(self, ids: list[int]) -> str:
        text = self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return " ".join(text.split())


class Seq2SeqTranslator(Translator):
    """NLLB, M2M100, mBART-50, OPUS-MT, MADLAD-400 and their like."""

    def __init__(self, model, tokenizer, asking: Asking):
        super().__init__(model, tokenizer, asking)
        self.languages = find_codes(tokenizer)
        tokens = list(self.languages.tokens.values())
        self._language_ids = set(tokenizer.convert_tokens_to_ids(tokens))

    def encode(self, texts: list[str], src: str, tgt: str) -> list[list[int]]:
        """Token ids of each text with its language tokens and end token."""
        if self.languages.scheme == "prefix":
            token = self.languages.tokens[tgt]
            # An added token is found only where added tokens are looked for.
            split = token not in self.tokenizer.get_added_vocab()
            texts = [f"{token} {text}" for text in texts]
            return self.tokenizer(texts, split_special_tokens=split).input_ids
        if self.languages.scheme == "src_lang":
            self.tokenizer.src_lang = self.languages.codes[src]
        elif self.asking.prompt is not None:
            names = {"src": LANGUAGES[src], "tgt": LANGUAGES[tgt]}
            texts = [self.asking.prompt.format(text=text, **names) for text in texts]
        # A transcript that spells a special token does not become one.
        return self.tokenizer(texts, split_special_tokens=True).input_ids

    def generate(self, ids: list[list[int]], src: str, tgt: str) -> list[Translation]:
        """Translate a batch of one direction, padded on the right."""
        settings = {}
        if self.languages.scheme == "src_lang":
            token = self.languages.tokens[tgt]
            settings["forced_bos_token_id"] = self.tokenizer.convert_tokens_to_ids(token)
        # The decoder's first token is given, not found; it takes a position, too.
        limits = [min(self._max_new_tokens(len(row)), self.positions - 1) for row in ids]
        found = self._generate(ids, False, limits, start=1, **settings)
        # Not every tokenizer takes the language tokens for special ones and leaves them out.
        plain = [([i for i in new if i not in self._language_ids], cut) for new, cut in found]
        return [Translation(self._text(new), cut) for new, cut in plain]


class ChatTranslator(Translator):
    """An LLM that is asked in words."""

    def __init__(self, model, tokenizer, asking: Asking):
        super().__init__(model, tokenizer, asking)
        assert asking.prompt is not None  # an LLM is told what to do
        self._prompt = asking.prompt
        self._around: dict[tuple[str, str], tuple[list[int], list[int]]] = {}

    def encode(self, texts: list[str], src: str, tgt: str) -> list[list[int]]:
        """Token ids of the whole chat up to where the answer begins."""
        before, after = self._find_around(src, tgt)
        bare = self.tokenizer(texts, add_special_tokens=False, split_special_tokens=True).input_ids
        return [[*before, *row, *after] for row in bare]

    def generate(self, ids: list[list[int]], src: str, tgt: str) -> list[Translation]:
        """Translate a batch, padded on the left, so that all answers begin at one place."""
        limits = [self._limit(row, src, tgt) for row in ids]
        found = self._generate(ids, True, limits, start=max(map(len, ids)))
        return [Translation(_THOUGHT.sub("", self._text(new)).strip(), cut) for new, cut in found]

    def fits(self, ids: list[int]) -> bool:
        """Whether there is room for the input and an answer of its length."""
        return 2 * len(ids) <= self.positions

    def _limit(self, row: list[int], src: str, tgt: str) -> int:
        around = sum(map(len, self._find_around(src, tgt)))
        return min(self._max_new_tokens(len(row) - around), self.positions - len(row))

    def _find_around(self, src: str, tgt: str) -> tuple[list[int], list[int]]:
        if (src, tgt) not in self._around:
            asked = self._prompt.format(src=LANGUAGES[src], tgt=LANGUAGES[tgt], text=MARK)
            chat = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": asked}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,  # Qwen3's; other templates do not know it
            )
            pieces = chat.split(MARK)
            if len(pieces) != 2:
                raise ValueError(
                    f"--model {self.tokenizer.name_or_path}: its chat template shows the user's "
                    f"message {len(pieces) - 1} times, expected once"
                )
            before, after = self.tokenizer(pieces, add_special_tokens=False).input_ids
            self._around[src, tgt] = before, after
        return self._around[src, tgt]
