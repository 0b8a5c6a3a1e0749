"""The demo's closing page: one table, where everything lies, some clips heard, what to try next.

In the recipe folder, after stage 14: local/demo_page.py exp/miniature
"""

import argparse
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from demo_clips import listen, pick_clips, shown

from espnet_part.lid_table import main_rows
from espnet_part.prompt import LANGUAGES
from espnet_part.results import CASCADE, ENCODER_CTC, FLOOR, LLM_TEXT, load_rows
from espnet_part.row import Row

CURRICULUM = "part"
PHASES = ("1", "2a", "2b", "3")
METRICS = {"asr": ("wer", "cer"), "st": ("bleu",)}
HEADINGS = {
    "asr": "Recognition: error in %, lower is better; reference: the encoder's own CTC output",
    "st": "Translation: BLEU, higher is better; reference: the LLM from the right transcript",
}
SET_NAME = re.compile(r"_(test[a-z]*)_(asr|st)_([a-z]+)(?:_([a-z]+))?$")
TOY = """This miniature knows a toy vocabulary, some 140 words per language in synthetic voices, and
nothing else: of real speech it makes nonsense."""
LABEL_WIDTH = 26
# Column -> head, width. In between stands a space.
COLUMNS = {"floor": ("floor", 6), CASCADE: (CASCADE, 7), "reference": ("reference", 9)} | {
    phase: (f"phase {phase}", 8) for phase in PHASES
}


class Scores:
    """Numbers of one experiment, by split, task, pair of languages and column.

    Args:
        rows: Of results.json. Of several decodings the greedy one counts, else the first.
    """

    def __init__(self, rows: Iterable[dict[str, Any]]):
        rows = main_rows(rows)
        own = [row for row in rows if row["curriculum"] == CURRICULUM and row["phase"] in PHASES]
        if not own:
            raise ValueError(
                f"no scores of curriculum {CURRICULUM}, phases {' '.join(PHASES)}; stages 12 and "
                "13 make them"
            )
        decodes = list(dict.fromkeys(row["decode"] for row in own))
        decode = next((d for d in decodes if str(d).startswith("decode_greedy")), decodes[0])
        self.last = max(row["phase"] for row in own if row["decode"] == decode)
        self._rows: dict[tuple, list[dict[str, Any]]] = {}
        for row in rows:
            found = SET_NAME.search(row["test_set"])
            column = _column(row, decode)
            if not found or column is None or row["metric"] not in METRICS[found[2]]:
                continue
            split, task, src, tgt = found.groups()
            self._rows.setdefault((split, task, src, tgt or src, column), []).append(row)

    def pairs(self, split: str, task: str) -> list[tuple[str, str]]:
        """Pairs of languages, in the order of the method's list of languages."""
        order = list(LANGUAGES)
        found = {(src, tgt) for s, t, src, tgt, _ in self._rows if (s, t) == (split, task)}
        return sorted(found, key=lambda pair: [order.index(code) for code in pair])

    def metric(self, split: str, task: str, pair: tuple[str, str]) -> str:
        """How a pair is measured: WER, CER or BLEU."""
        same = (rows for key, rows in self._rows.items() if key[:4] == (split, task, *pair))
        return next(same)[0]["metric"].upper()

    def value(self, split: str, task: str, pair: tuple[str, str], column: str) -> float | None:
        """The mean over seeds; None where nothing was scored."""
        rows = self._rows.get((split, task, *pair, column), [])
        return mean(row["value"] for row in rows) if rows else None

    def mean(self, split: str, task: str, column: str) -> float | None:
        """The mean over pairs; None unless all of them were scored."""
        values = [self.value(split, task, pair, column) for pair in self.pairs(split, task)]
        return mean(values) if values and None not in values else None

    def interval(self, split: str, task: str, pair: tuple[str, str]) -> str:
        """The 95 % interval of the last phase; of several seeds there is none."""
        rows = self._rows.get((split, task, *pair, self.last), [])
        if len(rows) != 1 or not rows[0].get("ci95"):
            return "-"
        low, high = rows[0]["ci95"]
        return f"{low:.1f}-{high:.1f}"


def _column(row: dict[str, Any], decode: str) -> str | None:
    if row["curriculum"] in (FLOOR, CASCADE):
        return row["curriculum"]
    if row["curriculum"] in (ENCODER_CTC, LLM_TEXT):
        return "reference"
    if row["curriculum"] == CURRICULUM and row["decode"] == decode and row["phase"] in PHASES:
        return row["phase"]
    return None


