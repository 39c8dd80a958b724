"""The local Prefect and MLflow servers (SQLite, loopback) behind `pairmill up`, `down` and `status`.

They outlive the command that started them; later commands find them by their state files under
`home()/services`. A server that the environment names (`PREFECT_API_URL`, `MLFLOW_TRACKING_URI`) is
external: it is checked, but never started or stopped. This module imports neither prefect nor
mlflow, so that `apply_environment` can be called before they are imported.
"""

import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dataops.command_name import logs_json
from dataops.errors import ConfigError, PairmillError, ServiceError
from dataops.home import CHECKOUT, home, private_folder
from dataops.messages.waiting import pause
from dataops.plugins import CORE
from dataops.process import is_utf8
from dataops.redaction import remove_credentials
from infra.local import login, supervisor
from infra.local.supervisor import Service, ServiceRecord

logger = logging.getLogger(__name__)

CLIENT_VARIABLE = {"prefect": "PREFECT_API_URL", "mlflow": "MLFLOW_TRACKING_URI"}
_CLIENT_PATH = {"prefect": "/api", "mlflow": ""}
PROTECTED_PATH = {"prefect": "/admin/version", "mlflow": "/api/2.0/mlflow/experiments/search?max_results=1"}
"""A path that a server with users answers only with a password; its health path needs none."""
CREDENTIALS = {
    "prefect": "PREFECT_API_KEY, or PREFECT_API_AUTH_STRING=user:password",
    "mlflow": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
}

PREFECT = Service(
    name="prefect",
    # `server start` in the foreground: Prefect's own background and ephemeral servers run `uvicorn --app-dir
    # site-packages`, where the `dataclasses` backport, a dependency of img2dataset, shadows the standard library.
    command=(sys.executable, "-m", "infra.local.prefect_server", "--host", "127.0.0.1", "--port", "{port}"),
    health_path="/api/health",
    env={
        "PYTHONPATH": str(CHECKOUT),
        "PREFECT_HOME": "{folder}",
        # A relative path, since the home folder's name may have characters with a meaning in a database URL.
        "PREFECT_API_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:///prefect.db",
        # A relative path, so that the UI finds the API on any port, as localhost and through a tunnel.
        "PREFECT_SERVER_UI_API_URL": "/api",
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": "{folder}/ui",  # by default it is unpacked into site-packages
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # In memory, the places of running flows would be lost with the server, and the flows end.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        # The default ("*") lets any page in the user's browser use the API.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "http://127.0.0.1:{port},http://localhost:{port}",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # Else each start imports prefect_kubernetes, if it is installed: a fifth of the CPU time of a start.
        "PREFECT_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",
        # Runs, their logs and cards go after 90 days, events after 7; the store keeps the record of each run.
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(90 * 24 * 3600),
        "DO_NOT_TRACK": "true",
    },
    port=4200,
    secrets=login.server_environment,
)

MLFLOW = Service(
    name="mlflow",
    command=(
        *(sys.executable, "-m", "infra.local.mlflow_server", "--host", "127.0.0.1", "--port", "{port}"),
        *("--workers", "1", "--uvicorn-opts", "--no-access-log"),  # the default is four workers of 280 MB
        *("--backend-store-uri", "sqlite:///mlflow.db", "--artifacts-destination", "./artifacts"),
    ),
    health_path="/health",
    env={
        "PYTHONPATH": str(CHECKOUT),
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # for GenAI only; without it there are fewer processes
        # The default also allows "10.*", so a page of http://10.evil.example could read all by rebinding its name.
        "MLFLOW_SERVER_ALLOWED_HOSTS": "127.0.0.1,127.0.0.1:*,localhost,localhost:*",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_MODEL_CATALOG_URI": "",  # the default is fetched from GitHub
        "DO_NOT_TRACK": "true",
    },
    port=5000,
    secrets=login.webhook_environment,
)

