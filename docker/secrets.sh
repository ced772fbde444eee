#!/bin/sh
# Make the secrets of the compose stack that are not there yet, each a random line in docker/secrets. The files can
# be read by all because every container has a user of its own; the folder keeps the host's other users out.
set -eu
folder=$(dirname "$0")/secrets
mkdir -p "$folder"
chmod 700 "$folder"
for name in ray_token postgres_password mlflow_password mlflow_key grafana_password; do
  if [ ! -e "$folder/$name" ]; then
    od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$folder/$name"
    chmod 644 "$folder/$name"
  fi
done
echo "the passwords of MLflow and Grafana (user admin) are in $folder"
