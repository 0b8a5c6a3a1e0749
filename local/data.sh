#!/usr/bin/env bash
# Stage 1: makes the data folders of one corpus under data/<corpus>.
#
#   local/data.sh <corpus> [options of local/prepare_<corpus>.py]
#
# Where the corpus lies is said in db.sh, by the variable that has the corpus's name in capitals;
# <NAME>_OPTS there holds options for its script.
# A corpus of your own needs nothing here: write data/<corpus>/<set> (docs/data.md), or add
# local/prepare_<corpus>.py.
set -euo pipefail

[ $# -ge 1 ] || { echo "usage: local/data.sh <corpus> [options]" >&2; exit 2; }
corpus=$1
shift
script=local/prepare_${corpus}.py
if [ ! -f "${script}" ]; then
    known=$(printf '%s ' local/prepare_*.py | sed -E 's#local/prepare_([^ ]*)\.py#\1#g')
    echo "local/data.sh: error: unknown corpus '${corpus}' (there is no ${script}); known: ${known}" >&2
    exit 2
fi
# shellcheck source=../egs2/part_multilingual/s2t1/db.sh
. ./db.sh

python=${python:-python3}
variable=${corpus^^}
[ "${corpus}" != digits ] || variable=FSDD
case ${corpus} in
    toy | miniature) source_args=() ;; # made, not read
    *)
        source_args=("${!variable:-}")
        if [ "${!variable:-}" = downloads ]; then
            source_args=(--fetch "downloads/${variable,,}")
        elif [ -z "${!variable:-}" ]; then
            echo "local/data.sh: error: where is ${corpus}? Name its folder in db.sh (${variable}=/corpora/...); what it is and where to get it: ${script} --help" >&2
            exit 2
        fi
        ;;
esac
options=${variable}_OPTS
# shellcheck disable=SC2086 # ${python} may hold options, and the corpus has some
${python} "${script}" "${source_args[@]}" "data/${corpus}" ${!options:-} "$@"
