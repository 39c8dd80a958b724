"""`pairmill backfill`: add what each of several crawls brings to a dataset that grows, in their order."""

import json as json_
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dataops.command_name import name_command
from dataops.errors import ConfigError
from dataops.escaping import escape_controls
from flows.commands.options import Json, Settings
from flows.commands.run import run
from flows.config import load_config, read_config, with_growth
from tasks.extract.config import name_tables

LAST = "pack"
"""Last stage of a version."""


def backfill(
    config: Path,
    *,
    crawl: Annotated[
        tuple[str, ...], Parameter(help="Add this crawl of Common Crawl as a version. May be repeated.")
    ] = (),
    each: Annotated[
        tuple[str, ...],
        Parameter(help="Add a version with this key: --each source.edition=2026-11. May be repeated."),
    ] = (),
    set_: Settings = (),
    dry_run: Annotated[
        bool, Parameter(negative="", help="Only show what each would do now, as `pairmill plan` does.")
    ] = False,
    json: Json = False,
) -> int:
    """Add each crawl, or each value of a key, to a dataset that grows: a version for each, in the order of the options.

    What an earlier version has read is not read again, so the same command continues after a failure or a kill.

    Args:
        config: TOML file.
    """
    settings = (*with_growth(config), *set_)
    own = list_settings(config, settings, crawl, each)
    check_versions(config, settings, own, writes=not dry_run)
    for number, setting in enumerate(own, 1):
        line = f"{number} of {len(own)}: {setting}\n"
        sys.stderr.write(escape_controls(name_command(line)))
        if code := run(config, set_=(*settings, setting), until=LAST, dry_run=dry_run, json=json):
            return code
    return 0


def list_settings(path: Path, settings: Sequence[str], crawls: Sequence[str], each: Sequence[str]) -> list[str]:
    """Return the setting of each version: `source.crawl` for crawls, else what `--each` has.

    Raises: ConfigError if there is none, both are given, a value is given twice or the values are of several keys.
    """
    if bool(crawls) == bool(each):
        raise ConfigError("name the versions by --crawl CRAWL, or by --each KEY=VALUE, once for each version")
    found = [f"{_crawl_key(path, settings)}={json_.dumps(crawl)}" for crawl in crawls] or list(each)
    keys = {setting.partition("=")[0].strip() for setting in found}
    if len(keys) > 1:
        raise ConfigError(f"--each names several keys: {', '.join(sorted(keys))}; all versions set the same key")
    if any("=" not in setting for setting in found) or "store.uri" in keys:
        raise ConfigError("write --each KEY=VALUE; the key is not store.uri: all versions are in one store")
    if repeated := [setting for number, setting in enumerate(found) if setting in found[:number]]:
        raise ConfigError(f"{repeated[0].partition('=')[2]} is named twice; each version has its own value")
    return found


def _crawl_key(path: Path, settings: Sequence[str]) -> str:
    """Return the key of the crawl of the only source of Common Crawl. Raises: ConfigError if there is not one."""
    source = read_config(path, settings)[0].get("source", {})
    tables = source if isinstance(source, list) else [source]
    names = name_tables(tables)
    found = [name for name, table in zip(names, tables, strict=True) if table.get("kind") == "common_crawl"]
    if len(found) != 1:
        raise ConfigError(
            f'{path}: --crawl needs one source of kind = "common_crawl", and there are {len(found)}; '
            "name the key by --each, such as --each source.NAME.crawl=CRAWL"
        )
    return f"source.{found[0]}.crawl" if len(tables) > 1 else "source.crawl"


def check_versions(path: Path, settings: Sequence[str], own: Sequence[str], *, writes: bool = True) -> None:
    """Check the config of each version before any work starts.

    Args:
        writes: False if the versions are only listed: nothing is written, not even to test the store.

    Raises: ConfigError with the problems of the first version whose config has any, or if they would be of several
        datasets.
    """
    lines = {load_config(path, (*settings, setting), LAST, writes=writes).line: setting for setting in own}
    if len(lines) > 1:
        raise ConfigError(
            f"{' and '.join(list(lines.values())[:2])} make datasets of their own: each version sets a key of the source "
            "that chooses what is read, such as its crawl, its edition or its paths"
        )
