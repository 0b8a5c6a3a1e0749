#!/usr/bin/env bash
# The recipe: a corpus, a model, a curriculum. Everything else, and every option, is in part.sh:
#
#   ./run.sh                                  # all stages on real spoken digits
#   ./run.sh --stage 10 --stop_stage 13       # from the manifests to the scores
#   ./run.sh --corpora toy                    # twenty made utterances, minutes
#   ./run.sh --model part_2b --corpora "..."  # the paper's model, conf/model/part_2b.yaml
#   ./run.sh --help
set -euo pipefail

[ -f part.sh ] || { echo "run.sh: error: call it in its own folder: cd $(dirname "$0") && ./run.sh" >&2; exit 1; }

corpora=digits  # local/prepare_<corpus>.py
model=          # conf/model/<model>.yaml; empty: the one named like the corpus
curriculum=part # conf/curriculum/<curriculum>.yaml

./part.sh --corpora "${corpora}" --model "${model}" --curriculum "${curriculum}" "$@"
