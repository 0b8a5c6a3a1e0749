"""What the miniature's base models reach by themselves (stage 5), to hold PART's scores against.

    python local/make_parts_miniature.py --data data/miniature --out exp/miniature_parts

    OUT/references.json     rows as in results.json, of every test set:
        encoder_ctc         the encoder's own greedy CTC transcript
        llm_text            the LLM's own translation of the right transcript
        cascade             the LLM's own translation of the encoder's transcript
        floor               another sentence of the same template, its words drawn by chance

The models are in the repository, local/miniature_base; train_miniature_base.py made them, and makes
larger ones (`--base exp/miniature_large_parts`).
"""

import argparse
import hashlib
import json
import random
import sys
import time
from pathlib import Path

from miniature_grammar import DIRECTIONS, SPOKEN, Meaning, draw, say
from miniature_speech import plan
from reference_systems import PROMPTS, SYSTEMS, TestSets, clip_of, references, score_rows, tell

from espnet_part.datadir import iter_rows
from espnet_part.results import FLOOR

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "local" / "miniature_base"
SPLITS = ("test", "testvoice")
FLOOR_SEED = 0


def read_test_sets(data: Path) -> TestSets:
    """The test sets of both splits."""
    sets = [f"asr_{language}" for language in SPOKEN]
    sets += [f"st_{src}_{tgt}" for src, tgt in DIRECTIONS]
    names = [f"miniature_{split}_{name}" for split in SPLITS for name in sets]
    return {name: list(iter_rows(data / name)) for name in names}


def floor(data: Path, test_sets: TestSets) -> list[dict]:
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
                rows = test_sets[f"miniature_{split}_{name}"]
                rng = random.Random(f"{FLOOR_SEED} {split} {name}")
                others = [another(meanings[clip_of(row)], rng) for row in rows]
                hyps = [say(m, row.tgt) for m, row in zip(others, rows, strict=True)]
                found += score_rows(FLOOR, f"miniature_{split}_{name}", rows, hyps, FLOOR_SEED)
    return found


def another(meaning: Meaning, rng: random.Random) -> Meaning:
    """Another meaning of the same template."""
    return next(m for m in draw("test", rng) if m.template == meaning.template and m != meaning)


def digest(data: Path, base: Path) -> str:
    """What the references depend on, and which there are."""
    state = hashlib.sha256((data / "prepared.json").read_bytes() + PROMPTS.read_bytes())
    state.update(" ".join((FLOOR, *SYSTEMS)).encode())
    for path in sorted(base.rglob("*.safetensors")):
        state.update(path.read_bytes())
    return state.hexdigest()


def make_references(data: Path, out: Path, base: Path = BASE) -> None:
    """Write the references, unless they are there.

    Raises:
        ValueError: no data, or no models.
    """
    for name in ("encoder", "llm"):
        if not (base / f"{name}.made.json").exists():
            raise ValueError(
                f"{base / name} is missing or half made; make it, best on a GPU: python "
                f"local/train_miniature_base.py --size large --real_text TATOEBA --out {base} "
                "(docs/miniature.md)"
            )
    if not (data / "prepared.json").exists():
        raise ValueError(
            f"{data / 'prepared.json'} is missing; stage 1 makes it: "
            f"python local/prepare_miniature.py {data}"
        )
    path, wanted = out / "references.json", digest(data, base)
    if path.exists() and json.loads(path.read_text()).get("digest") == wanted:
        print(f"{path} is made")
        return
    start = time.monotonic()
    test_sets = read_test_sets(data)
    results = floor(data, test_sets)
    tell(FLOOR, results, start)
    results += references(base, test_sets, iter_rows(data / "train"))
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"digest": wanted, "results": results}, indent=1) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="what prepare_miniature.py made")
    parser.add_argument("--out", type=Path, required=True, help="result")
    parser.add_argument("--base", type=Path, default=BASE, help="folder of the models")
    args = parser.parse_args()
    try:
        make_references(args.data, args.out, args.base)
    except ValueError as error:
        sys.exit(f"{parser.prog}: error: {error}")


if __name__ == "__main__":
    main()
