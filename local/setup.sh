#!/usr/bin/env bash
# Sets up the Python environment: `make` calls it before everything else. It looks first (Python,
# compiler, headers, disk), says what it will download, and never waits for an answer.
#
#   local/setup.sh            # .venv of this project, or the folder named by VENV
#   local/setup.sh --check    # look only
#
# PYTHON=python3.12   use this Python (3.10, 3.11 or 3.12)
# VENV=none           use PYTHON's own environment: what is there stays, what is missing is added
#
# Nothing is done when the environment is already right. System packages that are missing are
# installed by apt, as root or by `sudo -n`; where that is not possible, the command is printed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

DISK_GB=7     # the environment (5.8 GB, most of it CUDA libraries) and room to unpack
DOWNLOAD="about 3 GB, most of it CUDA libraries,"
IMPORTS="espnet2, torch, torchaudio, transformers, peft, sentencepiece, soundfile, jiwer, sacrebleu, whisper, lhotse, tensorboard, matplotlib, huggingface_hub, pytest, xdist, pytest_timeout, mypy"

say() { echo "set-up: $*"; }
fail() {
    echo "set-up: error: $*" >&2
    exit 1
}

# Prints "3.11" if $1 is a Python that runs and that we support. Runs it: a pyenv shim may be in the
# PATH for a version that is not enabled.
version_of() {
    local version
    version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null < /dev/null) || return 1
    case ${version} in
        3.10 | 3.11 | 3.12) echo "${version}" ;;
        *) return 1 ;;
    esac
}

# Prints the path of a supported Python: PYTHON, or the first of those that are usual.
find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        version_of "${PYTHON}" > /dev/null || return 1
        command -v "${PYTHON}"
        return
    fi
    for candidate in "${folder}/bin/python" python3.11 python3.12 python3.10 python3 python \
        "${PYENV_ROOT:-${HOME}/.pyenv}"/versions/3.1[210].*/bin/python3 \
        /usr/bin/python3.1[120] /usr/local/bin/python3.1[120]; do
        if version_of "${candidate}" > /dev/null; then
            command -v "${candidate}"
            return
        fi
    done
    return 1
}

# apt_install <packages>: as root or by sudo without a password; else says what to type, and fails.
apt_install() {
    local as_root=()
    if ! command -v apt-get > /dev/null; then
        fail "$* missing, and this system has no apt: install them with its package manager"
    fi
    if [ "$(id -u)" -ne 0 ]; then
        if command -v sudo > /dev/null && sudo -n true 2> /dev/null; then
            as_root=(sudo -n)
        else
            fail "$* missing; type: sudo apt-get install $*"
        fi
    fi
    say "installing $* by apt"
    "${as_root[@]}" apt-get update -qq < /dev/null || say "apt-get update failed; trying with the lists there are"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" < /dev/null > /dev/null ||
        fail "apt-get install $* failed (see above)"
}

check_disk() { # <folder>: is there room?
    local folder=$1 free_gb
    while [ ! -d "${folder}" ]; do folder=$(dirname "${folder}"); done
    free_gb=$(df -Pk "${folder}" | awk 'NR == 2 { print int($4 / 1048576) }')
    [ "${free_gb}" -ge "${DISK_GB}" ] ||
        fail "${free_gb} GB free in ${folder}, ${DISK_GB} GB needed: free some, or name a folder elsewhere, e.g. make VENV=/data/venv"
}

