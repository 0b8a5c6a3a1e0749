#!/usr/bin/env bash
# What a new user sees first: all stages of the recipe on the embedded miniature, told as they go,
# then a page with what came out. `make demo` calls it, once the environment is there.
#
#   local/demo.sh [options of run.sh]      # not those that name other places
#
# The same command goes on where it was stopped. Once all is done and nothing has changed since, only
# the page is made again. PY names the Python.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
recipe=${root}/egs2/part_multilingual/s2t1
exp=exp/miniature
log=${exp}/demo.log
DISK_GB=2 # what stages 1 to 14 write: audio, checkpoints of four phases, the pack

if [ -z "${PY:-}" ]; then
    PY=${root}/.venv/bin/python
    [ -x "${PY}" ] || PY=python3
fi
export PYTHONPATH=${root}${PYTHONPATH:+:${PYTHONPATH}} PYTHONUTF8=1 PYTHONUNBUFFERED=1
export TOKENIZERS_PARALLELISM=false
python_option=(--python "${PY}")
# The recipe takes a command with options there; a path with spaces is found by the PATH.
if [[ ${PY} == *" "* ]]; then
    export PATH=${PY%/*}:${PATH}
    python_option=()
fi

say() { echo "demo: $*"; }
fail() {
    echo "demo: error: $*" >&2
    exit 1
}

interrupted=false
trap 'interrupted=true' INT
leave_if_interrupted() {
    "${interrupted}" || return 0
    echo >&2
    echo "demo: stopped; the same command, make demo, goes on where it stopped" >&2
    exit 130
}

# What the results depend on: code, settings, base models, options.
inputs() {
    (
        cd "${root}"
        find espnet_part local conf egs2/part_multilingual/s2t1/*.sh -type f \
            ! -name '*.pyc' ! -name 'demo*' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
        echo "$*"
    ) | sha256sum | cut -d' ' -f1
}

# What came out, by name, size and time: data, models, hypotheses, pack. Pictures by name only:
# scoring another curriculum may draw them anew.
outputs() {
    {
        find dump/raw -path '*/miniature_*' \( -name text -o -name wav.scp \) -printf '%p %s %T@\n'
        find "${exp}/part" \( -name text -o -name latest.pth -o -name .finished -o -name '*.zip' \) \
            -printf '%p %s %T@\n'
        find "${exp}/part/images" -name '*.png' -printf '%p\n'
    } 2> /dev/null | LC_ALL=C sort | sha256sum | cut -d' ' -f1
}

# Whether the last call got through, and neither what goes in nor what came out differs from then.
all_done() {
    [ -s "${exp}/results.json" ] && [ -s "${exp}/.demo_done" ] &&
        [ -z "$(find "${exp}/part" -name text -newer "${exp}/results.json" -print -quit)" ] &&
        [ "$(< "${exp}/.demo_done")" = "$(stamp)" ]
}
stamp() { echo "${inputs_now} $(outputs)"; }

check_disk() {
    local free_mb
    free_mb=$(df -Pk . | awk 'NR == 2 { print int($4 / 1024) }')
    [ "${free_mb}" -ge $((DISK_GB * 1024)) ] ||
        fail "${free_mb} MB free in ${recipe}, ${DISK_GB} GB needed: free some, then type make demo again"
}

# One sentence: what went wrong, where it is written down, what to do.
explain_failure() { # <exit code>
    local reason
    if grep -qa 'No space left on device' "${log}" 2> /dev/null; then
        reason="the disk is full"
    else
        # The recipe's own errors say where; the last of them is the one that ended the run.
        reason=$(grep -aE '([Ee]rror|ERROR): ' "${log}" 2> /dev/null | tail -n 1 |
            sed -E 's/^[0-9T:-]+ \([^)]*\) //; s/^([Ee]rror|ERROR): //' || true)
    fi
    fail "${reason:-run.sh ended with code $1}. All that was said is in ${recipe#"${root}/"}/${log}; once that is mended, make demo goes on from there"
}

run_recipe() {
    local codes
    leave_if_interrupted
    check_disk
    mkdir -p "${exp}"
    rm -f "${exp}/.demo_done"
    # Finished phases are kept, as run.sh keeps them; what they were trained with is noted.
    [ -n "$(find "${exp}/part" -name checkpoint.pth -print -quit 2> /dev/null)" ] ||
        echo "${inputs_now}" > "${exp}/.demo_trained"
    # The narrator outlives Ctrl-C, so that it shows how training saves and stops.
    set +e
    ./run.sh --corpora miniature --stage 1 --stop_stage 14 "${python_option[@]}" "$@" 2>&1 < /dev/null |
        (
            trap '' INT
            exec "${PY}" "${root}/local/demo_progress.py" "${exp}" --log "${log}"
        )
    codes=("${PIPESTATUS[@]}")
    set -e
    leave_if_interrupted
    [ "${codes[1]}" -eq 0 ] || fail "local/demo_progress.py, which shows how far we are, ended with code ${codes[1]}"
    [ "${codes[0]}" -eq 0 ] || explain_failure "${codes[0]}"
    stamp > "${exp}/.demo_done"
}

say_if_older() {
    [ "$(cat "${exp}/.demo_trained" 2> /dev/null)" != "${inputs_now}" ] || return 0
    say "NOTE: the phases there were trained with other code, settings or options than today's (or by"
    say "run.sh itself) and were kept; to train all anew: rm -r ${recipe#"${root}/"}/${exp}, then make demo"
}

cd "${recipe}"
inputs_now=$(inputs "$@") || {
    leave_if_interrupted
    fail "the recipe's files could not be read (see above)"
}
if all_done; then
    say "everything is done, and nothing has changed since: here is the page again"
else
    run_recipe "$@"
fi
leave_if_interrupted
"${PY}" "${root}/local/demo_page.py" "${exp}" || {
    leave_if_interrupted
    fail "the closing page could not be made (see above); the results are in ${recipe#"${root}/"}/${exp}"
}
say_if_older
if [ "${SECONDS}" -ge 60 ]; then say "this took $((SECONDS / 60)) min $((SECONDS % 60)) s"; fi