def table(scores: Scores) -> Iterator[str]:
    """Languages and directions by floor, references and phases: at most 100 columns wide."""

    def line(label: str, cells: Sequence[str | float | None], interval: str = "") -> str:
        text = ["-" if c is None else c if isinstance(c, str) else f"{c:.2f}" for c in cells]
        widths = [width for _, width in COLUMNS.values()]
        numbers = " ".join(cell.rjust(width) for cell, width in zip(text, widths, strict=True))
        return f"{label:<{LABEL_WIDTH}}{numbers} {interval:>11}".rstrip()

    def cells(task: str, number: Callable[[str], float | None]) -> list[str | float | None]:
        # Of recognition there is no cascade, where "-" would say that it was not scored.
        return ["" if (c, task) == (CASCADE, "asr") else number(c) for c in COLUMNS]

    head = line("", [name for name, _ in COLUMNS.values()], "95 % CI")
    yield head
    for task, heading in HEADINGS.items():
        pairs = scores.pairs("test", task)
        if not pairs:
            continue
        yield heading
        for pair in pairs:
            src, tgt = pair
            label = LANGUAGES[src] if src == tgt else f"{LANGUAGES[src]} -> {LANGUAGES[tgt]}"
            if task == "asr":
                label = f"{label:<12}{scores.metric('test', task, pair)}"
            own = cells(task, partial(scores.value, "test", task, pair))
            yield line(f"  {label}", own, scores.interval("test", task, pair))
        yield line(f"  mean of {len(pairs)}", cells(task, partial(scores.mean, "test", task)))
    if any(scores.pairs("testvoice", task) for task in HEADINGS):
        yield "The same sentences in voices that nothing was trained on"
    for task, name in (("asr", "recognition"), ("st", "translation")):
        if pairs := scores.pairs("testvoice", task):
            means = cells(task, partial(scores.mean, "testvoice", task))
            yield line(f"  {name}, mean of {len(pairs)}", means)
    yield "-" * len(head)
    yield (
        "floor: another sentence of the same form as the answer; cascade: the encoder's own CTC "
        "output,"
    )
    yield "translated by the LLM; 95 % CI: of the last phase; CER counts characters, WER words."
    yield "Every number, with its checks, is in RESULTS.md."


def find_pack(exp: Path) -> Path | None:
    """The packed model of the last phase that has one, the newest if there are several."""
    for phase in reversed(PHASES):
        packs = list((exp / CURRICULUM / f"phase{phase}").glob("*.zip"))
        if packs:
            return max(packs, key=lambda path: path.stat().st_mtime)
    return None


def places(exp: Path, pack: Path | None) -> Iterator[str]:
    """Where model, pictures and reports lie; what does not exist is not named."""
    yield "Where everything is"
    if pack is not None:
        yield f"  model      {shown(pack)} ({pack.stat().st_size / 1e6:.1f} MB, all in one file)"
    pictures = sorted((exp / CURRICULUM / "images").glob("*.png"))
    for number, picture in enumerate(pictures):
        yield f"  {'' if number else 'pictures':<9}  {shown(picture)}"
    for name, file in (
        ("report", "report.html"),  # with the worst utterances to listen to
        ("results", "RESULTS.md"),
        ("log", "demo.log"),
    ):
        if (exp / file).exists():
            yield f"  {name:<9}  {shown(exp / file)}"


def next_commands(pack: Path | None, clips: Sequence[Row]) -> Iterator[str]:
    """What to type next, from the folder where `make demo` was typed."""
    yield "Try next"
    if pack is not None:
        program = Path(sys.executable).parent / "part-transcribe"
        command = [shown(program)]
        if not program.exists():  # VENV=none: nothing of ours is installed
            command = [sys.executable, "-m", "espnet_part.bin.transcribe"]
        clip = shown(Path(clips[0].path)) if clips else "my_voice.wav"
        languages = [clips[0].src, clips[0].tgt] if clips else ["en", "de"]
        command += [clip, "--lang", languages[0], "--to", languages[1], "--model", shown(pack)]
        yield "  your own voice file in place of this one, any format (without --to: a transcript):"
        yield f"    {shlex.join(command)}"
    yield "  real recordings, spoken digits, English into six languages; some 20 min on two cores:"
    yield "    (cd egs2/part_multilingual/s2t1 && ./run.sh)"
    yield "  your own data, Whisper and Qwen in place of the toy parts: README.md, ./run.sh --help"


def main(cmd: list[str] | None = None) -> None:
    """Prints the page."""
    parser = argparse.ArgumentParser(prog="demo_page.py", description=__doc__.split("\n")[0])
    parser.add_argument("exp", type=Path, help="experiment, exp/<tag>")
    parser.add_argument("--dumpdir", type=Path, default=Path("dump"), help="formatted data (dump)")
    args = parser.parse_args(cmd)
    try:
        scores = Scores(load_rows(args.exp / "results.json"))
        print("", *table(scores), "", sep="\n")
        pack = find_pack(args.exp)
        print(*places(args.exp, pack), "", sep="\n", flush=True)
        clips = pick_clips(args.dumpdir / "raw", args.exp.name)
        if pack is not None and clips:
            print("Clips of the test set, heard by the packed model (not chosen by the outcome)")
            for text in listen(pack, clips):
                print(text, flush=True)
            print()
        print(TOY)
        print("", *next_commands(pack, clips), "", sep="\n")
    except (ValueError, OSError) as error:
        sys.exit(f"demo_page.py: error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
