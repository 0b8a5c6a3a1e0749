"""What the miniature's base models reach by themselves (stage 5), to hold PART's scores against.

    python local/make_parts_miniature.py --data data/miniature --out exp/miniature_parts

    OUT/references.json     rows as in results.json, of every test set:
        encoder_ctc         the encoder's own greedy CTC transcript
        llm_text            the LLM's own translation of the right transcript
        floor               another sentence of the same template, its words drawn by chance

The models are in the repository, local/miniature_base; train_miniature_base.py made them.
"""

import argparse
import hashlib
import json
import random
import sys
import time
from pathlib import Path

import torch
import yaml
from ctc_encoder import asr_rows, ctc_greedy, load_ctc
from miniature_grammar import DIRECTIONS, SPOKEN, Meaning, draw, say
from miniature_speech import plan
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from espnet_part.datadir import Row, iter_rows
from espnet_part.encoder import build_encoder
from espnet_part.pairs import Pair
from espnet_part.prompt import Prompter
from espnet_part.results import FLOOR, System, make_rows
from espnet_part.scoring import score

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "local" / "miniature_base"
PROMPTS = ROOT / "conf" / "prompts.yaml"
SPLITS = ("test", "testvoice")
BATCH = 64
FLOOR_SEED = 0


def rows_of(name: str, test_set: str, rows: list[Row], hyps: list[str]) -> list[dict]:
    """Score a reference system on a test set."""
    pairs = [Pair(r.utt_id, r.target, h, r.speaker) for r, h in zip(rows, hyps, strict=True)]
    kind = (rows[0].task, rows[0].src, rows[0].tgt)
    system = System(name, None, None, FLOOR_SEED if name == FLOOR else None, None)
    return make_rows(score(pairs, *kind), system, test_set, *kind)


def encoder_ctc(base: Path, data: Path) -> list[dict]:
    """The encoder's own transcripts of the asr test sets."""
    encoder = build_encoder("sensevoice", source=str(base / "encoder")).eval()
    head, units = load_ctc(base / "ctc")
    found = []
    for split in SPLITS:
        sets = {f"miniature_{split}_asr_{language}": language for language in SPOKEN}
        rows = {name: list(asr_rows(data / name)) for name in sets}
        hyps = iter(ctc_greedy(encoder, head, units, [r for own in rows.values() for r in own]))
        for name, own in rows.items():
            found += rows_of("encoder_ctc", name, own, [next(hyps) for _ in own])
    return found


@torch.no_grad()
def translate(llm, prompter: Prompter, rows: list[Row]) -> list[str]:
    """The LLM's translation of the rows' transcripts, greedily."""
    prompts = [
        list(prompter.prompt("mt", row.src, row.tgt, source_text=row.source).before) for row in rows
    ]
    pad, end = prompter.tokenizer.pad_token_id, prompter.end_token_ids[0]
    texts = []
    for i in range(0, len(rows), BATCH):
        part = prompts[i : i + BATCH]
        width = max(map(len, part))
        ids_BL = torch.tensor([[pad] * (width - len(p)) + p for p in part])
        mask_BL = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in part])
        out_BL = llm.generate(
            ids_BL, attention_mask=mask_BL, max_new_tokens=32, do_sample=False,
            pad_token_id=pad, eos_token_id=end,
        )  # fmt: skip
        texts += [prompter.decode(out_L[width:].tolist()) for out_L in out_BL]
    return texts


def llm_text(base: Path, data: Path) -> list[dict]:
    """The LLM's own translations; sentences are the same in both splits, so they are made once."""
    tokenizer = AutoTokenizer.from_pretrained(base / "llm")
    llm = AutoModelForCausalLM.from_pretrained(base / "llm", dtype=torch.float32).eval()
    prompter = Prompter(tokenizer, yaml.safe_load(PROMPTS.read_text(encoding="utf-8")))
    found, known = [], {}
    for split in SPLITS:
        for src, tgt in DIRECTIONS:
            name = f"miniature_{split}_st_{src}_{tgt}"
            rows = list(iter_rows(data / name))
            new = [row for row in rows if (row.source, tgt) not in known]
            for row, text in zip(new, translate(llm, prompter, new), strict=True):
                known[row.source, tgt] = text
            found += rows_of("llm_text", name, rows, [known[row.source, tgt] for row in rows])
    return found


def floor(data: Path) -> list[dict]:
    """Sentences of the right template, and nothing else right but by chance."""
    settings = json.loads((data / "prepared.json").read_text())["settings"]
    found = []
    for split in SPLITS:
        size = settings["clips_per_language"][split]
        for language in SPOKEN:
            meanings = {
                clip.clip_id: clip.meaning
                for clip in plan(split, language, size, data, settings["seed"])
            }
            targets = [tgt for src, tgt in DIRECTIONS if src == language]
            for name in [f"asr_{language}", *(f"st_{language}_{tgt}" for tgt in targets)]:
                rows = list(iter_rows(data / f"miniature_{split}_{name}"))
                rng = random.Random(f"{FLOOR_SEED} {split} {name}")
                others = [another(meanings[clip_of(row)], rng) for row in rows]
                hyps = [say(m, row.tgt) for m, row in zip(others, rows, strict=True)]
                found += rows_of(FLOOR, f"miniature_{split}_{name}", rows, hyps)
    return found


def clip_of(row: Row) -> str:
    """The clip id of a row."""
    return row.utt_id.removesuffix("-asr").partition("-st-")[0]


def another(meaning: Meaning, rng: random.Random) -> Meaning:
    """Another meaning of the same template."""
    return next(m for m in draw("test", rng) if m.template == meaning.template and m != meaning)


def digest(data: Path, base: Path) -> str:
    """What the references depend on."""
    state = hashlib.sha256((data / "prepared.json").read_bytes() + PROMPTS.read_bytes())
    for path in sorted(base.rglob("*.safetensors")):
        state.update(path.read_bytes())
    return state.hexdigest()


def make_references(data: Path, out: Path, base: Path = BASE) -> None:
    """Write the references, unless they are there.

    Raises:
        ValueError: no data.
    """
    if not (data / "prepared.json").exists():
        raise ValueError(
            f"{data / 'prepared.json'} is missing; stage 1 makes it: "
            f"python local/prepare_miniature.py {data}"
        )
    path, wanted = out / "references.json", digest(data, base)
    if path.exists() and json.loads(path.read_text()).get("digest") == wanted:
        print(f"{path} is made")
        return
    disable_progress_bar()
    results = []
    for what, make in (
        ("floor", lambda: floor(data)),
        ("encoder_ctc", lambda: encoder_ctc(base, data)),
        ("llm_text", lambda: llm_text(base, data)),
    ):
        start = time.monotonic()
        rows = make()
        results += rows
        means = []
        for name, metrics in (("error %", ("wer", "cer")), ("BLEU", ("bleu",))):
            values = [row["value"] for row in rows if row["metric"] in metrics]
            means += [f"{name} {sum(values) / len(values):.2f}"] if values else []
        sec = time.monotonic() - start
        print(f"references: {what}: mean {', '.join(means)}, {sec:.0f} s", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"digest": wanted, "results": results}, indent=1) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="what prepare_miniature.py made")
    parser.add_argument("--out", type=Path, required=True, help="result")
    args = parser.parse_args()
    try:
        make_references(args.data, args.out)
    except ValueError as error:
        sys.exit(f"{parser.prog}: error: {error}")


if __name__ == "__main__":
    main()
