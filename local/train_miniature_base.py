"""Train the miniature's base models anew, or larger ones.

    cd egs2/part_multilingual/s2t1 && . ./path.sh
    python local/train_miniature_base.py --real_text TATOEBA --out exp/miniature_new
    make_large="python local/train_miniature_base.py --size large --real_text TATOEBA"
    $make_large --out exp/miniature_large_parts

`base` is the size of those in local/miniature_base, which the first line makes anew (about an hour
on two cores; not the same bits). `large` has ten times their parameters and wants a GPU; the model
YAML miniature_large reads it. What is made already is kept: a stopped call goes on part by part.

    OUT/encoder     SAN-M encoder, trained with CTC in other voices and conditions than PART's data
    OUT/ctc         its CTC head and units: for the encoder's own error, not used by PART
    OUT/llm         Qwen2 and its tokenizer, trained on text alone
    OUT/first       the same after the first part of their training
    data/miniature_clean, data/miniature_varied     the speech of the two parts

TATOEBA is a folder of short parallel sentences (tatoeba.<xxx>-eng.<xxx> and .eng, CC BY 2.0 FR, as
in facebookresearch/LASER data/tatoeba/v1). Weights are saved in 16 bits.
"""

import argparse
import dataclasses
import itertools
import json
import os
import random
import sys
from pathlib import Path

import torch
import yaml
from ctc_encoder import EncoderRecipe, asr_rows, ctc_greedy, ctc_train, save_ctc
from miniature_grammar import DIRECTIONS, SPOKEN, draw, say
from miniature_text import Text, read_real, words
from prepare_miniature import prepare
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
# Size -> what of the recipes is other there. Wider models take lower rates, and start smaller.
SIZES = {
    "base": ({}, {}, 1.0),
    "large": (
        {"width": 416, "heads": 8, "ffn": 1248},
        {"layers": 6, "width": 512, "ffn": 1408, "init_std": 0.035},
        0.5,  # of the rates
    ),
}
SPEECH = {"clean": 1000, "varied": 1500}  # conditions -> training clips per language
DEV_CLIPS, SPEECH_SEED = 24, 1
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
    data: Path, recipe: EncoderRecipe, start: Path | None, out: Path, device: torch.device
) -> None:
    """Train the encoder and its CTC head, say how well they do on dev, save them."""
    encoder, head, units = ctc_train(recipe, list(asr_rows(data / "train")), start, device)
    errors = ctc_error(encoder, head, units, data / "dev")
    mean = sum(errors.values()) / len(errors)
    line = " ".join(f"{lang} {value:.1f}" for lang, value in errors.items())
    print(f"encoder: CTC on {data / 'dev'}: mean {mean:.2f} %: {line}", flush=True)
    report = {f"{data.name}/dev": round(mean, 2)}
    # In PART masks and other speeds take the place of dropout, which slows so short a training.
    encoder.model.config.hidden_dropout = 0.0
    encoder.half().save_pretrained(out / "encoder")
    save_ctc(head, units, out / "ctc")
    made = {"recipe": dataclasses.asdict(recipe), "ctc_error": report}
    (out / "encoder.made.json").write_text(json.dumps(made, indent=1) + "\n")


def text_meanings() -> list:
    """The meanings that the LLM reads."""
    return list(itertools.islice(draw("train", random.Random("llm text"), set()), MEANINGS))


def train_text(
    recipe: LLMRecipe,
    real_text: Path | None,
    start: Path | None,
    out: Path,
    device: torch.device,
) -> None:
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
    score = train_llm(recipe, tokenizer, text.draw, held_out, out / "llm", before, device)
    AutoModelForCausalLM.from_pretrained(out / "llm").half().save_pretrained(out / "llm")
    made = {"recipe": dataclasses.asdict(recipe), "real_pairs": len(real), "exact_match": score}
    (out / "llm.made.json").write_text(json.dumps(made, indent=1) + "\n")


def recipes(size: str, steps: int | None) -> dict[str, tuple[EncoderRecipe | LLMRecipe, ...]]:
    """Both parts of the encoder's training, and of the LLM's.

    Args:
        size: of `SIZES`.
        steps: other than the recipes'.
    """
    encoder, llm, rate = SIZES[size]
    own = {"encoder": ((ENCODER, GOING_ON), encoder), "llm": ((LLM, LLM_GOING_ON), llm)}
    more = {"steps": steps} if steps else {}
    return {
        name: tuple(dataclasses.replace(r, **other, **more, lr=rate * r.lr) for r in both)
        for name, (both, other) in own.items()
    }


def train_all(out: Path, data: Path, size: str, real_text: Path | None, steps, device) -> None:
    """Make the speech, and train both models in their two parts; what is made is kept.

    Args:
        out: result.
        data: folder of data folders.
        size: of `SIZES`.
        real_text: folder of Tatoeba pairs.
        steps: other than the recipes'.
        device: to train on.
    """
    processes = len(os.sched_getaffinity(0))
    wanted = recipes(size, steps)
    folders = (out / "first", out)
    for number, (kind, clips) in enumerate(SPEECH.items()):
        speech = data / f"miniature_{kind}"
        sizes = {f"{kind}_train": clips, f"{kind}_dev": DEV_CLIPS}
        prepare(speech, sizes, 0, SPEECH_SEED, processes)
        start = folders[0] if number else None
        for name in ("encoder", "llm"):
            recipe, folder = wanted[name][number], folders[number]
            folder.mkdir(parents=True, exist_ok=True)
            made = folder / f"{name}.made.json"
            if made.exists():
                told = json.loads(made.read_text())["recipe"]
                if told != dataclasses.asdict(recipe):
                    raise ValueError(
                        f"{made}: made with another recipe ({told}); expected "
                        f"{dataclasses.asdict(recipe)}: remove it, or take another --out"
                    )
                print(f"{made} is there: kept", flush=True)
            elif name == "encoder":
                train_encoder(speech, recipe, start, folder, device)
            else:
                train_text(recipe, real_text, start, folder, device)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="result")
    add("--size", choices=[*SIZES], default="base")
    add("--data", type=Path, default=Path("data"), help="where the speech goes (default: data)")
    add("--real_text", type=Path, help="folder of Tatoeba pairs (default: none are read)")
    add("--steps", type=int, help="other than the recipes', for each of the four trainings")
    add("--device", help="cpu or cuda (default: cuda where there is a GPU)")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        train_all(args.out, args.data, args.size, args.real_text, args.steps, device)
    except ValueError as error:
        sys.exit(f"{parser.prog}: error: {error}")


if __name__ == "__main__":
    main()
