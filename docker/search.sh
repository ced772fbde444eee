#!/bin/sh
# A search on the cluster of the compose stack; the arguments are search.run's own. Ray wants its driver on a
# node, so this container joins as one that trains nothing.
set -eu
ray start --address=head:6379 --num-cpus=0 --num-gpus=0 --metrics-export-port=8080
exec python -m search.run --address auto --results /results \
  --study postgresql+psycopg://lictune@postgres/optuna --tracking-uri http://mlflow:5000 "$@"
