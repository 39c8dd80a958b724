"""`pairmill demo`: builds a small web from real pictures and names, serves it, and mills it with the ordinary pipeline.

From the archive on, nothing is special: the flow reads WARC files and downloads over HTTP. The config is configs/demo.toml,
with the places that only this machine knows filled in.
"""

import json
import logging
import sys
import time

from dataops.home import CHECKOUT
from flows.commands.execute import execute
from flows.commands.output import console
from flows.config import load_config
from flows.records import load_run, new_run
from infra.local import services
from tasks.demo.build import build_demo_web

logger = logging.getLogger(__name__)

CONFIG = CHECKOUT / "configs" / "demo.toml"


def run_demo(*, as_json: bool) -> int:
    """Build, serve, run, and print what came out and what to try next; the run's exit code."""
    started = time.monotonic()
    running = services.up()
    web = build_demo_web(services.home() / "demo")
    server = [sys.executable, "-m", "tasks.demo.server", "--directory", str(web.site), "--port", "{port}"]
    site = services.ensure_service("demo-site", server, health_path="/healthz", env={}, port=None)
    address = str(site.url).removeprefix("http://").rstrip("/")
    settings = [
        f"store.uri={json.dumps(str(services.home() / 'store'))}",
        f"source.paths={json.dumps([str(path) for path in web.warcs])}",
        f"filter.balance.queries={json.dumps(str(web.queries))}",
        f'download.connect_to={{"{web.host}" = "{address}"}}',
        f"evaluate.suite={json.dumps(str(CONFIG.parent / 'suites' / 'demo.toml'))}",
        f"evaluate.data={json.dumps(str(web.suite_root))}",
    ]
    record = new_run(load_config(CONFIG, settings), services.home())
    code = execute(record.run_id, as_json=as_json)
    if code == 0 and not as_json:
        record, _ = load_run(record.run_id, services.home())
        _say_what_next(record.run_id, running, time.monotonic() - started)
    return code


def _say_what_next(run_id: str, running: list[services.ServiceStatus], seconds: float) -> None:
    out = console()
    out.print(f"\nDone in {seconds:.0f} s. Left running until `pairmill down`:", highlight=False)
    for service in running:
        out.print(f"  {service.name:<8} {service.ui_url}", highlight=False)
    out.print("\nTry next:", highlight=False)
    for command, what in (
        (f"pairmill show {run_id} --json", "every snapshot, part and digest of this run"),
        ("pairmill demo", "again: every snapshot is reused"),
        (f"pairmill rerun {run_id} --from evaluate", "measure the same model again"),
    ):
        out.print(f"  {command:<52} # {what}", highlight=False, soft_wrap=True)