_CLIENT_SETTINGS = {
    # Without a server, a command then fails at once; the ephemeral server dies after 20 s (see PREFECT above).
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
    # Telemetry of Prefect, of MLflow, and of both.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # Our log lines reach the Prefect UI inside a flow run, and cause no warning outside of one.
    "PREFECT_LOGGING_EXTRA_LOGGERS": ",".join((*CORE, "plugins")),
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    # Seconds; the zombie automation (plugins/deployment/automations.py) waits for heartbeats.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    # The default of 7 waits for minutes if the server is down; 3 gives up after 12.5 s, long enough for its restart.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    # Our models are code and safetensors, so nothing of ours needs unpickling.
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    # Logging a model must not contact GitHub or pip's index, or run uv in the user's folder.
    "MLFLOW_MODEL_CATALOG_URI": "",
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",
    "GIT_PYTHON_REFRESH": "quiet",  # without git, MLflow logs a long warning
    "NO_ALBUMENTATIONS_UPDATE": "1",  # importing img2dataset would ask PyPI for a newer version
}


@dataclass(frozen=True)
class ServiceStatus:
    """The state of one service."""

    name: str
    url: str
    """URL for clients; empty if the service never ran."""
    ui_url: str
    pid: int | None
    state: Literal["running", "stopped", "stale", "external"]
    """stale: it was started, but has ended or does not answer; `pairmill up` restarts it."""
    log: str
    healthy: bool = False
    """True if it answers; for external services too."""
    login_file: str = ""
    """File with the login that its pages require; empty if they require none, or one that the user has."""


def make_home() -> Path:
    """Return `home()`, created if it is missing; only this user can read it, since logs and databases are in it.

    Raises: ConfigError if it cannot be created, or its path has bytes that are not UTF-8, which Prefect and MLflow cannot
        record.
    """
    folder = home()
    if not is_utf8(str(folder)):
        raise ConfigError(f"PAIRMILL_HOME {str(folder)!r} has bytes that are not UTF-8; name another folder")
    with supervisor.writing_home(folder):
        return private_folder(folder)


def up(timeout_s: float = supervisor.START_S, external_patience_s: float = 10.0) -> list[ServiceStatus]:
    """Start the Prefect and the MLflow server unless they run, and return when both answer.

    It is safe to call it again, in two processes at the same time, after a crash and after a reboot.

    Args:
        external_patience_s: time in which an external server must answer.

    Raises:
        ServiceError: a server did not start (with the end of its log), or an external one does not answer.
        ConfigError: an external server refuses our credentials.
    """
    for name in CLIENT_VARIABLE:
        if url := _external(name):
            _require_external(name, url, external_patience_s)
    required = [service for service in (PREFECT, MLFLOW) if not _external(service.name)]
    if required:
        make_home()
    if not all(_is_healthy(service.name) for service in required):
        with supervisor.lock(_services()):
            supervisor.ensure_running(_services(), required, timeout_s)
    for folder in _folders():
        supervisor.rotate_log(folder)
    return [_status(name) for name in CLIENT_VARIABLE]


def down() -> list[ServiceStatus]:
    """Stop all services that we started, workers first: SIGTERM, and SIGKILL after 15 s, or 120 s for a worker.

    Raises:
        ServiceError: another process is starting or stopping services and does not finish.
    """
    if _services().is_dir():
        with supervisor.lock(_services()), ThreadPoolExecutor() as pool:
            records = {folder: supervisor.load(folder) for folder in _folders()}
            for of_servers in (False, True):  # workers first: they report to the servers how their flow runs end
                chosen = [one for one in records.items() if one[1] and (one[0].name in CLIENT_VARIABLE) is of_servers]
                list(pool.map(supervisor.stop, *zip(*chosen, strict=True)))
    return status()


def status() -> list[ServiceStatus]:
    """Return the states of the Prefect and the MLflow server, then of those that `ensure_service` started."""
    known = (folder.name for folder in _folders())
    return list(map(_status, dict.fromkeys([*CLIENT_VARIABLE, *known])))


def keep_running(start: Callable[[], list[ServiceStatus]], interval: float = 30.0) -> None:
    """Start servers or workers again when one has ended or hangs, until SIGTERM or Ctrl-C; then stop all of the home.

    Args:
        start: starts what does not run.
        interval: seconds between two checks.
    """
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    pids = {service.name: service.pid for service in status()}
    while not ended.wait(interval):
        try:
            running = {service.name: service.pid for service in start()}
        except PairmillError as error:  # such as a full disk: the next check may find it solved
            logger.error("%s", error)
            continue
        for name, pid in running.items():
            if pid != pids.get(name, pid):
                logger.warning("%s had ended and runs again, as process %s", name, pid)
        pids |= running
    logger.info("stopping the servers and workers")
    down()


