#!/usr/bin/env bash
# Runs a command, or one copy of it per JOB, on this machine. The interface is that of Kaldi's
# run.pl, so that ESPnet's queue.pl, slurm.pl, pbs.pl and ssh.pl can stand in its place:
#
#   run_jobs.sh [--gpu N] [--max-jobs-run N] [--name X] ... [JOB=1:4] job.JOB.log command JOB ...
#
# All jobs run at once (at most --max-jobs-run of them). Where jobs ask for GPUs, each gets its own
# by CUDA_VISIBLE_DEVICES, round robin; run.pl would put all on the first. Stops its jobs when it is
# stopped. Leaves with 1 when a job failed, and shows the end of that job's log.
set -euo pipefail

gpu=0
max_jobs=0
while [ $# -gt 0 ]; do
    case $1 in
        --gpu) gpu=$2 ;;
        --max-jobs-run | --max_jobs_run) max_jobs=$2 ;;
        --name | --mem | --time | --num-threads | --num_threads | --config) ;; # a queue's business
        --num-nodes | --num_nodes)
            [ "$2" -le 1 ] || { echo "run_jobs.sh: error: it runs on this machine only, found --num_nodes $2: choose another cmd_backend in cmd.sh" >&2; exit 2; }
            ;;
        --*) echo "run_jobs.sh: error: unknown option '$1'" >&2; exit 2 ;;
        *) break ;;
    esac
    shift 2
done
name=
first=1
last=1
if [[ ${1:-} =~ ^([A-Za-z_]+)=([0-9]+)(:([0-9]+))?$ ]]; then
    name=${BASH_REMATCH[1]}
    first=${BASH_REMATCH[2]}
    last=${BASH_REMATCH[4]:-${first}}
    shift
fi
[ $# -ge 2 ] || { echo "run_jobs.sh: error: expected a log file and a command" >&2; exit 2; }

# The GPUs there are: those we were given, else all.
gpus=()
if [ "${gpu}" -gt 0 ] && [ -z "${CUDA_VISIBLE_DEVICES:-}" ] && command -v nvidia-smi > /dev/null; then
    mapfile -t gpus < <(nvidia-smi --query-gpu=index --format=csv,noheader 2> /dev/null || true)
elif [ "${gpu}" -gt 0 ]; then
    IFS=, read -r -a gpus <<< "${CUDA_VISIBLE_DEVICES:-}"
fi

run_one() { # <number> <log> <command...>: one job, its log as run.pl writes it
    local number=$1 log=$2 i picked=() code=0
    shift 2
    mkdir -p "$(dirname "${log}")"
    if [ -n "${name}" ] && [ "${#gpus[@]}" -gt 0 ]; then
        for ((i = 0; i < gpu; i++)); do
            picked+=("${gpus[$((((number - first) * gpu + i) % ${#gpus[@]}))]}")
        done
        CUDA_VISIBLE_DEVICES=$(IFS=,; echo "${picked[*]}")
        export CUDA_VISIBLE_DEVICES
    fi
    {
        echo "# $*"
        echo "# Started at $(date)"
    } > "${log}"
    "$@" >> "${log}" 2>&1 < /dev/null &
    local child=$!
    # TERM for INT as well: bash starts background commands with INT ignored.
    trap 'kill -TERM "${child}" 2> /dev/null || true' TERM INT
    wait "${child}" || code=$?
    # A trapped signal ends the first wait; the job may still be saving.
    while kill -0 "${child}" 2> /dev/null; do
        code=0
        wait "${child}" || code=$?
    done
    {
        echo "# Ended (code ${code}) at $(date), elapsed time ${SECONDS} seconds"
    } >> "${log}"
    return "${code}"
}

declare -A log_of=()
failed=()
stop_all() {
    local pid
    for pid in "${!log_of[@]}"; do
        kill -TERM "${pid}" 2> /dev/null || true
    done
}
stopped=false
trap 'stopped=true; stop_all' TERM INT

reap_one() { # waits until any job ends, and notes it if it failed
    local pid code
    while true; do
        for pid in "${!log_of[@]}"; do
            if ! kill -0 "${pid}" 2> /dev/null; then
                code=0
                wait "${pid}" || code=$?
                [ "${code}" -eq 0 ] || failed+=("${log_of[${pid}]} (exit code ${code})")
                unset "log_of[${pid}]"
                return 0
            fi
        done
        sleep 0.05
    done
}

for ((job = first; job <= last; job++)); do
    if [ "${max_jobs}" -gt 0 ]; then
        while [ "${#log_of[@]}" -ge "${max_jobs}" ]; do reap_one; done
    fi
    "${stopped}" && break
    if [ -n "${name}" ]; then
        arguments=("${@//${name}/${job}}")
    else
        arguments=("$@")
    fi
    run_one "${job}" "${arguments[@]}" &
    log_of[$!]=${arguments[0]}
done
while [ "${#log_of[@]}" -gt 0 ]; do reap_one; done

if [ "${#failed[@]}" -gt 0 ]; then
    echo "run_jobs.sh: ${#failed[@]} of $((last - first + 1)) jobs failed:" >&2
    printf '  %s\n' "${failed[@]}" >&2
    echo "--- the end of ${failed[0]%% (*} ---" >&2
    tail -n 30 "${failed[0]%% (*}" >&2
    exit 1
fi
