"""What stage 13 does: walks an experiment, scores it, and words its RESULTS.md files."""

import json
import platform
import random
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from espnet_part import scoring, trn
from espnet_part.datadir import iter_rows
from espnet_part.lid_table import DELTA, lid_delta, same_decode
from espnet_part.pairs import Pair, pair_texts, read_text
from espnet_part.results import FLOOR, System, make_rows
from espnet_part.tables import GROUPS, checks_table, markdown, variants

FLOOR_SEED = 0
RIGHT = (None, "right")  # what decode.json names as the language; older ones name nothing


@dataclass(frozen=True)
class TestSet:
    """References of one task and one language pair."""

    __test__ = False  # not a test case, whatever pytest thinks of the name

    name: str
    task: str
    src: str
    tgt: str
    texts: Mapping[str, str]
    speakers: Mapping[str, str | None]


def read_test_set(folder: Path) -> TestSet:
    """Read a test set's data folder.

    Raises:
        ValueError: if the folder is missing or empty, or holds more than one task or pair.
    """
    if not folder.is_dir():
        raise ValueError(f"No reference folder {folder}: run stages 1 to 4 for this test set")
    texts, speakers, kinds = {}, {}, set()
    for row in iter_rows(folder):
        texts[row.utt_id], speakers[row.utt_id] = row.target, row.speaker
        kinds.add((row.task, row.src, row.tgt))
    if len(kinds) != 1:
        found = ", ".join(" ".join(kind) for kind in sorted(kinds)) or "no utterance"
        raise ValueError(f"{folder}: a test set has one task and one language pair, found {found}")
    return TestSet(folder.name, *kinds.pop(), texts, speakers)


def _read_system(folder: Path) -> System:
    """Name what was decoded, from its place, the phase's config.yaml and decode.json.

    Every decoding job leaves a decode.json in its output folder; any of them will do. One in the
    test set's or the decode folder comes first, where another way of decoding wrote it.

    Args:
        folder: `<curriculum>/phase<N>/<decode>/<test_set>`.
    """
    decode_dir, phase_dir = folder.parent, folder.parent.parent
    config: dict[str, Any] = {}
    meta: dict[str, Any] = {}
    if (phase_dir / "config.yaml").is_file():
        config = yaml.safe_load((phase_dir / "config.yaml").read_text(encoding="utf-8")) or {}
    places = [folder / "decode.json", decode_dir / "decode.json"]
    for place in [*places, *sorted(folder.glob("logdir/output.*/decode.json"))]:
        if place.is_file():
            meta = json.loads(place.read_text(encoding="utf-8"))
            break
    checkpoint = meta.get("checkpoint")
    if checkpoint is not None and Path(checkpoint).is_absolute():
        checkpoint = Path(checkpoint).name  # results are shared; this machine's paths are not
    return System(
        curriculum=phase_dir.parent.name,
        phase=phase_dir.name.removeprefix("phase"),
        decode=decode_dir.name,
        seed=config.get("seed"),
        checkpoint=checkpoint,
        lid=meta.get("lid"),
    )


def _right_file(file: Path, systems: Mapping[Path, System]) -> Path | None:
    """Find the hypotheses of the same decoding with the right language in the prompt.

    Args:
        file: `<curriculum>/phase<N>/<decode>/<test_set>/text`.
        systems: what each such file is of.

    Returns:
        Its place; None where there is none, or `file` had the right language itself. A name alone
        does not tell: `--inference_tag` may give a decoding any.
    """
    decode, lid = systems[file].decode, systems[file].lid
    if decode is None or lid in RIGHT:
        return None
    right = file.parents[2] / same_decode(decode, lid) / file.parent.name / file.name
    return right if right in systems and systems[right].lid in RIGHT else None


