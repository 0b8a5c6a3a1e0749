# shellcheck shell=bash
# What set-up looks for, and the one sentence, with a way on, that it says where something is missing.
# Sourced by setup.sh.

ENVIRONMENT_GB=6 DOWNLOADS_GB=3 # measured: 5.9 and 2.9, most of it CUDA libraries
OTHER_PYTHON="no root needed: uv python install 3.11 (set-up finds it), or conda create -n part python=3.11 and make PYTHON=/path/to/its/python3.11"

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

# find_python <folder>: prints the path of PYTHON, of the environment's Python, or of the first of
# those that are usual, rather one that can make environments (Debian's cannot without python3-venv).
find_python() {
    local folder=$1 candidate spare=
    if [ -n "${PYTHON:-}" ]; then
        version_of "${PYTHON}" > /dev/null || return 1
        command -v "${PYTHON}"
        return
    fi
    if is_environment "${folder}"; then
        echo "${folder}/bin/python"
        return
    fi
    for candidate in python3.11 python3.12 python3.10 python3 python \
        "${PYENV_ROOT:-${HOME}/.pyenv}"/versions/3.1{1,2,0}.*/bin/python3 \
        "${UV_PYTHON_INSTALL_DIR:-${XDG_DATA_HOME:-${HOME}/.local/share}/uv/python}"/cpython-3.1{1,2,0}.*/bin/python3 \
        /usr/bin/python3.1{1,2,0} /usr/local/bin/python3.1{1,2,0}; do
        version_of "${candidate}" > /dev/null || continue
        if "${candidate}" -c 'import ensurepip, venv' 2> /dev/null; then
            command -v "${candidate}"
            return
        fi
        spare=${spare:-$(command -v "${candidate}")}
    done
    [ -n "${spare}" ] && echo "${spare}"
}

is_environment() { # <folder>: with a Python that we support, and pip
    version_of "$1/bin/python" > /dev/null && "$1/bin/python" -m pip --version > /dev/null 2>&1
}

# Could apt's python3 be one that we support? Yes, too, if apt does not know before its update.
apt_may_have_python() {
    command -v apt-get > /dev/null || return 1
    case "$(apt-cache policy python3 2> /dev/null)" in
        *"Candidate: 3.1"[012].* | *"Candidate: (none)"* | "") return 0 ;;
        *) return 1 ;;
    esac
}

# apt_install <packages>: as root or by sudo without a password; else says what to type, and fails.
apt_install() {
    local as_root=()
    command -v apt-get > /dev/null ||
        fail "$* missing, and this system has no apt: install what its package manager has for it; ${OTHER_PYTHON}"
    if [ "$(id -u)" -ne 0 ]; then
        if command -v sudo > /dev/null && sudo -n true 2> /dev/null; then
            as_root=(sudo -n)
        else
            fail "$* missing; type: sudo apt-get install $*; ${OTHER_PYTHON}"
        fi
    fi
    say "installing $* by apt"
    "${as_root[@]}" apt-get update -qq < /dev/null || say "apt-get update failed; trying with the lists there are"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" < /dev/null > /dev/null ||
        fail "apt-get install $* failed (see above); ${OTHER_PYTHON}"
}

nearest_folder() { # <path>: itself, or the first folder above it that exists
    local path=$1
    while [ ! -d "${path}" ]; do path=$(dirname "${path}"); done
    echo "${path}"
}

