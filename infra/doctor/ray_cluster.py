"""Checks for `pairmill doctor CONFIG` of a config that maps its parts over a cluster of Ray, or trains on one."""

import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from infra.doctor.check import Check
from tasks.engine.ray_pool import REMEDY, answers, missing_ray


def check_ray(
    config: Path, missing: Callable[[], str | None] = missing_ray, answers: Callable[[str], bool] = answers
) -> list[Check]:
    """Whether Ray is here and its head answers, where the config asks for it; nothing where it does not."""
    try:
        values = tomllib.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return [Check("config", False, "error", f"{config}: {error}", "name a config file that is TOML")]
    execution, train = ({} if not isinstance(t := values.get(name), dict) else t for name in ("execution", "train"))
    asks = 'execution.engine = "ray"' if execution.get("engine") == "ray" else None
    asks = 'train.launch = "ray"' if asks is None and train.get("launch") == "ray" else asks
    if asks is None:
        return []
    if what := missing():
        return [Check("ray", False, "error", f"{config}: {asks}, but {what}", REMEDY)]
    address, version = str(execution.get("ray_address", "auto")), metadata.version("ray")
    if address != "auto" and not answers(address):
        remedy = (
            "ray start --head there, and `ray start --address HOST:PORT` on the others; or mend execution.ray_address"
        )
        return [Check("ray", False, "error", f"{config}: no head answers at {address} (ray {version} here)", remedy)]
    return [Check("ray", True, "error", f"{version}, the cluster at {address}; each machine needs this version")]
