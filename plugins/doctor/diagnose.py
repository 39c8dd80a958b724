"""`pairmill doctor`: runs all checks of this machine; each failed check has a remedy.

Changes nothing, except that it writes and deletes objects in an existing store.
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataops.errors import ConfigError
from dataops.plugins import find
from dataops.process import has_gpu
from dataops.regular_files import read_text
from dataops.toml_text import parse_toml
from infra.local import services
from plugins.doctor import installation
from plugins.doctor.check import Check
from plugins.doctor.machine import check_compiler, check_disk, check_gpu, check_growth, check_memory
from plugins.doctor.servers import check_late_runs, check_services
from plugins.doctor.store import check_store

if TYPE_CHECKING:
    from tasks.web.address_policy import Lookup


def diagnose(store_uri: str | None = None, config: Path | None = None) -> list[Check]:
    """Run all checks, in the order in which their remedies should be applied.

    Args:
        store_uri: the store to check; by default that in the home.
        config: a config file, to check also what it needs.
    """
    store = check_store(store_uri or str(services.home() / "store"))
    store += [*check_executors(config), *check_proxy(config), *check_dns(config, services.home())] if config else []
    machine = [
        check_disk(services.home()),
        *check_growth(services.home()),
        check_memory(),
        check_gpu(),
        *_check_compiler(config),
    ]
    return [*_check_installation(), *check_services(), *check_late_runs(), *store, *machine]


def _check_compiler(config: Path | None) -> list[Check]:
    """Check the compiler where a config compiles, or this machine has a GPU."""
    train = _read_table(config, "train") if config else {}
    is_needed = train.get("compile") is True
    on_gpu = train.get("device") != "cpu" and has_gpu()
    return [check_compiler("cuda" if on_gpu else "cpu", is_needed=is_needed)] if is_needed or on_gpu else []


def _read_table(config: Path, name: str) -> dict[str, Any]:
    """Return a table of a config; an empty one if it has none, or is no TOML (which `check_executors` reports)."""
    try:
        table = parse_toml(read_text(config)).get(name)
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}


def _check_installation() -> list[Check]:
    checks = [installation.check_checkout()]
    try:
        return checks + installation.check_packages(installation.read_requirements())
    except ModuleNotFoundError as error:  # the package `packaging`, a dependency of our dependencies
        remedy = f"cd {installation.CHECKOUT} && python -m pip install -e ."
        return [*checks, Check("packages", False, "error", f"no dependency is installed ({error})", remedy)]


def check_proxy(config: Path) -> list[Check]:
    """Check a proxy of the download: which hosts it refuses is not seen from here."""
    proxy = str(_read_table(config, "download").get("proxy") or "")
    if not proxy:
        return []
    place = proxy.rpartition("@")[2].rpartition("/")[2]
    remedy = "let the proxy refuse private, loopback and link-local IP addresses, also those that names resolve to"
    return [
        Check("proxy", False, "warning", f"{place} resolves hosts, so only it can refuse private IP addresses", remedy)
    ]


def check_dns(config: Path, home: Path, lookup: "Lookup | None" = None) -> list[Check]:
    """Measure how many hosts of the downloads of the last day, up to 500, this machine resolves in a second.

    Args:
        lookup: asks for a name; by default the servers of `download.resolvers`, or the system's.
    """
    from tasks.download.host_cut import IMAGES_PER_SECOND
    from tasks.web.address_policy import DnsCache, ask_resolvers, parse_resolver  # loads TLS, and Arrow
    from tasks.web.host_state import HostState

    download, hosts = _read_table(config, "download"), list[str]()
    for path in [] if download.get("proxy") else sorted((home / "hosts").glob("*/notes.sqlite")):
        (names,) = HostState(path.parent).execute("SELECT json_group_array(host) FROM addresses") or ("[]",)
        hosts += json.loads(names)
    if not hosts:
        return []
    if lookup is None and (resolvers := download.get("resolvers")):
        lookup = ask_resolvers([parse_resolver(one) for one in resolvers])
    dns, started, hosts = DnsCache(lookup=lookup), time.monotonic(), hosts[:500]
    with ThreadPoolExecutor(len(hosts)) as pool:
        silent = sum(found is None for found in pool.map(dns.resolve, hosts))
    rate = (len(hosts) - silent) / (time.monotonic() - started)
    detail = f"{rate:,.0f} look-ups a second, of {len(hosts)} hosts of earlier downloads; {silent} without an answer; "
    detail += f"a worker requests {IMAGES_PER_SECOND:g} images a second"
    remedy = (
        "run a caching DNS server, such as unbound, on each machine that downloads, and name it in download.resolvers"
    )
    return [
        Check(
            "dns",
            rate >= IMAGES_PER_SECOND,
            "warning",
            detail,
            remedy,
        )
    ]


def check_executors(config: Path) -> list[Check]:
    """Check that what runs stages and trainings is installed and answers; return no check for this machine's processes."""
    try:
        parse_toml(read_text(config))
    except (OSError, ValueError) as error:
        return [Check("config", False, "error", f"{config}: {error}", "correct the path, or the TOML of the file")]
    execution, train = (_read_table(config, name) for name in ("execution", "train"))
    named = {str(train.get("launch")): "train.launch", str(execution.get("engine")): "execution.engine"}
    checks: list[Check] = []
    for name in sorted(set(named) - {"None", "local", "work_pool"}):
        where = f'{config}: {named[name]} = "{name}"'
        try:
            finding = find("executors", name).diagnose(execution)
        except ConfigError as error:
            checks.append(Check(name, False, "error", f"{where}: {error}", "correct it, or install what it names"))
        else:
            checks.append(Check(name, finding.ok, "error", f"{where}: {finding.detail}", finding.remedy))
    return checks
