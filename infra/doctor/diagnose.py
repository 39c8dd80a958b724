"""What is missing or wrong on this machine, each finding with its exact remedy: `pairmill doctor`.

Looks and changes nothing, except that it writes and deletes objects in a store that exists.
"""

from pathlib import Path

from infra.doctor import installation
from infra.doctor.check import Check
from infra.doctor.installation import refuse_on_clash
from infra.doctor.machine import check_disk, check_gpu, check_memory
from infra.doctor.ray_cluster import check_ray
from infra.doctor.servers import check_databases, check_ports, check_services, check_workers
from infra.doctor.store import check_store
from infra.local import services

__all__ = ["Check", "diagnose", "refuse_on_clash"]


def diagnose(store_uri: str | None = None, config: Path | None = None) -> list[Check]:
    """All checks, in the order in which remedies should be applied.

    Args:
        store_uri: the store to look at; by default the one that the demo uses.
        config: a run's config, for what it alone needs.
    """
    found = services.status()
    servers = [*check_services(found), *check_workers(found), *check_ports(), *check_databases()]
    store = check_store(store_uri or str(services.home() / "store"))
    store += check_ray(config) if config else []
    return [*_installed(), *servers, *store, check_disk(services.home()), check_memory(), check_gpu()]


def _installed() -> list[Check]:
    python, wanted = installation.requirements()
    checks = installation.check_names()
    checks.append(installation.check_checkout())
    try:
        checks += [installation.check_python(python), *installation.check_packages(wanted)]
    except ModuleNotFoundError as error:  # packaging, which the dependencies bring: nothing is installed
        remedy = f"cd {installation.CHECKOUT} && python -m pip install -e ."
        checks.append(Check("packages", False, "error", f"no dependency is installed ({error})", remedy))
    return [*checks, installation.check_backport()]
