#!/usr/bin/env bash
# Run a cpl verb on a Ray cluster: cluster/submit.sh [--id ID] [--no-wait] VERB CONFIG.yaml [key.sub=value ...]
#
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
while (($#)); do
  case $1 in
    --id) options+=(--submission-id "${2:?--id needs a name}"); shift 2 ;;
    --no-wait) options+=(--no-wait); shift ;;
    -*) die "unknown option $1; valid are --id and --no-wait" ;;
    *) break ;;
  esac
done
(($# >= 2)) || die "usage: cluster/submit.sh [--id ID] [--no-wait] VERB CONFIG.yaml [key.sub=value ...]"

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

# Stopping the job interrupts the driver as Ctrl-C does and gives it half a minute to end the run properly.
runtime_env=$(python - <<'PYTHON'
import json, os
variables = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "30"}
if os.environ.get("MLFLOW_TRACKING_URI"):
    variables["MLFLOW_TRACKING_URI"] = os.environ["MLFLOW_TRACKING_URI"]
print(json.dumps({"env_vars": variables}))
PYTHON
)

cd "$project"
exec ray job submit --address "$address" --working-dir . --runtime-env-json "$runtime_env" \
  ${options[@]+"${options[@]}"} -- python -m pipelines "$@"
