"""Checks for `pairmill doctor CONFIG` of the executors that the config names."""

from pathlib import Path

from dataops.errors import ConfigError
from dataops.plugins import find
from dataops.regular_files import read_text
from dataops.toml_text import parse_toml
from infra.doctor.check import Check


def check_executors(config: Path) -> list[Check]:
    """Check that what runs stages and trainings is installed and answers; return no check for this machine's processes."""
    try:
        values = parse_toml(read_text(config))
    except (OSError, ValueError) as error:
        return [Check("config", False, "error", f"{config}: {error}", "correct the path, or the TOML of the file")]
    execution, train = ({} if not isinstance(t := values.get(name), dict) else t for name in ("execution", "train"))
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
