"""Set-up: what it looks for and says, package metadata, and what no file may hold."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYTHON = (
    '#!/bin/bash\ncase "$*" in *version_info*) echo {version};; *include*) echo {include};; esac\n'
)


@pytest.fixture
def machine(tmp_path):
    """A machine of our own: `put(name, script)` adds a program, `check(**env)` looks at it."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in "bash true dirname cat sha256sum cut df awk id env mktemp sed".split():
        (programs / name).symlink_to(Path("/usr/bin") / name)
    include = tmp_path / "include"
    include.mkdir()
    (include / "Python.h").touch()

    class Machine:
        home = tmp_path

        def put(self, name, script=None, version=None):
            path = programs / name
            path.unlink(missing_ok=True)
            path.write_text(script or PYTHON.format(version=version, include=include))
            path.chmod(0o755)

        def check(self, *arguments, **more):
            env = {"PATH": str(programs), "HOME": str(tmp_path), "VENV": str(tmp_path / "venv")}
            return subprocess.run(
                ["/bin/bash", "local/setup.sh", *(arguments or ("--check",))],
                cwd=ROOT,
                env={**env, **more},
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=30,
                check=False,
            )

    found = Machine()
    found.put("c++", "#!/bin/bash\n")
    # Real Pythons of this machine must not be found by their usual places.
    found.put("python3", version="3.9")
    return found


def without_system_pythons(script: str) -> str:
    return re.sub(r"/usr/(local/)?bin/python3[^\s;]+", "", script)


@pytest.fixture(autouse=True)
def hide_system_pythons(request, monkeypatch, tmp_path):
    """Runs a copy of setup.sh that does not look into /usr/bin."""
    if "machine" not in request.fixturenames:
        return
    clone = tmp_path / "project"
    (clone / "local").mkdir(parents=True)
    text = (ROOT / "local/setup.sh").read_text()
    (clone / "local/setup.sh").write_text(without_system_pythons(text))
    for name in ("requirements.txt", "requirements-dev.txt", "constraints.txt"):
        (clone / name).write_text((ROOT / name).read_text())
    monkeypatch.setattr(sys.modules[__name__], "ROOT", clone)


def test_a_shim_that_does_not_run_is_passed_over(machine):
    machine.put(
        "python3.11", "#!/bin/bash\necho 'pyenv: python3.11: command not found' >&2; exit 127\n"
    )
    machine.put("python3.12", version="3.12")
    result = machine.check()
    assert result.returncode == 0, result.stderr
    assert "bin/python3.12 (3.12)" in result.stdout
    assert re.search(r"download about [\d.]+ GB", result.stdout)


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12"])
def test_supported_pythons(machine, version):
    machine.put("python3", version=version)
    assert f"({version})" in machine.check().stdout


@pytest.mark.parametrize("version", ["3.9", "3.13", "2.7"])
def test_unsupported_pythons(machine, version):
    machine.put("python3", version=version)
    result = machine.check()
    assert result.returncode == 1
    assert "no Python 3.10 to 3.12 here" in result.stderr
    result = machine.check(PYTHON="python3")
    assert "PYTHON=python3 does not run, or is not Python 3.10, 3.11 or 3.12" in result.stderr


def test_pythons_of_pyenv_are_found(machine):
    folder = machine.home / ".pyenv/versions/3.11.7/bin"
    folder.mkdir(parents=True)
    (folder / "python3").write_text(PYTHON.format(version="3.11", include=machine.home / "include"))
    (folder / "python3").chmod(0o755)
    assert ".pyenv/versions/3.11.7/bin/python3 (3.11)" in machine.check().stdout


def test_missing_compiler_and_headers_are_named(machine):
    machine.put("python3.11", version="3.11")
    (machine.home / "include/Python.h").unlink()
    (machine.home / "bin/c++").unlink()
    machine.put("apt-get", "#!/bin/bash\nexit 1\n")
    assert "to be installed by apt: g++ python3.11-dev" in machine.check().stdout
    # Not root and no sudo without a password: it says what to type, and does not wait.
    machine.put("id", "#!/bin/bash\necho 1000\n")
    machine.put("sudo", '#!/bin/bash\n[ "$1" = -n ] || sleep 100\nexit 1\n')
    result = machine.check("--do")
    assert result.returncode == 1
    assert "type: sudo apt-get install g++ python3.11-dev" in result.stderr
    # With such a sudo, apt is asked.
    machine.put("sudo", '#!/bin/bash\nshift; exec "$@"\n')
    machine.put("apt-get", '#!/bin/bash\necho "apt-get $*" >&2; exit 1\n')
    result = machine.check("--do")
    assert "apt-get install -y -qq g++ python3.11-dev" in result.stderr


def test_a_full_disk_is_an_error(machine):
    machine.put("python3.11", version="3.11")
    machine.put("df", "#!/bin/bash\necho head; echo 'x 1 1 2097152 1% /'\n")
    result = machine.check()
    assert result.returncode == 1
    assert "2 GB free" in result.stderr
    assert "make VENV=/data/venv" in result.stderr


def test_a_finished_environment_is_left_alone(machine):
    folder = machine.home / "venv"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/python").write_text(PYTHON.format(version="3.11", include=""))
    (folder / "bin/python").chmod(0o755)
    files = [ROOT / f"{name}.txt" for name in ("requirements", "requirements-dev", "constraints")]
    data = b"".join(path.read_bytes() for path in files)
    import hashlib

    (folder / ".espnet_part").write_text(hashlib.sha256(data).hexdigest() + "\n")
    result = machine.check()
    assert (result.returncode, result.stdout) == (0, f"set-up: {folder} is ready\n")
    (ROOT / "requirements.txt").write_text("torch\n")
    assert "making" in machine.check(PYTHON=str(folder / "bin/python")).stdout


def test_an_existing_environment_keeps_what_it_has(machine):
    """VENV=none: this very environment lacks nothing."""
    result = machine.check(VENV="none", PYTHON=sys.executable)
    assert result.returncode == 0, result.stderr
    assert "using the environment of" in result.stdout
    (ROOT / "requirements.txt").write_text("no-such-package==1\nnumpy\n")
    result = machine.check(VENV="none", PYTHON=sys.executable)
    assert result.stdout.endswith("adding no-such-package==1\n")


# ----- metadata -----


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
