"""Checks of the servers for `pairmill doctor`: they answer, accept us, and have the right versions and databases."""

import json
import os
from collections.abc import Callable
from importlib import metadata, util
from typing import Any

from infra.doctor.check import Check
from infra.local import processes, services
from tasks.web.fetch_error import FetchError
from tasks.web.named_server import needs_proxy, send_request

_VERSION = {"prefect": "/admin/version", "mlflow": "/version"}
_DRIVERS = {"postgresql": "psycopg", "postgres": "psycopg", "mysql": "MySQLdb", "sqlite": "sqlite3"}
"""The driver that SQLAlchemy 2.1 uses if a URL names none, by dialect.

Source: SQLAlchemy's changelog, 2.1.0: the default of postgresql:// is psycopg.
"""
SQLITE_WORKERS = 3
"""Maximum number of workers of a Prefect server on SQLite: more wait for its single writer."""


def check_services(statuses: list[services.ServiceStatus] | None = None) -> list[Check]:
    """Check that the servers answer and accept our credentials. A stopped local server is fine: a run starts it."""
    checks = []
    for service in services.status() if statuses is None else statuses:
        name = f"{service.name} server"
        if service.state == "external":
            checks += check_external(service.name, service.url, answers=service.healthy)
        elif service.healthy:
            checks.append(Check(name, True, "error", f"{service.state}, {service.url}"))
        elif service.state == "stale":
            detail = f"it was started at {service.url}, but does not answer; its log is {service.log}"
            checks.append(Check(name, False, "warning", detail, "pairmill up"))
        else:
            checks.append(Check(name, True, "warning", "not running; `pairmill up` or a run starts it"))
    return checks


def check_external(name: str, url: str, *, answers: bool) -> list[Check]:
    """Check a server that the environment names: it answers, accepts our credentials, and has the client's version."""
    variable = services.CLIENT_VARIABLE[name]
    if not answers:
        remedy = f"start that server, or unset {variable} so that `pairmill up` starts one here"
        detail = f"{variable} names {url}, which does not answer"
        return [Check(f"{name} server", False, "error", detail, remedy)]
    if not url.startswith(("http://", "https://")):  # MLflow's client opens a database itself
        return [check_database(variable)]
    if needs_proxy(url):
        return [Check(f"{name} server", True, "error", f"external, {url}; not asked: it is behind a proxy")]
    code, text = _get(f"{url}{services.PROTECTED_PATH[name]}")
    if code == 401 or (code == 403 and "host" not in text.lower()):
        detail = f"{url} answers, but refuses access (HTTP {code})"
        return [Check(f"{name} server", False, "error", detail, f"set {services.CREDENTIALS[name]}")]
    if code == 403:
        detail = f"{url} does not allow this host name: {text.strip()[:200]}"
        remedy = "start `mlflow server` with --allowed-hosts that lists its current hosts and this host:port"
        return [Check(f"{name} server", False, "error", detail, remedy)]
    if code >= 500 or code == 0:
        detail = f"{url} answers HTTP {code or 'nothing'}: {text.strip()[:200]}"
        remedy = "read that server's log: its database may not answer"
        return [Check(f"{name} server", False, "error", detail, remedy)]
    return [Check(f"{name} server", True, "error", f"external, {url}"), _check_version(name, url)]


def _check_version(name: str, url: str, installed: Callable[[str], str] = metadata.version) -> Check:
    """Check that server and client have the same minor release, which is what both projects test."""
    code, text = _get(f"{url}{_VERSION[name]}")
    theirs, ours = text.strip().strip('"'), installed(name)
    if code != 200 or not theirs[:1].isdigit():  # hosted services do not report it
        return Check(f"{name} version", True, "warning", f"{ours} here; the server does not report its version")
    if theirs.split(".")[:2] == ours.split(".")[:2]:
        return Check(f"{name} version", True, "warning", f"{ours} here, {theirs} on the server")
    severity = "error" if theirs.split(".")[0] != ours.split(".")[0] else "warning"
    remedy = f"upgrade the older of the two; here: python -m pip install '{name}=={theirs}'"
    return Check(f"{name} version", False, severity, f"{ours} here, but {theirs} on the server {url}", remedy)


def check_ports(is_port_free: Callable[[int], bool] = processes.is_port_free) -> list[Check]:
    """Check which program uses the servers' default ports. If it is another one, our server uses another port."""
    own = {service.name: service for service in services.status()}
    checks = []
    for service in (services.PREFECT, services.MLFLOW):
        port, status = service.port or 0, own[service.name]
        if status.state == "external":
            continue
        if status.healthy and status.ui_url.endswith(f":{port}"):
            detail = f"our {service.name} server"
        else:
            detail = "free"
            if not is_port_free(port):
                user = processes.describe_listener(port)
                detail = f"used by {user}; the {service.name} server of this home will use another port"
        checks.append(Check(f"port {port}", True, "warning", detail))
    return checks


