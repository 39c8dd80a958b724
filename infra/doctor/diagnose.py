"""`pairmill doctor`: runs all checks of this machine; each failed check has a remedy.

Changes nothing, except that it writes and deletes objects in an existing store.
"""

from pathlib import Path

from infra.doctor import installation
from infra.doctor.check import Check
from infra.doctor.executors import check_executors
from infra.doctor.kernels import check_kernels
from infra.doctor.machine import check_disk, check_gpu, check_memory
from infra.doctor.servers import check_databases, check_ports, check_services, check_workers
from infra.doctor.store import check_store
from infra.local import services


def diagnose(store_uri: str | None = None, config: Path | None = None) -> list[Check]:
    """Run all checks, in the order in which their remedies should be applied.

    Args:
        store_uri: the store to check; by default that in the home.
        config: a config file, to check also what it needs.
    """
    running = services.status()
    servers = [*check_services(running), *check_workers(running), *check_ports(), *check_databases()]
    store = check_store(store_uri or str(services.home() / "store"))
    store += check_executors(config) if config else []
    return [*_check_installation(), *servers, *store, check_disk(services.home()), check_memory(), check_gpu()]


def _check_installation() -> list[Check]:
    python, packages = installation.read_requirements()
    checks = [installation.check_checkout()]
    try:
        checks += [installation.check_python(python), *installation.check_packages(packages)]
    except ModuleNotFoundError as error:  # the package `packaging`, a dependency of our dependencies
        remedy = f"cd {installation.CHECKOUT} && python -m pip install -e ."
        checks.append(Check("packages", False, "error", f"no dependency is installed ({error})", remedy))
    else:
        checks.append(check_kernels())
    return [*checks, installation.check_backport()]
