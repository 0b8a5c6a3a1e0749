r"""Any corpus that lhotse knows, from its manifests to a data folder.

lhotse prepares about a hundred corpora (`lhotse prepare --help`). AISHELL-1, for example, called in
the recipe folder:

    lhotse prepare aishell /corpora/aishell manifests
    python local/from_lhotse.py manifests/aishell_{recordings,supervisions}_train.jsonl.gz \
        data/aishell/train
    python local/from_lhotse.py manifests/aishell_{recordings,supervisions}_test.jsonl.gz \
        data/aishell --test_sets aishell          # data/aishell/aishell_test_asr_zh

MANIFEST is one file of cuts, or two of recordings and supervisions, .jsonl or .jsonl.gz. They are
streamed; where the audio of each recording lies is kept in memory (under 1 kB each).

Each supervision gives an asr row of its text, its language ("English", "en", "eng" and "en-US" are
the same; --lang where there is none) and its time in the recording, also where it is part of a cut.

Translations give st rows as well: --tgt_lang en --translation_key translated_text takes them from a
supervision's `custom` field, where they are text, or text by language. Recipes such as must_c and
gigast have the translation and its language as text and language: --spoken en gives their st rows.

Audio stays where it is. What is not one file that can be read as it is (commands, URLs, audio in
memory or in shar archives; mixed, padded or speed-perturbed cuts; one channel of several) is
skipped and counted: write it out by `cuts.save_audios(folder)`, which gives cuts that can be read.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from corpus import CorpusSet, run
from lhotse_rows import Options, read_manifests
from own_rows import add_options, need_language, out_folder, split_sets


def make_sets(args: argparse.Namespace) -> list[CorpusSet]:
    """The sets that the manifests need.

    Raises:
        ValueError: No such manifests, or options that do not fit together.
    """
    if len(args.manifest) > 2:
        raise ValueError(f"found {len(args.manifest)} manifests, expected one of cuts, or two")
    if (args.tgt_lang is None) != (args.translation_key is None):
        raise ValueError("--tgt_lang and --translation_key: expected both or none")
    if args.spoken and args.tgt_lang:
        raise ValueError("--spoken says that text is a translation: leave out --tgt_lang")
    names = {key: getattr(args, key) for key in ("lang", "tgt_lang", "spoken")}
    codes = {key: need_language(name, key) if name else None for key, name in names.items()}
    root = None if args.audio_root is None else str(args.audio_root)
    options = Options(**codes, translation_key=args.translation_key, audio_root=root)
    return split_sets(
        args, lambda: read_manifests(args.manifest, options), args.manifest, vars(options)
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("manifest", type=Path, nargs="+", help="cuts; or recordings, supervisions")
    add_options(parser)
    parser.add_argument("--lang", help="language of supervisions that name none")
    parser.add_argument("--tgt_lang", help="language of the translations")
    parser.add_argument("--translation_key", help="key of `custom` that holds translations")
    parser.add_argument("--spoken", help="language spoken, where `text` is a translation")
    return run(parser, make_sets, argv, out=out_folder)


if __name__ == "__main__":
    sys.exit(main())
