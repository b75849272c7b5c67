#!/usr/bin/env bash
# Run a cpl verb on a Ray cluster: cluster/submit.sh [--id ID] [--no-wait] [--pip] VERB CONFIG.yaml [key.sub=value ...]
#
#   --pip                   every node installs the project's dependencies for the job, at the versions of constraints.txt;
#                           for nodes with nothing but Python and the same version of Ray. Without it they have them already.
#   TORCH_INDEX             with --pip: where torch comes from beside the package index, e.g. one of CPU builds
#   RAY_ADDRESS             dashboard of the cluster, default http://127.0.0.1:8265
#   RAY_AUTH_MODE           `token` or `disabled`; unset: `token` where a token is found
#   RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH   the cluster's token; default ~/.ray/auth_token
#   MLFLOW_TRACKING_URI     handed on to the job. Secrets are not: a job's environment is shown on the dashboard.
#
# The project folder is uploaded as the job's working folder (without what .gitignore and .rayignore name) and is gone
# after the job: give `run.dir=` and every path outside the project as a path that all nodes share. The exit code is 0 if
# the job succeeded, 1 if it failed for whatever reason; the reason stands in its log and in the run's result.json.
set -euo pipefail

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
address=${RAY_ADDRESS:-http://127.0.0.1:8265}

die() {
  echo "submit.sh: $1" >&2
  exit 3
}

options=()
pip=""
while (($#)); do
  case $1 in
    --id) options+=(--submission-id "${2:?--id needs a name}"); shift 2 ;;
    --no-wait) options+=(--no-wait); shift ;;
    --pip) pip=1; shift ;;
    -*) die "unknown option $1; valid are --id, --no-wait and --pip" ;;
    *) break ;;
  esac
done
(($# >= 2)) || die "usage: cluster/submit.sh [--id ID] [--no-wait] [--pip] VERB CONFIG.yaml [key.sub=value ...]"

for word in "$@"; do
  [[ $word == run.dir=/* || $word == run.dir=*://* ]] && run_dir=$word
done
if [[ -z ${run_dir:-} ]]; then
  case $address in
    # a head on this machine sees this folder
    http://127.0.0.1:* | http://localhost:*) set -- "$@" "run.dir=$project/runs" ;;
    *) echo "submit.sh: no absolute run.dir= given; a relative one in the configuration is lost with the job" >&2 ;;
  esac
fi

if [[ -f $project/.venv/bin/activate ]]; then
  # shellcheck disable=SC1091
  source "$project/.venv/bin/activate"
fi
command -v ray >/dev/null || die "there is no ray on the PATH; run \`make setup\` first"
if [[ -z ${RAY_AUTH_MODE:-} ]] && [[ -n ${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-} || -f ~/.ray/auth_token ]]; then
  export RAY_AUTH_MODE=token
fi

cd "$project"
# Stopping the job interrupts the driver as Ctrl-C does and gives it half a minute to end the run properly.
runtime_env=$(PIP=$pip python - <<'PYTHON'
import json, os
variables = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "30"}
if os.environ.get("MLFLOW_TRACKING_URI"):
    variables["MLFLOW_TRACKING_URI"] = os.environ["MLFLOW_TRACKING_URI"]
wanted = {"env_vars": variables}
if os.environ["PIP"]:
    import hashlib, tomllib
    with open("pyproject.toml", "rb") as stream:
        packages = tomllib.load(stream)["project"]["dependencies"]
    # lines of a requirements file: pip, on the node, puts the uploaded working folder in. Ray keeps an installation by its
    # lines, so the digest makes another one where the versions have changed.
    with open("constraints.txt", "rb") as stream:
        digest = hashlib.sha256(stream.read()).hexdigest()
    packages.append("-c ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/constraints.txt # sha256 " + digest)
    if os.environ.get("TORCH_INDEX"):
        packages.append("--extra-index-url " + os.environ["TORCH_INDEX"])
    wanted["pip"] = {"packages": packages, "pip_check": False}
    wanted["config"] = {"setup_timeout_seconds": 1800}  # torch is large; Ray's default is 600
print(json.dumps(wanted))
PYTHON
)

exec ray job submit --address "$address" --working-dir . --runtime-env-json "$runtime_env" \
  ${options[@]+"${options[@]}"} -- python -m pipelines "$@"
