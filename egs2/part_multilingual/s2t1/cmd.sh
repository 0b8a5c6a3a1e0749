# shellcheck shell=bash
# How jobs are run: ${train_cmd} for data, ${cuda_cmd} for training, ${decode_cmd} for decoding.
#
# Choose a backend here or in the environment (`cmd_backend=slurm ./run.sh ...`):
#   local    this machine
#   stdout   this machine, logs shown as well
#   slurm    sbatch, settings in conf/slurm.conf
#   sge      qsub of Grid Engine, settings in conf/queue.conf
#   pbs      qsub of Torque or PBS, settings in conf/pbs.conf
#   ssh      the machines listed in .queue/machines
# All but `local` use the scripts of an ESPnet checkout (run.pl, slurm.pl ...), which path.sh finds
# and puts on the PATH. Without a checkout, `local` is served by local/run_jobs.sh.
cmd_backend=${cmd_backend:-local}

case ${cmd_backend} in
    local) _part_cmd=run.pl ;;
    stdout) _part_cmd=stdout.pl ;;
    slurm) _part_cmd=slurm.pl ;;
    sge) _part_cmd=queue.pl ;;
    pbs) _part_cmd=pbs.pl ;;
    ssh) _part_cmd=ssh.pl ;;
    *)
        echo "cmd.sh: error: cmd_backend is local, stdout, slurm, sge, pbs or ssh, found '${cmd_backend}'" >&2
        return 1
        ;;
esac
if ! command -v "${_part_cmd}" > /dev/null; then
    if [ "${cmd_backend}" = local ]; then
        _part_cmd=local/run_jobs.sh
    else
        echo "cmd.sh: error: cmd_backend=${cmd_backend} needs ${_part_cmd} of an ESPnet checkout: set ESPNET_ROOT, or use cmd_backend=local" >&2
        return 1
    fi
fi
export train_cmd=${_part_cmd}
export cuda_cmd=${_part_cmd}
export decode_cmd=${_part_cmd}
unset _part_cmd
