"""The local Prefect and MLflow servers (SQLite, loopback) behind `pairmill up`, `down` and `status`.

They outlive the command that started them and are found again by their state under `home()/services`. A server that
the environment names (`PREFECT_API_URL`, `MLFLOW_TRACKING_URI`) is external: checked, never started or stopped. Imports
neither prefect nor mlflow, so that `apply_environment` can come before them.
"""

import base64
import logging
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from dataops.errors import ConfigError, ServiceError
from dataops.home import CHECKOUT, home, private_folder
from dataops.redaction import secret, without_credentials
from infra.local import supervisor
from infra.local.supervisor import Service, ServiceRecord

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 90.0
_EXTERNAL_PATIENCE_S = 10.0
CLIENT_VARIABLE = {"prefect": "PREFECT_API_URL", "mlflow": "MLFLOW_TRACKING_URI"}
_CLIENT_PATH = {"prefect": "/api", "mlflow": ""}
PROTECTED_PATH = {"prefect": "/admin/version", "mlflow": "/api/2.0/mlflow/experiments/search?max_results=1"}
"""What a server with users shows to those alone who give a password; its health it tells to all."""
CREDENTIALS = {
    "prefect": "PREFECT_API_KEY, or PREFECT_API_AUTH_STRING=user:password",
    "mlflow": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
}

