-- Run once, when the volume is empty; POSTGRES_DB makes the third database, optuna.
CREATE DATABASE mlflow;
CREATE DATABASE mlflow_users;
