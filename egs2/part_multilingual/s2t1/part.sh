#!/usr/bin/env bash
# Stages 1 to 15 of PART, numbered as in ESPnet's asr.sh. Called by run.sh; functions: local/recipe.sh.
set -euo pipefail

asked_threads=${OMP_NUM_THREADS:-} # before path.sh sets its default
cores=$(env -u OMP_NUM_THREADS nproc) # nproc itself obeys OMP_NUM_THREADS
gpus=$(nvidia-smi -L 2> /dev/null | grep -c '^GPU' || true)

# name|default|help: parsing, --help and errors come from this list.
option_list=(
    "# General"
    "stage|1|First stage to run"
    "stop_stage|10000|Last stage to run"
    "skip_stages||Stages to leave out, e.g. \"13 14\""
    "skip_data_prep|false|Leave out stages 1 to 5"
    "skip_train|false|Leave out stages 6 to 11"
    "skip_eval|false|Leave out stages 12 and 13"
    "skip_packing|false|Leave out stage 14"
    "skip_upload_hf|true|Leave out stage 15"
    "ngpu|$((gpus > 0 ? 1 : 0))|GPUs per node for training, 0 is the CPU; 1 where there is one"
    "num_nodes|1|Nodes for training (more than one needs ESPnet's launcher)"
    "nj|$((cores < 32 ? cores : 32))|Parallel jobs of data preparation; one per core, at most 32"
    "inference_nj|$((cores < 32 ? cores : 32))|Parallel jobs of decoding; one per core, at most 32"
    "gpu_inference|auto|Decode on GPUs (true, false, or auto: where --ngpu is above 0)"
    "dumpdir|dump|Folder of formatted data"
    "expdir|exp|Folder of experiments"
    "python|python3|Python command"
    "experiment||Instead of single stages, an experiment and its page: fig2a fig2b llm_trained llm_frozen table4 activation text lid ai_sta lora, or all"
    "scale|quick|Corpus, model and length of an experiment: quick full digits large, see conf/experiments.yaml"
    "# Data"
    "corpora|digits|Corpora, each with a local/prepare_<corpus>.py or a data/<corpus> (--corpus is the same)"
    "train_set||Training sets; default: all called <corpus>_train*"
    "valid_set||Validation sets; default: all called <corpus>_dev*"
    "test_sets||Test sets, one task and language pair each; default: all called <corpus>_test*"
    "eval_valid_set|false|Decode the validation sets as well, by task and language pair"
    "local_data_opts||Options for the scripts of all corpora; those of one corpus stand in db.sh"
    "speed_perturb_factors||Stage 2: factors of perturbed copies, e.g. \"0.9 1.1\"; default: none, perturbation is on the fly"
    "audio_format||Stage 3: write audio anew in this format (flac, wav); default: leave it in place"
    "min_wav_duration|0.1|Stage 4: shortest training clip in seconds"
    "max_wav_duration|30.0|Stage 4: longest training clip in seconds"
    "# Model and training"
    "model||conf/model/<model>.yaml; default: the one called like the first corpus"
    "curriculum|part|conf/curriculum/<curriculum>.yaml"
    "phase||Train (and decode, pack) this phase only, e.g. 2a; the phases before it must be there"
    "part_tag||Name of the experiment under expdir; default: corpora, and the model where it differs"
    "part_exp||Folder of the curriculum's phases; default: <expdir>/<part_tag>/<curriculum>"
    "part_stats_dir||Folder of the manifests; default: <expdir>/part_stats_<model>"
    "part_config||YAML laid over model and phases, of the same keys as config.yaml"
    "part_args||Single keys laid over all that, e.g. \"max_steps=10 lr.llm=1e-5 tasks=[asr, st]\""
    "pretrained_model||What the first phase starts from: a pack (zip, folder, hub id) or a checkpoint (.pth)"
    "# Decoding and scoring"
    "decode_phases|all|Phases to decode: all, last, or a list, e.g. \"1 3\""
    "lid|right|Language named in the prompt when decoding: right, none, wrong (any but the source's, maybe the target's), or several, e.g. \"right none wrong\"; the last two get decode folders of their own, and stage 13 a table"
    "inference_config||YAML of decoding options; default: conf/decode/<first corpus>.yaml where there is one, else greedy.yaml"
    "inference_args||Options for espnet_part.bin.inference, e.g. \"--dtype bfloat16\""
    "inference_tag||Name of the decode folder; default: from config, arguments and model"
    "inference_model|latest.pth|Checkpoint to decode and pack, e.g. valid.acc.best.pth"
    "# Upload"
    "hf_repo||Stage 15: repository on the Hugging Face hub, owner/name"
    "upload_args||Options for espnet_part.bin.upload, e.g. \"--private --dry_run\""
)

