-- Run it once with psql as the superuser on an empty server. It creates a role and a database for Prefect and for MLflow;
-- each role can use only its own database. Passwords come from the environment, so that no file or process list has them.
\set ON_ERROR_STOP on
\getenv prefect_password PREFECT_DB_PASSWORD
\getenv mlflow_password MLFLOW_DB_PASSWORD

CREATE ROLE prefect LOGIN PASSWORD :'prefect_password';
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow_password';
CREATE DATABASE prefect OWNER prefect;
CREATE DATABASE mlflow OWNER mlflow;
REVOKE CONNECT ON DATABASE prefect, mlflow FROM PUBLIC;

\connect prefect
CREATE EXTENSION IF NOT EXISTS pg_trgm; -- for searches in Prefect's UI
