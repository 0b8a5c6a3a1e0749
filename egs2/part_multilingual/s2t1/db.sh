# shellcheck shell=bash disable=SC2034
# Where corpora are. A folder, or `downloads`: fetched to downloads/<corpus> where there is a network.

# Free Spoken Digit Dataset, the folder that holds recordings/. When the folder shared/data/fsdd
# lies beside this project, it is used; otherwise 16 MB come from
# github.com/Jakobovski/free-spoken-digit-dataset.
FSDD=${FSDD:-downloads}
if [ "${FSDD}" = downloads ] && [ -d "${PART_ROOT:-../../..}/../shared/data/fsdd/recordings" ]; then
    FSDD=${PART_ROOT:-../../..}/../shared/data/fsdd
fi
