#!/usr/bin/env bash
# Stage 1: makes the data folders of one corpus under data/<corpus>.
#
#   local/data.sh <corpus> [options of local/prepare_<corpus>.py]
#
# A corpus of your own needs nothing here: write data/<corpus>/<set> (README.md has the files), or
# add local/prepare_<corpus>.py.
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
case ${corpus} in
    digits)
        source_args=("${FSDD}")
        if [ "${FSDD}" = downloads ]; then
            source_args=(--fetch downloads/fsdd)
        fi
        ;;
    *) source_args=() ;;
esac
# shellcheck disable=SC2086 # ${python} may hold options
${python} "${script}" "${source_args[@]}" "data/${corpus}" "$@"
