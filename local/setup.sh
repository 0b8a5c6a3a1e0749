#!/usr/bin/env bash
# Sets up the Python environment: `make` calls it before everything else. It looks first (Python,
# disk, compiler), says what it will download, and never waits for an answer. Called again, it does
# what is still to be done, and nothing when the environment is right.
#
#   local/setup.sh            # .venv of this project, or the folder named by VENV
#   local/setup.sh --check    # look only
#
# PYTHON=python3.12   use this Python (3.10, 3.11 or 3.12)
# VENV=none           use PYTHON's own environment: what is there stays, what is missing is added
#
# pip heeds its own variables and settings: PIP_INDEX_URL (a mirror), HTTPS_PROXY, PIP_CERT (a proxy
# with its own certificate), PIP_NO_CACHE_DIR. Without network: on a machine that has one, with the
# same version of Python, type
#   pip wheel -w wheels -c constraints.txt -r requirements.txt -r requirements-dev.txt setuptools==73.0.1 wheel
# and, with the folder copied here,
#   PIP_NO_INDEX=1 PIP_FIND_LINKS=$PWD/wheels make test
#
# A Python without `venv` (Debian) is completed by apt, as root or by `sudo -n`; where that is not
# possible, the command is printed. No compiler is needed: see `replace_pyworld`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
NO_NETWORK="without network, see the head of local/setup.sh"
. local/setup_checks.sh

IMPORTS="espnet2, torch, torchaudio, transformers, peft, sentencepiece, soundfile, jiwer, sacrebleu, whisper, lhotse, tensorboard, matplotlib, huggingface_hub, espeakng_loader, pytest, xdist, pytest_timeout, mypy"

# run_pip <python> <arguments>: shows what is fetched and built, so that minutes do not pass in
# silence; a failure becomes one sentence.
run_pip() {
    local python=$1 output
    shift
    output=$("${python}" -m pip --disable-pip-version-check --no-input "$@" 2>&1 < /dev/null |
        tee >(sed -unE '/^ *(Downloading|Building|Installing) /{s/(collected packages): .*/\1/;p}' >&3)) || explain "${output}"
} 3>&1

check_imports() { # <python>: fails when something does not import
    NLTK_DATA=/nonexistent "$1" -c "import ${IMPORTS}" > /dev/null
}

