"""The search: a decision core over Optuna's storage, and around it Ray Tune, MLflow, commands."""
