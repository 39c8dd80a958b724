"""`pairmill backfill`: add what each of several crawls brings to a dataset that grows, in their order."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dataops.command_name import format_message
from dataops.digest import canonical_json
from dataops.errors import ConfigError
from flows.commands.options import Json, Settings
from flows.commands.run import run
from flows.config import load_config, with_growth

LAST = "pack"
"""Last stage of a version."""


def backfill(
    config: Path,
    *,
    each: Annotated[
        tuple[str, ...],
        Parameter(help="Add a version with this key: --each source.crawl=CC-MAIN-2026-43. May be repeated."),
    ] = (),
    set_: Settings = (),
    dry_run: Annotated[
        bool, Parameter(negative="", help="Only show what each would do now, as `pairmill plan` does.")
    ] = False,
    json: Json = False,
) -> int:
    """Add each value of a key, such as a crawl, to a dataset that grows: a version for each, in the order of the options.

    What an earlier version has read is not read again, so the same command continues after a failure or a kill.

    Args:
        config: TOML file.
    """
    settings = (*with_growth(config), *set_)
    check_versions(config, settings, each, writes=not dry_run)
    for number, setting in enumerate(each, 1):
        line = f"{number} of {len(each)}: {setting}\n"
        sys.stderr.write(format_message(line))
        if code := run(config, set_=(*settings, setting), until=LAST, dry_run=dry_run, json=json):
            return code
    return 0


def check_versions(path: Path, settings: Sequence[str], own: Sequence[str], *, writes: bool = True) -> None:
    """Check the config of each version before any work starts.

    Args:
        writes: False if the versions are only listed: nothing is written, not even to test the store.

    Raises: ConfigError if there is none, they set several keys, or one twice; with the problems of the first version
        whose config has any; or if they would be of several datasets, or read the same.
    """
    keys = {setting.partition("=")[0].strip() for setting in own}
    if not own or any("=" not in setting for setting in own) or "store.uri" in keys:
        raise ConfigError("write --each KEY=VALUE for each version; the key is not store.uri: all are in one store")
    if len(keys) > 1:
        raise ConfigError(f"--each names several keys: {', '.join(sorted(keys))}; all versions set the same key")
    if repeated := [setting for number, setting in enumerate(own) if setting in own[:number]]:
        raise ConfigError(f"{repeated[0].partition('=')[2]} is named twice; each version has its own value")
    configs = {setting: load_config(path, (*settings, setting), LAST, writes=writes) for setting in own}
    lines = {config.line: setting for setting, config in configs.items()}
    remedy = (
        "each version sets a key of the source that chooses what is read, such as its crawl, its edition or its paths"
    )
    if len(lines) > 1:
        raise ConfigError(f"{' and '.join(list(lines.values())[:2])} make datasets of their own: {remedy}")
    read = dict[str, str]()
    for setting, config in configs.items():
        other = read.setdefault(canonical_json(config.model_dump(mode="json")["source"]), setting)
        if other != setting:
            raise ConfigError(f"{other} and {setting} read the same: {remedy}")
