# shellcheck shell=bash disable=SC2154
# Functions of part.sh: what its stages share. Expects ${opt[...]} (local/options.sh) to be filled.

# Corpora whose data and parts the recipe makes itself: missing earlier stages are run, not asked for.
made_corpora="toy digits miniature"

log() {
    local fname=${BASH_SOURCE[1]##*/}
    echo -e "$(date '+%Y-%m-%dT%H:%M:%S') (${fname}:${BASH_LINENO[0]}:${FUNCNAME[1]}) $*"
}

# Prints an error and leaves with 1.
die() {
    log "Error: $*" >&2
    exit 1
}

# The command that runs stages $1 to $2 with the options of this call.
command_for() {
    local name text="./run.sh --stage $1 --stop_stage $2"
    for name in corpora model curriculum part_tag part_exp part_stats_dir part_config part_args \
        pretrained_model dumpdir expdir train_set valid_set test_sets inference_config inference_model lid; do
        [ "${opt[${name}]}" = "${opt_default[${name}]}" ] && continue
        text+=" --${name} $(quote "${opt[${name}]}")"
    done
    echo "${text}"
}

quote() {
    if [[ $1 =~ ^[A-Za-z0-9_./:,=+-]+$ ]]; then echo "$1"; else printf '"%s"\n' "$1"; fi
}

# need <path> <stage>: leaves with an error when the input of this stage is missing.
need() {
    [ -e "$1" ] || die "$1 is missing; stage $2 makes it: $(command_for "$2" "$2")"
}

# Whether stage $1 is to run.
runs() {
    [ "${opt[stage]}" -le "$1" ] && [ "${opt[stop_stage]}" -ge "$1" ] &&
        ! [[ " ${opt[skip_stages]} " == *" $1 "* ]]
}

is_made() {
    [[ " ${made_corpora} " == *" $1 "* ]]
}

# parts list|check|fetch|settings: the pre-trained parts of the model (local/parts.py).
parts() {
    ${python} local/parts.py "$1" "${model_config}" --expdir "${opt[expdir]}"
}

# The data folder of a set: data/<set>, or data/<corpus>/<set> with or without the corpus's name.
data_of() {
    local corpus candidate
    for corpus in ${opt[corpora]}; do
        for candidate in "data/${corpus}/$1" "data/${corpus}/${1#"${corpus}"_}"; do
            if [ -d "${candidate}" ]; then
                echo "${candidate}"
                return
            fi
        done
    done
    echo "data/$1"
}

# find_sets <train|dev|test>: the sets of the corpora, found by name.
# A set is called <corpus>_<folder>; a folder that bears the corpus's name already keeps its own.
find_sets() {
    local corpus folder sets=""
    for corpus in ${opt[corpora]}; do
        if [ -d "data/${corpus}" ]; then
            for folder in "data/${corpus}/$1"* "data/${corpus}/${corpus}_$1"*; do
                [ -d "${folder}" ] || continue
                folder=${folder##*/}
                sets+=" ${corpus}_${folder#"${corpus}"_}"
            done
        else
            for folder in "${data_feats}/${corpus}_$1"*; do
                [ -d "${folder}" ] && sets+=" ${folder##*/}"
            done
        fi
    done
    echo "${sets# }"
}

# Fills train_set, valid_set and test_sets: those named by options, else those found.
resolve_sets() {
    train_set=${opt[train_set]:-$(find_sets train)}
    valid_set=${opt[valid_set]:-$(find_sets dev)}
    test_sets=${opt[test_sets]:-$(find_sets test)}
    local set
    for set in ${valid_set} ${test_sets}; do
        [[ " ${train_set} " != *" ${set} "* ]] ||
            die "${set} is in --train_set and in --valid_set or --test_sets: a set is for one use only"
    done
}

# Whether a formatted training set has mt rows of its own; they stand in text folders.
has_mt() {
    local set
    for set in ${train_set}; do
        [ -f "${data_feats}/${set}/source" ] && [ -f "${data_feats}/${set}/utt2task" ] || continue
        ! grep -qE '[[:blank:]]mt[[:space:]]*$' "${data_feats}/${set}/utt2task" || return 0
    done
    return 1
}

# " mt/<set>" for each training set of whose st rows stage 4 has made mt rows; none beside mt rows
# that the corpora have themselves.
derived_mt() {
    local set
    has_mt && return
    for set in ${train_set}; do
        [ ! -f "${data_feats}/${set}/transcript" ] || # what is left of a former data folder
            [ ! -f "${data_feats}/mt/${set}/utt2task" ] || printf ' mt/%s' "${set}"
    done
}

# The first stage that must run so that stage $1 finds its input (made corpora only). Stage 11 needs
# manifests, stages 10 to 12 the pre-trained parts, all up to 13 formatted data.
first_stage_needed() {
    local first=$1 set
    resolve_sets
    if [ "${first}" -eq 11 ] && [ ! -e "${part_stats_dir}/${train_set%% *}/meta.json" ]; then
        first=10
    fi
    if [ "${first}" -ge 6 ] && [ "${first}" -le 12 ] && ! parts check > /dev/null 2>&1; then
        first=5
    fi
    for set in ${train_set:-none} ${valid_set:-none} ${test_sets:-none}; do
        if [ "${first}" -ge 4 ] && [ "${first}" -le 13 ] && [ ! -e "${data_feats}/${set}/utt2task" ]; then
            first=3
        fi
    done
    for set in ${train_set:-none} ${valid_set:-none} ${test_sets:-none}; do
        if [ "${first}" -ge 2 ] && [ "${first}" -le 5 ] && [ ! -e "$(data_of "${set}")/utt2task" ]; then
            first=1
        fi
    done
    echo "${first}"
}

# split_keys <data folder> <n> <prefix>: writes <prefix>1.scp ... <prefix>n.scp, contiguous parts of
# the ids as even as can be (some empty when there are fewer ids than parts).
split_keys() {
    local total i
    total=$(wc -l < "$1/utt2task")
    for ((i = 1; i <= $2; i++)); do : > "$3${i}.scp"; done
    awk -v n="$2" -v total="${total}" -v prefix="$3" \
        '{ print $1 > (prefix int((NR - 1) * n / total) + 1 ".scp") }' "$1/utt2task"
}

# rotate_log <path>: train.log becomes train.1.log, and so on, as ESPnet's launcher does it.
rotate_log() {
    local base=${1%.log} i=1
    [ -e "$1" ] || return 0
    while [ -e "${base}.${i}.log" ]; do i=$((i + 1)); done
    for ((; i > 1; i--)); do mv "${base}.$((i - 1)).log" "${base}.${i}.log"; done
    mv "$1" "${base}.1.log"
}

# run_and_show <log> <output> <command...>: runs a command that writes <log>, and shows the log
# while it grows. <output> is where the command's own output goes (the log itself, or another file).
# SIGTERM and SIGINT are passed on, so that training can save and stop.
run_and_show() {
    local log_file=$1 output=$2 code=0 child follower
    shift 2
    "$@" >> "${output}" 2>&1 < /dev/null &
    child=$!
    tail -n +1 -s 0.5 --pid="${child}" -F "${log_file}" 2> /dev/null &
    follower=$!
    trap 'kill -TERM "${child}" 2> /dev/null || true' TERM INT
    wait "${child}" || code=$?
    while kill -0 "${child}" 2> /dev/null; do # a signal ended the wait, not the command
        code=0
        wait "${child}" || code=$?
    done
    trap - TERM INT
    wait "${follower}" 2> /dev/null || true
    return "${code}"
}

# train_phase <phase folder>: runs the trainer on <phase folder>/config.yaml.
# Inside an ESPnet checkout by ESPnet's launcher and the backend of cmd.sh; else directly, with
# torchrun for several GPUs.
train_phase() {
    local dir=$1 launcher=() threads=1
    local trainer=(-m espnet_part.bin.train --config "${dir}/config.yaml" --output_dir "${dir}")
    # On the CPU one process has all cores; path.sh set OMP_NUM_THREADS=1 for the other stages.
    [ "${opt[ngpu]}" -gt 0 ] || threads=${cores}
    local -x OMP_NUM_THREADS=${asked_threads:-${threads}}
    if [[ ${cuda_cmd%% *} != *run_jobs.sh ]]; then
        # shellcheck disable=SC2086 # ${python} may hold options
        run_and_show "${dir}/train.log" "${dir}/launch.log" \
            ${python} -m espnet2.bin.launch --cmd "${cuda_cmd} --name ${dir}/train.log" \
            --log "${dir}/train.log" --ngpu "${opt[ngpu]}" --num_nodes "${opt[num_nodes]}" \
            --init_file_prefix "${dir}/.dist_init_" --multiprocessing_distributed true \
            -- ${python} "${trainer[@]}"
        return
    fi
    [ "${opt[num_nodes]}" -le 1 ] ||
        die "--num_nodes ${opt[num_nodes]} needs ESPnet's launcher: run inside an ESPnet checkout (make link ESPNET_ROOT=...) with cmd_backend=slurm, or start torchrun on each node yourself"
    launcher=("${python}")
    if [ "${opt[ngpu]}" -gt 1 ]; then
        launcher=("${python}" -m torch.distributed.run --standalone --nproc_per_node "${opt[ngpu]}")
        trainer+=(--ngpu 1 --multiprocessing_distributed false)
    else
        trainer+=(--ngpu "${opt[ngpu]}")
    fi
    rotate_log "${dir}/train.log"
    # shellcheck disable=SC2068 # ${python} may hold options
    run_and_show "${dir}/train.log" "${dir}/train.log" ${launcher[@]} "${trainer[@]}"
}

# collect_outputs <test set folder> <n>: joins the outputs of n jobs, sorted; `text` comes last,
# it says that the set is done.
collect_outputs() {
    local dir=$1 name i
    for name in token token_int score text; do
        for ((i = 1; i <= $2; i++)); do
            cat "${dir}/logdir/output.${i}/1best_recog/${name}"
        done | LC_ALL=C sort -k1,1 > "${dir}/${name}.part"
    done
    for name in token token_int score text; do
        mv "${dir}/${name}.part" "${dir}/${name}"
    done
}

# decode_phase <phase> <right|none|wrong>: decodes all test sets with one model, several in one process
# because starting costs more than decoding a small set. A set whose text is newer than the model, and
# was decoded with the same options, is left as it is. The second word says which language the prompts
# name; espnet_part/lid_table.py finds by the folder's name what belongs together.
decode_phase() {
    local phase_dir=${part_exp}/phase$1 set dir ngpu=0 n=1 rows i
    local model_file=${phase_dir}/${opt[inference_model]} decode_dir=${phase_dir}/${inference_tag}
    local arguments=${opt[inference_args]} other=
    if [ "$2" != right ]; then
        decode_dir+=_lid_$2
        other=", language in the prompt: $2"
        arguments+=" --lid $2"
    fi
    need "${phase_dir}/config.yaml" 11
    need "${model_file}" 11
    local settings
    settings="${arguments} $(< "${opt[inference_config]}")"
    local pending=() data_dirs=() key_files=() outputs=()
    for set in ${decode_sets}; do
        need "${data_feats}/${set}/utt2task" 3
        dir=${decode_dir}/${set}
        if [ "${dir}/text" -nt "${model_file}" ] && [ -f "${dir}/logdir/settings" ] &&
            [ "$(< "${dir}/logdir/settings")" = "${settings}" ] &&
            [ "$(wc -l < "${dir}/text")" -eq "$(wc -l < "${data_feats}/${set}/utt2task")" ]; then
            log "Phase $1: ${set} is decoded${other}"
            continue
        fi
        rm -rf "${dir}/text" "${dir}/logdir"
        mkdir -p "${dir}/logdir"
        pending+=("${set}")
        rows=$(wc -l < "${data_feats}/${set}/utt2task")
        [ "${rows}" -le "${n}" ] || n=${rows}
    done
    [ "${#pending[@]}" -gt 0 ] || return 0
    [ "${n}" -le "${opt[inference_nj]}" ] || n=${opt[inference_nj]}
    "${opt[gpu_inference]}" && ngpu=1
    if [[ ${decode_cmd} == *run_jobs.sh ]]; then # this machine: its GPUs and cores are shared out
        [ "${ngpu}" -eq 0 ] || [ "${n}" -le "${gpus}" ] || n=$((gpus > 0 ? gpus : 1))
        local -x OMP_NUM_THREADS=${asked_threads:-$((cores > n ? cores / n : 1))}
    fi
    for set in "${pending[@]}"; do
        dir=${decode_dir}/${set}
        split_keys "${data_feats}/${set}" "${n}" "${dir}/logdir/keys."
        data_dirs+=("${data_feats}/${set}")
        key_files+=("${dir}/logdir/keys.JOB.scp")
        outputs+=("${dir}/logdir/output.JOB")
    done
    mkdir -p "${decode_dir}/logdir"
    rm -f "${decode_dir}"/logdir/asr_inference.*.log
    log "Phase $1: decoding ${pending[*]}${other} started... log: '${decode_dir}/logdir/asr_inference.*.log'"
    # The log has ESPnet's name, so that its calculate_rtf.py reads it.
    # shellcheck disable=SC2086 # ${python}, ${decode_cmd} and the arguments hold several words
    ${decode_cmd} --gpu "${ngpu}" JOB=1:"${n}" "${decode_dir}/logdir/asr_inference.JOB.log" \
        ${python} -m espnet_part.bin.inference --ngpu "${ngpu}" \
        --part_train_config "${phase_dir}/config.yaml" --part_model_file "${model_file}" \
        --data_dir "${data_dirs[@]}" --key_file "${key_files[@]}" --output_dir "${outputs[@]}" \
        --config "${opt[inference_config]}" ${arguments} ||
        die "decoding failed: see ${decode_dir}/logdir/asr_inference.*.log"
    # What the jobs say in the end: utterances, seconds, and what went wrong.
    grep -hE 'INFO: [^ ]+: decoded |(WARNING|ERROR): ' "${decode_dir}"/logdir/asr_inference.*.log |
        sed -E 's/^[^(]*\([^)]*\) //' || true
    for set in "${pending[@]}"; do
        collect_outputs "${decode_dir}/${set}" "${n}"
        echo "${settings}" > "${decode_dir}/${set}/logdir/settings"
    done
}

# Names of the YAMLs in a folder.
list_yamls() {
    local file
    for file in "$1"/*.yaml; do [ -f "${file}" ] && basename "${file}" .yaml; done | tr '\n' ' '
}

# Whether the recipe makes every corpus itself.
all_made() {
    local corpus
    for corpus in ${opt[corpora]}; do is_made "${corpus}" || return 1; done
}
