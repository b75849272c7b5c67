#!/usr/bin/env bash
# Start an MLflow server for a team: runs in PostgreSQL, models in an S3-compatible store. Settings are variables of the
# environment, so that no password stands on a command line:
#   MLFLOW_BACKEND_STORE_URI      postgresql://USER:PASSWORD@HOST/DATABASE (needs psycopg); on one machine sqlite:///mlflow.db
#   MLFLOW_ARTIFACTS_DESTINATION  s3://BUCKET/FOLDER (needs boto3), or a folder
#   MLFLOW_S3_ENDPOINT_URL        of a store that is not Amazon's (MinIO, Ceph); keys: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY
#   MLFLOW_HOST, MLFLOW_PORT      127.0.0.1 and 5000; another host only behind something that asks who is there
#   MLFLOW_SERVER_ALLOWED_HOSTS   needed with another host: the names and addresses that clients write in MLFLOW_TRACKING_URI,
#                                 with the port, separated by commas, e.g. mlflow.example:5000,10.*; others get 403. With it
#                                 127.0.0.1 must be named too
#   MLFLOW_WORKERS                4 processes
#   PYTHON                        python
# Clients need MLFLOW_TRACKING_URI=http://HOST:PORT and nothing else: models go through the server.
set -euo pipefail

fail() {
  echo "error: $1" >&2
  exit 3
}

needs() {
  "$PYTHON" -c "import $1" 2>/dev/null || fail "$2 needs the Python package $1: pip install '$3'"
}

PYTHON=${PYTHON:-python}
export MLFLOW_HOST=${MLFLOW_HOST:-127.0.0.1} MLFLOW_PORT=${MLFLOW_PORT:-5000} MLFLOW_WORKERS=${MLFLOW_WORKERS:-4}
[ -n "${MLFLOW_BACKEND_STORE_URI:-}" ] || fail "MLFLOW_BACKEND_STORE_URI is not set; e.g. postgresql://mlflow@localhost/mlflow"
[ -n "${MLFLOW_ARTIFACTS_DESTINATION:-}" ] || fail "MLFLOW_ARTIFACTS_DESTINATION is not set; e.g. s3://models/mlflow"
needs mlflow "this script" mlflow
case $MLFLOW_BACKEND_STORE_URI in
  postgresql+psycopg2://*) needs psycopg2 "a store of postgresql+psycopg2://" psycopg2-binary ;;
  postgresql*) needs psycopg "a store of postgresql://" "psycopg[binary]" ;;
  sqlite:*) ;;
  *) fail "MLFLOW_BACKEND_STORE_URI begins with ${MLFLOW_BACKEND_STORE_URI%%:*}; valid are postgresql:// and sqlite:///" ;;
esac
case $MLFLOW_ARTIFACTS_DESTINATION in
  s3://*) needs boto3 "a destination of s3://" boto3 ;;
esac
case $MLFLOW_HOST in
  127.*|localhost|::1) ;;
  *)
    [ -n "${MLFLOW_SERVER_ALLOWED_HOSTS:-}" ] || fail "MLFLOW_HOST is $MLFLOW_HOST, but MLFLOW_SERVER_ALLOWED_HOSTS is not\
 set: MLflow refuses requests by a name that is not in it; name what clients call this server,\
 e.g. MLFLOW_SERVER_ALLOWED_HOSTS=mlflow.example:$MLFLOW_PORT,localhost:$MLFLOW_PORT"
    echo "warning: whoever reaches $MLFLOW_HOST:$MLFLOW_PORT can change runs and promote models" >&2
    ;;
esac
exec "$PYTHON" -m mlflow server --artifacts-destination "$MLFLOW_ARTIFACTS_DESTINATION"
