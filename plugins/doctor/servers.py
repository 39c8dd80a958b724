"""Checks of the servers for `pairmill doctor`: they answer, accept us, and have the right versions."""

from importlib import metadata

from dataops.plugins import load
from infra.local import services
from plugins.doctor.check import Check
from tasks.web.fetch_error import FetchError
from tasks.web.named_server import needs_proxy, send_request

_VERSION = {"prefect": "/admin/version", "mlflow": "/version"}


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


def check_late_runs() -> list[Check]:
    """Report the flow runs that no worker has begun at their time."""
    found = load("workers").get("late", list)()
    return [Check("late runs", False, "warning", "\n".join(found), "do what each line names")] if found else []


def check_external(name: str, url: str, *, answers: bool) -> list[Check]:
    """Check a server that the environment names: it answers, accepts our credentials, and has the client's version."""
    variable = services.CLIENT_VARIABLE[name]
    if not answers:
        remedy = f"start that server, or unset {variable} so that `pairmill up` starts one here"
        detail = f"{variable} names {url}, which does not answer"
        return [Check(f"{name} server", False, "error", detail, remedy)]
    if not url.startswith(("http://", "https://")):  # MLflow's client opens a database itself
        return [
            Check(f"{name} server", True, "error", f"{variable} names a database, which MLflow's client opens itself")
        ]
    if needs_proxy(url):
        return [Check(f"{name} server", True, "error", f"external, {url}; not asked: it is behind a proxy")]
    code, text = fetch_status(f"{url}{services.PROTECTED_PATH[name]}")
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


def _check_version(name: str, url: str) -> Check:
    """Check that server and client have the same minor release, which is what both projects test."""
    code, text = fetch_status(f"{url}{_VERSION[name]}")
    theirs, ours = text.strip().strip('"'), metadata.version(name)
    if code != 200 or not theirs[:1].isdigit():  # hosted services do not report it
        if name == "prefect" and fetch_status(f"{url}/api/health") == (200, "true"):
            detail, remedy = f"PREFECT_API_URL names {url}, which is not its API", f"export PREFECT_API_URL={url}/api"
            return Check("prefect API", False, "error", detail, remedy)
        return Check(f"{name} version", True, "warning", f"{ours} here; the server does not report its version")
    if theirs.split(".")[:2] == ours.split(".")[:2]:
        return Check(f"{name} version", True, "warning", f"{ours} here, {theirs} on the server")
    severity = "error" if theirs.split(".")[0] != ours.split(".")[0] else "warning"
    remedy = f"upgrade the older of the two; here: python -m pip install '{name}=={theirs}'"
    return Check(f"{name} version", False, severity, f"{ours} here, but {theirs} on the server {url}", remedy)


def fetch_status(url: str) -> tuple[int, str]:
    """Return the HTTP status (0 if there was no answer) and the body."""
    try:
        status, answer, _ = send_request(url, headers=services.authorization(url), limit=2**16)
        return status, answer.decode(errors="replace")
    except FetchError as error:
        return 0, str(error)