def ensure_service(
    name: str,
    command: Sequence[str],
    health_path: str,
    env: Mapping[str, str],
    port: int | None,
    stop_grace_s: float = supervisor.STOP_GRACE_S,
) -> ServiceStatus:
    """Run another loopback server until `down` is called. A server that runs with another command is restarted.

    Args:
        name: lower-case letters, digits, hyphens.
        command: `{port}` is replaced by the port, a leading `python` by this interpreter. It runs in the service's own
            folder, so paths must be absolute.
        health_path: a path that answers 2xx once the server is ready.
        env: variables to add to the environment.
        port: the port to use if it is free; None for any.
        stop_grace_s: seconds that it has to end.

    Raises:
        ConfigError: the name is not valid, or is that of the Prefect or the MLflow server.
        ServiceError: the server did not start.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", name) or name in CLIENT_VARIABLE:
        raise ConfigError(
            f"{name!r} cannot name a service: use lower-case letters, digits and hyphens, and not prefect or mlflow"
        )
    words = tuple(sys.executable if i == 0 and word == "python" else word for i, word in enumerate(command))
    service = Service(name, words, health_path, {"PYTHONPATH": str(CHECKOUT)} | dict(env), port, None, stop_grace_s)
    with supervisor.lock(_services()):
        supervisor.ensure_running(_services(), [service], supervisor.START_S, same_command=True)
    return _status(name)


def show_login() -> str:
    """Return the login of this home's Prefect server.

    Raises:
        ConfigError: it does not run, or the environment names another server, whose login only the user has.
    """
    if url := _external("prefect"):
        raise ConfigError(f"PREFECT_API_URL names {remove_credentials(url)}, whose login pairmill does not have")
    if (own_login := _own_login()) is None:
        raise ConfigError("the Prefect server does not run, and gets its login when it starts; run `pairmill up`")
    return own_login


def client_environment() -> dict[str, str]:
    """Return the environment variables for clients of the services: URLs of running servers, and settings."""
    values = dict(_CLIENT_SETTINGS)
    if logs_json():  # Prefect's own formatter, of flow runs and workers
        values |= {"PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER": "json", "PREFECT_LOGGING_COLORS": "false"}
    for name, variable in CLIENT_VARIABLE.items():
        if url := _external(name) or _own_url(name):
            values[variable] = url
    if own_login := _own_login():
        values[login.CLIENT_LOGIN] = own_login
    if any(os.environ.get(proxy) for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")):
        # httpx and requests would send requests for our loopback servers to the proxy.
        no_proxy = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
        hosts = [host for host in (part.strip() for part in no_proxy.split(",")) if host]
        merged = ",".join(hosts + [host for host in ("127.0.0.1", "localhost") if host not in hosts])
        values |= {"no_proxy": merged, "NO_PROXY": merged}
    return values


_applied: dict[str, str] = {}


def apply_environment() -> dict[str, str]:
    """Set the variables of `client_environment()` that the user has not set, and return the resulting values.

    The login of this home's server replaces the user's, which is for another server, and no other
    server gets it. Call it before prefect or mlflow is imported: Prefect reads its settings then.
    """
    effective = {}
    if _external("prefect") and os.environ.get(login.CLIENT_LOGIN, "") == login.read_login():
        del os.environ[login.CLIENT_LOGIN]  # inherited from a process that uses this home's server
    for name, value in client_environment().items():
        is_ours = os.environ.get(name) in (None, _applied.get(name))  # unset, or set by an earlier call
        if is_ours or name.lower() == "no_proxy" or name == login.CLIENT_LOGIN:
            if os.environ.get(name) != value and name.startswith("PREFECT_") and "prefect" in sys.modules:
                logger.warning("%s is set after prefect was imported, so it has no effect", name)
            os.environ[name] = _applied[name] = value
        effective[name] = os.environ[name]
    return effective


def _services() -> Path:
    return home() / "services"


def _folders() -> list[Path]:
    return sorted(path.parent for path in _services().glob("*/state.json"))


def _own_url(name: str) -> str | None:
    record = supervisor.load(_services() / name)
    return f"{record.url}{_CLIENT_PATH.get(name, '')}" if record and record.alive else None


def _own_login() -> str | None:
    """Return the login of this home's Prefect server; None if it does not run, or the user names another server."""
    return login.read_login() if _own_url("prefect") and not _external("prefect") else None


