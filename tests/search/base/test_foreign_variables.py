"""The environment does not change what a search starts, beyond what its settings and the README say."""

from __future__ import annotations

import pytest

from search.base.foreign_variables import for_server, ignore_foreign

KEPT = {
    "MLFLOW_TRACKING_URI": "http://mlflow", "MLFLOW_TRACKING_PASSWORD": "x", "MLFLOW_S3_ENDPOINT_URL": "x",
    "MLFLOW_ARTIFACTS_DESTINATION": "s3://served",
    "AWS_ENDPOINT_URL": "http://minio", "CUDA_VISIBLE_DEVICES": "1", "RAY_AUTH_MODE": "token",
    "RAY_TMPDIR": "/t", "RAY_memory_usage_threshold": "0.9", "PATH": "/bin",
}  # fmt: skip

OF_RAY = {
    "RAY_ADDRESS": "127.0.0.1:1", "RAY_NAMESPACE": "theirs", "RAY_REDIS_ADDRESS": "redis:6379",
    "RAY_JOB_CONFIG_JSON_ENV_VAR": "{}", "RAY_RUNTIME_ENV_HOOK": "a.b", "RAY_OVERRIDE_RESOURCES": "{}",
    "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1", "TUNE_RESULT_DIR": "/elsewhere",
    "TUNE_RESULT_BUFFER_LENGTH": "10",
}  # fmt: skip

ALWAYS = {
    "MLFLOW_RUN_ID": "1", "_MLFLOW_RUN_ID": "1", "MLFLOW_EXPERIMENT_NAME": "theirs",
    "MLFLOW_WORKSPACE": "theirs", "MLFLOW_ENABLE_ASYNC_LOGGING": "1", "NVIDIA_TF32_OVERRIDE": "1",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",
}  # fmt: skip


@pytest.mark.parametrize("local", [True, False])
def test_what_would_change_a_search_is_ignored_and_named(local: bool) -> None:
    environment = KEPT | OF_RAY | ALWAYS
    assert ignore_foreign(environment, local) == sorted([*ALWAYS, *(OF_RAY if local else ())])
    assert environment == KEPT | ({} if local else OF_RAY)


def test_a_server_to_look_at_a_search_serves_as_it_is_told() -> None:
    foreign = {
        "MLFLOW_STATIC_PREFIX": "/mlflow", "MLFLOW_APP": "basic-auth", "MLFLOW_BACKEND_STORE_URI": "sqlite:///x",
        "MLFLOW_GUNICORN_OPTS": "--daemon", "GUNICORN_CMD_ARGS": "--daemon", "FLASK_APP": "x",
        "MLFLOW_ARTIFACTS_ONLY": "true", "WEB_CONCURRENCY": "9", "OPTUNA_STORAGE": "sqlite:///x",
    }  # fmt: skip
    assert for_server(KEPT | foreign) == KEPT