# shellcheck source=../../../local/options.sh
. local/options.sh
# shellcheck source=../../../local/recipe.sh
. local/recipe.sh
parse_options "$@"
log "$0 $*"
SECONDS=0

# shellcheck source=path.sh
. ./path.sh
# shellcheck source=cmd.sh
. ./cmd.sh

export python=${opt[python]}
# Shell functions would only say that a command is missing, and some of them go on.
command -v "${python%% *}" > /dev/null || die "--python ${python}: no such command"
for name in nj inference_nj num_nodes; do
    [ "${opt[${name}]}" -gt 0 ] || die "--${name}: found 0, expected 1 or more"
done
for name in ${opt[skip_stages]}; do
    [[ ${name} =~ ^([1-9]|1[0-5])$ ]] || die "--skip_stages: found '${name}', expected numbers from 1 to 15"
done
case ${opt[gpu_inference]} in
    true | false | auto) ;;
    *) die "--gpu_inference is true, false or auto, found '${opt[gpu_inference]}'" ;;
esac
[[ ${opt[lid]} =~ ^\ *((right|none|wrong)(\ +|$))+$ ]] ||
    die "--lid: found '${opt[lid]}', expected right, none, wrong or several of them, e.g. \"right none wrong\""
[ "${opt[lid]}" = right ] || [[ " ${opt[inference_args]}" != *" --lid"[\ =]* ]] ||
    die "--lid ${opt[lid]} and --inference_args '${opt[inference_args]}' both name the prompt's language: leave it out of --inference_args"
# An experiment calls this script again, for the stages of its arms.
if [ -n "${opt[experiment]}" ]; then
    for name in "${!opt[@]}"; do
        [[ " experiment scale ngpu nj expdir dumpdir python " == *" ${name} "* ]] ||
            [ "${opt[${name}]}" = "${opt_default[${name}]}" ] ||
            die "--${name} does not go with --experiment: a scale names corpus and model; take another --scale: quick full digits large"
    done
    trainings=${cores}
    [ "${opt[ngpu]}" -eq 0 ] || trainings=$((gpus > opt[ngpu] ? gpus / opt[ngpu] : 1))
    # shellcheck disable=SC2086 # ${python} may hold options, and there may be several experiments
    exec ${python} local/experiment.py ${opt[experiment]} --scale "${opt[scale]}" --ngpu "${opt[ngpu]}" \
        --expdir "${opt[expdir]}" --dumpdir "${opt[dumpdir]}" --nj "$((trainings < opt[nj] ? trainings : opt[nj]))"
fi
[ "${opt[scale]}" = "${opt_default[scale]}" ] || die "--scale goes with --experiment, such as ./run.sh --experiment all --scale ${opt[scale]}"
[ -n "${opt[corpora]}" ] || die "--corpora is empty: name a corpus; conf/model and local/prepare_*.py have some"
model=${opt[model]:-${opt[corpora]%% *}}
model_config=conf/model/${model}.yaml
[ -f "${model_config}" ] ||
    die "${model_config} is missing: name a model by --model; there are: $(list_yamls conf/model)"
[ -f "conf/curriculum/${opt[curriculum]}.yaml" ] ||
    die "conf/curriculum/${opt[curriculum]}.yaml is missing: name a curriculum by --curriculum; there are: $(list_yamls conf/curriculum)"
[ -z "${opt[part_config]}" ] || [ -f "${opt[part_config]}" ] || die "--part_config ${opt[part_config]}: no such file"
if [ -z "${opt[inference_config]}" ]; then
    opt[inference_config]=conf/decode/${opt[corpora]%% *}.yaml
    [ -f "${opt[inference_config]}" ] || opt[inference_config]=conf/decode/greedy.yaml
    opt_default[inference_config]=${opt[inference_config]}
