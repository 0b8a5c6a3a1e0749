# shellcheck shell=bash disable=SC2034
# Where corpora are: a folder, or `downloads`, which fetches what is missing to downloads/<corpus>
# where the corpus's license and host allow it. Empty: stage 1 says where to get it.
# local/prepare_<corpus>.py --help is a corpus's card; options for its script, such as --langs, stand
# in <NAME>_OPTS: COMMONVOICE15_OPTS="--train validated", FLEURS_OPTS="--langs de fr --st".

LIBRISPEECH=${LIBRISPEECH:-downloads}       # 60 GB, the folder that holds test-clean/
WENETSPEECH=${WENETSPEECH:-}                # on request; the folder that holds WenetSpeech.json
FLEURS=${FLEURS:-downloads}                 # 22 GB, the folder that holds data/<language>/, or de_de/
COMMONVOICE15=${COMMONVOICE15:-}            # by account; cv-corpus-15.0-2023-09-08/
COVOST2=${COVOST2:-}                        # lists and Common Voice 4: see the card
MUSTC=${MUSTC:-}                            # no longer offered; the folder that holds en-de/
TEDLIUM3=${TEDLIUM3:-downloads}             # 54 GB; TEDLIUM_release-3/

# Text.
TATOEBA=${TATOEBA:-downloads}               # 2 MB; tatoeba.<xxx>-eng.<xxx> and .eng
NTREX128=${NTREX128:-downloads}             # newstest2019-ref.<xxx>.txt
FLORES200=${FLORES200:-downloads}           # <xxx>_<Script>.devtest; test text
OPUS=${OPUS:-}                              # any <name>.<l1>-<l2>.<l1> and .<l2>
INSTRUCT=${INSTRUCT:-}                      # *.jsonl or *.json of instructions

# Free Spoken Digit Dataset, the folder that holds recordings/. When the folder shared/data/fsdd
# lies beside this project, it is used; otherwise 16 MB come from
# github.com/Jakobovski/free-spoken-digit-dataset.
FSDD=${FSDD:-downloads}
if [ "${FSDD}" = downloads ] && [ -d "${PART_ROOT:-../../..}/../shared/data/fsdd/recordings" ]; then
    FSDD=${PART_ROOT:-../../..}/../shared/data/fsdd
fi
