"""What a corpus's own base models reach by themselves, to hold PART's scores against.

    encoder_ctc     the encoder's own greedy CTC transcript
    llm_text        the LLM's own translation of the right transcript
    cascade         the LLM's own translation of the encoder's transcript: both, one after the other

Test sets of one clip share its transcript, and equal sentences are translated once. What the LLM
reads in the cascade has capital letters, see truecase.py; what is scored as encoder_ctc has not:
error rates do not see them.
"""

import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml
from ctc_encoder import ctc_greedy, load_ctc
from transformers.utils.logging import disable_progress_bar
from truecase import Truecaser

from espnet_part.datadir import Row
from espnet_part.encoder import build_encoder
from espnet_part.llm import build_llm, build_tokenizer
from espnet_part.pairs import Pair
from espnet_part.prompt import Prompter
from espnet_part.results import CASCADE, ENCODER_CTC, LLM_TEXT, System, make_rows
from espnet_part.scoring import score
from espnet_part.text_tasks import translate

PROMPTS = Path(__file__).resolve().parent.parent / "conf" / "prompts.yaml"
SYSTEMS = (ENCODER_CTC, LLM_TEXT, CASCADE)

TestSets = Mapping[str, Sequence[Row]]  # name -> its rows


def clip_of(row: Row) -> str:
    """The clip id of a row: its rows of several tasks share it."""
    return row.utt_id.removesuffix("-asr").partition("-st-")[0]


def score_rows(
    name: str, test_set: str, rows: Sequence[Row], hyps: Sequence[str], seed: int | None = None
) -> list[dict]:
    """Score a reference system on a test set, in the schema of results.json."""
    pairs = [Pair(r.utt_id, r.target, h, r.speaker) for r, h in zip(rows, hyps, strict=True)]
    kind = (rows[0].task, rows[0].src, rows[0].tgt)
    return make_rows(score(pairs, *kind), System(name, seed=seed), test_set, *kind)


def transcribe(base: Path, rows: Sequence[Row]) -> dict[str, str]:
    """Each clip's greedy CTC transcript, made once.

    Args:
        base: Folder with `encoder` and `ctc`.
        rows: Of any task; of a clip the first one is heard.

    Returns:
        Clip id -> text.
    """
    clips: dict[str, Row] = {}
    for row in rows:
        clips.setdefault(clip_of(row), row)
    encoder = build_encoder("sensevoice", source=str(base / "encoder")).eval()
    texts = ctc_greedy(encoder, *load_ctc(base / "ctc"), list(clips.values()))
    return dict(zip(clips, texts, strict=True))


def load_llm(base: Path):
    """The LLM in `base` and the prompter of its tokenizer."""
    llm = build_llm(str(base / "llm")).eval()
    templates = yaml.safe_load(PROMPTS.read_text(encoding="utf-8"))
    return llm, Prompter(build_tokenizer(str(base / "llm")), templates)


def references(base: Path, test_sets: TestSets, train: Iterable[Row]) -> list[dict]:
    """Rows of all systems: recognition of the asr sets, translation of the st sets.

    Args:
        base: Folder with `encoder`, `ctc` and `llm`.
        test_sets: Name -> rows of one task and one language pair.
        train: What capital letters are learned from.
    """
    disable_progress_bar()
    start = time.monotonic()
    asr = {name: rows for name, rows in test_sets.items() if rows[0].task == "asr"}
    st = {name: rows for name, rows in test_sets.items() if rows[0].task == "st"}
    heard = transcribe(base, list(itertools.chain(*asr.values(), *st.values())))
    found = []
    for name, rows in asr.items():
        found += score_rows(ENCODER_CTC, name, rows, [heard[clip_of(row)] for row in rows])
    tell(ENCODER_CTC, found, start)
    if not st:
        return found
    llm, prompter = load_llm(base)
    rows = list(itertools.chain(*st.values()))
    case = Truecaser(train)
    written = [case.restore(heard[clip_of(row)], row.src) for row in rows]
    for system, sources in ((LLM_TEXT, None), (CASCADE, written)):
        start = time.monotonic()
        hyps = iter(translate(llm, prompter, rows, sources))
        own = []
        for name, content in st.items():
            own += score_rows(system, name, content, list(itertools.islice(hyps, len(content))))
        tell(system, own, start)
        found += own
    return found


def tell(system: str, rows: Sequence[dict], start: float) -> None:
    """Print a system's means, and the seconds since `start`."""
    means = []
    for name, metrics in (("error %", ("wer", "cer")), ("BLEU", ("bleu",))):
        values = [row["value"] for row in rows if row["metric"] in metrics]
        means += [f"{name} {sum(values) / len(values):.2f}"] if values else []
    sec = time.monotonic() - start
    print(f"references: {system}: mean {', '.join(means)}, {sec:.0f} s", flush=True)
