"""The repository: package metadata, what CI runs, and what no file may hold."""

import ast
import importlib.util
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_every_requirement_is_pinned_in_the_constraints():
    pinned = {
        line.split(";")[0].strip().lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (ROOT / name).read_text().splitlines():
            requirement, _, marker = line.split("#")[0].partition(";")
            if "==" not in requirement or '< "3.11"' in marker:
                continue
            assert requirement.strip().lower().replace("_", "-") in pinned


def test_setup_py(monkeypatch):
    given = {}
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("setuptools.setup", given.update)
    spec = importlib.util.spec_from_file_location("setup_py", ROOT / "setup.py")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert given["version"] == "0.1.0"
    assert {"espnet_part", "espnet_part.bin"} <= set(given["packages"])
    assert "tests" not in given["packages"]
    assert "torch>=2.12.1" in given["install_requires"]
    assert "setuptools<74" in given["install_requires"]
    for script in given["entry_points"]["console_scripts"]:
        module, function = script.split(" = ")[1].split(":")
        tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
        assert function in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


def test_ci_runs_what_it_says():
    script = (ROOT / ".ci/run").read_text()
    assert script.rstrip().endswith("make check\nmake test")
    assert os.access(ROOT / ".ci/run", os.X_OK)
    listed = subprocess.run(
        ["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for target in "test test-all check link clean".split():
        assert f"make {target} " in listed


# ----- what no file may hold -----


def tracked_files():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("no git checkout")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_only_espnet2_is_imported():
    """ESPnet's next release has no `espnet` and no `espnetez`."""
    for path in tracked_files():
        if path.suffix != ".py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in names:
                assert name.split(".")[0] not in ("espnet", "espnetez"), path


def test_no_file_names_a_machine():
    """No path of somebody's machine and no private package index."""
    pattern = re.compile(r"(?<![\w.])/(work|root|opt/pypi)/|--(extra-)?index-url|@ file://")
    for path in tracked_files():
        if path.suffix in (".png", ".wav", ".flac") or path == Path(__file__).resolve():
            continue
        found = pattern.search(path.read_text(encoding="utf-8", errors="ignore"))
        assert found is None, f"{path}: {found}"


def test_links_of_the_recipe_are_relative():
    recipe = ROOT / "egs2/part_multilingual/s2t1"
    assert os.readlink(recipe / "conf") == "../../../conf"
    assert os.readlink(recipe / "local") == "../../../local"
