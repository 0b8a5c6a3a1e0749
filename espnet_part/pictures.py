"""The pictures of an experiment, `exp/<tag>/<curriculum>/images/`; drawn by stage 13.

- curves.png (pictures_curves.py): learning curves of all phases, one after the other
- phases.png (pictures_phases.py): which part trains when, and on what
- scores.png (pictures_scores.py): scores by language and phase, a file per family of test sets
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import yaml

from espnet_part.curriculum import load_curriculum, merge
from espnet_part.lid_table import main_rows
from espnet_part.pictures_curves import draw_curves, read_curves
from espnet_part.pictures_phases import draw_phases
from espnet_part.pictures_scores import draw_scores
from espnet_part.pictures_style import save
from espnet_part.schema import to_dict
from espnet_part.tables import Row, is_reference


def draw_curriculum(folder: Path, rows: Sequence[Row]) -> str:
    """Draws what there is of one curriculum of an experiment.

    A picture that cannot be drawn costs neither the other ones nor the scores: it is left out, and
    the line that is returned says why.

    Args:
        folder: `exp/<tag>/<curriculum>`.
        rows: Of `exp/<tag>/results.json`.

    Returns:
        One line: which pictures lie where, and what was left out.
    """
    out = folder / "images"
    drawn, left_out = [], []
    for name, draw in (("phases.png", _phases), ("curves.png", _curves), ("scores.png", _scores)):
        try:
            drawn += draw(folder, rows)
        except Exception as error:  # whatever it is: scores are not lost over a picture
            reason = " ".join(str(error).split()) or type(error).__name__
            left_out.append(f"{name} left out ({reason})")
    places = f"{out}: {' '.join(drawn)}" if drawn else f"none of {folder.name}"
    return "; ".join([f"Pictures: {places}", *left_out])


def curriculum_settings(conf_dir: str | Path, model: str, curriculum: str) -> list[dict]:
    """Merged settings of each phase of a curriculum in conf/, as `draw_phases` takes them."""
    return [
        to_dict(merge(conf_dir, model, curriculum, phase, ["-"], []))
        for phase in load_curriculum(conf_dir, curriculum)["phases"]
    ]


def phase_settings(folder: Path) -> dict[str, dict]:
    """Phase -> its config.yaml, in the order in which the phases follow each other.

    A phase comes after the one whose checkpoint it starts from; otherwise names decide.
    """
    settings = {}
    for path in sorted(folder.glob("phase*")):
        if path.is_dir():
            file = path / "config.yaml"
            values = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
            settings[path.name.removeprefix("phase")] = values if isinstance(values, dict) else {}

    def depth(phase: str, seen: tuple[str, ...] = ()) -> int:
        init = Path(str(settings[phase].get("init") or ""))
        before = init.parent.name.removeprefix("phase")
        inside = init.parent.parent.name == folder.name and before in settings
        return 1 + depth(before, (*seen, phase)) if inside and before not in seen else 0

    return {phase: settings[phase] for phase in sorted(settings, key=lambda p: (depth(p), p))}


def families(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Parts rows by what their test sets' names begin with: `<corpus>_<split>`.

    The rest of a name is `_<task>_<src>[_<tgt>]`; names without it share the family "".
    """
    out: dict[str, list[Row]] = {}
    for row in rows:
        ending = f"_{row['task']}_{row['src']}"
        if row["task"] != "asr":
            ending += f"_{row['tgt']}"
        name = row["test_set"]
        out.setdefault(name.removesuffix(ending) if name.endswith(ending) else "", []).append(row)
    return dict(sorted(out.items()))


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Families by what tells them apart: digits_test, digits_testvoice are test, testvoice."""
    if len(names) < 2:
        return dict.fromkeys(names, "test")
    pieces = [name.split("_") for name in names]
    shared = len([*takewhile(lambda same: len(set(same)) == 1, zip(*pieces, strict=False))])
    short = {name: "_".join(piece[shared:]) for name, piece in zip(names, pieces, strict=True)}
    return {name: rest or name or "others" for name, rest in short.items()}


def _title(folder: Path) -> str:
    return f"{folder.parent.name}: {folder.name}"


def _phases(folder: Path, rows: Sequence[Row]) -> list[str]:
    settings = [{"phase": name, **own} for name, own in phase_settings(folder).items() if own]
    if not settings:
        raise ValueError(f"no {folder}/phase*/config.yaml")
    return [save(draw_phases(settings, _title(folder)), folder / "images" / "phases.png").name]


def _curves(folder: Path, rows: Sequence[Row]) -> list[str]:
    curves = read_curves(folder, list(phase_settings(folder)))
    if not curves:
        raise ValueError(f"no {folder}/phase*/images/curves.json")
    return [save(draw_curves(curves, _title(folder)), folder / "images" / "curves.png").name]


def _scores(folder: Path, rows: Sequence[Row]) -> list[str]:
    """One file per family and decoding: scores[_<family>][_<decode>].png, parts only as needed."""
    out = folder / "images"
    rows = main_rows(rows)
    own = [row for row in rows if row["curriculum"] == folder.name and not is_reference(row)]
    found = {row["phase"] for row in own}
    known = list(phase_settings(folder))
    phases = [*(p for p in known if p in found), *sorted(found - set(known))]
    decodes = sorted({row["decode"] for row in own})
    by_family = families([row for row in rows if row["test_set"] in {r["test_set"] for r in own}])
    names = short_names(list(by_family))
    drawn = []
    for family, content in by_family.items():
        for decode in decodes:
            title = ", ".join(part for part in (_title(folder), family, decode) if part)
            figure = draw_scores(content, folder.name, decode, phases, title)
            if figure is not None:
                pieces = ["scores"] + ([names[family]] if names[family] != "test" else [])
                pieces += [decode] if len(decodes) > 1 else []
                drawn.append(save(figure, out / ("_".join(pieces) + ".png")).name)
    if not drawn:
        raise ValueError(f"no scores of {folder.name}")
    for old in out.glob("scores*.png"):  # of test sets or decodings that are gone
        if old.name not in drawn:
            old.unlink()
    return drawn