def _external(name: str) -> str | None:
    """Return the URL of a server in the user's environment, or None if there is none or it is our own server."""
    url = os.environ.get(CLIENT_VARIABLE[name], "").rstrip("/")
    if not url or url == _applied.get(CLIENT_VARIABLE[name]):
        return None
    record = supervisor.load(_services() / name)
    return None if record and url == f"{record.url}{_CLIENT_PATH[name]}" else url


def _is_healthy(name: str) -> bool:
    record = supervisor.load(_services() / name)
    return record is not None and supervisor.is_healthy(_services() / name, record)


def _status(name: str) -> ServiceStatus:
    if name in CLIENT_VARIABLE and (url := _external(name)):
        public_url = remove_credentials(url)  # clients read their credentials from the environment
        ui_url = public_url.removesuffix("/api") if url.startswith(("http://", "https://")) else ""
        return ServiceStatus(name, public_url, ui_url, None, "external", "", healthy=_external_problem(url) is None)
    folder = _services() / name
    record: ServiceRecord | None = supervisor.load(folder)
    if record is None:
        return ServiceStatus(name, "", "", None, "stopped", str(folder / "log"))
    healthy = supervisor.is_healthy(folder, record)
    state = "running" if healthy else "stopped" if record.pid is None else "stale"
    url = f"{record.url}{_CLIENT_PATH.get(name, '')}"
    pid = record.pid if record.alive else None
    login_file = str(login.login_file()) if name == "prefect" else ""
    return ServiceStatus(name, url, record.url, pid, state, str(folder / "log"), healthy, login_file)


def _require_external(name: str, url: str, patience_s: float) -> None:
    since, deadline = time.time(), time.monotonic() + patience_s
    while problem := _external_problem(url):
        if time.monotonic() > deadline:
            variable = CLIENT_VARIABLE[name]
            raise ServiceError(
                f"{variable} names {url}, which does not answer ({problem}). Start that server, or unset {variable} so"
                " that `pairmill up` starts one here"
            )
        reason = f"{CLIENT_VARIABLE[name]} names {remove_credentials(url)}, which does not answer ({problem})"
        pause(0.5, reason, since=since, deadline=since + patience_s)
    refusal = _external_problem(url, PROTECTED_PATH[name])
    if refusal and refusal.startswith(("HTTP 401", "HTTP 403")):
        raise ConfigError(f"{url} refuses access ({refusal}): set {CREDENTIALS[name]}; `pairmill doctor` shows more")


def _external_problem(url: str, path: str = "/health") -> str | None:
    """Return why an external server is not usable; None if it answers, or only its own client can reach it.

    That is so for a database that MLflow opens itself, and for a server behind a proxy.
    """
    from tasks.web.fetch_error import FetchError  # these take 100 ms, which most commands need not wait
    from tasks.web.named_server import needs_proxy, send_request

    if not url.startswith(("http://", "https://")) or needs_proxy(url):
        return None
    try:
        status, *_ = send_request(url + path, headers=authorization(url), timeout=5)
    except FetchError as error:
        return str(error)
    # hosted services answer 404, since they have no /health, or with a redirect to a page
    return None if status < 400 or status == 404 else f"HTTP {status}"


def authorization(url: str) -> dict[str, str]:
    """Return the authorization header that a server's own client would send to this URL; empty for any other URL."""
    prefect, mlflow = (os.environ.get(variable, "").rstrip("/") for variable in CLIENT_VARIABLE.values())
    requested = f"{remove_credentials(url)}/"

    def belongs_to(server: str) -> bool:
        return bool(server) and requested.startswith(f"{remove_credentials(server)}/")

    from tasks.tracking import rest
    from tasks.web.named_server import basic_login

    if (own_login := _own_login()) and belongs_to(_own_url("prefect") or ""):
        return basic_login(prefect, own_login)
    if belongs_to(prefect):
        basic, key = os.environ.get(login.CLIENT_LOGIN), os.environ.get("PREFECT_API_KEY")
        found = basic_login(prefect) or basic_login(prefect, basic)  # Prefect's client has the same order
        return found or ({"Authorization": f"Bearer {key}"} if key else {})
    return rest.authorization(mlflow) if belongs_to(mlflow) else {}
