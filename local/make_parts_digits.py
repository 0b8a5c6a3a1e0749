"""The pre-trained parts of the digits corpus (stage 5).

    python local/make_parts_digits.py --data data/digits --out exp/digits_parts

    OUT/encoder     SAN-M encoder, trained with CTC on training strings
    OUT/ctc         its CTC head and units: for the references, not used by PART
    OUT/llm         Qwen2 and its tokenizer, trained on text alone
    OUT/*.made.json what each was made with; a part whose settings are the same is kept
    OUT/references.json    what the parts reach by themselves on dev and test, see
                    reference_systems.py: rows as in results.json

Both parts train at once, one process and one thread each, so that the result does not depend on the
number of cores.
"""

import argparse
import dataclasses
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import sys
import time
from pathlib import Path

import torch
import yaml
from ctc_encoder import EncoderRecipe, asr_rows, ctc_train, save_ctc
from digits_rows import make_lines, token_words
from digits_strings import random_strings
from digits_text import unsay
from reference_systems import PROMPTS, SYSTEMS, references
from text_lines import Line, make_tokenizer
from text_llm import LLMRecipe, train_llm

from espnet_part.datadir import iter_rows
from espnet_part.prompt import Prompter

# Heard by the encoder in pre-training; PART meets two more speakers.
SPEAKERS = "george,jackson,lucas,theo"
DEV, TEST = "dev", "digits_test_asr_en"


def settings_of(recipe, folders: list[Path], templates: str = "") -> dict:
    """What a part is made with: the recipe, and a digest of the texts that it depends on."""
    digest = hashlib.sha256(templates.encode())
    for folder in folders:
        digest.update("\n".join(f"{row.utt_id} {row.target}" for row in asr_rows(folder)).encode())
    return dataclasses.asdict(recipe) | {"inputs": digest.hexdigest()}


def is_made(folder: Path, settings: dict) -> bool:
    """Whether a part was made with these settings."""
    made = folder.with_name(f"{folder.name}.made.json")
    return folder.is_dir() and made.exists() and json.loads(made.read_text()) == settings


def finish(half: Path, folder: Path, settings: dict) -> None:
    """Put a part in its place, and say what it was made with."""
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(half, folder)
    made = folder.with_name(f"{folder.name}.made.json")
    made.write_text(json.dumps(settings, indent=1) + "\n")


def make_encoder(data: Path, out: Path, recipe: EncoderRecipe, settings: dict) -> None:
    """Train the encoder and save it with its CTC head."""
    torch.set_num_threads(1)
    encoder, head, units = ctc_train(recipe, asr_rows(data / "train"))
    half = out / "encoder.half"
    shutil.rmtree(half, ignore_errors=True)
    save_ctc(head, units, out / "ctc")
    # In PART masks and other speeds take the place of dropout, which slows so short a training.
    encoder.model.config.hidden_dropout = 0.0
    encoder.save_pretrained(half)
    finish(half, out / "encoder", settings)


def make_llm(data: Path, out: Path, recipe: LLMRecipe, settings: dict) -> None:
    """Train the LLM and save it."""
    torch.set_num_threads(1)
    held_out = {unsay(row.target) for name in (DEV, TEST) for row in asr_rows(data / name)}
    half = out / "llm.half"
    shutil.rmtree(half, ignore_errors=True)
    templates = yaml.safe_load(PROMPTS.read_text(encoding="utf-8"))
    prompter = Prompter(make_tokenizer(token_words(), templates), templates)
    rng = random.Random(f"{recipe.seed} llm")

    def draw(n: int, share: float) -> list[Line]:
        return make_lines(prompter, random_strings(n, rng, held_out), rng, share)

    test = make_lines(prompter, sorted(held_out), random.Random(recipe.seed))
    train_llm(recipe, prompter.tokenizer, draw, test, half)
    finish(half, out / "llm", settings)


