r"""Renders a row to token ids: one renderer for training and for decoding.

The instruction goes into the LLM's own chat template; a tokenizer without one (a base LLM) gets
the plain form ``<instruction>\n``. Every piece that a user or a data file supplies is tokenized
with special tokens split, so that a transcript that spells ``<|im_end|>`` cannot end the turn.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

TASKS = ("asr", "st", "mt", "instruct")
SPEECH_TASKS = ("asr", "st")
LIDS = ("right", "none", "wrong")  # which source language a prompt of decoding names
LANGUAGES = {
    "zh": "Chinese",
    "en": "English",
    "ja": "Japanese",
    "ko": "Korean",
    "yue": "Cantonese",
    "de": "German",
    "fr": "French",
    "ru": "Russian",
    "es": "Spanish",
    "it": "Italian",
    "sv": "Swedish",
    "id": "Indonesian",
    "ar": "Arabic",
}
# Written into the chat template and cut out again: private-use characters, which none strips.
_SPEECH, _SOURCE, _ANSWER = "\ue000", "\ue001", "\ue002"


@dataclass(frozen=True)
class RenderedPrompt:
    """Token ids before and after the place of the speech; a text row has all in `before`."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    has_speech: bool


def check_language(code: str, where: str) -> None:
    """Raises ValueError, naming `where`, if `code` is none of LANGUAGES."""
    if code not in LANGUAGES:
        raise ValueError(
            f"{where}: unknown language {code!r}; expected one of {' '.join(LANGUAGES)}"
        )


def check_templates(templates: dict) -> dict:
    """Returns a copy of `templates` after checking tasks, forms and slots.

    Raises:
        ValueError: An unknown task or form, or a template without the slot that its task needs.
    """
    needed = {"asr": (), "st": ("{tgt}",), "mt": ("{tgt}",)}
    for task in templates:
        if task not in needed:
            raise ValueError(f"prompts: unknown task {task!r}; expected {sorted(needed)}")
    for task, slots in needed.items():
        forms = templates.get(task)
        if not isinstance(forms, dict) or set(forms) != {"with_source", "without_source"}:
            raise ValueError(
                f"prompts, task {task}: found {forms!r}; expected the two keys with_source "
                "and without_source"
            )
        for form, text in forms.items():
            if not isinstance(text, str):
                raise ValueError(f"prompts, {task}.{form}: found {text!r}, expected text")
            if form == "without_source" and "{src}" in text:
                raise ValueError(
                    f"prompts, {task}.{form}: {text!r} names the source language, which this form "
                    "is there to leave out"
                )
            wanted = (*slots, "{src}") if form == "with_source" else slots
            missing = [slot for slot in wanted if slot not in text]
            if missing:
                raise ValueError(f"prompts, {task}.{form}: {text!r} lacks {' '.join(missing)}")
            try:
                text.format(src="", tgt="")
            except (KeyError, IndexError, ValueError) as error:
                raise ValueError(f"prompts, {task}.{form}: {text!r}: bad slot: {error!r}") from None
    return copy.deepcopy(templates)


class Prompter:
    """Turns rows into prompts and targets for one tokenizer.

    Args:
        tokenizer: A transformers tokenizer.
        templates: ``{task: {with_source, without_source}}`` as in conf/prompts.yaml.

    Attributes:
        end_token_ids: Ids that end an answer; the first one is trained as the end token.
    """

    def __init__(self, tokenizer, templates: dict):
        self.tokenizer = tokenizer
        self.templates = check_templates(templates)
        self.end_token_ids = self._find_end_tokens()
        self._cache: dict[str, list[list[int]]] = {}

    def prompt(
        self, task: str, src: str, tgt: str, source_text: str | None = None, lid: str = "right"
    ) -> RenderedPrompt:
        """Renders the user's turn.

        Args:
            task: One of TASKS.
            src: Language code of the speech or source text.
            tgt: Language code of the answer.
            source_text: What to translate (mt) or the instruction (instruct).
            lid: Source language named in the prompt: ``right`` (`src`), ``none``, or a language
                code, which is named in place of the right one.

        Raises:
            ValueError: Unknown task or language, or a text task without text.
        """
        if task not in TASKS:
            raise ValueError(f"unknown task {task!r}; expected one of {' '.join(TASKS)}")
        check_language(src, "source language")
        check_language(tgt, "target language")
        if lid not in ("right", "none"):
            check_language(lid, "lid")
        has_speech = task in SPEECH_TASKS
        if not has_speech and not (source_text or "").strip():
            raise ValueError(f"task {task} needs a source text, found {source_text!r}")
        if task == "instruct":
            content = _SOURCE
        else:
            form = "without_source" if lid == "none" else "with_source"
            named = src if lid in ("right", "none") else lid
            instruction = self.templates[task][form].format(
                src=LANGUAGES[named], tgt=LANGUAGES[tgt]
            )
            content = _SPEECH + instruction if has_speech else f"{instruction}\n{_SOURCE}"
        first, second = self._pieces(content, _SPEECH if has_speech else _SOURCE)
        if has_speech:
            return RenderedPrompt(tuple(first), tuple(second), True)
        return RenderedPrompt((*first, *self.encode(source_text or ""), *second), (), False)

    def target(self, text: str) -> list[int]:
        """Ids of the answer, end token included."""
        return [*self.encode(text), self.end_token_ids[0]]

    def encode(self, text: str) -> list[int]:
        """Ids of text from outside: no special tokens, none added, none recognized."""
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids

    def decode(self, ids: list[int]) -> str:
        """Text of an answer's ids up to the first end token, no special tokens, on one line."""
        for position, token in enumerate(ids):
            if token in self.end_token_ids:
                ids = ids[:position]
                break
        text = self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return " ".join(text.split())

    def _pieces(self, content: str, mark: str) -> list[list[int]]:
        if content not in self._cache:
            text = self._chat([{"role": "user", "content": content}], answer_follows=True)
            parts = text.split(mark)
            if len(parts) != 2:
                raise ValueError(
                    f"the chat template of {self.tokenizer.name_or_path!r} shows the user's "
                    f"message {len(parts) - 1} times, expected once"
                )
            self._cache[content] = [
                self.tokenizer(part, add_special_tokens=False).input_ids for part in parts
            ]
        return self._cache[content]

    def _chat(self, messages: list[dict], answer_follows: bool) -> str:
        if getattr(self.tokenizer, "chat_template", None):
            return self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=answer_follows
            )
        text = "".join(message["content"] + "\n" for message in messages[:1])
        bos = self.tokenizer.bos_token or ""
        end = "".join(m["content"] + (self.tokenizer.eos_token or "") for m in messages[1:])
        return bos + text + end

    def _find_end_tokens(self) -> list[int]:
        """The token that the template puts behind an answer, then the tokenizer's own eos."""
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _ANSWER}]
        tail = self._chat(messages, answer_follows=False).split(_ANSWER)[-1]
        ids = self.tokenizer(tail, add_special_tokens=False).input_ids
        special = set(self.tokenizer.all_special_ids) | set(
            self.tokenizer.get_added_vocab().values()
        )
        found = [ids[0]] if ids and ids[0] in special else []
        if self.tokenizer.eos_token_id is not None and self.tokenizer.eos_token_id not in found:
            found.append(self.tokenizer.eos_token_id)
        if not found:
            raise ValueError(
                f"the tokenizer {self.tokenizer.name_or_path!r} has neither an end-of-turn token "
                "in its chat template nor an eos token; the model could not learn to stop"
            )
        return found
