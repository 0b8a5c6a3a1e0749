"""The join that CoVoST 2 is published with: facebookresearch/covost, get_covost_splits.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from corpus import Bad
from tsv import read_tsv


def join(translations: Path, validated: Path, split: str) -> Iterator[tuple[str, ...] | Bad]:
    """Joins Common Voice with its translations, as the publisher's script does.

    Args:
        translations: Columns path, translation, split.
        validated: Columns path, sentence, client_id.
        split: train, dev or test.

    Returns:
        (path, sentence, translation, client_id) in the order of `validated`, then `Bad` for every
        translation that no row of `validated` has the clip of.
    """
    splits = ("train", "train_covost") if split == "train" else (split,)
    texts: dict[str, str] = {}
    for found in read_tsv(translations, ("path", "translation", "split"), escapes=True):
        if isinstance(found, Bad):
            yield found
        elif found[2] in splits:
            if found[0] in texts:
                yield Bad(found[0], "translated twice", f"{translations}: the first one is taken")
            texts.setdefault(found[0], found[1])
    missing = set(texts)
    for found in read_tsv(validated, ("path", "sentence", "client_id"), escapes=True):
        # A broken line is told below, where a translation is left without it.
        if not isinstance(found, Bad) and found[0] in texts:
            path, sentence, client_id = found
            missing.discard(path)
            yield path, sentence, texts[path], client_id
    for path in sorted(missing):
        yield Bad(path, "not in validated.tsv", f"{validated} has no whole row of {path}")