def make_references(data: Path, out: Path) -> None:
    """Write what the parts in `out` reach by themselves, unless it is there."""
    folders = {f"digits_{DEV}": data / DEV, TEST: data / TEST}
    folders |= {folder.name: folder for folder in sorted(data.glob("digits_test_st_*"))}
    test_sets = {
        name: asr_rows(folder) if name == f"digits_{DEV}" else list(iter_rows(folder))
        for name, folder in folders.items()
    }
    state = hashlib.sha256(" ".join(SYSTEMS).encode() + PROMPTS.read_bytes())
    for name in ("encoder", "llm"):
        state.update((out / f"{name}.made.json").read_bytes())
    for rows in test_sets.values():
        state.update("\n".join(f"{row.utt_id} {row.target}" for row in rows).encode())
    path, wanted = out / "references.json", state.hexdigest()
    if path.exists() and json.loads(path.read_text()).get("digest") == wanted:
        print(f"{path} is made")
        return
    results = references(out, test_sets, iter_rows(data / "train"))
    for row in results:
        if row["metric"] == "wer":
            words = row["wer_basic"]
            print(
                f"encoder: CTC on {row['test_set']}: WER {words['value']:.2f} % of "
                f"{words['n_ref_tokens']} digits, {row['value']:.2f} % with each string as one "
                "number",
                flush=True,
            )
    path.write_text(json.dumps({"digest": wanted, "results": results}, indent=1) + "\n")


def make_parts(data: Path, out: Path, encoder: EncoderRecipe, llm: LLMRecipe) -> None:
    """Make both parts, at the same time where there are two cores.

    Args:
        data: what prepare_digits.py made.
        out: result.
        encoder: recipe of the encoder.
        llm: recipe of the LLM.

    Raises:
        ValueError: no data, or a part failed.
    """
    for name in ("train", DEV, TEST):
        if not (data / name / "text").exists():
            raise ValueError(
                f"{data / name} is no data folder; stage 1 makes it: "
                f"python local/prepare_digits.py FSDD {data}"
            )
    out.mkdir(parents=True, exist_ok=True)
    templates = PROMPTS.read_text(encoding="utf-8")
    jobs = []
    for name, make, recipe, settings in (
        ("encoder", make_encoder, encoder, settings_of(encoder, [data / "train"])),
        ("llm", make_llm, llm, settings_of(llm, [data / DEV, data / TEST], templates)),
    ):
        if is_made(out / name, settings):
            print(f"{name}: {out / name} is made")
            continue
        print(f"{name}: {dataclasses.asdict(recipe)}", flush=True)
        jobs.append((name, make, (data, out, recipe, settings)))
    start = time.monotonic()
    context = multiprocessing.get_context("spawn")
    processes = [(name, context.Process(target=make, args=args)) for name, make, args in jobs]
    for _, process in processes:
        process.start()
        if (os.cpu_count() or 1) == 1:
            process.join()
    for _, process in processes:
        process.join()
    failed = [name for name, process in processes if process.exitcode != 0]
    if failed:
        raise ValueError(f"{' and '.join(failed)} could not be made: see the messages above.")
    make_references(data, out)
    print(f"{out}: encoder and llm, {time.monotonic() - start:.0f} s")


def add_options(parser: argparse.ArgumentParser, prefix: str, recipe) -> None:
    """Make an option of every field of a recipe: --encoder_steps, --llm_lr ..."""
    for field in dataclasses.fields(recipe):
        parser.add_argument(
            f"--{prefix}_{field.name}", type=type(field.default),
            default=getattr(recipe, field.name), help="default: %(default)s",
            metavar=type(field.default).__name__.upper(),
        )  # fmt: skip


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="what prepare_digits.py made")
    parser.add_argument("--out", type=Path, required=True, help="result")
    recipes = {"encoder": EncoderRecipe(speakers=SPEAKERS), "llm": LLMRecipe()}
    for prefix, recipe in recipes.items():
        add_options(parser, prefix, recipe)
    args = vars(parser.parse_args())
    encoder, llm = (
        type(recipe)(**{f.name: args[f"{prefix}_{f.name}"] for f in dataclasses.fields(recipe)})
        for prefix, recipe in recipes.items()
    )
    try:
        make_parts(args["data"], args["out"], encoder, llm)
    except ValueError as error:
        sys.exit(f"{parser.prog}: error: {error}")


if __name__ == "__main__":
    main()
