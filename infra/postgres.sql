-- Run once by psql as the superuser, on an empty server: a role and a database for each server, which see only their own.
-- Passwords come from the environment, so that none is in a file or a process list.
\set ON_ERROR_STOP on
\getenv prefect_password PREFECT_DB_PASSWORD
\getenv mlflow_password MLFLOW_DB_PASSWORD

CREATE ROLE prefect LOGIN PASSWORD :'prefect_password';
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow_password';
CREATE DATABASE prefect OWNER prefect;
CREATE DATABASE mlflow OWNER mlflow;
REVOKE CONNECT ON DATABASE prefect, mlflow FROM PUBLIC;

\connect prefect
CREATE EXTENSION IF NOT EXISTS pg_trgm; -- searches of Prefect's pages
