"""Make the versions of a backfill in their order, and print what will be done, and then what was done."""

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

from cyclopts import Parameter

from dataops.command_name import name_command
from dataops.errors import ConfigError
from dataops.escaping import escape_controls
from dataops.formatting import format_quantity
from dataops.snapshot import Manifest, find_manifest
from dataops.store import open_store
from flows.commands.options import Json, Settings
from flows.commands.output import console, message, new_table, print_json, text
from flows.commands.run import start_servers
from flows.interruption import EXIT_CODES, NAMES
from plugins.backfill.child_runs import ChildRuns, RunResult
from plugins.backfill.versions import (
    LAST,
    Version,
    find_snapshots,
    list_settings,
    load_versions,
    reuse_versions,
    with_seen,
)

AGAIN = "the same command continues; finished work is kept"


@dataclass
class Backfill:
    """A backfill at work.

    Args:
        parallel: number of versions at a time. Of those after the one that is made, only `extract` runs: their
            `filter` needs its dataset.
    """

    config: Path
    versions: Sequence[Version]
    parallel: int = 1
    runs: ChildRuns = field(default_factory=ChildRuns)
    stopped_by: signal.Signals | None = None
    """The signal that ended it."""

    def make(self) -> int:
        """Make the versions that are missing, and return the exit code: that of the first one that failed."""
        datasets = [one.dataset for one in self.versions if one.dataset is not None]
        extracts: dict[int, Future[RunResult]] = {}
        with self._handling_signals(), ThreadPoolExecutor(max(self.parallel - 1, 1)) as pool:
            try:
                for number, version in enumerate(self.versions):
                    if version.dataset is not None:
                        continue
                    self._extract_ahead(number, extracts, pool)
                    if not self._make_version(number, datasets, extracts.get(number)):
                        break
            except KeyboardInterrupt:
                self.runs.end(self.stopped_by or signal.SIGINT)
                self._mark_stopped()
            finally:
                for future in extracts.values():
                    future.cancel()
        if self.stopped_by is not None:
            return EXIT_CODES[self.stopped_by]
        return next((one.exit_code for one in self.versions if one.exit_code), 0)

    def _extract_ahead(self, number: int, extracts: dict[int, Future[RunResult]], pool: ThreadPoolExecutor) -> None:
        """Start the extracts of the versions after one."""
        for later in range(number + 1, min(number + self.parallel, len(self.versions))):
            version = self.versions[later]
            if later not in extracts and not version.is_extracted:
                extracts[later] = pool.submit(self._run, version, version.settings, "extract")

    def _make_version(self, number: int, datasets: list[Manifest], extract: Future[RunResult] | None) -> bool:
        """Make one version, and return whether it is complete.

        Args:
            datasets: those of the versions before it; its own is added.
            extract: its extract, if it runs already.
        """
        version = self.versions[number]
        version.state = "running"
        result = extract.result() if extract is not None else RunResult(0)
        config, settings = with_seen(self.config, version, datasets)
        if (found := find_snapshots(config).get(LAST)) is not None:  # made before one of those before it was deleted
            version.state, version.dataset = "reused", found
            datasets.append(found)
            return True
        if not result.exit_code:
            result = self._run(version, settings, LAST)
        version.run_id, version.exit_code, version.error = result.output.get("run_id"), result.exit_code, result.error
        if result.exit_code:
            version.state = "failed"
            return False
        version.dataset = find_manifest(open_store(config.store.uri), LAST, result.key_of(LAST) or "")
        if version.dataset is None:
            version.state, version.exit_code, version.error = "failed", 1, "the run names no dataset"
            return False
        version.state = "made"
        datasets.append(version.dataset)
        return True

    def _run(self, version: Version, settings: Sequence[str], until: str) -> RunResult:
        return self.runs.run(self.config, settings, until, f"[{version.value}] " if self.parallel > 1 else "")

    def _mark_stopped(self) -> None:
        for version in self.versions:
            if version.state == "running":
                version.state = "stopped"

    @contextmanager
    def _handling_signals(self) -> Iterator[None]:
        """Raise KeyboardInterrupt in the main thread for Ctrl-C and SIGTERM; a second signal is ignored."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, frame: FrameType | None) -> None:
            if self.stopped_by is None:
                self.stopped_by = signal.Signals(number)
                raise KeyboardInterrupt

        former: dict[signal.Signals, Any] = {number: signal.signal(number, handle) for number in EXIT_CODES}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


def backfill(
    config: Path,
    *,
    crawl: Annotated[
        tuple[str, ...], Parameter(help="Make a version of this crawl of Common Crawl. May be repeated.")
    ] = (),
    each: Annotated[
        tuple[str, ...],
        Parameter(help="Make a version with this key: --each source.edition=2026-11. May be repeated."),
    ] = (),
    set_: Settings = (),
    parallel: Annotated[
        int, Parameter(help="Number of versions at a time: while one is made, the next ones run `extract`.")
    ] = 1,
    dry_run: Annotated[bool, Parameter(negative="", help="Only print what would be done.")] = False,
    json: Json = False,
) -> int:
    """Make a dataset version for each crawl, or for each value of a key; each leaves out the pairs of those before it.

    Complete versions are reused, so the same command continues after a failure or a kill.

    Args:
        config: TOML file.
    """
    if parallel < 1:
        raise ConfigError(f"--parallel is {parallel}; it must be at least 1")
    versions = load_versions(config, set_, list_settings(config, set_, crawl, each), writes=not dry_run)
    reuse_versions(config, versions)
    missing = sum(version.dataset is None for version in versions)
    _write(f"{config}: {format_quantity(len(versions), 'version')} of the dataset, {missing:,} to make")
    for line in _plan_lines(versions):
        _write(f"  {line}")
    code = 0
    if missing and not dry_run:
        start_servers()  # before there is a run: two processes would start them at the same time
        work = Backfill(config, versions, parallel)
        code = work.make()
        if work.stopped_by is not None:
            _write(f"stopped by {NAMES[work.stopped_by]}; {AGAIN}")
        elif code:
            _write(f"versions after the one that failed need its dataset and were not made; {AGAIN}")
    if json:
        print_json({"config": str(config), "exit_code": code, "versions": [_as_json(one) for one in versions]})
    elif not dry_run:
        _show(versions)
    return code


def _plan_lines(versions: Sequence[Version]) -> Iterator[str]:
    for before, version in enumerate(versions):
        if version.dataset is not None:
            yield f"{version.setting}: reuse dataset {version.dataset.key}"
        else:
            extracted = "reuse extract, make filter to pack" if version.is_extracted else "make extract to pack"
            seen = f", without the pairs of the {format_quantity(before, 'dataset')} before it" if before else ""
            yield f"{version.setting}: {extracted}{seen}"


def _as_json(version: Version) -> dict[str, Any]:
    dataset = version.dataset
    return {
        "setting": version.setting,
        "value": version.value,
        "state": version.state,
        "dataset": dataset.key if dataset else None,
        "pairs": dataset.counts.kept if dataset else None,
        "run_id": version.run_id,
        "exit_code": version.exit_code,
        "error": version.error or None,
    }


def _show(versions: Sequence[Version]) -> None:
    out = console()
    table = new_table("Versions", "value", "state", "dataset", "pairs", "run", right=["pairs"])
    for version in versions:
        key, pairs = (version.dataset.key, f"{version.dataset.counts.kept:,}") if version.dataset else ("", "")
        table.add_row(version.value, version.state, key, pairs, version.run_id or "")
    out.print(table)
    for version in versions:
        if version.error:
            out.print(
                text(f"\n{version.value} failed with exit code {version.exit_code}: {version.error}"), soft_wrap=True
            )
            out.print(message(f"`pairmill rerun {version.run_id}` continues its run") if version.run_id else "")


def _write(line: str) -> None:
    sys.stderr.write(escape_controls(name_command(f"{line}\n")))