PREFECT = Service(
    name="prefect",
    # `server start` in the foreground: Prefect's own background and ephemeral servers run `uvicorn --app-dir
    # site-packages`, where the `dataclasses` backport that img2dataset brings shadows the standard library.
    command=(sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", "{port}"),
    health_path="/api/health",
    env={
        "PREFECT_HOME": "{folder}",
        # A relative path has no characters that a database URL would misread, however odd the home folder's name.
        "PREFECT_API_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:///prefect.db",
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": "{port}",
        # The UI asks for its API where it was loaded from: right on any port, as localhost and through a tunnel.
        "PREFECT_SERVER_UI_API_URL": "/api",
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": "{folder}/ui",  # by default it is unpacked into site-packages
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # Without this any page in the user's browser may drive the API ("*").
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "http://127.0.0.1:{port},http://localhost:{port}",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "true",
    },
    port=4200,
)

MLFLOW = Service(
    name="mlflow",
    command=(
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", "{port}"),
        *("--workers", "1", "--uvicorn-opts", "--no-access-log"),  # of four workers by default, 280 MB each
        *("--backend-store-uri", "sqlite:///mlflow.db", "--artifacts-destination", "./artifacts"),
    ),
    health_path="/health",
    env={
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # no GenAI judges here: saves their processes
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_MODEL_CATALOG_URI": "",  # would be fetched from GitHub
        "DO_NOT_TRACK": "true",
    },
    port=5000,
)

_CLIENT_SETTINGS = {
    # A missing server then fails at once; the ephemeral one dies after 20 s (see PREFECT above).
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
    # Telemetry of Prefect, of MLflow, and of both.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # Our loggers reach the Prefect UI inside a flow run, and are not reproached outside of one.
    "PREFECT_LOGGING_EXTRA_LOGGERS": "flows,infra,tasks,training,dataops",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # seconds; the zombie automation (flows/deployment/automations.py) waits for them
    # 7 by default: minutes of silence when the server is down. 3 gives up after 12.5 s, long enough for its restart.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    # Models are code and safetensors; what needs unpickling is not ours.
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    # Logging a model must ask neither GitHub, nor pip's index, nor uv in the user's folder.
    "MLFLOW_MODEL_CATALOG_URI": "",
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",
    "GIT_PYTHON_REFRESH": "quiet",  # MLflow warns at length where there is no git
    "NO_ALBUMENTATIONS_UPDATE": "1",  # img2dataset's import asks PyPI for a newer version
}


@dataclass(frozen=True)
class ServiceStatus:
    """What is known of one service."""

    name: str
    url: str
    """Address for clients; empty for one that never ran."""
    ui_url: str
    pid: int | None
    state: Literal["running", "stopped", "stale", "external"]
    """stale: it was started and has died, or lives without answering; `pairmill up` heals it."""
    log: str
    healthy: bool = False
    """Whether it answers, an external one too."""


def make_home() -> Path:
    """`home()`, made for this user only where it is missing: logs, databases and job folders lie in it."""
    return private_folder(home())


def up(timeout_s: float = START_TIMEOUT_S) -> list[ServiceStatus]:
    """Start the Prefect and the MLflow server unless they run, and return when both answer.

    Safe to call again, at the same time, after a crash and after a reboot.

    Raises:
        ServiceError: one did not start (with the end of its log), or an external one does not answer.
        ConfigError: an external one does not take our password.
    """
    make_home()
    for name in CLIENT_VARIABLE:
        if url := _external(name):
            _require_external(name, url)
    wanted = [service for service in (PREFECT, MLFLOW) if not _external(service.name)]
    if not all(_is_healthy(service.name) for service in wanted):
        with supervisor.lock(_services()):
            supervisor.ensure_running(_services(), wanted, timeout_s)
    return [_status(name) for name in CLIENT_VARIABLE]


def down() -> list[ServiceStatus]:
    """Stop every service that we started (SIGTERM, after 15 s SIGKILL), and nothing else.

    Raises:
        ServiceError: another process is starting or stopping services and does not end.
    """
    if _services().is_dir():
        with supervisor.lock(_services()), ThreadPoolExecutor() as pool:
            records = {folder: supervisor.load(folder) for folder in _folders()}
            jobs = [pool.submit(supervisor.stop, folder, record) for folder, record in records.items() if record]
            for job in jobs:
                job.result()
    return status()


def status() -> list[ServiceStatus]:
    """The Prefect and the MLflow server, then what `ensure_service` started."""
    extra = [folder.name for folder in _folders() if folder.name not in CLIENT_VARIABLE]
    return [_status(name) for name in (*CLIENT_VARIABLE, *extra)]


def ensure_service(
    name: str, command: Sequence[str], health_path: str, env: Mapping[str, str], port: int | None
) -> ServiceStatus:
    """Run another loopback server beside the two, until `down`.

    Args:
        name: lower-case letters, digits, hyphens.
        command: what to run; `{port}` becomes the port, a leading `python` this interpreter. It runs in the service's
            own folder, so paths are absolute. One that runs with the same command is kept, with another one restarted.
        health_path: answers 2xx once the server is ready.
        env: added to the environment.
        port: used when it is free; None takes any.

    Raises:
        ConfigError: the name is not fit for a folder, or is that of Prefect's or MLflow's server.
        ServiceError: it did not start.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", name) or name in CLIENT_VARIABLE:
        raise ConfigError(
            f"{name!r} cannot name a service: lower-case letters, digits and hyphens, not prefect or mlflow"
        )
    words = tuple(sys.executable if i == 0 and word == "python" else word for i, word in enumerate(command))
    checkout = str(CHECKOUT)  # so that `-m tasks...` finds the code that asks for it
    service = Service(name, words, health_path, {"PYTHONPATH": checkout} | dict(env), port)
    with supervisor.lock(_services()):
        supervisor.ensure_running(_services(), [service], START_TIMEOUT_S, same_command=True)
    return _status(name)


def client_environment() -> dict[str, str]:
    """What clients of the services need in their environment: addresses of those that run, and quiet."""
    values = dict(_CLIENT_SETTINGS)
    for name, variable in CLIENT_VARIABLE.items():
        if url := _external(name) or _own_url(name):
            values[variable] = url
    if any(os.environ.get(proxy) for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")):
        # httpx and requests would ask the proxy for our loopback servers.
        told = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
        hosts = [host for host in (part.strip() for part in told.split(",")) if host]
        merged = ",".join(hosts + [host for host in ("127.0.0.1", "localhost") if host not in hosts])
        values |= {"no_proxy": merged, "NO_PROXY": merged}
    return values


_applied: dict[str, str] = {}


def apply_environment() -> dict[str, str]:
    """Set `environment()` in this process, where the user has set nothing, and return what now holds.

    Call it before prefect or mlflow is imported: Prefect reads its settings then.
    """
    effective = {}
    for name, value in client_environment().items():
        ours = os.environ.get(name) == _applied.get(name)  # unset, or set by an earlier call
        if ours or name.lower() == "no_proxy":
            if os.environ.get(name) != value and name.startswith("PREFECT_") and "prefect" in sys.modules:
                logger.warning("%s is set after prefect was imported, which does not see it", name)
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


def _external(name: str) -> str | None:
    """The server that the user's environment names, unless it is ours (set by `apply_environment` or by hand)."""
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
        web = url.startswith(("http://", "https://"))
        told = without_credentials(url)  # clients take theirs from the environment
        ui_url = told.removesuffix("/api") if web else ""
        return ServiceStatus(name, told, ui_url, None, "external", "", healthy=_external_problem(url) is None)
    folder = _services() / name
    record: ServiceRecord | None = supervisor.load(folder)
    if record is None:
        return ServiceStatus(name, "", "", None, "stopped", str(folder / "log"))
    fit = supervisor.is_healthy(folder, record)
    state = "running" if fit else "stopped" if record.pid is None else "stale"
    url = f"{record.url}{_CLIENT_PATH.get(name, '')}"
    pid = record.pid if record.alive else None
    return ServiceStatus(name, url, record.url, pid, state, str(folder / "log"), healthy=fit)


def _require_external(name: str, url: str) -> None:
    deadline = time.monotonic() + _EXTERNAL_PATIENCE_S
    while problem := _external_problem(url):
        if time.monotonic() > deadline:
            variable = CLIENT_VARIABLE[name]
            raise ServiceError(
                f"{variable} names {url}, which does not answer ({problem}). Start that server, or unset {variable} to"
                " have `pairmill up` start one here"
            )
        time.sleep(0.5)
    refusal = _external_problem(url, PROTECTED_PATH[name])
    if refusal and refusal.startswith(("HTTP 401", "HTTP 403")):
        raise ConfigError(
            f"{url} does not let us in ({refusal}): set {CREDENTIALS[name]}; `pairmill doctor` tells more"
        )


def _external_problem(url: str, path: str = "/health") -> str | None:
    """Why an external server is not usable; None when it answers, or is no web server (a database MLflow opens)."""
    if not url.startswith(("http://", "https://")):
        return None
    import urllib.error  # 25 ms that most commands need not pay
    import urllib.request

    try:
        request = urllib.request.Request(without_credentials(url) + path)  # urllib would take them for the host
        for name, value in authorization(url).items():
            request.add_unredirected_header(name, value)  # credentials are for this host only
        with urllib.request.urlopen(request, timeout=5):
            return None
    except urllib.error.HTTPError as error:
        with error:  # hosted services have no /health, but they answer
            return None if error.code == 404 else f"HTTP {error.code} {error.reason}"
    except (OSError, ValueError) as error:
        return str(error)


def authorization(url: str) -> dict[str, str]:
    """The header that the server's own client would send to an address of it; none to an address of neither server."""
    prefect, mlflow = (os.environ.get(variable, "").rstrip("/") for variable in CLIENT_VARIABLE.values())
    asked = f"{without_credentials(url)}/"

    def is_of(server: str) -> bool:
        return bool(server) and asked.startswith(f"{without_credentials(server)}/")

    if is_of(prefect):
        token, basic = secret("PREFECT_API_KEY"), secret("PREFECT_API_AUTH_STRING")
        credentials = (basic.get_secret_value() if basic else None) or _userinfo(prefect)
    elif is_of(mlflow):
        token, user = secret("MLFLOW_TRACKING_TOKEN"), os.environ.get("MLFLOW_TRACKING_USERNAME")
        password = secret("MLFLOW_TRACKING_PASSWORD")
        credentials = f"{user}:{password.get_secret_value() if password else ''}" if user else _userinfo(mlflow)
    else:
        return {}
    if token:
        return {"Authorization": f"Bearer {token.get_secret_value()}"}
    return {"Authorization": "Basic " + base64.b64encode(credentials.encode()).decode()} if credentials else {}


def _userinfo(url: str) -> str | None:
    """`user:password` of an address that holds them."""
    parts = urlsplit(url)
    return f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else None
