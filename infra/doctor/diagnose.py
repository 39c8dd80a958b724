"""`pairmill doctor`: runs all checks of this machine; each failed check has a remedy.

Changes nothing, except that it writes and deletes objects in an existing store.
"""

from pathlib import Path

from infra.doctor import installation
from infra.doctor.check import Check
from infra.doctor.executors import check_executors
from infra.doctor.machine import check_disk, check_gpu, check_memory
from infra.doctor.servers import check_services
from infra.doctor.store import check_store
from infra.local import services


def diagnose(store_uri: str | None = None, config: Path | None = None) -> list[Check]:
    """Run all checks, in the order in which their remedies should be applied.

    Args:
        store_uri: the store to check; by default that in the home.
        config: a config file, to check also what it needs.
    """
    store = check_store(store_uri or str(services.home() / "store"))
    store += check_executors(config) if config else []
    return [*_check_installation(), *check_services(), *store, check_disk(services.home()), check_memory(), check_gpu()]


def _check_installation() -> list[Check]:
    checks = [installation.check_checkout()]
    try:
        return checks + installation.check_packages(installation.read_requirements())
    except ModuleNotFoundError as error:  # the package `packaging`, a dependency of our dependencies
        remedy = f"cd {installation.CHECKOUT} && python -m pip install -e ."
        return [*checks, Check("packages", False, "error", f"no dependency is installed ({error})", remedy)]
