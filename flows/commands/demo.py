"""`pairmill demo`: makes a small web from real images and names, serves it, and runs the ordinary pipeline on it.

The flow reads WARC files and downloads over HTTP as in any other run. The config is configs/demo.toml, with the paths and
the address of this machine added.
"""

import json
import sys
import time
from pathlib import Path

from dataops.home import CHECKOUT
from flows.commands.output import console
from flows.commands.run import run_record
from flows.config import load_config
from flows.records import create_run, load_run
from infra.local import services
from tasks.demo.build import DemoWeb, build_demo_web

CONFIG = CHECKOUT / "configs" / "demo.toml"


def run_demo(*, as_json: bool) -> int:
    """Make and serve the demo web, run the pipeline on it, print the result and what to try next; return the exit code."""
    started = time.monotonic()
    servers = services.up()
    web = build_demo_web(services.home() / "demo")
    command = [sys.executable, "-m", "tasks.demo.server", "--directory", str(web.site), "--port", "{port}"]
    site = services.ensure_service("demo-site", command, health_path="/healthz", env={}, port=None)
    site_address = str(site.url).removeprefix("http://").rstrip("/")
    settings = demo_settings(web, services.home(), site_address)
    record = create_run(load_config(CONFIG, settings), services.home())
    code = run_record(record.run_id, as_json=as_json)
    if code == 0 and not as_json:
        record, _ = load_run(record.run_id, services.home())
        _print_next_commands(record.run_id, servers, time.monotonic() - started)
    return code


def demo_settings(web: DemoWeb, home: Path, site_address: str) -> list[str]:
    """Return the settings of configs/demo.toml that depend on this machine, for `load_config`.

    Args:
        home: folder of the store.
        site_address: HOST:PORT that serves the site.
    """
    return [
        f"store.uri={json.dumps(str(home / 'store'))}",
        f"source.paths={json.dumps([str(path) for path in web.warcs])}",
        f"filter.balance.queries={json.dumps(str(web.queries))}",
        f'download.connect_to={{"{web.host}" = "{site_address}"}}',
        f"evaluate.suite={json.dumps(str(CONFIG.parent / 'suites' / 'demo.toml'))}",
        f"evaluate.data={json.dumps(str(web.suite_root))}",
    ]


def _print_next_commands(run_id: str, servers: list[services.ServiceStatus], seconds: float) -> None:
    out = console()
    out.print(f"\nDone in {seconds:.0f} s. These servers keep running until `pairmill down`:", highlight=False)
    for server in servers:
        out.print(f"  {server.name:<8} {server.ui_url}", highlight=False)
    out.print("\nTry next:", highlight=False)
    for command, effect in (
        (f"pairmill show {run_id} --json", "every snapshot, part and digest of this run"),
        ("pairmill demo", "again: every snapshot is reused"),
        (f"pairmill rerun {run_id} --from evaluate", "evaluate the same model again"),
    ):
        out.print(f"  {command:<52} # {effect}", highlight=False, soft_wrap=True)
