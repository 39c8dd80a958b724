"""`pairmill show RUN_OR_KEY --page FILE`: the filter's page as a file, for a run that goes no further than the filter."""

from pathlib import Path

from dataops.errors import ConfigError
from flows.report import find_snapshot, load_manifests
from flows.runs import load_run
from tasks.filter_report import report_html


def write_filter_page(name: str, home: Path, store_uri: str | None, path: Path) -> None:
    """Write the page of a filter snapshot, named by its key or by a run that made or reused it.

    Raises: ConfigError where there is none, or the file cannot be written.
    """
    found = find_snapshot(name, home, store_uri)
    manifests = [found[0]] if found else load_manifests(*load_run(name, home, store_uri))
    pages = [report_html(manifest) for manifest in manifests if manifest.stage == "filter"]
    if not pages:
        msg = f"{name} has no complete snapshot of the stage filter, which alone has a page"
        raise ConfigError(msg)
    try:
        path.write_text(pages[0], encoding="utf-8")
    except OSError as error:
        msg = f"cannot write {path}: {error.strerror or error}"
        raise ConfigError(msg) from error
