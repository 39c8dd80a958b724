"""`pairmill browse`: opens the page of a dataset in a browser, and serves it until Ctrl-C."""

import sys
import webbrowser
from contextlib import closing
from html import escape
from pathlib import Path

from dataops.errors import ConfigError
from dataops.formatting import format_quantity
from dataops.snapshot import Manifest
from dataops.stages import PAIR_STAGES
from dataops.store import Store
from flows.commands.diff import find_dataset
from flows.commands.output import print_json
from flows.records import find_snapshot, load_manifests, load_run, newest_run
from tasks.browse.database import check_installed


def browse(
    name: str | None,
    home: Path,
    store_uri: str | None,
    *,
    other: str | None,
    model: str | None,
    port: int,
    open_browser: bool,
    as_json: bool,
) -> int:
    """Serve the pages of a dataset until Ctrl-C.

    Raises: ConfigError if there is no such dataset or model, the port is in use, or the extra `browse` is not installed.
    """
    check_installed()
    from flows.browse.server import Server
    from flows.browse.site import Site

    dataset = find_rows(name or newest_run(home, store_uri), home, store_uri)
    second = find_dataset(other, home, store_uri) if other else None
    if second is not None and second[0].stage != dataset[0].stage:
        raise ConfigError(
            f"--with {other} is a snapshot of {second[0].stage}, the dataset one of {dataset[0].stage}; name two of a stage"
        )
    with closing(Site(dataset, second, model, home)) as site:
        server = Server(site, port)
        manifest = dataset[0]
        if as_json:
            shown = {"stage": manifest.stage, "key": manifest.key, "rows": manifest.counts.kept}
            print_json({"url": server.url, "token": server.token, "port": server.port, "dataset": shown})
        else:
            rows = format_quantity(manifest.counts.kept, "row")
            sys.stdout.write(f"{manifest.stage}/{manifest.key}, {rows}: {server.url}\nCtrl-C ends it.\n")
        sys.stdout.flush()
        if open_browser:
            _open(server.url, site.folder)
        server.run()
    return 0


def find_rows(name: str, home: Path, store_uri: str | None) -> tuple[Manifest, Store]:
    """Return the snapshot with this key, or the last snapshot over pairs of a run, and its store.

    Raises: ConfigError if there is none.
    """
    if find_snapshot(name, home, store_uri):
        return find_dataset(name, home, store_uri)
    record, store = load_run(name, home, store_uri)
    found = [manifest for manifest in load_manifests(record, store) if manifest.stage in PAIR_STAGES]
    if not found:
        raise ConfigError(f"run {name} has finished none of the stages {', '.join(PAIR_STAGES)}; name another run")
    return max(found, key=lambda manifest: PAIR_STAGES.index(manifest.stage)), store


def _open(url: str, folder: Path) -> None:
    """Open the page in a browser, whose command line then names a private file: other users see command lines."""
    page = folder / "open.html"
    target = escape(url)
    page.write_text(
        f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0;url={target}">'
        f'<title>pairmill browse</title><p><a href="{target}">Open the dataset</a>',
        "utf-8",
    )
    page.chmod(0o600)
    if not webbrowser.open(page.as_uri()):
        sys.stderr.write("no browser was found; open the URL in one\n")
