"""Checks for `pairmill doctor CONFIG` if the config uses Ray for its stages or for training."""

from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from dataops.regular_files import read_text
from dataops.toml_text import parse_toml
from infra.doctor.check import Check
from tasks.engine.ray_pool import REMEDY, is_listening, missing_ray


def check_ray(
    config: Path, missing: Callable[[], str | None] = missing_ray, answers: Callable[[str], bool] = is_listening
) -> list[Check]:
    """Check that Ray is installed and its head answers; return no check if the config does not use Ray."""
    try:
        values = parse_toml(read_text(config))
    except (OSError, ValueError) as error:
        return [Check("config", False, "error", f"{config}: {error}", "correct the path, or the TOML of the file")]
    execution, train = ({} if not isinstance(t := values.get(name), dict) else t for name in ("execution", "train"))
    setting = 'execution.engine = "ray"' if execution.get("engine") == "ray" else None
    setting = 'train.launch = "ray"' if setting is None and train.get("launch") == "ray" else setting
    if setting is None:
        return []
    if problem := missing():
        return [Check("ray", False, "error", f"{config}: {setting}, but {problem}", REMEDY)]
    address, version = str(execution.get("ray_address", "auto")), metadata.version("ray")
    if address != "auto" and not answers(address):
        start = "run `ray start --head` there and `ray start --address HOST:PORT` on the other machines"
        detail = f"{config}: no Ray head answers at {address} (ray {version} is installed here)"
        return [Check("ray", False, "error", detail, f"{start}; or correct execution.ray_address")]
    return [Check("ray", True, "error", f"{version}, cluster at {address}; all its machines need this version")]
