#!/bin/sh
# NAME_FILE=/run/secrets/x becomes NAME=its content, as in PostgreSQL's image: these programs read a password
# from their environment only, and so it is in no environment file and not in the image.
set -eu
for name in PGPASSWORD MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY MLFLOW_TRACKING_PASSWORD; do
  eval "file=\${${name}_FILE:-}"
  if [ -n "$file" ]; then
    value=$(cat "$file")
    export "$name=$value"
    unset "${name}_FILE"
  fi
done
exec "$@"
