"""Writes a look inside: analysis.json, figures as svg and png, and analysis.md with both."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from espnet_part.pictures_analysis import draw_places
from espnet_part.pictures_style import save
from espnet_part.pictures_tasks import draw_by_phase
from espnet_part.tables import markdown

CAPTIONS = {
    "separation": "How far apart languages lie, place by place: mean cosine distance of clips in "
    "two languages over that of clips in one, other sentences each, the mean over languages taken "
    "off. At 1 languages are not told apart. It does not show that language matters to the "
    "output: voices differ between languages too, and a clip is one mean over time here.",
    "sentences": "How near translations lie, each language's own mean taken off. Above: cosine "
    "distance of one sentence in two languages over that of two sentences in two languages; below "
    "1, meaning draws clips together. Below: how well a sentence is found among another language's "
    "(mean reciprocal rank over all ordered pairs of languages; band: 95 % over sentences, of the "
    "last phase). Lines across: guessing, and sorting by the length of the clips alone; above the "
    "latter is more than length. It does not show understanding: names and words that sound alike "
    "help too.",
    "cka": "How much each phase changed the representation of the same clips (linear centered "
    "kernel alignment, debiased). 1: the same up to rotation and scale; near 0: nothing in common. "
    "Frozen layers below a trained one stay at 1. It says how much changed, not whether for the "
    "better, and is ruled by the directions of largest variance.",
    "movement": "How far the weights went in each phase: norm of the change over the norm at the "
    "phase's start, in per cent, on a logarithmic axis; frozen blocks have no point. Optimizer "
    "steps and learning rates differ between phases and parts: it shows where a phase worked, not "
    "what a block is worth.",
    "gradients": "Norm of the gradient of each task's loss per part, at the end of each phase, on "
    "the same training rows; all parts are made trainable for the measurement, so a frozen part "
    "shows how much the task would move it. Hollow: tasks that the phase did not train on. Parts "
    "differ in size: compare within a panel.",
    "gradient_cosines": "Whether two tasks pull a part the same way: cosine of their gradients. "
    "Above 0 a step for one task helps the other, below 0 they are in conflict. Rows are few, and "
    "noise draws cosines towards 0: values near it say nothing.",
}
KEYS = {
    "about": "what was looked at, and with what",
    "clips": "rows per language; sentences: those that several languages say; pairing: how they "
    "were found (ids, file, null: none); candidates: of a retrieval, on average; chance, duration: "
    "mean reciprocal rank of guessing, and of the clips' lengths alone",
    "places": "encoder.0: what the first encoder block reads; encoder.l: what block l gives out; "
    "adapter: what the LLM reads as speech; llm.k: what block k gives out at the speech's places",
    "geometry": "per curriculum, phase (start: before any) and place. within, between, parallel: "
    "mean cosine distance (0 to 2) of clips in one language, in two, and of one sentence in two, "
    "the mean of the languages' means taken off; separation: between / within. parallel_ratio: "
    "parallel / between with each language's own mean taken off; mrr: mean reciprocal rank of a "
    "sentence among another language's, so too; mrr_ci95 over sentences; mrr_by_language: of "
    "its pairs; mrr_raw: with the common mean alone taken off",
    "cka": "linear CKA of a place, debiased, between two moments that follow each other",
    "movement": "||end - start|| / ||start|| of the weights of a block in a phase; block: number, "
    "embeddings, rest (of no block), all",
    "gradients": "norm: of the gradient of the mean loss per target token (nats); weights: norm of "
    "the part's weights; loss; tokens: target tokens of the rows; trained: whether the phase "
    "trains on the task",
    "gradient_cosines": "cosine of two tasks' gradients, per part",
}


def write_analysis(found: Mapping, out: Path, title: str) -> list[Path]:
    """Writes everything; returns the files, analysis.md last.

    Args:
        found: From `analysis.analyze`, with ``about``.
        out: Folder, made if need be.
        title: Of the experiment.
    """
    out.mkdir(parents=True, exist_ok=True)
    files = [out / "analysis.json"]
    text = json.dumps({"keys": KEYS, **found}, indent=1, ensure_ascii=False, allow_nan=False)
    files[0].write_text(text + "\n", encoding="utf-8")
    drawn = {}
    for name, draw in FIGURES.items():
        figure = draw(found, title)
        for kind in ("png", "svg"):
            path = out / f"{name}.{kind}"
            path.unlink(missing_ok=True)  # of a run before
            if figure is not None:
                files.append(save(figure, path))
                drawn[name] = path.name
    files.append(out / "analysis.md")
    files[-1].write_text(analysis_text(found, drawn, title), encoding="utf-8")
    return files


def analysis_text(found: Mapping, drawn: Mapping[str, str], title: str) -> str:
    """The page: what was looked at, tables, figures with captions."""
    parts = [f"# {title}: looking inside", _clips(found["clips"]), *_tables(found)]
    for number, (name, file) in enumerate(drawn.items(), 1):
        parts.append(f"![{name}]({file})\n\n**Figure {number}.** {CAPTIONS[name]}")
    return "\n\n".join(parts) + "\n"


def _clips(clips: Mapping) -> str:
    rows = ", ".join(f"{code} {count}" for code, count in clips["rows"].items())
    text = f"Clips: {rows}. "
    if len(clips["rows"]) == 1:
        return text + "One language: what compares languages is left out."
    if clips.get("chance") is None:
        return text + (
            "No parallel sentences: the ids do not tell which rows say the same in two languages, "
            "so retrieval is left out (`--pairs FILE` names them)."
        )
    how = {"ids": "by their ids", "file": "by the file of pairs"}[clips["pairing"]]
    return text + (
        f"{clips['sentences']} sentences are said in several languages, {how}. Retrieval among "
        f"{clips['candidates']:.0f} sentences: guessing has a mean reciprocal rank of "
        f"{clips['chance']:.3f}, the length of the clips alone {clips['duration']:.3f}."
    )


def _tables(found: Mapping) -> list[str]:
    out = []
    shown = _shown_places(found["places"])
    keys = {
        "separation": "Distance between languages / within a language",
        "parallel_ratio": "Distance of translations / of other sentences",
        "mrr": "Retrieval of translations, mean reciprocal rank",
        "mrr_raw": "The same, languages' own means left in",
    }
    for key, heading in keys.items():
        table = _place_table(found["geometry"], shown, key, lambda row: row["phase"])
        out += [f"## {heading}\n\n{table}"] if table else []
    table = _place_table(found["cka"], shown, "cka", _transition)
    out += [f"## Similarity to the phase before (linear CKA)\n\n{table}"] if table else []
    moved = [row for row in found["movement"] if row["block"] == "all"]
    if moved:
        table = _table(moved, "part", ("encoder", "adapter", "llm"), "moved", _phase, 100)
        out.append(f"## Movement of each part in a phase (% of its weights' norm)\n\n{table}")
    if found["gradients"]:
        rows = [{**r, "column": f"{r['part']} {r['task']}"} for r in found["gradients"]]
        columns = list(dict.fromkeys(row["column"] for row in rows))
        columns.sort(key=lambda name: "encoder adapter llm".split().index(name.split()[0]))
        table = _table(rows, "column", columns, "norm", _phase)
        out.append(f"## Gradient norm per part and task (nats per token)\n\n{table}")
    if found["gradient_cosines"]:
        rows = [{**r, "column": f"{r['part']} {_pair(r)}"} for r in found["gradient_cosines"]]
        columns = list(dict.fromkeys(row["column"] for row in rows))
        table = _table(rows, "column", columns, "cosine", _phase)
        out.append(f"## Cosine of two tasks' gradients\n\n{table}")
    return out


def _shown_places(places: Sequence[str]) -> list[str]:
    """First, middle and last of each part: all of them are in analysis.json and the figures."""
    out = []
    for part in ("encoder", "adapter", "llm"):
        own = [place for place in places if place.partition(".")[0] == part]
        out += [own[i] for i in sorted({0, len(own) // 2, len(own) - 1})] if own else []
    return out


def _place_table(rows: Sequence[Mapping], places, key: str, label: Callable) -> str:
    if not any(row.get(key) is not None for row in rows):
        return ""
    return _table([r for r in rows if r["place"] in places], "place", places, key, label)


def _table(rows, column: str, columns: Sequence[str], key: str, label: Callable, factor=1) -> str:
    cells: dict[tuple[str, str], dict] = {}
    for row in rows:
        cells.setdefault((row["curriculum"], label(row)), {})[row[column]] = row.get(key)
    return markdown(
        ["curriculum", "phase", *columns],
        [[*names, *(_number(own.get(c), factor) for c in columns)] for names, own in cells.items()],
    )


def _number(value: float | None, factor: float) -> str:
    return "-" if value is None else f"{factor * value:.3g}"


def _phase(row: Mapping) -> str:
    return row["phase"]


def _transition(row: Mapping) -> str:
    return f"{row['from']} → {row['to']}"


def _pair(row: Mapping) -> str:
    return " · ".join(row["tasks"])


def _separation(found: Mapping, title: str) -> Figure | None:
    marks = {"separation": {"not told apart": 1.0}}
    return draw_places(
        found["geometry"], found["places"], ["separation"], f"{title}: languages", marks=marks
    )


def _sentences(found: Mapping, title: str) -> Figure | None:
    clips = found["clips"]
    if clips.get("chance") is None:
        return None
    marks = {
        "parallel_ratio": {"chance": 1.0},
        "mrr": {"chance": clips["chance"], "clip length alone": clips["duration"]},
    }
    keys = ["parallel_ratio", "mrr"]
    return draw_places(
        found["geometry"], found["places"], keys, f"{title}: translations", marks=marks
    )


def _cka(found: Mapping, title: str) -> Figure | None:
    heading = f"{title}: change of the representations"
    return draw_places(found["cka"], found["places"], ["cka"], heading, _transition)


def _movement(found: Mapping, title: str) -> Figure | None:
    """The adapter as one place; frozen blocks have no place on a logarithmic axis."""
    rows = []
    for row in found["movement"]:
        whole = row["part"] == "adapter"
        if row["moved"] and (row["block"] == "all" if whole else row["block"].isdigit()):
            rows.append({**row, "place": row["part"] if whole else f"{row['part']}.{row['block']}"})
    places = [place for place in found["places"] if place != "encoder.0"]
    return draw_places(rows, places, ["moved"], f"{title}: movement of the weights")


def _gradients(found: Mapping, title: str) -> Figure | None:
    heading = f"{title}: gradients of the tasks"
    return draw_by_phase(found["gradients"], "norm", lambda row: row["task"], heading)


def _cosines(found: Mapping, title: str) -> Figure | None:
    heading = f"{title}: agreement of the tasks"
    return draw_by_phase(found["gradient_cosines"], "cosine", _pair, heading)


FIGURES: dict[str, Callable[[Mapping, str], Figure | None]] = {
    "separation": _separation,
    "sentences": _sentences,
    "cka": _cka,
    "movement": _movement,
    "gradients": _gradients,
    "gradient_cosines": _cosines,
}
