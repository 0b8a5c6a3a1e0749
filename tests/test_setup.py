"""Set-up: what it looks for, and what it says, with a way on, where something is missing."""

import hashlib
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = ("requirements.txt", "requirements-dev.txt", "constraints.txt")
# A Python that makes environments of itself, and whose pip says PIP_SAYS.
PYTHON = """#!/bin/bash
case "$*" in
    --version) echo Python @VERSION@ ;;
    *version_info*) echo @VERSION@ ;;
    *include*) echo @INCLUDE@ ;;
    *realpath*) readlink -f "$0" ;;
    *"import ensurepip"*) [ -z "${NO_VENV:-}" ] ;;
    "-c import pyworld") exit 1 ;;
    "-m venv "*) mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; chmod 755 "$4/bin/python" ;;
    "-m ensurepip"*) echo "${VENV_SAYS:-}"; [ -z "${VENV_SAYS:-}" ] ;;
    "-m pip --version") [ ! -e "$(dirname "$0")/no_pip" ] ;;
    "-m pip "*) echo "pip $*" >> "${HOME}/calls"; echo "${PIP_SAYS:-}"; [ -z "${PIP_SAYS:-}" ] ;;
    *espeak.Espeak*) echo "ValueError: ${ESPEAK_SAYS:-}"; [ -z "${ESPEAK_SAYS:-}" ] ;;
    "- "*) exec @PYTHON@ "$@" ;;
esac
"""
PROGRAMS = (
    "bash true dirname cat sha256sum cut df awk id env sed du ls rm mkdir cp tee tail head grep "
    "readlink uname chmod"
)


