"""What an LLM can do with text alone: translation, perplexity, following instructions.

Measured before phase 1 and after any phase, it says what training on speech did to the LLM.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np
from torch import nn

from espnet_part import normalize as norm
from espnet_part.pairs import Pair
from espnet_part.perplexity import TextLoss, plain_context, summarize, text_losses
from espnet_part.prompt import Prompter
from espnet_part.results import System, make_rows
from espnet_part.scoring import score
from espnet_part.significance import BOOTSTRAP_SAMPLES, bootstrap, per_cent
from espnet_part.text_sets import TextSet
from espnet_part.text_tasks import BATCH_SIZE, answer, translate

# The paper's languages that the LLM has seen little of.
ILL_RESOURCED = ("sv", "id", "ar")
# An answer that is longer than the right one by more tokens than this is not the right one.
MORE_THAN_TARGET = 8


@dataclass(frozen=True)
class Skills:
    """What was found on one test set.

    Attributes:
        rows: BLEU, chrF and rates in the schema of results.json; none of an instruct set.
        facts: What that schema has no place for: ``given_prompt`` and ``plain`` (perplexities, see
            `perplexity.summarize`), ``in_language`` and, of instructions, ``exact_match``, in per
            cent of rows, with intervals.
        hyps: The LLM's answers.
    """

    test_set: TextSet
    rows: list[dict[str, Any]]
    facts: dict[str, Any]
    hyps: list[str]


def measure(
    llm: nn.Module,
    prompter: Prompter,
    test_sets: Sequence[TextSet],
    system: System,
    samples: int = BOOTSTRAP_SAMPLES,
    batch_size: int = BATCH_SIZE,
) -> list[Skills]:
    """Measures an LLM on test sets; what several of them share is computed once.

    Args:
        llm: From `build_llm`, in eval mode.
        prompter: Of its tokenizer.
        test_sets: What to ask.
        system: How to call the LLM in rows of results.
        samples: Resamples for the intervals; 0: none.
        batch_size: Most prompts at once.
    """
    hyps = _answers(llm, prompter, test_sets, batch_size)
    rows = [row for test_set in test_sets for row in test_set.rows]
    texts = [prompter.encode(row.target) for row in rows]
    end = prompter.end_token_ids[0]
    prompts = [
        prompter.prompt(_text_task(row.task), row.src, row.tgt, source_text=row.source).before
        for row in rows
    ]
    given = text_losses(llm, end, prompts, texts)
    plain = text_losses(llm, end, [plain_context(prompter)] * len(texts), texts)
    found, start = [], 0
    for test_set in test_sets:
        part = slice(start, start + len(test_set.rows))
        start = part.stop
        losses = (given[part], plain[part])
        found.append(_skills(test_set, hyps[part], losses, system, samples))
    return found


def _text_task(task: str) -> str:
    return "mt" if task == "st" else task


def _answers(
    llm: nn.Module, prompter: Prompter, test_sets: Sequence[TextSet], batch_size: int
) -> list[str]:
    """Answers of all sets' rows, in order."""
    rows = [row for test_set in test_sets for row in test_set.rows]
    asked = [row for row in rows if row.task == "instruct"]
    prompts = [prompter.prompt("instruct", r.src, r.tgt, source_text=r.source) for r in asked]
    limits = [len(prompter.encode(row.target)) + MORE_THAN_TARGET for row in asked]
    answered = iter(answer(llm, prompter, prompts, limits, batch_size))
    translated = iter(
        translate(llm, prompter, [r for r in rows if r.task != "instruct"], None, batch_size)
    )
    return [next(answered if row.task == "instruct" else translated) for row in rows]


def _skills(
    test_set: TextSet,
    hyps: list[str],
    losses: tuple[list[TextLoss], list[TextLoss]],
    system: System,
    samples: int,
) -> Skills:
    texts = [row.target for row in test_set.rows]
    facts: dict[str, Any] = {
        "test_set": test_set.name,
        "task": test_set.task,
        "src": test_set.src,
        "tgt": test_set.tgt,
        "given_prompt": summarize(losses[0], texts, samples),
        "plain": summarize(losses[1], texts, samples),
    }
    if not test_set.is_translation:
        right = [
            norm.normalize(row.target, row.tgt) == norm.normalize(hyp, row.tgt)
            for row, hyp in zip(test_set.rows, hyps, strict=True)
        ]
        stats = np.stack([np.array(right, float), np.ones(len(right))], axis=1)
        facts["exact_match"] = 100.0 * sum(right) / len(right)
        facts["exact_match_ci95"] = bootstrap(stats, per_cent, samples)
        return Skills(test_set, [], facts, hyps)
    pairs = [
        Pair(row.utt_id, row.target, hyp, row.speaker)
        for row, hyp in zip(test_set.rows, hyps, strict=True)
    ]
    kind = (test_set.task, test_set.src, test_set.tgt)
    rows = make_rows(score(pairs, *kind, samples), system, test_set.name, *kind)
    wrong = next(row for row in rows if row["metric"] == "wrong_lang_rate")
    facts["in_language"] = 100.0 - wrong["value"]
    if wrong["ci95"]:
        low, high = wrong["ci95"]
        facts["in_language_ci95"] = [100.0 - high, 100.0 - low]
    return Skills(test_set, rows, facts, hyps)


def value_of(skills: Skills, column: str) -> float | None:
    """A number of a test set: a metric of results.json, or a fact such as `plain.perplexity`."""
    for row in skills.rows:
        if row["metric"] == column:
            return row["value"]
    place: Any = skills.facts
    for key in column.split("."):
        place = place.get(key) if isinstance(place, dict) else None
    return place


def mean_of(found: Iterable[Skills], column: str) -> float | None:
    """The mean over test sets; None unless all of them have the number.

    Perplexities are averaged as losses are, so that one language does not outweigh all others.
    """
    values = [value_of(one, column) for one in found]
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    if column.endswith("perplexity"):
        return math.exp(mean(map(math.log, known)))
    return mean(known)


def groups(found: Sequence[Skills]) -> dict[str, list[Skills]]:
    """What is averaged: all directions, those into ill-resourced languages, the others."""
    translation = [one for one in found if one.test_set.is_translation]
    ill = [one for one in translation if one.test_set.tgt in ILL_RESOURCED]
    rest = [one for one in translation if one.test_set.tgt not in ILL_RESOURCED]
    parts = {"all": translation, f"into {' '.join(ILL_RESOURCED)}": ill, "the others": rest}
    return {name: content for name, content in parts.items() if content}
