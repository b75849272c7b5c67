#!/usr/bin/env bash
# A cpl verb on the nodes of a Slurm allocation, one Ray node each:
#   sbatch --nodes=2 --gpus-per-node=1 cluster/slurm.sh run my.yaml run.dir=/shared/runs run.name=first cluster.num_workers=2
# The project with its .venv lies on storage that all nodes share; so does run.dir. A job that Slurm starts again
# (preemption, a lost node, --requeue) continues the run by its name, if there is one yet. `ray symmetric-run` ends every
# Ray process of a node when the job is over, hence --exclusive.
#   RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT   seconds for all nodes to be there, 300 (Ray's own default is 30)
# Exit code: the verb's; 1 if it was not run to its end.
#SBATCH --job-name=cpl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=cpl-%j.log
set -euo pipefail

die() {
  echo "slurm.sh: $1" >&2
  exit 3
}
usage="usage: sbatch cluster/slurm.sh VERB CONFIG.yaml run.dir=/shared/... run.name=NAME [key.sub=value ...]"
(($# >= 2)) || die "$usage"
[[ -n ${SLURM_JOB_NODELIST:-} ]] || die "this is no Slurm job; $usage"
for word in "$@"; do
  [[ $word == run.dir=/* ]] && dir=${word#run.dir=}
  [[ $word == run.name=?* ]] && name=${word#run.name=}
done
[[ -n ${dir:-} ]] || die "run.dir must be an absolute path that all nodes share; $usage"
[[ -n ${name:-} ]] || die "run.name is needed, so that the job can be continued; $usage"

# Slurm runs a copy of this script, so the folder of the submission is what counts
cd "${SLURM_SUBMIT_DIR:?}"
if [[ -f .venv/bin/activate ]]; then
  # shellcheck disable=SC1091
  source .venv/bin/activate
fi
command -v ray >/dev/null || die "there is no ray on the PATH in $PWD; run \`make setup\` there first"

# an attempt that ended before its run had a configuration has left nothing to continue
if ((${SLURM_RESTART_COUNT:-0} > 0)) && [[ -f $dir/$name/config.yaml ]]; then
  set -- "$@" run.resume=true
fi
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# a port of the job's own, and a token that only its processes know
address=$head:$((20000 + SLURM_JOB_ID % 20000))
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=${RAY_AUTH_TOKEN:-$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')}
export RAY_USAGE_STATS_ENABLED=${RAY_USAGE_STATS_ENABLED:-0}
# nodes that boot, or import from a busy file system, take longer than Ray's half minute
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=${RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT:-300}

# `ray symmetric-run` ends with 0 where `ray start` fails, without having run the verb; so the verb's exit code is noted
ended=$PWD/.cpl-$SLURM_JOB_ID.exit
rm -f "$ended"
# bash would end at once and leave srun behind; srun hands the signal on, and the verb ends its run properly
step="" told=""
trap 'if [[ -n $step ]]; then kill -TERM "$step" 2>/dev/null || true; else told=yes; fi' TERM
# shellcheck disable=SC2016
noting='ended=$1; shift; trap : TERM; "$@"; code=$?; echo "$code" >"$ended"; exit "$code"'
srun --kill-on-bad-exit=1 ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus "${SLURM_CPUS_ON_NODE:-1}" -- bash -c "$noting" bash "$ended" python -m pipelines "$@" &
step=$!
[[ -z $told ]] || kill -TERM "$step" 2>/dev/null || true # it came while srun was being started
code=0
wait "$step" || code=$?
while kill -0 "$step" 2>/dev/null; do # a signal ended the waiting, not srun
  code=0
  wait "$step" || code=$?
done
verb=$(cat "$ended" 2>/dev/null) || verb=""
rm -f "$ended"
if ((code == 0)) && [[ $verb != 0 ]]; then
  [[ -n $verb ]] || echo "slurm.sh: the verb was not run to its end; see the last lines of \`ray symmetric-run\` above" >&2
  code=${verb:-1}
fi
exit "$code"