@pytest.fixture
def machine(tmp_path):
    """A machine of our own, with an unsupported Python: `put` adds a program.

    `check` looks at it, and `set_up` sets up; set-up does not look into this machine's /usr/bin.
    """
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in PROGRAMS.split():
        (programs / name).symlink_to(Path("/usr/bin") / name)
    clone = tmp_path / "project"
    (clone / "local").mkdir(parents=True)
    for path in (ROOT / "local").glob("setup*.sh"):
        text = re.sub(r"/usr/(local/)?bin/python3[^\s;]+", "", path.read_text())
        (clone / "local" / path.name).write_text(text)
    for name in FILES:
        (clone / name).write_text((ROOT / name).read_text())

    class Machine:
        home = tmp_path
        root = clone
        venv = tmp_path / "venv"

        def put(self, name, script=None, version=None):
            path = programs / name
            path.unlink(missing_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            text = (script or PYTHON).replace("@VERSION@", str(version))
            text = text.replace("@INCLUDE@", "/nowhere").replace("@PYTHON@", sys.executable)
            path.write_text(text)
            path.chmod(0o755)

        def run(self, *arguments, **more):
            env = {"PATH": str(programs), "HOME": str(tmp_path), "VENV": str(self.venv)}
            return subprocess.run(
                ["/bin/bash", "local/setup.sh", *arguments],
                cwd=clone,
                env={**env, **more},
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=30,
                check=False,
            )

        def check(self, **more):
            return self.run("--check", **more)

        def set_up(self, **more):
            return self.run(**more)

    found = Machine()
    found.put("c++", "#!/bin/bash\n")
    found.put("df", "#!/bin/bash\necho head; for f in 1 2 3; do echo x 1 1 99999999 1% /; done\n")
    found.put("python3", version="3.9")
    return found


def error_of(result) -> str:
    """The one sentence that a failed set-up says."""
    assert result.returncode == 1, result.stdout
    assert result.stderr.startswith("set-up: error: "), result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


# ----- Python -----


def test_a_shim_that_does_not_run_is_passed_over(machine):
    machine.put(
        "python3.11", "#!/bin/bash\necho 'pyenv: python3.11: command not found' >&2; exit 127\n"
    )
    machine.put("python3.12", version="3.12")
    result = machine.check()
    assert result.returncode == 0, result.stderr
    assert "bin/python3.12 (3.12)" in result.stdout
    assert re.search(r"download about \d+ GB", result.stdout)


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12"])
def test_supported_pythons(machine, version):
    machine.put("python3", version=version)
    assert f"({version})" in machine.check().stdout


@pytest.mark.parametrize("version", ["3.9", "3.13", "2.7"])
def test_unsupported_pythons(machine, version):
    machine.put("python3", version=version)
    error = error_of(machine.set_up())
    assert f"Python {version} is here; Python 3.10, 3.11 or 3.12 is needed" in error
    assert "uv python install 3.11" in error
    error = error_of(machine.check(PYTHON="python3"))
    assert "PYTHON=python3 does not run, or is not Python 3.10, 3.11 or 3.12" in error
    assert "uv python install 3.11" in error


def test_apt_is_asked_only_for_a_python_that_we_support(machine):
    machine.put("apt-get", "#!/bin/bash\nexit 1\n")
    machine.put("apt-cache", "#!/bin/bash\necho '  Candidate: 3.13.5-1'\n")
    assert "apt" not in error_of(machine.set_up())
    machine.put("apt-cache", "#!/bin/bash\necho '  Candidate: 3.12.3-0ubuntu2'\n")
    assert "set-up would ask apt" in error_of(machine.check())


@pytest.mark.parametrize(
    "folder", [".pyenv/versions/3.11.7", ".local/share/uv/python/cpython-3.11.18-linux-x86_64-gnu"]
)
def test_pythons_of_pyenv_and_uv_are_found(machine, folder):
    machine.put(machine.home / folder / "bin/python3", version="3.11")
    assert f"{folder}/bin/python3 (3.11)" in machine.check().stdout


def test_without_root(machine):
    """Debian's Python makes no environments without python3-venv."""
    machine.put("python3.11", version="3.11")
    machine.put("apt-get", "#!/bin/bash\nexit 1\n")
    assert "to be installed by apt: python3.11-venv" in machine.check(NO_VENV="1").stdout
    # Not root and no sudo without a password: it says what to type, and does not wait.
    machine.put("id", "#!/bin/bash\necho 1000\n")
    machine.put("sudo", '#!/bin/bash\n[ "$1" = -n ] || sleep 100\nexit 1\n')
    error = error_of(machine.set_up(NO_VENV="1"))
    assert "type: sudo apt-get install python3.11-venv; no root needed: uv python" in error
    # With such a sudo, apt is asked.
    machine.put("sudo", '#!/bin/bash\nshift; exec "$@"\n')
    machine.put("apt-get", '#!/bin/bash\necho "apt-get $*" >&2; exit 1\n')
    assert "apt-get install -y -qq python3.11-venv" in machine.set_up(NO_VENV="1").stderr
    # Another Python that can is taken instead.
    machine.put("python3.10", "#!/bin/bash\nunset NO_VENV\n" + PYTHON, version="3.10")
    assert "bin/python3.10 (3.10)" in machine.check(NO_VENV="1").stdout


def test_without_a_compiler_pyworld_is_left_empty(machine):
    machine.put("python3.11", version="3.11")
    result = machine.set_up(TMPDIR=str(machine.home))
    assert "pyworld" not in result.stdout
    machine.put("c++", "#!/bin/bash\necho Python.h: No such file >&2; exit 1\n")
    (machine.venv / ".espnet_part").unlink()
    result = machine.set_up(TMPDIR=str(machine.home))
    assert "ESPnet's pyworld (speech synthesis, not used here) is left empty" in result.stdout
    (wheel,) = machine.home.glob("*.whl")
    (found,) = importlib.metadata.distributions(path=[str(wheel)])
    pinned = re.search(r"^pyworld==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert (found.name, found.version) == ("pyworld", pinned[1] + "+empty")
    assert f"--no-index {wheel}" in (machine.home / "calls").read_text()


def test_without_espeak_only_the_demo_is_not_ready(machine):
    machine.put("python3.11", version="3.11")
    result = machine.set_up(ESPEAK_SAYS="eSpeak NG is not here; type: this")
    assert result.returncode == 0, result.stderr
    expected = "make test is ready, make demo is not: eSpeak NG is not here; type: this\n"
    assert result.stdout.endswith(expected)


# ----- the disk, and what is left of a set-up that did not end -----


@pytest.mark.parametrize(
    ("free_kb", "expected"),
    [
        ("2097152 99999999 99999999", "2.0 GB free on /1, 6.0 GB needed: free some"),
        ("99999999 1048576 99999999", "1.0 GB free on /2, 3.0 GB needed"),
        ("99999999 99999999 524288", "0.5 GB free on /3, 3.0 GB needed"),
    ],
)
def test_a_full_disk_is_an_error(machine, free_kb, expected):
    """The environment, pip's cache and its temporary files may lie on three file systems."""
    machine.put("python3.11", version="3.11")
    script = f"echo head; n=0; for k in {free_kb}; do n=$((n + 1)); echo x 1 1 $k 1% /$n; done"
    machine.put("df", f"#!/bin/bash\n{script}\n")
    error = error_of(machine.check())
    assert expected in error
    assert "make VENV=/data/venv; PIP_NO_CACHE_DIR=1 keeps no copy" in error
    assert (machine.check(PIP_NO_CACHE_DIR="1").returncode == 0) == ("/2" in expected)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else(machine):
    machine.put("python3.11", version="3.11")
    assert "no permission to write in /" in error_of(machine.check(VENV="/usr/venv"))


@pytest.mark.parametrize("leaves_pip", [True, False])
def test_an_unfinished_environment_is_gone_on_with(machine, leaves_pip):
    machine.put("python3.11", version="3.11")
    error = error_of(machine.set_up(VENV_SAYS="OSError: [Errno 28] No space left on device"))
    assert "the disk got full" in error and "call make again" in error
    if not leaves_pip:
        (machine.venv / "bin/no_pip").touch()
    (machine.venv / "mark").touch()
    result = machine.set_up()
    assert result.returncode == 0, result.stderr
    assert (machine.venv / "mark").exists() == leaves_pip
    assert not (machine.venv / "tmp").exists()
    assert machine.check().stdout == f"set-up: {machine.venv} is ready\n"


def test_a_folder_that_is_not_ours_stays(machine):
    machine.put("python3.11", version="3.11")
    machine.put(machine.venv / "bin/python", version="3.13")
    assert "is there, but is no environment of Python 3.11" in error_of(machine.set_up())
    assert (machine.venv / "bin/python").exists()


def test_a_finished_environment_is_left_alone(machine):
    machine.put(machine.venv / "bin/python", version="3.11")
    data = b"".join((ROOT / name).read_bytes() for name in FILES)
    (machine.venv / ".espnet_part").write_text(hashlib.sha256(data).hexdigest() + "\n")
    result = machine.check()
    assert (result.returncode, result.stdout) == (0, f"set-up: {machine.venv} is ready\n")
    (machine.root / "requirements.txt").write_text("torch\n")
    assert "making" in machine.check().stdout


def test_an_existing_environment_keeps_what_it_has(machine):
    """VENV=none: this very environment lacks nothing."""
    result = machine.check(VENV="none", PYTHON=sys.executable)
    assert result.returncode == 0, result.stderr
    assert "using the environment of" in result.stdout
    (machine.root / "requirements.txt").write_text("no-such-package==1\nnumpy\n")
    result = machine.check(VENV="none", PYTHON=sys.executable)
    assert result.stdout.endswith("adding no-such-package==1\n")


# ----- pip -----

RETRY = "WARNING: Retrying (Retry(total=0)) after connection broken by '{}': /simple/setuptools/"
PIP_SAYS = {
    "no way out": (
        RETRY.format("NewConnectionError('...: [Errno -2] Name or service not known')"),
        [
            "pip does not reach https://mirror.test/simple (Name or service not known)",
            "HTTPS_PROXY",
        ],
    ),
    "no answer": (
        RETRY.format("ReadTimeoutError('...: Read timed out. (read timeout=15)')"),
        ["does not reach", "without network, see the head of local/setup.sh"],
    ),
    "broken proxy": (
        RETRY.format("ProxyError('Cannot connect to proxy.', ...[Errno 111] Connection refused')"),
        ["pip does not get through http://proxy.test:3128 (Connection refused)"],
    ),
    "proxy wants a password": (
        RETRY.format("OSError('Tunnel connection failed: 407 Proxy Authentication Required')"),
        ["(407 Proxy Authentication Required)", "HTTPS_PROXY=http://user:password@host:port make"],
    ),
    "proxy with its own certificate": (
        RETRY.format("SSLError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed')"),
        ["does not trust the certificate", "PIP_CERT=/etc/ssl/certs/ca-certificates.crt make"],
    ),
    "not in the index": (
        "ERROR: No matching distribution found for torch==2.12.1",
        ["https://mirror.test/simple has no torch==2.12.1 for this system", "pip config list"],
    ),
    "full disk": (
        "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
        ["the disk got full", "TMPDIR=folder", "goes on from there"],
    ),
    "Python of the system": ("error: externally-managed-environment", ["leave VENV=none out"]),
}


@pytest.mark.parametrize("case", PIP_SAYS)
def test_a_failure_of_pip_is_one_sentence(machine, case):
    says, expected = PIP_SAYS[case]
    machine.put("python3.11", version="3.11")
    result = machine.set_up(
        PIP_SAYS=says,
        HTTPS_PROXY="http://me:secret@proxy.test:3128",
        PIP_INDEX_URL="https://me:secret@mirror.test/simple",
    )
    error = error_of(result)
    for words in expected:
        assert words in error
    assert "secret" not in error
    (call,) = (machine.home / "calls").read_text().splitlines()
    assert "--retries 1" in call  # the first call shows it, and at once


def test_other_failures_of_pip_are_shown(machine):
    machine.put("python3.11", version="3.11")
    result = machine.set_up(PIP_SAYS="ERROR: Failed building wheel for something")
    assert "Failed building wheel for something" in result.stderr
    assert "set-up: error: this failed (see above)" in result.stderr
