# shellcheck shell=bash
# Finds ESPnet, Python and this project's own code. Source it in the recipe folder: `. ./path.sh`.
#
# ESPnet is, in this order: the checkout named by ESPNET_ROOT; the checkout that this folder lies in
# by its logical path (egs2/part_multilingual/s2t1, links not resolved); the installed package.
# Python is: a checkout's tools/activate_python.sh; else the environment that is active; else .venv
# of this project (made by `make`); else python3.

export LC_ALL=C
export PYTHONIOENCODING=UTF-8 PYTHONUTF8=1 # UTF-8 in spite of LC_ALL=C
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export TOKENIZERS_PARALLELISM=false # no warning where the data loader forks

# Our own code: beside this file in a self-contained copy (`make link COPY=1`), else three up.
_part_recipe=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
if [ -d "${_part_recipe}/espnet_part" ]; then
    PART_ROOT=${_part_recipe}
else
    PART_ROOT=$(cd "${_part_recipe}/../../.." && pwd)
fi
export PART_ROOT
_part_pythonpath=${PART_ROOT}

if [ -n "${ESPNET_ROOT:-}" ]; then
    if [ ! -d "${ESPNET_ROOT}/espnet2" ]; then
        echo "path.sh: error: ESPNET_ROOT=${ESPNET_ROOT} is no ESPnet checkout (it has no espnet2/): correct it, or unset it to use the installed ESPnet" >&2
        return 1
    fi
elif [ -d "${PWD%/*/*/*}/egs2/TEMPLATE" ] && [ -d "${PWD%/*/*/*}/espnet2" ]; then
    ESPNET_ROOT=${PWD%/*/*/*}
fi

if [ -n "${ESPNET_ROOT:-}" ]; then
    export ESPNET_ROOT
    # run.pl, slurm.pl, queue.pl ...: from here when the recipe folder has no utils/ of its own.
    export PATH=${PWD}/utils:${ESPNET_ROOT}/egs2/TEMPLATE/asr1/utils:${PATH}
    if [ -f "${ESPNET_ROOT}/tools/extra_path.sh" ]; then
        # shellcheck disable=SC1091
        . "${ESPNET_ROOT}/tools/extra_path.sh"
    fi
fi
if [ -n "${ESPNET_ROOT:-}" ] && [ -f "${ESPNET_ROOT}/tools/activate_python.sh" ]; then
    # shellcheck disable=SC1091
    . "${ESPNET_ROOT}/tools/activate_python.sh"
else
    if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ "${VENV:-}" != none ] &&
        [ -x "${PART_ROOT}/.venv/bin/python3" ]; then
        export PATH=${PART_ROOT}/.venv/bin:${PATH}
    fi
    # A checkout that nobody installed: its espnet2 comes before an installed one.
    _part_pythonpath+=${ESPNET_ROOT:+:${ESPNET_ROOT}}
fi
case :${PYTHONPATH:-}: in
    *:"${_part_pythonpath}":*) ;;
    *) export PYTHONPATH=${_part_pythonpath}${PYTHONPATH:+:${PYTHONPATH}} ;;
esac
unset _part_recipe _part_pythonpath

# Interfaces that NCCL must not use; change or unset it to suit your network.
export NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-^lo,docker,virbr,vmnet,vboxnet}
