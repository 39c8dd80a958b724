"""Plan a backfill: the setting of each version, and which snapshots of it exist already."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dataops.errors import ConfigError, CorruptPart
from dataops.snapshot import Manifest, find_manifest
from dataops.stages import STAGES
from dataops.store import Store, open_store
from flows.config import RunConfig, load_config, read_config
from tasks.engine.stage import plan
from tasks.extract.config import name_tables

LAST = "pack"
"""Last stage of a version."""
VersionState = Literal["waiting", "running", "reused", "made", "failed", "stopped"]


@dataclass
class Version:
    """One dataset version of a backfill."""

    setting: str
    """Its value of the key, as `--set` takes it."""
    settings: tuple[str, ...]
    """All its settings but `filter.seen`."""
    state: VersionState = "waiting"
    dataset: Manifest | None = None
    is_extracted: bool = False
    run_id: str | None = None
    exit_code: int = 0
    error: str = ""

    @property
    def value(self) -> str:
        """The value of the key, without quotation marks."""
        return self.setting.partition("=")[2].strip('"')


def list_settings(path: Path, settings: Sequence[str], crawls: Sequence[str], each: Sequence[str]) -> list[str]:
    """Return the setting of each version: `source.crawl` for crawls, else what `--each` has.

    Raises: ConfigError if there is none, both are given, a value is given twice or the values are of several keys.
    """
    if bool(crawls) == bool(each):
        raise ConfigError("name the versions by --crawl CRAWL, or by --each KEY=VALUE, once for each version")
    found = [f"{_crawl_key(path, settings)}={json.dumps(crawl)}" for crawl in crawls] or list(each)
    keys = {setting.partition("=")[0].strip() for setting in found}
    if len(keys) > 1:
        raise ConfigError(f"--each names several keys: {', '.join(sorted(keys))}; all versions set the same key")
    if any("=" not in setting for setting in found) or keys & {"filter.seen", "store.uri"}:
        raise ConfigError("write --each KEY=VALUE; the key is not filter.seen, which a backfill sets, nor store.uri")
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


def load_versions(path: Path, settings: Sequence[str], own: Sequence[str], *, writes: bool = True) -> list[Version]:
    """Check the config of each version before any work starts, and return the versions.

    Args:
        writes: False if the versions are only listed: nothing is written, not even to test the store.

    Raises: ConfigError with the problems of the first version whose config has any.
    """
    versions = [Version(setting, (*settings, setting)) for setting in own]
    for version in versions:
        load_config(path, version.settings, LAST, writes=writes)
    return versions


def with_seen(path: Path, version: Version, before: Sequence[Manifest]) -> tuple[RunConfig, tuple[str, ...]]:
    """Return the config of a version that leaves out the pairs of the datasets before it, and its settings."""
    config = load_config(path, version.settings, LAST, writes=False)
    seen = list(dict.fromkeys([*config.filter.seen, *(dataset.key for dataset in before)]))
    if not before:
        return config, version.settings
    settings = (*version.settings, f"filter.seen={json.dumps(seen)}")
    return load_config(path, settings, LAST, writes=False), settings


def find_snapshots(config: RunConfig) -> dict[str, Manifest]:
    """Return the complete snapshots of a config by stage, up to the first stage that has to be made."""
    from flows.pipeline import PIPELINE  # imports Prefect

    store, found = open_store(config.store.uri), dict[str, Manifest]()
    for step in PIPELINE[: STAGES.index(LAST) + 1]:
        upstream = [found[name] for name in step.reads]
        planned = plan(step.stage, config.stage_config(step.table), config.seed, upstream, store)
        manifest = _find_complete(store, step.stage.name, planned.key)
        if manifest is None:
            break
        found[step.stage.name] = manifest
    return found


def _find_complete(store: Store, stage: str, key: str) -> Manifest | None:
    try:
        return find_manifest(store, stage, key)
    except CorruptPart:  # the run makes it again
        return None


def reuse_versions(path: Path, versions: Sequence[Version]) -> list[Manifest]:
    """Find the datasets of the first versions, up to the first one that has to be made, and mark these as reused.

    Of the versions after it, whose datasets are not known yet, only finished extracts are found.
    """
    datasets: list[Manifest] = []
    for number, version in enumerate(versions):
        config, _ = with_seen(path, version, datasets)
        found = find_snapshots(config)
        version.is_extracted = "extract" in found
        if LAST in found and len(datasets) == number:
            version.state, version.dataset = "reused", found[LAST]
            datasets.append(found[LAST])
    return datasets
