#!/usr/bin/env bash
# A Ray head on this machine, for `ray job submit` without a cluster:
#   cluster/local_cluster.sh start [--port DASHBOARD_PORT] [--cpus N]
#   cluster/local_cluster.sh status | stop
# It listens on the loopback address only, activates the project's environment (the `python` of a job's entry point is
# the one of the head), and `stop` ends what `start` began and nothing else: never `ray stop`, which ends every Ray of
# the machine. CPL_CLUSTER_DIR: where it keeps its files (a short path; sockets lie below it).
set -euo pipefail

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dir=${CPL_CLUSTER_DIR:-/tmp/cpl-ray-$(id -u)}
pid_file=$dir/head.pid
address_file=$dir/address
log=$dir/head.log

die() {
  echo "local_cluster.sh: $2" >&2
  exit "$1"
}

# Alive, and still the process that was started: a number may have been given to another one since.
running() {
  [[ -f $pid_file ]] && kill -0 "$(<"$pid_file")" 2>/dev/null && ps -o args= -p "$(<"$pid_file")" | grep -q -- "$dir"
}

free_ports() {
  python - "$@" <<'PYTHON'
import socket, sys
sockets = [socket.socket() for _ in range(int(sys.argv[1]))]
for one in sockets:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in sockets))
PYTHON
}

port_taken() {
  ! python -c 'import socket, sys; socket.socket().bind(("127.0.0.1", int(sys.argv[1])))' "$1" 2>/dev/null
}

activate() {
  if [[ -f $project/.venv/bin/activate ]]; then
    # shellcheck disable=SC1091
    source "$project/.venv/bin/activate"
  fi
  command -v ray >/dev/null || die 3 "there is no ray on the PATH; run \`make setup\` first"
}

start() {
  local port="" cpus="" ports
  while (($#)); do
    case $1 in
      --port) port=${2:?--port needs a number}; shift 2 ;;
      --cpus) cpus=${2:?--cpus needs a number}; shift 2 ;;
      *) die 3 "unknown option $1; valid are --port and --cpus" ;;
    esac
  done
  running && die 3 "already running at $(<"$address_file"); stop it first"
  activate
  [[ -n $port ]] && port_taken "$port" && die 3 "port $port is taken; name another, or leave --port out for a free one"
  mkdir -p "$dir"
  rm -f "$pid_file" "$address_file"
  # All ports are chosen free, so that another Ray on this machine does not matter.
  read -r -a ports < <(free_ports 4)
  port=${port:-${ports[1]}}
  export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token} RAY_USAGE_STATS_ENABLED=${RAY_USAGE_STATS_ENABLED:-0}
  if [[ $RAY_AUTH_MODE == token ]]; then
    ray get-auth-token --generate >/dev/null
  fi
  # A session and process group of its own: `stop` can address the whole of it. --block keeps the first process there.
  RAY_ADDRESS="" setsid ray start --head --block --temp-dir "$dir/ray" \
    --node-ip-address 127.0.0.1 --port "${ports[0]}" \
    --dashboard-host 127.0.0.1 --dashboard-port "$port" \
    --dashboard-agent-listen-port "${ports[2]}" --ray-client-server-port "${ports[3]}" \
    ${cpus:+--num-cpus "$cpus"} >"$log" 2>&1 </dev/null &
  echo $! >"$pid_file"
  echo "http://127.0.0.1:$port" >"$address_file"
  for _ in $(seq 120); do
    running || die 1 "the head ended while starting; its last words ($log): $(tail -n 3 "$log")"
    # `ray job list` answers only when the job server behind the dashboard is up
    if ray job list --address "http://127.0.0.1:$port" >/dev/null 2>&1; then
      echo "Ray is up. For ray job submit and cluster/submit.sh:"
      echo "  export RAY_ADDRESS=http://127.0.0.1:$port RAY_AUTH_MODE=$RAY_AUTH_MODE"
      return
    fi
    sleep 1
  done
  stop
  die 1 "the job server did not answer within two minutes; see $log"
}

stop() {
  running || { echo "not running"; rm -f "$pid_file" "$address_file"; return; }
  local pid
  pid=$(<"$pid_file")
  kill -TERM "$pid"
  for _ in $(seq 30); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 1
  done
  # whatever of its own group is left
  kill -KILL -- "-$pid" 2>/dev/null || true
  rm -f "$pid_file" "$address_file"
  echo "stopped"
}

status() {
  if running; then
    echo "running at $(<"$address_file")"
  else
    echo "not running"
    exit 1
  fi
}

case ${1:-} in
  start) shift; start "$@" ;;
  stop) stop ;;
  status) status ;;
  *) die 3 "say start, status or stop" ;;
esac
