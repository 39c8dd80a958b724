"""`pairmill browse`: opens the page of a dataset in a browser, and serves it until Ctrl-C."""

import sys
import webbrowser
from contextlib import closing
from html import escape
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import Port

from dataops.errors import ConfigError
from dataops.formatting import format_quantity
from dataops.plugins import require
from dataops.snapshot import Manifest
from dataops.stages import PAIR_STAGES
from dataops.store import Store
from flows.commands.options import Json, OptionalName, StoreUri
from flows.commands.output import print_json
from flows.records import find_dataset, find_snapshot, load_manifests, load_run, newest_run
from infra.local import services


def browse(
    run_or_key: OptionalName = None,
    *,
    model: Annotated[
        str | None,
        Parameter(
            help="Model to search by meaning with (default: the newest model of the store, preferably of this data)."
        ),
    ] = None,
    port: Annotated[Port, Parameter(help="Port of the page; 0: a free one.")] = 0,
    open_: Annotated[bool, Parameter(name="--open", negative="--no-open", help="Open the page in a browser.")] = True,
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Look at the rows and images of a dataset in the browser, until Ctrl-C. It needs the extra `browse`.

    Args:
        run_or_key: A run id, or the 16 hex digits of a snapshot's key; by default the newest run.
    """
    require(["duckdb", "starlette", "uvicorn"], "browse", "pairmill browse")
    home = services.home()
    from plugins.browse.server import Server
    from plugins.browse.site import Site

    dataset = find_rows(run_or_key or newest_run(home, store), home, store)
    with closing(Site(dataset, model, home)) as site:
        server = Server(site, port)
        manifest = dataset[0]
        if json:
            shown = {"stage": manifest.stage, "key": manifest.key, "rows": manifest.counts.kept}
            print_json({"url": server.url, "token": server.token, "port": server.port, "dataset": shown})
        else:
            rows = format_quantity(manifest.counts.kept, "row")
            sys.stdout.write(f"{manifest.stage}/{manifest.key}, {rows}: {server.url}\nCtrl-C ends it.\n")
        sys.stdout.flush()
        if open_:
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
