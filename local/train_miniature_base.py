"""Train the miniature's base models anew.

Those in local/miniature_base were made by

    cd egs2/part_multilingual/s2t1
    make_speech="python local/prepare_miniature.py --seed 1"
    $make_speech data/miniature_clean --base clean --n_train 1000
    $make_speech data/miniature_varied --base varied --n_train 1500
    python local/train_miniature_base.py encoder --data data/miniature_clean --out exp/clean
    python local/train_miniature_base.py encoder --data data/miniature_varied --start exp/clean
    python local/train_miniature_base.py llm --real_text TATOEBA --out exp/llm
    python local/train_miniature_base.py llm --real_text TATOEBA --start exp/llm

    OUT/encoder     SAN-M encoder, trained with CTC in other voices and conditions than PART's data
    OUT/ctc         its CTC head and units: for the encoder's own error, not used by PART
    OUT/llm         Qwen2 and its tokenizer, trained on text alone

TATOEBA is a folder of short parallel sentences (tatoeba.<xxx>-eng.<xxx> and .eng, CC BY 2.0 FR, as
in facebookresearch/LASER data/tatoeba/v1). Weights are saved in 16 bits.
"""

import argparse
import dataclasses
import itertools
import json
import random
import sys
from pathlib import Path

import torch
import yaml
from ctc_encoder import EncoderRecipe, asr_rows, ctc_greedy, ctc_train, save_ctc
from miniature_grammar import DIRECTIONS, SPOKEN, draw, say
from miniature_text import Text, read_real, words
from text_lines import make_tokenizer
from text_llm import LLMRecipe, train_llm
from transformers import AutoModelForCausalLM

from espnet_part.pairs import Pair
from espnet_part.prompt import Prompter
from espnet_part.scoring import score

ROOT = Path(__file__).resolve().parent.parent
ENCODER = EncoderRecipe(clips=10**9, steps=2500, batch=24, warmup=200, augment_from=600, seed=0)
GOING_ON = dataclasses.replace(ENCODER, steps=2800, lr=1.5e-3, augment_from=0)
LLM = LLMRecipe(
    layers=4, width=160, heads=8, kv_heads=8, ffn=448, steps=2200, batch=48, clean=0.2, full=0.45,
    lr=2e-3, warmup=100, seed=0,
)  # fmt: skip
LLM_GOING_ON = dataclasses.replace(LLM, steps=900, lr=1e-3, clean=0.0, full=0.01, seed=1)
MEANINGS = 12000  # of the LLM's text
REAL_SHARE = 0.1


def ctc_error(encoder, head, units, folder: Path) -> dict[str, float]:
    """The encoder's own error by language, in per cent of words, characters for zh ja ko yue."""
    errors = {}
    for language in SPOKEN:
        rows = [row for row in asr_rows(folder) if row.src == language]
        hyps = ctc_greedy(encoder, head, units, rows)
        pairs = [Pair(r.utt_id, r.target, h, r.speaker) for r, h in zip(rows, hyps, strict=True)]
        found = score(pairs, "asr", language, language)
        errors[language] = next(m.value for m in found.measures if m.metric in ("wer", "cer"))
    return errors


def train_encoder(
    data: Path, recipe: EncoderRecipe, start: Path | None, check: list[Path], out: Path
) -> None:
    """Train the encoder and its CTC head, say how well they do on some dev sets, save them."""
    encoder, head, units = ctc_train(recipe, list(asr_rows(data / "train")), start)
    report = {}
    for folder in check:
        errors = ctc_error(encoder, head, units, folder)
        mean = sum(errors.values()) / len(errors)
        line = " ".join(f"{lang} {value:.1f}" for lang, value in errors.items())
        print(f"encoder: CTC on {folder}: mean {mean:.2f} %: {line}", flush=True)
        report[f"{folder.parent.name}/{folder.name}"] = round(mean, 2)
    # In PART masks and other speeds take the place of dropout, which slows so short a training.
    encoder.model.config.hidden_dropout = 0.0
    encoder.half().save_pretrained(out / "encoder")
    save_ctc(head, units, out / "ctc")
    made = {"recipe": dataclasses.asdict(recipe), "ctc_error": report}
    (out / "encoder.made.json").write_text(json.dumps(made, indent=1) + "\n")


def text_meanings() -> list:
    """The meanings that the LLM reads."""
    return list(itertools.islice(draw("train", random.Random("llm text"), set()), MEANINGS))


def train_text(recipe: LLMRecipe, real_text: Path | None, start: Path | None, out: Path) -> None:
    """Train the LLM and its tokenizer, save them."""
    templates = yaml.safe_load((ROOT / "conf/prompts.yaml").read_text(encoding="utf-8"))
    real = read_real(real_text) if real_text else []
    print(f"llm: {len(real)} real pairs", flush=True)
    meanings = text_meanings()
    tokenizer = make_tokenizer(words(meanings[:3000]), templates)
    text = Text(Prompter(tokenizer, templates), meanings, real, REAL_SHARE, recipe.seed)
    dev = list(itertools.islice(draw("dev", random.Random("llm dev"), set()), 12))
    test = Text(text.prompter, meanings, [], 0.0, recipe.seed + 1)
    held_out = [
        test.line(task, src, say(meaning, src), tgt, say(meaning, tgt), 1.0)
        for meaning in dev
        for task, pairs in (("asr", [(lang, lang) for lang in SPOKEN]), ("st", DIRECTIONS))
        for src, tgt in pairs
    ]
    before = start / "llm" if start else None
    score = train_llm(recipe, tokenizer, text.draw, held_out, out / "llm", before)
    AutoModelForCausalLM.from_pretrained(out / "llm").half().save_pretrained(out / "llm")
    made = {"recipe": dataclasses.asdict(recipe), "real_pairs": len(real), "exact_match": score}
    (out / "llm.made.json").write_text(json.dumps(made, indent=1) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["encoder", "llm"])
    parser.add_argument("--out", type=Path, default=ROOT / "local" / "miniature_base")
    parser.add_argument("--data", type=Path, help="speech of the encoder's pre-training")
    parser.add_argument("--start", type=Path, help="go on from what is in this folder")
    parser.add_argument("--check", type=Path, nargs="*", default=[], help="more dev folders")
    parser.add_argument("--real_text", type=Path, help="folder of Tatoeba pairs")
    parser.add_argument("--steps", type=int, help="other than the recipe's")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    changed = {"steps": args.steps} if args.steps else {}
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        if args.part == "encoder":
            recipe = dataclasses.replace(GOING_ON if args.start else ENCODER, **changed)
            check = [args.data / "dev", *args.check]
            train_encoder(args.data, recipe, args.start, check, args.out)
        else:
            recipe = dataclasses.replace(LLM_GOING_ON if args.start else LLM, **changed)
            train_text(recipe, args.real_text, args.start, args.out)
    except ValueError as error:
        sys.exit(f"{parser.prog}: error: {error}")


if __name__ == "__main__":
    main()