fi
[ -f "${opt[inference_config]}" ] || die "--inference_config ${opt[inference_config]}: no such file"

data_feats=${opt[dumpdir]}/raw
part_tag=${opt[part_tag]}
if [ -z "${part_tag}" ]; then
    part_tag=${opt[corpora]// /_}
    [ "${model}" = "${opt[corpora]%% *}" ] || part_tag+=_${model}
fi
part_exp=${opt[part_exp]:-${opt[expdir]}/${part_tag}/${opt[curriculum]}}
part_stats_dir=${opt[part_stats_dir]:-${opt[expdir]}/part_stats_${model}}
parts_dir=${opt[expdir]}/${opt[corpora]%% *}_parts # of a corpus's own parts; exp/miniature_large_parts
[[ ${model} != "${opt[corpora]%% *}"_* ]] || parts_dir=${opt[expdir]}/${model}_parts
inference_tag=${opt[inference_tag]}
if [ -z "${inference_tag}" ]; then
    inference_tag=decode_$(basename "${opt[inference_config]}" .yaml)
    inference_tag+=$(echo "${opt[inference_args]}" | sed -E 's/--/_/g; s/[ =]+//g; s#/#_#g')
    inference_tag+=_$(basename "${opt[inference_model]}" .pth)
fi
if [ "${opt[gpu_inference]}" = auto ]; then
    opt[gpu_inference]=$([ "${opt[ngpu]}" -gt 0 ] && echo true || echo false)
fi
# Training on from a pack: parts, sizes and prompts are the pack's, steps and rates the model YAML's.
pretrained=${opt[pretrained_model]}
[[ ${pretrained} != *.pth ]] || [ -f "${pretrained}" ] || die "--pretrained_model ${pretrained}: no such file"
if [ -n "${pretrained}" ] && [[ ${pretrained} != *.pth ]]; then
    adopted=${opt[expdir]}/${part_tag}/pretrained.yaml
    pretrained=$(ESPNET_PART_CACHE=${opt[expdir]}/pretrained ${python} -m espnet_part.bin.config adopt \
        --pretrained "${pretrained}" --base "${model_config}" --out "${adopted}")
    model_config=${adopted}
fi
# A mistake in the YAMLs, in their settings or in the names of phases must not show up after days.
# ${python} may hold options, here and in local/recipe.sh: it is not quoted.
more_settings=()
found=$(${python} local/settings.py ${opt[part_config]:+--config "${opt[part_config]}"} --words="${opt[part_args]}")
[ -z "${found}" ] || mapfile -t more_settings <<< "${found}"
phases=$(${python} -m espnet_part.bin.config phases --curriculum "${opt[curriculum]}" \
    --model "${model_config}" ${opt[phase]:+--phase "${opt[phase]}"} --set "${more_settings[@]}")
phases=${phases//$'\n'/ }
handed_on=$(${python} -m espnet_part.bin.config init --curriculum "${opt[curriculum]}")
if [ -n "${opt[phase]}" ] && [[ " ${phases} " != *" ${opt[phase]} "* ]]; then
    die "--phase ${opt[phase]}: no phase of the curriculum ${opt[curriculum]}, whose phases are: ${phases}"
fi
case ${opt[decode_phases]} in
    all) decode_phases=${opt[phase]:-${phases}} ;;
    last) decode_phases=${opt[phase]:-${phases##* }} ;;
    *) decode_phases=${opt[decode_phases]} ;;
esac
for phase in ${decode_phases}; do
    [[ " ${phases} " == *" ${phase} "* ]] ||
        die "--decode_phases ${opt[decode_phases]}: expected all, last or some of the phases of the curriculum ${opt[curriculum]}: ${phases}"
done
"${opt[skip_data_prep]}" && opt[skip_stages]+=" 1 2 3 4 5"
"${opt[skip_train]}" && opt[skip_stages]+=" 6 7 8 9 10 11"
"${opt[skip_eval]}" && opt[skip_stages]+=" 12 13"
"${opt[skip_packing]}" && opt[skip_stages]+=" 14"
"${opt[skip_upload_hf]}" && opt[skip_stages]+=" 15"

# Corpora of our own making: what an earlier stage would have made is made now.
if [ "${opt[stage]}" -gt 1 ] && ! "${opt[skip_data_prep]}" && all_made; then
    first=$(first_stage_needed "${opt[stage]}")
    if [ "${first}" -lt "${opt[stage]}" ]; then
        log "Stage ${opt[stage]} needs what stage ${first} makes: running stages ${first} to $((opt[stage] - 1)) first"
        opt[stage]=${first}
    fi
fi


if runs 1; then
    log "Stage 1: Data preparation for ${opt[corpora]}"
    scripted=
    for corpus in ${opt[corpora]}; do
        if [ ! -f "local/prepare_${corpus}.py" ] && [ -d "data/${corpus}" ]; then
            log "data/${corpus} is used as it is"
        else
            scripted+=" ${corpus}"
        fi
    done
    # One that is not there must not show up after the others were fetched.
    # shellcheck disable=SC2086 # several options
    local/data.sh --check "${scripted}" ${opt[local_data_opts]}
    for corpus in ${scripted}; do
        # shellcheck disable=SC2086 # several options
        local/data.sh "${corpus}" ${opt[local_data_opts]}
    done
fi


resolve_sets
if runs 2; then
    if [ -z "${opt[speed_perturb_factors]}" ]; then
        log "Stage 2: Skip: no perturbed copies are made; training perturbs speed on the fly"
    else
        log "Stage 2: Speed perturbation of ${train_set}: ${opt[speed_perturb_factors]}"
        for set in ${train_set}; do
            data=$(data_of "${set}")
            need "${data}/utt2task" 1
            # shellcheck disable=SC2086 # several factors
            ${python} -m espnet_part.bin.prepare speed --data_dir "${data}" --out "data/${set}_sp" \
                --nj "${opt[nj]}" --factors ${opt[speed_perturb_factors]}
        done
    fi
fi
# Once made, copies take the place of what they were made from, in the later stages, too.
if [ -n "${opt[speed_perturb_factors]}" ]; then
    perturbed=
    for set in ${train_set}; do
        if [ -d "data/${set}_sp" ]; then perturbed+=" ${set}_sp"; else perturbed+=" ${set}"; fi
    done
    train_set=${perturbed# }
fi


if runs 3; then
    log "Stage 3: Format ${train_set} ${valid_set} ${test_sets}: ${data_feats}"
    [ -n "${train_set}${test_sets}" ] || die "there are no data folders of '${opt[corpora]}' under data/; stage 1 makes them: $(command_for 1 1)"
    for set in ${train_set} ${valid_set} ${test_sets}; do
        data=$(data_of "${set}")
        need "${data}/utt2task" 1
        # Training and validation sets pass stage 4, which filters; test sets stay whole.
        out=${data_feats}/${set}
        [[ " ${test_sets} " == *" ${set} "* ]] || out=${data_feats}/org/${set}
        ${python} -m espnet_part.bin.prepare format --data_dir "${data}" --out "${out}" \
            --nj "${opt[nj]}" ${opt[audio_format]:+--audio_format "${opt[audio_format]}"}
    done
fi


if runs 4; then
    log "Stage 4: Filter ${train_set} ${valid_set}: ${data_feats}/org -> ${data_feats}"
    # Corpora share clips: what a test set holds is not trained on.
    held_out=()
    for set in ${test_sets}; do
        need "${data_feats}/${set}/utt2task" 3
        held_out+=("${data_feats}/${set}")
    done
    inputs=() outputs=()
    for set in ${train_set} ${valid_set}; do
        need "${data_feats}/org/${set}/utt2task" 3
        inputs+=("${data_feats}/org/${set}")
        outputs+=("${data_feats}/${set}")
    done
    [ "${#inputs[@]}" -eq 0 ] || ${python} -m espnet_part.bin.prepare filter \
        --data_dir "${inputs[@]}" --out "${outputs[@]}" --nj "${opt[nj]}" \
        --min_sec "${opt[min_wav_duration]}" --max_sec "${opt[max_wav_duration]}" \
        --test_sets "${held_out[@]}"
    # Where no training set has mt rows, those that st rows and their transcripts make will do.
    if ! has_mt; then
        for set in ${train_set}; do
            [ -f "${data_feats}/${set}/transcript" ] || continue
            ${python} -m espnet_part.bin.prepare mt --data_dir "${data_feats}/${set}" \
                --out "${data_feats}/mt/${set}"
        done
        [ -n "$(derived_mt)" ] ||
            log "There are no mt rows, nor st rows with a transcript to make some of; to train without them: --curriculum part_no_text"
    fi
fi
# Once made, they are training sets as others are, in the later stages, too.
train_set+=$(derived_mt)


if runs 5; then
    log "Stage 5: Pre-trained parts of ${model_config}"
    corpus=${opt[corpora]%% *}
    # Where the model names parts of the corpus's own, they are made or measured; those up to date are kept.
    if [[ $(parts list) == *" ${parts_dir}/"* ]] || [[ $(parts list) == *" local/${corpus}_base/"* ]]; then
        if [ "${corpus}" = toy ]; then
            ${python} local/toy_parts.py --out "${parts_dir}"
        elif [ -f "local/make_parts_${corpus}.py" ]; then
            base=() # where the model's parts are, if not in the repository
            [ "${corpus}_parts" = "${parts_dir##*/}" ] || base=(--base "${parts_dir}")
            ${python} "local/make_parts_${corpus}.py" --data "data/${corpus}" --out "${parts_dir}" "${base[@]}"
        fi
    fi
    parts fetch
fi


for number in 6 7 8 9; do
    if runs "${number}"; then
        log "Stage ${number}: Skip: ESPnet trains language models and n-grams here; the LLM is the language model"
    fi
done


if runs 10; then
    log "Stage 10: Manifests and statistics: ${part_stats_dir}"
    [ -n "${train_set}" ] || die "there is no training set; stage 1 makes it: $(command_for 1 5)"
    tokenizer=$(parts list | sed -n 's/^tokenizer //p')
    inputs=() outputs=()
    for set in ${train_set} ${valid_set}; do
        need "${data_feats}/${set}/utt2task" 4
        inputs+=("${data_feats}/${set}")
        outputs+=("${part_stats_dir}/${set}")
    done
    ${python} -m espnet_part.bin.manifest --data_dir "${inputs[@]}" --out "${outputs[@]}" \
        --tokenizer "${tokenizer}" --nj "${opt[nj]}"
fi


if runs 11; then
    log "Stage 11: Train phases ${opt[phase]:-${phases}} of ${opt[curriculum]}: ${part_exp}"
    manifests=()
    for set in ${train_set}; do
        need "${part_stats_dir}/${set}/meta.json" 10
        manifests+=("${part_stats_dir}/${set}")
    done
    valid_manifests=()
    for set in ${valid_set}; do
        need "${part_stats_dir}/${set}/meta.json" 10
        valid_manifests+=("${part_stats_dir}/${set}")
    done
    [ "${#manifests[@]}" -gt 0 ] && [ "${#valid_manifests[@]}" -gt 0 ] ||
        die "training needs a training and a validation set; found --train_set '${train_set}' --valid_set '${valid_set}'; stage 1 makes those of a corpus: $(command_for 1 10)"
    # What is laid over the YAMLs: another place of exp/, --part_config, --part_args.
    given=$(parts settings)
    settings=()
    [ -z "${given}" ] || mapfile -t settings <<< "${given}"
    settings+=("${more_settings[@]}")
    # A task without rows must not show up after the phases before.
    pending=()
    for phase in ${opt[phase]:-${phases}}; do
        [ -f "${part_exp}/phase${phase}/.finished" ] || pending+=("${phase}")
    done
    [ "${#pending[@]}" -eq 0 ] || ${python} local/check_tasks.py --model "${model_config}" \
        --curriculum "${opt[curriculum]}" --phases "${pending[@]}" \
        --train "${manifests[@]}" --set "${settings[@]}"
    init=${pretrained}
    for phase in ${phases}; do
        dir=${part_exp}/phase${phase}
        if [ -n "${opt[phase]}" ] && [ "${phase}" != "${opt[phase]}" ]; then
            init=${dir}/${handed_on}
            continue
        fi
        if [ -f "${dir}/.finished" ]; then
            if [ -n "${init}" ] && [ "${init}" -nt "${dir}/.finished" ]; then
                die "phase ${phase} was trained before ${init}, which it starts from, was made: remove ${dir} to train it again"
            fi
            ${python} -m espnet_part.bin.config check --folder "${dir}"
            log "Phase ${phase} is finished: ${dir}"
            init=${dir}/${handed_on}
            continue
        fi
        if [ -n "${init}" ] && [ ! -e "${init}" ]; then
            die "phase ${phase} starts from ${init}, which is missing; stage 11 makes it: $(command_for 11 11)"
        fi
        log "Phase ${phase} started... log: '${dir}/train.log'"
        mkdir -p "${dir}"
        ${python} -m espnet_part.bin.config merge --model "${model_config}" \
            --curriculum "${opt[curriculum]}" --phase "${phase}" --folder "${dir}" \
            --train "${manifests[@]}" --valid "${valid_manifests[@]}" \
            ${init:+--init "${init}"} --set "${settings[@]}"
        train_phase "${dir}" || die "training of phase ${phase} failed: see ${dir}/train.log"
        [ -f "${dir}/.finished" ] ||
            die "phase ${phase} was stopped before its end; the same command resumes it"
        init=${dir}/${handed_on}
    done
fi


if runs 12; then
    log "Stage 12: Decode phases ${decode_phases}: ${inference_tag}$([ "${opt[lid]}" = right ] || echo ", language in the prompt: ${opt[lid]}")"
    decode_sets=${test_sets}
    if "${opt[eval_valid_set]}"; then
        for set in ${valid_set}; do
            need "${data_feats}/${set}/utt2task" 4
            decode_sets+=" $(${python} local/split_set.py "${data_feats}/${set}")"
        done
    fi
    [ -n "${decode_sets}" ] || die "there are no test sets; name them by --test_sets, or let stage 1 make them: $(command_for 1 3)"
    for phase in ${decode_phases}; do
        for lid in ${opt[lid]}; do
            decode_phase "${phase}" "${lid}"
        done
    done
fi


if runs 13; then
    log "Stage 13: Score: ${opt[expdir]}/${part_tag}/RESULTS.md"
    need "${part_exp}" 12
    references=() # what a corpus's own parts reach by themselves, such as the encoder's CTC error
    [ ! -f "${parts_dir}/references.json" ] || references=(--reference "${parts_dir}/references.json")
    ${python} -m espnet_part.bin.report --exp "$(dirname "${part_exp}")" \
        --dumpdir "${opt[dumpdir]}" "${references[@]}"
fi


if runs 14; then
    phase=${opt[phase]:-${phases##* }}
    checkpoint=${part_exp}/phase${phase}/${opt[inference_model]}
    packed=${part_exp}/phase${phase}/${part_tag}_${opt[curriculum]}_$(basename "${opt[inference_model]}" .pth).zip
    log "Stage 14: Pack phase ${phase}: ${packed}"
    need "${checkpoint}" 11
    ${python} -m espnet_part.bin.pack --part_train_config "${part_exp}/phase${phase}/config.yaml" \
        --part_model_file "${checkpoint}" --outpath "${packed}" \
        --inference_config "${opt[inference_config]}" --inference_args="${opt[inference_args]}"
fi


if runs 15; then
    phase=${opt[phase]:-${phases##* }}
    packed=${part_exp}/phase${phase}/${part_tag}_${opt[curriculum]}_$(basename "${opt[inference_model]}" .pth).zip
    log "Stage 15: Upload ${packed} to the Hugging Face hub: ${opt[hf_repo]}"
    [ -n "${opt[hf_repo]}" ] || die "stage 15 needs --hf_repo owner/name"
    need "${packed}" 14
    # shellcheck disable=SC2086 # several options
    ${python} -m espnet_part.bin.upload --pack "${packed}" --hf_repo "${opt[hf_repo]}" ${opt[upload_args]}
fi

[ "${opt[stage]}" -le 15 ] && [ "${opt[stage]}" -le "${opt[stop_stage]}" ] ||
    log "No stage has run: --stage ${opt[stage]} --stop_stage ${opt[stop_stage]}, of 1 to 15"
log "Successfully finished. [elapsed=${SECONDS}s]"
