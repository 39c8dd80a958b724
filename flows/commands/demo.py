"""`pairmill demo`: makes a small web from real images and names, serves it, and runs the ordinary pipeline on it.

The flow reads WARC files and downloads over HTTP as in any other run. The config is configs/demo.toml, with the paths and
the address of this machine added.
"""

import json
import sys
import time
from pathlib import Path

from dataops.command_name import command_name
from dataops.home import CHECKOUT
from dataops.messages.waiting import waiting
from flows.commands.output import console, first_page, message, print_waits, text
from flows.commands.run import run_record, start_servers
from flows.config import load_config
from flows.records import RunRecord, create_run, load_run
from infra.local import services
from tasks.demo.build import DemoWeb, build_demo_web

CONFIG = CHECKOUT / "configs" / "demo.toml"


def run_demo(*, as_json: bool) -> int:
    """Make and serve the demo web, run the pipeline on it, print the result and what to try next; return the exit code."""
    started = time.monotonic()
    servers = start_servers()
    with print_waits(), waiting("the demo's small web is built"):
        web = build_demo_web(services.home() / "demo")
    command = [sys.executable, "-m", "tasks.demo.server", "--directory", str(web.site), "--port", "{port}"]
    site = services.ensure_service("demo-site", command, health_path="/healthz", env={}, port=None)
    site_address = str(site.url).removeprefix("http://").rstrip("/")
    settings = demo_settings(web, services.home(), site_address)
    record = create_run(load_config(CONFIG, settings), services.home())
    code = run_record(record.run_id, as_json=as_json)
    if code == 0 and not as_json:
        record, _ = load_run(record.run_id, services.home())
        _print_next_commands(record, servers, time.monotonic() - started)
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


def _print_next_commands(record: RunRecord, servers: list[services.ServiceStatus], seconds: float) -> None:
    out = console()
    out.print()
    out.print(message(f"Done in {seconds:.0f} s. These servers keep running until `pairmill down`:"))
    for server in servers:
        page = record.model_links.get("runs", "") if server.name == "mlflow" else ""
        out.print(text(f"  {server.name:<8} {page or first_page(server)}"), soft_wrap=True)
    if any(server.login_file for server in servers):
        out.print(message("Prefect's pages ask once for a login: `pairmill status --show-login` prints it."))
    out.print()
    out.print("Try next:", highlight=False)
    name = command_name()
    commands = {
        f"{name} show {record.run_id}": "the stages, the dropped rows, and the scores",
        f"{name} trace {record.model_version}": "what the model was made from",
        f"{name} demo": "again: every snapshot is reused",
        f"{name} rerun {record.run_id} --from evaluate": "evaluate the same model again",
    }
    width = max(map(len, commands))
    for command, effect in commands.items():
        out.print(text(f"  {command:<{width}}  # {effect}"), soft_wrap=True)
