"""The page of an experiment, `exp/<tag>/report.html`: one file that loads nothing from elsewhere.

`report_page/` holds its templates and style sheet; every text in them is escaped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from espnet_part.html_charts import bar_charts
from espnet_part.html_clips import make_clips
from espnet_part.html_curves import CurveChart, curve_chart
from espnet_part.html_errors import error_groups
from espnet_part.html_paper import paper_table
from espnet_part.html_tables import (
    System,
    find_systems,
    names_of,
    own_tables,
    prompt_tables,
)
from espnet_part.lid_table import main_rows
from espnet_part.paper import load_paper
from espnet_part.pictures import families, phase_settings
from espnet_part.pictures_curves import read_curves
from espnet_part.tables import Row, is_reference, signatures
from espnet_part.worst import find_worst

TEMPLATES = Path(__file__).with_name("report_page")
WORST = 5
AUDIO_MB = 6.0


def write_page(
    exp: Path,
    dumpdir: Path,
    rows: Sequence[Row],
    environment: Mapping[str, str],
    audio_mb: float = AUDIO_MB,
    n_worst: int = WORST,
) -> str:
    """Write the page.

    Args:
        exp: `exp/<tag>`, scored: its score folders are read.
        dumpdir: holds `raw/<test_set>`; a test set that is missing shows no utterances.
        rows: of results.json.
        environment: what to say of date, versions and commit.
        audio_mb: most megabytes of audio in the page.
        n_worst: utterances shown of each test set.

    Returns:
        One line: where the page lies and how large it is.

    Raises:
        ValueError: if nothing that was trained is scored.
    """
    prompts, rows = prompt_tables(rows), main_rows(rows)
    known = {f.name: list(phase_settings(f)) for f in sorted(exp.iterdir()) if f.is_dir()}
    systems = find_systems(rows, known)
    if not systems:
        raise ValueError("nothing that was trained is scored")
    main, names = systems[0], names_of(systems)
    worst = find_worst(exp, dumpdir, main, rows, _others(exp, systems), n_worst)
    clips = make_clips(worst, audio_mb)
    source, papers = load_paper()
    paper = [paper_table(table, rows, systems, exp.name) for table in papers]
    comparable = any(own for _, own in paper)
    curves = _curves(exp, known)
    sections = {
        "paper": "Beside the paper" if comparable else "",
        "scores": "Scores",
        "lid": "Language in the prompt" if prompts else "",
        "bars": "Languages and phases",
        "curves": "Learning curves" if curves else "",
        "errors": "Kinds of errors",
        "worst": "The worst utterances" if worst else "",
        "papers": "" if comparable else "The paper's tables",
    }
    content = {
        "tag": exp.name,
        "facts": _facts(exp, rows, systems, environment),
        "sections": [(key, name) for key, name in sections.items() if name],
        "comparable": comparable,
        "paper": paper,
        "paper_source": source,
        "families": [name or "others" for name in families(_trained(rows))],
        "tables": own_tables(rows, systems),
        "lid_tables": prompts,
        "bars": [(names[system], bar_charts(rows, system)) for system in systems],
        "curves": curves,
        "errors": [
            (f"{names[s]}, phase {s.phases[-1]}", error_groups(exp, s, rows)) for s in systems
        ],
        "worst": worst,
        "worst_system": f"{names[main]}, phase {main.phases[-1]}",
        "clips": clips,
        "signatures": [(", ".join(names), s) for s, names in signatures(_trained(rows)).items()],
    }
    path = exp / "report.html"
    page = render(content)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(page, encoding="utf-8", newline="\n")
    os.replace(temporary, path)
    size = path.stat().st_size / 1e6
    return f"Page: {path} ({size:.1f} MB, {clips.count} clips to hear)"


def render(content: Mapping[str, Any]) -> str:
    """Fill the page's template; a name that it lacks is an error."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css = Markup((TEMPLATES / "page.css").read_text(encoding="utf-8"))  # ours, no one's data
    page = environment.get_template("page.html.jinja").render(css=css, **content)
    return re.sub(r"\n{2,}", "\n", page)


def _trained(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if not is_reference(row)]


def _curves(exp: Path, known: Mapping[str, list[str]]) -> list[tuple[str, CurveChart]]:
    charts = []
    for name, phases in known.items():
        try:
            chart = curve_chart(read_curves(exp / name, phases))
        except ValueError:  # a broken file: the line about the pictures says so
            continue
        if chart is not None:
            charts.append((name, chart))
    return charts


def _others(exp: Path, systems: Sequence[System]) -> list[Path]:
    """Decode folders to set beside the first system's last phase: its phases, others' last ones."""
    main, *rest = systems
    pairs = [(main, phase) for phase in main.phases[:-1]]
    pairs += [(system, system.phases[-1]) for system in rest]
    return [exp / system.curriculum / f"phase{phase}" / system.decode for system, phase in pairs]


def _facts(
    exp: Path, rows: Sequence[Row], systems: Sequence[System], environment: Mapping[str, str]
) -> dict[str, str]:
    """What the head of the page says."""
    trained = _trained(rows)

    def listed(values) -> str:
        return ", ".join(dict.fromkeys(str(value) for value in values if value is not None)) or "–"

    phases = {system.curriculum: " → ".join(system.phases) for system in systems}
    test_sets = {row["test_set"] for row in trained}
    versions = [f"{k.removesuffix(' version')} {v}" for k, v in environment.items() if "vers" in k]
    return {
        "Experiment": exp.name,
        "Curricula": "; ".join(f"{name} (phases {own})" for name, own in phases.items()),
        "Seeds": listed(row["seed"] for row in trained),
        "Decoding": listed(system.decode for system in systems),
        "Checkpoint": listed(Path(row["checkpoint"]).name for row in trained if row["checkpoint"]),
        "Test sets": f"{len(test_sets)}: {listed(name or 'others' for name in families(trained))}",
        "Commit": environment.get("Git hash", "unknown"),
        "Versions": ", ".join(versions),
        "Date": environment["date"],
    }
