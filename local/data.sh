#!/usr/bin/env bash
# Stage 1: makes the data folders of one corpus under data/<corpus>.
#
#   local/data.sh <corpus> [options of local/prepare_<corpus>.py]
#   local/data.sh --check "<corpus> ..." [options]    # only lists all corpora that are not there
#
# Where the corpus lies is said in db.sh, by the variable that has the corpus's name in capitals;
# <NAME>_OPTS there holds options for its script.
# A corpus of your own needs nothing here: write data/<corpus>/<set> (docs/data.md), or add
# local/prepare_<corpus>.py.
set -euo pipefail

usage="usage: local/data.sh <corpus> [options], or local/data.sh --check \"<corpus> ...\" [options]"
check=false
[ "${1:-}" != --check ] || { check=true; shift; }
[ $# -ge 1 ] || { echo "${usage}" >&2; exit 2; }
# shellcheck source=../egs2/part_multilingual/s2t1/db.sh
. ./db.sh
python=${python:-python3}

# The variable of db.sh that says where a corpus lies; empty for those that are made, not read.
variable_of() {
    case $1 in
        toy | miniature) ;;
        digits) echo FSDD ;;
        *) echo "${1^^}" ;;
    esac
}

# Where to get a corpus and where to put it, in the words of its script.
hint() {
    # shellcheck disable=SC2086 # ${python} may hold options
    ${python} -c 'import sys
sys.path.insert(0, "local")
print(__import__(sys.argv[1]).WHERE)' "prepare_$1" 2> /dev/null ||
        echo "Where to get it: local/prepare_$1.py --help"
}

# lack <corpus> [options]: prints why a corpus cannot be made and what to do; nothing if it can.
lack() {
    local corpus=$1 script=local/prepare_$1.py variable place known
    if [ ! -f "${script}" ]; then
        known=$(printf '%s ' local/prepare_*.py | sed -E 's#local/prepare_([^ ]*)\.py#\1#g')
        echo "unknown corpus '${corpus}' (there is no ${script}); known: ${known}"
        return
    fi
    variable=$(variable_of "${corpus}")
    [ -n "${variable}" ] || return 0
    place=${!variable:-}
    local options=${variable}_OPTS
    if [ -z "${place}" ]; then
        echo "where is ${corpus}? Name its folder in db.sh (${variable}=/corpora/...). $(hint "${corpus}")"
    elif [ "${place}" = downloads ]; then
        # shellcheck disable=SC2086 # ${python} may hold options
        [ -d "downloads/${variable,,}" ] || ${python} "${script}" --help | grep '^  --fetch' > /dev/null ||
            echo "${corpus}: found ${variable}=downloads, but no script can fetch it. $(hint "${corpus}")"
    elif [ ! -d "${place}" ] && [[ " ${!options:-} ${*:2} " != *" --fetch "* ]]; then
        echo "${corpus}: found ${variable}=${place}, which is no folder. $(hint "${corpus}")"
    fi
}

lacking=0
for corpus in $1; do
    problem=$(lack "${corpus}" "${@:2}")
    [ -n "${problem}" ] || continue
    echo "local/data.sh: error: ${problem}" >&2
    lacking=$((lacking + 1))
done
[ "${lacking}" -eq 0 ] || exit 2
! "${check}" || exit 0

corpus=$1
shift
variable=$(variable_of "${corpus}")
source_args=()
if [ -n "${variable}" ]; then
    source_args=("${!variable}")
    [ "${!variable}" != downloads ] || source_args=(--fetch "downloads/${variable,,}")
fi
options=${variable:-${corpus^^}}_OPTS
# shellcheck disable=SC2086 # ${python} may hold options, and the corpus has some
${python} "local/prepare_${corpus}.py" "${source_args[@]}" "data/${corpus}" ${!options:-} "$@"
