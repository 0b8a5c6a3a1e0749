"""What an LLM can do with text, as tables and as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from espnet_part.tables import markdown
from espnet_part.text_skills import Skills, groups, mean_of, value_of

TRANSLATION = {
    "BLEU": "bleu",
    "chrF": "chrf",
    "lang %": "in_language",
    "empty %": "empty_rate",
    "ppl": "given_prompt.perplexity",
    "b/c": "given_prompt.bits_per_char",
    "plain": "plain.perplexity",
    "plain b/c": "plain.bits_per_char",
}
INSTRUCT = {
    "exact %": "exact_match",
    "loss": "given_prompt.loss",
    "ppl": "given_prompt.perplexity",
    "b/c": "given_prompt.bits_per_char",
    "plain": "plain.perplexity",
    "plain b/c": "plain.bits_per_char",
}
NOTES = """BLEU, chrF: higher is better. lang %: answers not clearly in another language.
ppl: perplexity per token of the right answer given the prompt; plain: as a text without a prompt.
b/c: the same as bits per character, which does not depend on the tokenizer."""


def _number(column: str, value: float | None) -> str:
    if value is None:
        return "-"
    # Of the recipe's own corpora they are so small that two digits would tell nothing apart.
    if column.endswith(("perplexity", "bits_per_char", "loss")):
        return f"{value:.3f}" if value < 100 else f"{value:.1f}" if value < 1e6 else f"{value:.1e}"
    return f"{value:.2f}"


def text_tables(found: Sequence[Skills]) -> str:
    """Markdown tables: translation with means over directions, then instructions.

    Test sets of which a mean is taken count the same, whatever their size; see `mean_of`.
    """
    parts = []
    translation = [one for one in found if one.test_set.is_translation]
    for heading, content, columns in (
        ("Text translation", translation, TRANSLATION),
        ("Instructions", [one for one in found if one not in translation], INSTRUCT),
    ):
        if not content:
            continue
        body = [
            [one.test_set.name, *(_number(c, value_of(one, c)) for c in columns.values())]
            for one in content
        ]
        if content is translation and len(content) > 1:
            for name, group in groups(found).items():
                label = f"mean of {len(group)}" + ("" if name == "all" else f", {name}")
                body.append([label, *(_number(c, mean_of(group, c)) for c in columns.values())])
        parts += [f"### {heading}", markdown(["test set", *columns], body)]
    return "\n\n".join([*parts, NOTES])


def save_skills(path: str | Path, model: Mapping[str, Any], found: Sequence[Skills]) -> None:
    """Writes all of it as JSON, whole or not at all.

    ``results`` has rows as in results.json, so that stage 13's ``--reference`` can read the file;
    ``model`` says what was measured, ``text`` has perplexities and instructions by test set,
    ``means`` the means over directions.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "model": dict(model),
        "results": [row for one in found for row in one.rows],
        "text": [one.facts for one in found],
        "means": {
            name: {
                "test_sets": [one.test_set.name for one in group],
                **{column: mean_of(group, column) for column in TRANSLATION.values()},
            }
            for name, group in groups(found).items()
        },
    }
    temporary = path.with_name(path.name + ".tmp")
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    temporary.write_text(text + "\n", encoding="utf-8")
    os.replace(temporary, path)