def score_experiment(
    exp: Path, dumpdir: Path, allow_missing: bool, samples: int
) -> tuple[dict[Path, list[dict[str, Any]]], list[TestSet], list[str]]:
    """Score every `<curriculum>/phase<N>/<decode>/<test_set>/text` and write the files beside it.

    Args:
        exp: the experiment's folder.
        dumpdir: holds `raw/<test_set>`.
        allow_missing: count missing hypotheses as empty.
        samples: bootstrap resamples.

    What was decoded with no language in the prompt, or a wrong one, is compared with the same
    test set decoded with the right one.

    Returns:
        Rows by phase folder, the test sets met, and the problems: one message for each test set
        that could not be scored, so that one unfinished decoding does not hide the others.

    Raises:
        ValueError: if there is no hypothesis file at all.
    """
    files = sorted(exp.glob("*/phase*/*/*/text"))
    if not files:
        raise ValueError(
            f"No hypotheses {exp}/<curriculum>/phase<N>/<decode>/<test_set>/text: run stage 12"
        )
    test_sets: dict[str, TestSet] = {}
    by_phase: dict[Path, list[dict[str, Any]]] = {}
    problems = []
    systems = {file: _read_system(file.parent) for file in files}
    right_of = {file: right for file in files if (right := _right_file(file, systems))}
    compared: dict[Path, scoring.Scores] = {}
    # What others are compared with comes first.
    for file in sorted(files, key=lambda file: (file in right_of, file)):
        name, decode_dir = file.parent.name, file.parent.parent
        try:
            if name not in test_sets:
                test_sets[name] = read_test_set(dumpdir / "raw" / name)
            test_set = test_sets[name]
            pairs = pair_texts(
                test_set.texts,
                read_text(file),
                allow_missing,
                str(file),
                test_set.speakers,
            )
            kind = (test_set.task, test_set.src, test_set.tgt)
            scores = scoring.score(pairs, *kind, samples)
        except ValueError as error:
            problems.append(f"- {file}: {error}")
            continue
        write = trn.write_asr if test_set.task == "asr" else trn.write_st
        write(scores, file.parent)
        rows = make_rows(scores, systems[file], name, *kind)
        if file in right_of.values():
            compared[file] = replace(scores, alignments=[], sacrebleu_json=[])  # they are large
        if file in right_of and right_of[file] in compared:
            with_right = compared[right_of[file]]
            rows[0][DELTA] = lid_delta(with_right, scores, samples)
        by_phase.setdefault(decode_dir.parent, []).extend(rows)
    return by_phase, list(test_sets.values()), problems


def derangement(n: int, seed: int) -> list[int]:
    """Return a random permutation of range(n) that leaves nothing in its place; n >= 2.

    It is one cycle (Sattolo's shuffle), so no draw is wasted.
    """
    order = list(range(n))
    rng = random.Random(seed)
    for i in range(n - 1, 0, -1):
        j = rng.randrange(i)
        order[i], order[j] = order[j], order[i]
    return order


def floor_rows(test_sets: Sequence[TestSet], samples: int) -> list[dict[str, Any]]:
    """Score what a model would get that speaks fluently and hears nothing.

    The hypothesis of each utterance is the reference of another one of the same test set, drawn
    with a fixed seed. A test set of one utterance has no floor.
    """
    rows = []
    for test_set in test_sets:
        refs = list(test_set.texts.items())
        if len(refs) < 2:
            continue
        order = derangement(len(refs), FLOOR_SEED)
        pairs = [
            Pair(utt, ref, refs[other][1]) for (utt, ref), other in zip(refs, order, strict=True)
        ]
        kind = (test_set.task, test_set.src, test_set.tgt)
        try:
            scores = scoring.score(pairs, *kind, samples)
        except ValueError:  # without references: reported where its hypotheses are scored
            continue
        system = System(curriculum=FLOOR, seed=FLOOR_SEED)
        rows += make_rows(scores, system, test_set.name, *kind)
    return rows


def environment() -> dict[str, str]:
    """Return ESPnet's list of date, versions and commit, for the head of a report."""
    facts = {"date": time.strftime("%Y-%m-%d %H:%M:%S")}
    facts["python version"] = platform.python_version()
    for package in ("espnet", "torch", "transformers", "jiwer", "sacrebleu", "openai-whisper"):
        try:
            facts[f"{package} version"] = version(package)
        except PackageNotFoundError:
            continue
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, check=True)
        facts["Git hash"] = done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        pass  # installed without its repository
    return facts


def phase_report(folder: Path, rows: Sequence[dict[str, Any]]) -> str:
    """Word the RESULTS.md of one phase: every number with its interval, then the checks.

    Args:
        folder: `<curriculum>/phase<N>`.
        rows: its rows.
    """
    parts = [f"## {folder.parent.name}/{folder.name}"]
    for heading, metrics in GROUPS:
        body = []
        for row in rows:
            if row["metric"] not in metrics:
                continue
            dataset = f"{row['decode']}/{row['test_set']}"
            # A second way to count the same errors is marked with a dash.
            others = {f"- {name}": other for name, other in variants(row).items()}
            for name, one in {row["metric"]: row, **others}.items():
                ci95 = "-" if not one["ci95"] else f"{one['ci95'][0]:.2f}-{one['ci95'][1]:.2f}"
                body.append([dataset, name, f"{one['value']:.2f}", ci95, str(row["n_utts"])])
        if body:
            header = ["dataset", "metric", "value", "95 % CI", "utts"]
            parts += [f"### {heading}", markdown(header, body)]
    for decode in dict.fromkeys(row["decode"] for row in rows):
        parts.append(f"### Checks of {decode}")
        parts.append(checks_table([row for row in rows if row["decode"] == decode]))
    return "\n\n".join(parts)


def write_text(path: Path, title: str, body: str) -> None:
    """Write a RESULTS.md: title, environment, body."""
    facts = "\n".join(f"- {name}: `{value}`" for name, value in environment().items())
    path.write_text(
        f"<!-- Generated by espnet_part.bin.report -->\n# {title}\n\n"
        f"## Environments\n{facts}\n\n{body}\n",
        encoding="utf-8",
    )