# eSpeak NG speaks the sentences of the miniature. Its package's library wants glibc 2.29.
check_espeak() { # <python>
    local output
    output=$("$1" -c 'import sys; sys.path.insert(0, "local"); import espeak; espeak.Espeak()' 2>&1) ||
        say "make test is ready, make demo is not: $(tail -n 1 <<< "${output#*ValueError: }")"
}

# ESPnet wants pyworld, which has no wheels and must be compiled, for speech synthesis alone. Where
# that cannot be, an empty package of that name and version keeps pip content.
replace_pyworld() { # <python>
    local wheel
    if can_compile "$1" || "$1" -c 'import pyworld' 2> /dev/null; then return; fi
    say "no C++ compiler with Python's headers: ESPnet's pyworld (speech synthesis, not used here) is left empty"
    wheel=$("$1" - "${TMPDIR}" "$(sed -n 's/^pyworld==//p' constraints.txt)" << 'PY'
import sys
import zipfile

folder, version = sys.argv[1], sys.argv[2] + "+empty"
path = f"{folder}/pyworld-{version}-py3-none-any.whl"
info = f"pyworld-{version}.dist-info"
with zipfile.ZipFile(path, "w") as wheel:
    wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: pyworld\nVersion: {version}\n")
    wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(f"{info}/RECORD", "")
print(path)
PY
    ) || fail "cannot write in ${TMPDIR}"
    run_pip "$1" install -q --no-deps --no-index "${wheel}"
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
        for package in torch torchaudio; do
            if "${python}" -c "import ${package}" 2> /dev/null; then
                have+=("$("${python}" -c "import ${package}; print('${package}==' + ${package}.__version__)")")
            fi
        done
        export TMPDIR=${TMPDIR:-/tmp}
        [[ ${wanted} != *espnet==* ]] || replace_pyworld "${python}"
        run_pip "${python}" install --progress-bar off -c <(printf '%s\n' "${have[@]}") "${missing[@]}"
        check_espeak "${python}"
    fi
    "${check_only}" || check_imports "${python}" || fail "the environment of ${python} is incomplete (see above)"
}

# Makes the bare environment if it is not there. One that we left unfinished is made anew if it does
# not work; anything else in the way is not ours to remove.
make_folder() { # <python> <folder>
    local python=$1 version output
    version=$(version_of "$1")
    if ! { is_environment "$2" && [ "$(version_of "$2/bin/python")" = "${version}" ]; }; then
        if [ -e "${stamp}" ]; then
            # The Makefile has this folder in the PATH: its Python, a link, may be the one that runs.
            python=$("$1" -c 'import os, sys; print(os.path.realpath(sys.executable))')
            rm -rf "$2"
        elif [ -n "$(ls -A "$2" 2> /dev/null)" ]; then
            fail "$2 is there, but is no environment of Python ${version} with pip: remove it, or name another folder, e.g. make VENV=.venv-part"
        fi
    fi
    { mkdir -p "$2" && echo unfinished > "${stamp}"; } || fail "cannot write in $2 (see above)"
    # pip holds all downloads in TMPDIR until the end: /tmp, often small, is not the place.
    if [ -z "${TMPDIR:-}" ]; then
        TMPDIR=$(cd "$2" && pwd)/tmp
        export TMPDIR
        trap 'rm -rf "${TMPDIR}"' EXIT
        rm -rf "${TMPDIR}"
        mkdir "${TMPDIR}"
    fi
    is_environment "$2" && return
    output=$({ "${python}" -m venv --without-pip "$2" && "$2/bin/python" -m ensurepip --default-pip; } 2>&1) ||
        explain "${output}" # in two steps: venv hides why its ensurepip fails
}

make_venv() { # <python> <folder>
    local python=$1 folder=$2 pip_python=$2/bin/python
    check_disk "${folder}"
    say "making ${folder} with ${python} ($(version_of "${python}")); download about ${DOWNLOADS_GB} GB, most of it CUDA libraries, unless pip has it cached, ${ENVIRONMENT_GB} GB of disk, a few minutes"
    if ! "${python}" -c 'import ensurepip, venv' 2> /dev/null; then
        if "${check_only}"; then
            say "to be installed by apt: python$(version_of "${python}")-venv"
        else
            apt_install "python$(version_of "${python}")-venv"
        fi
    fi
    "${check_only}" && return
    make_folder "${python}" "${folder}"
    # This small step shows whether pip reaches its index; few retries, so that it does so at once.
    run_pip "${pip_python}" install -q --retries 1 setuptools==73.0.1 wheel
    replace_pyworld "${pip_python}"
    run_pip "${pip_python}" install --progress-bar off -c constraints.txt -r requirements.txt -r requirements-dev.txt
    run_pip "${pip_python}" install -q --no-deps --no-build-isolation -e .
    say "trying all imports"
    check_imports "${pip_python}" || fail "the environment does not work (see above); remove ${folder} and try again"
    check_espeak "${pip_python}"
}

check_only=false
[ "${1:-}" = --check ] && check_only=true
folder=${VENV:-.venv}
stamp=${folder}/.espnet_part # names everything that the environment was made from, once it is complete

if [ "${folder}" != none ]; then
    wanted_stamp=$(cat requirements.txt requirements-dev.txt constraints.txt | sha256sum | cut -d' ' -f1)
    if [ -f "${stamp}" ] && [ "$(< "${stamp}")" = "${wanted_stamp}" ] &&
        version_of "${folder}/bin/python" > /dev/null; then
        if "${check_only}"; then say "${folder} is ready"; fi
        exit 0
    fi
fi
# With VENV=none the Makefile goes on with PYTHON or python3: no other Python will do.
[ "${folder}" != none ] || PYTHON=${PYTHON:-python3}
if ! python=$(find_python "${folder}"); then
    here=$(python3 --version 2>&1) || here="no python3"
    here+=" is here; Python 3.10, 3.11 or 3.12 is needed"
    [ -z "${PYTHON:-}" ] || fail "PYTHON=${PYTHON} does not run, or is not Python 3.10, 3.11 or 3.12; ${OTHER_PYTHON}"
    apt_may_have_python || fail "${here}; ${OTHER_PYTHON}"
    "${check_only}" && fail "${here}; set-up would ask apt for python3"
    apt_install python3 python3-venv
    python=$(find_python "${folder}") || fail "${here}; ${OTHER_PYTHON}"
fi
if [ "${folder}" = none ]; then
    use_existing "${python}"
    exit 0
fi
make_venv "${python}" "${folder}"
"${check_only}" || echo "${wanted_stamp}" > "${stamp}"