check_tools() { # <python>: what compiling pyworld (ESPnet needs it) and making an environment need
    local python=$1 version missing=()
    version=$(version_of "${python}")
    "${python}" -c 'import ensurepip, venv' 2> /dev/null || missing+=("python${version}-venv")
    command -v c++ > /dev/null || command -v g++ > /dev/null || missing+=(g++)
    local include
    include=$("${python}" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
    [ -f "${include}/Python.h" ] || missing+=("python${version}-dev")
    [ "${#missing[@]}" -eq 0 ] && return
    if "${check_only}"; then
        say "to be installed by apt: ${missing[*]}"
    else
        apt_install "${missing[@]}"
    fi
}

check_imports() { # <python>: fails when something does not import
    NLTK_DATA=/nonexistent "$1" -c "import ${IMPORTS}" > /dev/null
}

# VENV=none: adds what is missing, and leaves torch and torchaudio alone when they work.
use_existing() {
    local python=$1 wanted have=() missing
    say "using the environment of ${python} ($(version_of "${python}"))"
    # Missing distributions, one requirement per line; other versions than ours are said, and kept.
    wanted=$("${python}" - << 'PY'
import importlib.metadata as metadata
import re
import sys

here = "%d.%d" % sys.version_info[:2]
for name in ("requirements.txt", "requirements-dev.txt"):
    for line in open(name):
        line, _, marker = line.split("#")[0].strip().partition(" ; ")
        if not line or (marker and (">=" in marker) != (sys.version_info >= (3, 11))):
            continue
        package = re.split("[=<>]", line)[0]
        try:
            found = metadata.version(package)
        except metadata.PackageNotFoundError:
            print(line)
            continue
        if "==" in line and found.split("+")[0] != line.split("==")[1]:
            print(f"set-up: {package} {found} is there, tested with {line.split('==')[1]}", file=sys.stderr)
PY
    )
    if [ -n "${wanted}" ]; then
        mapfile -t missing <<< "${wanted}"
        say "adding ${missing[*]}"
        "${check_only}" && return
        check_tools "${python}"
        for package in torch torchaudio; do
            if "${python}" -c "import ${package}" 2> /dev/null; then
                have+=("$("${python}" -c "import ${package}; print('${package}==' + ${package}.__version__)")")
            fi
        done
        "${python}" -m pip install -c <(printf '%s\n' "${have[@]}") "${missing[@]}" < /dev/null
    fi
    "${check_only}" || check_imports "${python}" || fail "the environment of ${python} is incomplete (see above)"
}

make_venv() { # <python> <folder>
    local python=$1 folder=$2
    check_disk "${folder}"
    say "making ${folder} with ${python} ($(version_of "${python}")); download ${DOWNLOAD} unless pip has it cached, ${DISK_GB} GB of disk, a few minutes"
    check_tools "${python}"
    "${check_only}" && return
    [ -x "${folder}/bin/python" ] || "${python}" -m venv "${folder}"
    "${folder}/bin/python" -m pip install -q --disable-pip-version-check setuptools==73.0.1 wheel < /dev/null
    # What is fetched and built is shown, so that minutes do not pass in silence.
    "${folder}/bin/python" -m pip install --disable-pip-version-check --progress-bar off \
        -c constraints.txt -r requirements.txt -r requirements-dev.txt < /dev/null |
        { grep -E '^ *(Downloading|Building|Installing) ' || true; }
    "${folder}/bin/python" -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e . < /dev/null
    say "trying all imports"
    check_imports "${folder}/bin/python" || fail "the environment does not work (see above); remove ${folder} and try again"
}

check_only=false
[ "${1:-}" = --check ] && check_only=true
folder=${VENV:-.venv} # find_python, too, looks there

if [ "${folder}" != none ]; then
    # The stamp names everything that the environment was made from.
    stamp=${folder}/.espnet_part
    wanted_stamp=$(cat requirements.txt requirements-dev.txt constraints.txt | sha256sum | cut -d' ' -f1)
    if [ -f "${stamp}" ] && [ "$(< "${stamp}")" = "${wanted_stamp}" ] &&
        version_of "${folder}/bin/python" > /dev/null; then
        if "${check_only}"; then say "${folder} is ready"; fi
        exit 0
    fi
fi
# With VENV=none the Makefile goes on with PYTHON or python3: no other Python will do.
[ "${folder}" != none ] || PYTHON=${PYTHON:-python3}
if ! python=$(find_python); then
    [ -z "${PYTHON:-}" ] || fail "PYTHON=${PYTHON} does not run, or is not Python 3.10, 3.11 or 3.12"
    "${check_only}" && fail "no Python 3.10 to 3.12 here; set-up would ask apt for python3"
    apt_install python3 python3-venv python3-dev
    python=$(find_python) ||
        fail "no Python 3.10, 3.11 or 3.12 found: install one (e.g. uv python install 3.11) and name it: make PYTHON=/path/to/python3.11"
fi
if [ "${folder}" = none ]; then
    use_existing "${python}"
    exit 0
fi
make_venv "${python}" "${folder}"
"${check_only}" || echo "${wanted_stamp}" > "${stamp}"
