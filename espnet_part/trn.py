"""Files beside a score, in the form that ESPnet's scripts and sclite read.

`result.txt` has sclite's tables, with jiwer's counts: `show_asr_result.sh` takes its lines with
`Avg`. sclite weighs substitutions 4 and insertions and deletions 3, so its own report
(`result.sclite.txt`, where it is installed) can differ by a few errors.
"""

import shutil
import subprocess
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from espnet_part.error_rate import Alignment
from espnet_part.pairs import Pair
from espnet_part.scoring import Scores


def _label(pair: Pair) -> str:
    speaker = pair.speaker or pair.utt_id
    return f"({speaker}-{pair.utt_id})"


def _row(name: str, counts: Iterable[Sequence[int]]) -> str:
    """One table row: sentences, tokens, then per cent of reference tokens and of sentences."""
    counts = list(counts)
    hits, subs, dels, ins = (sum(c[i] for c in counts) for i in range(4))
    tokens, snts = hits + subs + dels, len(counts)
    wrong = sum(1 for c in counts if c[1] + c[2] + c[3])
    shares = [100.0 * n / max(tokens, 1) for n in (hits, subs, dels, ins, subs + dels + ins)]
    shares.append(100.0 * wrong / max(snts, 1))
    numbers = " ".join(f"{share:6.1f}" for share in shares)
    return f"| {name:<16} | {snts:>6} {tokens:>8} | {numbers} |"


def _width(text: str) -> int:
    """Columns on a terminal: wide characters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def _alignment_lines(alignment: Alignment) -> list[str]:
    """Show one utterance as sclite does: errors in capitals, gaps as stars."""
    columns = []
    for name, ref, hyp in alignment.ops:
        if name == "C":
            cells = [ref or "", hyp or "", ""]
        else:
            width = max(_width(ref or ""), _width(hyp or ""))
            cells = [
                ref.upper() if ref is not None else "*" * width,
                hyp.upper() if hyp is not None else "*" * width,
                name,
            ]
        width = max(map(_width, cells))
        columns.append([cell + " " * (width - _width(cell)) for cell in cells])
    rows = [" ".join(column[i] for column in columns) for i in range(3)]
    hits, subs, dels, ins = alignment.counts
    return [
        # Lower case as sclite has it; it also keeps an id from matching the scripts' `grep Avg`.
        f"id: {_label(alignment.pair).lower()}",
        f"Scores: (#C #S #D #I) {hits} {subs} {dels} {ins}",
        f"REF:  {rows[0]}".rstrip(),
        f"HYP:  {rows[1]}".rstrip(),
        f"Eval: {rows[2]}".rstrip(),
        "",
    ]


def result_text(alignments: Sequence[Alignment], title: str) -> str:
    """Format the report: a row per speaker, their sum, then every utterance's alignment.

    Args:
        alignments: of all utterances scored.
        title: what the tokens are and how they were made.
    """
    speakers: dict[str, list[tuple[int, int, int, int]]] = {}
    for alignment in alignments:
        name = (alignment.pair.speaker or alignment.pair.utt_id).lower()
        speakers.setdefault(name, []).append(alignment.counts)
    columns = "Corr    Sub    Del    Ins    Err  S.Err"
    head = f"| {'SPKR':<16} | {'# Snt':>6} {'# Wrd':>8} |   {columns} |"
    width = len(head) - 2
    lines = [
        title,
        "",
        "," + "-" * width + ".",
        head,
        "|" + "-" * width + "|",
        *(_row(name, counts) for name, counts in speakers.items()),
        "|" + "=" * width + "|",
        _row("Sum/Avg", (alignment.counts for alignment in alignments)),
        "`" + "-" * width + "'",
        "",
    ]
    for alignment in alignments:
        lines += _alignment_lines(alignment)
    return "\n".join(lines)


def _write(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8", newline="\n")


def find_sclite() -> str | None:
    """Return sclite's path: on PATH, or where Debian's package sctk hides it."""
    return shutil.which("sclite") or shutil.which("sclite", path="/usr/lib/sctk/bin")


def _run_sclite(folder: Path) -> None:
    """Let sclite write its own report where it is installed; its failure spoils nothing."""
    sclite = find_sclite()
    if sclite is None:
        return
    command = [sclite, "-r", "ref.trn", "trn", "-h", "hyp.trn", "trn"]
    command += ["-i", "rm", "-e", "utf-8", "-o", "all", "stdout"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    (folder / "result.sclite.txt").write_bytes(done.stdout + done.stderr)


def write_asr(scores: Scores, folder: Path) -> None:
    """Write `score_wer` or `score_cer`: ref.trn, hyp.trn, result.txt, and sclite's report.

    Args:
        scores: of an asr test set.
        folder: the test set's decode folder.
    """
    main = scores.measures[0]
    out = folder / f"score_{main.metric}"
    out.mkdir(parents=True, exist_ok=True)
    for name, side in (("ref", 1), ("hyp", 2)):
        _write(
            out / f"{name}.trn",
            (
                " ".join(filter(None, (op[side] for op in a.ops))) + f"\t{_label(a.pair)}"
                for a in scores.alignments
            ),
        )
    title = f"{main.metric.upper()} by {main.signature}; {scores.n_empty_refs} empty references"
    (out / "result.txt").write_text(
        result_text(scores.alignments, f"{title} left out"), encoding="utf-8", newline="\n"
    )
    _run_sclite(out)


def write_st(scores: Scores, folder: Path) -> None:
    """Write `score_bleu`: ref.trn, hyp.trn and result.tc.txt.

    The first two are plain lines, as sacrebleu reads them (with ids in *.trn.org); the last is
    ESPnet's title line above sacrebleu's JSON.

    Args:
        scores: of a translation test set.
        folder: the test set's decode folder.
    """
    out = folder / "score_bleu"
    out.mkdir(parents=True, exist_ok=True)
    for name in ("ref", "hyp"):
        texts = [getattr(pair, name).strip() for pair in scores.pairs]
        _write(out / f"{name}.trn", texts)
        labels = map(_label, scores.pairs)
        _write(out / f"{name}.trn.org", (f"{t}\t{i}" for t, i in zip(texts, labels, strict=True)))
    # show_translation_result.sh reads line 5 (score) and line 7 (verbose_score).
    title = "Case sensitive BLEU result (single-reference)"
    _write(out / "result.tc.txt", [title, "[", ",\n".join(scores.sacrebleu_json), "]"])