def check_databases() -> list[Check]:
    """Check the databases that the environment names, for a client or for a server that will be started here."""
    names = (
        "PREFECT_SERVER_DATABASE_CONNECTION_URL",
        "PREFECT_API_DATABASE_CONNECTION_URL",
        "MLFLOW_BACKEND_STORE_URI",
    )
    return [check_database(name) for name in names if os.environ.get(name)]


def check_database(variable: str) -> Check:
    """Check that the driver of a database URL is installed and the database accepts us. Results hold no password."""
    url = os.environ[variable]
    name = "prefect database" if variable.startswith("PREFECT") else "mlflow database"
    scheme, _, rest = url.partition("://")
    shown = f"{variable} ({scheme}://…@{rest.rpartition('@')[2]})"
    dialect, _, driver = scheme.partition("+")
    if dialect not in _DRIVERS:  # the name of a hosted server, or a folder
        return Check(name, True, "error", f"{variable} names no database")
    needed = driver or _DRIVERS.get(dialect, dialect)
    if name == "prefect database" and needed not in ("asyncpg", "aiosqlite"):
        remedy = f"write it as postgresql+asyncpg://{'…' if rest else ''}"
        return Check(name, False, "error", f"{shown}: Prefect supports only the driver asyncpg for Postgres", remedy)
    if util.find_spec(needed) is None:
        # MLflow would retry for minutes before it reports the missing module.
        install = "python -m pip install -e '.[server]', and write it as postgresql+psycopg://…"
        remedy = install if dialect.startswith("postgres") else f"install the driver {needed}"
        return Check(name, False, "error", f"{shown}: the driver {needed} is not installed", remedy)
    problem, remedy = _postgres_problem(url) if dialect.startswith("postgres") else ("", "")
    if problem:
        return Check(name, False, "error", f"{shown}: {problem}", remedy)
    if name == "prefect database" and dialect.startswith("postgres") and not _has_trigrams(url):
        remedy = "as its owner: CREATE EXTENSION pg_trgm; (it is in Debian's package postgresql-contrib)"
        return Check(name, False, "error", f"{shown}: the extension pg_trgm is missing", remedy)
    return Check(name, True, "error", shown)


def _postgres_problem(url: str) -> tuple[str, str]:
    """Return why Postgres refuses a connection, and the remedy; empty strings if it accepts, or psycopg is missing."""
    if util.find_spec("psycopg") is None:
        return "", ""
    import psycopg

    try:
        psycopg.connect(_conninfo(url), connect_timeout=5).close()
    except psycopg.OperationalError as error:
        text = " ".join(str(error).split())
        if "authentication failed" in text or "no password supplied" in text:
            return text, "correct its user and password"
        if "does not exist" in text:
            return text, "create it, as infra/postgres.sql does"
        return text, "start Postgres, or correct its host and port"
    return "", ""


def _has_trigrams(url: str) -> bool:
    if util.find_spec("psycopg") is None:
        return True
    import psycopg

    with psycopg.connect(_conninfo(url), connect_timeout=5) as connection:
        return connection.execute("select 1 from pg_extension where extname = 'pg_trgm'").fetchone() is not None


def _conninfo(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme.partition('+')[0]}://{rest}"


def check_workers(statuses: list[services.ServiceStatus] | None = None) -> list[Check]:
    """Return a failed check if too many workers poll the local Prefect server, whose database is SQLite."""
    prefect = next(s for s in (services.status() if statuses is None else statuses) if s.name == "prefect")
    if prefect.state == "external" or not prefect.healthy:
        return []
    online = 0
    for pool in _post(f"{prefect.url}/work_pools/filter"):
        workers = _post(f"{prefect.url}/work_pools/{pool['name']}/workers/filter")
        online += sum(worker.get("status") == "ONLINE" for worker in workers)
    if online <= SQLITE_WORKERS:
        return []
    detail = f"{online} workers poll this server, whose database is SQLite: it will log `database is locked`"
    return [Check("prefect database", False, "warning", detail, "run Prefect with Postgres, as in infra/compose.yaml")]


def _get(url: str, body: bytes = b"") -> tuple[int, str]:
    """Return the HTTP status (0 if there was no answer) and the body, POST if the request has one."""
    try:
        status, answer = send_request(url, body, headers=services.authorization(url), limit=2**22)
        return status, answer.decode(errors="replace")
    except FetchError as error:
        return 0, str(error)


def _post(url: str) -> list[dict[str, Any]]:
    code, text = _get(url, b"{}")
    return json.loads(text) if code == 200 else []
