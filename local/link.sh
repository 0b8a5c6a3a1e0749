#!/usr/bin/env bash
# Puts the recipe into a checkout of ESPnet, as its own recipes are laid out:
#
#   local/link.sh <ESPnet checkout> [1]
#
# makes <checkout>/egs2/part_multilingual/s2t1 with links to this project's files, a cmd.sh of its
# own (a copy of ESPnet's, to be edited for your cluster) and links to ESPnet's utils, scripts,
# pyscripts and steps. With 1 the files are copied, the Python package too, and the recipe no longer
# needs this project. Data and experiments in the recipe folder stay when it is made again.
set -euo pipefail

root=${1:-}
copy=${2:-0}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ -n "${root}" ] ||
    { echo "make link: error: name a checkout of ESPnet: make link ESPNET_ROOT=/path/to/espnet" >&2; exit 2; }
if [ ! -d "${root}/egs2/TEMPLATE/asr1" ] || [ ! -d "${root}/espnet2" ]; then
    echo "make link: error: ${root} is no checkout of ESPnet: it has no egs2/TEMPLATE/asr1 or no espnet2" >&2
    exit 2
fi
root=$(cd "${root}" && pwd)
recipe=${root}/egs2/part_multilingual/s2t1
if [ -L "${recipe}" ] || [ -L "$(dirname "${recipe}")" ]; then
    echo "make link: error: ${recipe} is a link already; remove it first" >&2
    exit 2
fi
mkdir -p "${recipe}"

put() { # <file or folder of this project> <name in the recipe>
    if [ -L "${recipe}/$2" ]; then rm "${recipe}/$2"; fi
    if [ "${copy}" = 1 ]; then
        rm -rf "${recipe:?}/$2"
        cp -rL "${here}/$1" "${recipe}/$2"
    elif [ -e "${recipe}/$2" ]; then
        echo "make link: error: ${recipe}/$2 is a file of its own (a copy made before?); remove it first" >&2
        exit 2
    else
        ln -s "${here}/$1" "${recipe}/$2"
    fi
}
for file in run.sh part.sh path.sh db.sh README.md; do
    put "egs2/part_multilingual/s2t1/${file}" "${file}"
done
put conf conf
put local local
if [ "${copy}" = 1 ]; then
    put espnet_part espnet_part
    find "${recipe}" -name __pycache__ -prune -exec rm -rf {} +
fi
# cmd.sh may have been edited for a cluster: it is never overwritten.
[ -e "${recipe}/cmd.sh" ] || cp "${root}/egs2/TEMPLATE/asr1/cmd.sh" "${recipe}/cmd.sh"
for name in utils scripts pyscripts steps; do
    ln -sfn "../../TEMPLATE/asr1/${name}" "${recipe}/${name}"
done
echo "the recipe is in ${recipe}; cd there and type ./run.sh --help"
