"""`pairmill show --page FILE` and `--open`: write the HTML page of a stage to a file, and open it."""

import sys
import webbrowser
from pathlib import Path
from pkgutil import resolve_name

from dataops.errors import ConfigError
from dataops.redaction import escape_for_display
from dataops.snapshot import Manifest
from dataops.store import Store
from flows.dataset_checks import find_report, insert_report
from flows.records import find_snapshot, load_manifests, load_run
from tasks.curate.step import list_steps
from tasks.download.report import report_html as download_html
from tasks.filter.report import report_html as filter_html
from tasks.pack.card import HTML_PAGE

PAGED = ("pack", "download", "filter", "curate")
"""Stages that have a page; `curate` has that of its first step with one. For a run, the first that it has counts."""


def write_stage_page(name: str, home: Path, store_uri: str | None, path: Path | None) -> Path:
    """Write the page of a snapshot, and return the file.

    Args:
        name: the key of the snapshot, or a run that made or reused it.
        path: the file; by default one in the home.

    Raises: ConfigError if there is no page, or the file cannot be written.
    """
    found = find_snapshot(name, home, store_uri)
    if found is not None:
        manifests, store = [found[0]], found[1]
    else:
        record, store = load_run(name, home, store_uri)
        manifests = load_manifests(record, store)
    paged = [one for one in manifests if one.stage in PAGED and (one.stage != "curate" or _pages_of_steps(one))]
    if not paged:
        raise ConfigError(
            f"{name} has no complete snapshot of the stages {', '.join(PAGED)}; other stages have no page"
        )
    manifest = min(paged, key=lambda manifest: PAGED.index(manifest.stage))
    written = path or home / "pages" / f"{manifest.stage}-{manifest.key}.html"
    try:
        if path is None:
            written.parent.mkdir(exist_ok=True)
        written.write_bytes(_page(manifest, store))
    except OSError as error:
        raise ConfigError(f"cannot write {written}: {error.strerror or error}") from error
    return written


def open_page(page: Path) -> None:
    """Open a page in the user's browser, and print on standard error where it is."""
    opened = webbrowser.open(page.absolute().as_uri())
    line = f"opened {page}" if opened else f"no browser was found; open {page} in one"
    sys.stderr.write(escape_for_display(line) + "\n")


def _pages_of_steps(curate: Manifest) -> list[str]:
    return [step.page for step in list_steps(curate.config) if step.page]


def _page(manifest: Manifest, store: Store) -> bytes:
    if manifest.stage == "filter":
        return filter_html(manifest).encode("utf-8", "replace")
    if manifest.stage == "curate":
        return resolve_name(_pages_of_steps(manifest)[0])(manifest, store).encode("utf-8", "replace")
    if manifest.stage == "download":
        return download_html(manifest, store).encode("utf-8", "replace")
    if not manifest.named(HTML_PAGE):
        raise ConfigError(
            f"pack/{manifest.key} was made by an earlier version of pairmill, which wrote no page; make it again"
        )
    page, report = store.read(manifest.path(HTML_PAGE)), find_report(manifest.key, store)
    return page if report is None else insert_report(page, report)