# check_disk <folder>: may we write there, and is there room for the environment, for pip's temporary
# files and for its cache, on as many file systems as these are? What lies there counts as done.
check_disk() {
    local folder cache place short needs=()
    folder=$(nearest_folder "$1")
    [ -w "${folder}" ] ||
        fail "no permission to write in $(cd "${folder}" && pwd): name a folder of yours, e.g. make VENV=${HOME}/venv"
    cache=${PIP_CACHE_DIR:-${XDG_CACHE_HOME:-${HOME}/.cache}/pip}
    for place in "$1" "${cache}"; do
        needs+=("$([ ! -d "${place}" ] || du -sk "${place}" 2> /dev/null | cut -f1)")
    done
    [ -z "${PIP_NO_CACHE_DIR:-}" ] || needs[1]=$((DOWNLOADS_GB << 20)) # nothing is kept
    short=$(df -Pk "${folder}" "$(nearest_folder "${cache}")" "$(nearest_folder "${TMPDIR:-$1}")" |
        awk -v env="${ENVIRONMENT_GB}" -v loads="${DOWNLOADS_GB}" -v in_env="${needs[0]}" -v in_cache="${needs[1]}" '
            function rest(gb, kb) { gb -= kb / 1048576; return gb > 0 ? gb : 0 }
            NR == 2 { need[$6] += rest(env, in_env) }
            NR == 3 { need[$6] += rest(loads, in_cache) }
            NR == 4 { need[$6] += loads }
            NR > 1 { free[$6] = $4 / 1048576 }
            END { for (m in need) if (free[m] < need[m]) { printf "%.1f GB free on %s, %.1f GB needed", free[m], m, need[m]; exit } }')
    [ -z "${short}" ] ||
        fail "${short}: free some, or name a folder elsewhere, e.g. make VENV=/data/venv; PIP_NO_CACHE_DIR=1 keeps no copy of the downloads (${DOWNLOADS_GB} GB)${TMPDIR:+, which pip holds in TMPDIR=${TMPDIR}}"
}

can_compile() { # <python>: extensions of Python, in C++
    local include compiler
    include=$("$1" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
    for compiler in c++ g++; do
        if "${compiler}" -I "${include}" -x c++ -fsyntax-only - 2> /dev/null <<< '#include <Python.h>'; then
            return
        fi
    done
    return 1
}

# explain <output of venv or pip>: says why it failed, the first cause first, and fails.
explain() {
    local output=$1 reason proxy index
    index=${PIP_INDEX_URL:-the package index that pip uses} # without a password
    index=${index/\/\/*@///}
    case ${output} in
        *"No space left"* | *"Errno 28"* | *"Errno 122"* | *"quota exceeded"*)
            fail "the disk got full: free some (pip holds ${DOWNLOADS_GB} GB in ${TMPDIR:-/tmp} meanwhile; TMPDIR=folder moves that) and call make again, it goes on from there; or name a folder elsewhere, e.g. make VENV=/data/venv" ;;
        *"find a suitable TLS CA certificate bundle"*)
            fail "PIP_CERT=${PIP_CERT:-} (or cert of pip config list) is not a file: name the file of the certificates to trust" ;;
        *CERTIFICATE_VERIFY_FAILED*)
            fail "pip does not trust the certificate of the package index, or of a proxy before it: name the file that holds its authority, e.g. PIP_CERT=/etc/ssl/certs/ca-certificates.crt make, or that of your organization" ;;
        *ProxyError* | *"Tunnel connection failed"*)
            proxy=${HTTPS_PROXY:-${https_proxy:-${PIP_PROXY:-the proxy of the settings (pip config list)}}}
            reason=$(grep -oE '[0-9]{3} Proxy [A-Z][A-Za-z ]+|Errno -?[0-9]+\] [A-Za-z ]+' <<< "${output}" | head -n 1) || true
            fail "pip does not get through ${proxy/\/\/*@///} (${reason#*] }): give the right one, HTTPS_PROXY=http://user:password@host:port make, or none; ${NO_NETWORK}" ;;
        *"Retrying (Retry("* | *"Max retries"* | *"Read timed out"* | *"Connection broken"*)
            reason=$(grep -oE 'Errno -?[0-9]+\] [A-Za-z ]+|[a-z]+ timed out|[Cc]onnection (broken|aborted)' <<< "${output}" | tail -n 1) || true
            fail "pip does not reach ${index} (${reason#*] }): behind a proxy, HTTPS_PROXY=http://host:port make; with a mirror, PIP_INDEX_URL=https://...; ${NO_NETWORK}" ;;
        *"No matching distribution found for "*)
            reason=${output##*No matching distribution found for }
            fail "${index} has no ${reason%%[[:space:]]*} for this system ($(uname -sm), tested on Linux x86_64, glibc 2.28 or newer), or does not let us see it: look at PIP_INDEX_URL, PIP_FIND_LINKS and pip config list" ;;
        *externally-managed-environment*)
            fail "this Python belongs to the system and takes no packages: leave VENV=none out, and a .venv is made" ;;
        *"No module named pip"*)
            fail "this Python has no pip: python -m ensurepip adds it; or leave VENV=none out, and a .venv is made" ;;
        *)
            printf '%s\n' "${output}" | tail -n 20 >&2
            fail "this failed (see above); make again goes on from there" ;;
    esac
}
