"""`pairmill demo`: makes a small web from real images and names, serves it, and runs the ordinary pipeline on it.

The flow reads WARC files and downloads over HTTP as in any other run. The config is configs/demo.toml with this machine's
paths and port; it is written into the home, so that it can be run and varied as any other.
"""

import json as json_
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dataops.command_name import command_name
from dataops.home import CHECKOUT
from dataops.messages.waiting import waiting
from dataops.process import find_precision
from flows.commands.options import Json, Settings
from flows.commands.output import console, first_page, print_waits
from flows.commands.run import run_record, start_servers
from flows.config import load_config
from flows.records import RunRecord, create_run, load_run
from infra.local import services
from plugins.demo.build import DemoWeb, build_demo_web

CONFIG = CHECKOUT / "configs" / "demo.toml"
FROM_SCRATCH = CHECKOUT / "configs" / "demo-from-scratch.toml"
"""The same demo without pretrained weights."""
_NOTE = """\
# Written by `pairmill demo`, which also starts the site that it downloads from. Copy it to change it, or run it with --set.
#
"""


QUICK_LIMIT = 400
"""Number of emoji that `--quick` takes."""
QUICK = ('name="demo-quick"', "train.epochs=2", 'register.model_name="pairmill-demo-quick"', "register.floors={}")
"""What `--quick` changes in the config."""


def demo(
    *,
    set_: Settings = (),
    quick: Annotated[
        bool,
        Parameter(negative="", help="Take a small part of the data and train for seconds, to see every stage run."),
    ] = False,
    from_scratch: Annotated[
        bool, Parameter(negative="", help="Train without weights that others trained (configs/demo-from-scratch.toml).")
    ] = False,
    json: Json = False,
) -> int:
    """Run the whole pipeline on real data without a network: from a small web archive to a registered model."""
    started = time.monotonic()
    servers = start_servers()
    home, name = services.home(), "demo-quick" if quick else "demo"
    with print_waits(), waiting("the demo's small web is built"):
        web = build_demo_web(home / name, limit=QUICK_LIMIT if quick else None)
    command = [sys.executable, "-m", "plugins.demo.server", "--directory", str(web.site), "--port", "{port}"]
    site = services.ensure_service(f"{name}-site", command, health_path="/healthz", env={}, port=None)
    site_address = str(site.url).removeprefix("http://").rstrip("/")
    config = home / f"{name}{'-from-scratch' if from_scratch else ''}.toml"
    write_config(config, FROM_SCRATCH if from_scratch else CONFIG, web, site_address, QUICK if quick else ())
    record = create_run(load_config(config, set_), home)
    code = run_record(record.run_id, as_json=json)
    if code == 0 and not json:
        record, _ = load_run(record.run_id, home)
        if quick:
            console().write(_quick_note(web))
        _print_next_commands(record, config, servers, time.monotonic() - started)
    return code


def apply_settings(config: str, settings: Sequence[str]) -> str:
    """Return the text of a TOML config, comments included, with other values.

    Args:
        config: text in which each key has a line of its own.
        settings: `KEY=VALUE`, or `TABLE.KEY=VALUE` of a table of the config; VALUE is TOML.

    Raises: ValueError if the config has no such table.
    """
    lines = config.splitlines()
    for setting in settings:
        path, _, value = setting.partition("=")
        table, _, key = path.rpartition(".")
        start = lines.index(f"[{table}]") + 1 if table else 0
        end = next((n for n in range(start, len(lines)) if lines[n].startswith("[")), len(lines))
        at = next((n for n in range(start, end) if lines[n].startswith(f"{key} =")), None)
        lines[slice(start, start) if at is None else slice(at, at + 1)] = [f"{key} = {value}"]
    return "\n".join(lines) + "\n"


def write_config(config: Path, template: Path, web: DemoWeb, site_address: str, settings: Sequence[str] = ()) -> Path:
    """Write a config of the demo, with what depends on this machine, and return it.

    It names nothing outside its folder, which may be moved: the suite is copied beside the data.

    Args:
        config: a file in the folder of the store and of the web.
        site_address: HOST:PORT that serves the site.
    """
    home, suite = config.parent, web.suite_root.parent / "suite.toml"
    suite.write_bytes((CONFIG.parent / "suites" / "demo.toml").read_bytes())
    own = [
        'store.uri="store"',
        f"source.paths={_quote([str(path.relative_to(home)) for path in web.warcs])}",
        f"filter.balance.queries={_quote(str(web.queries.relative_to(home)))}",
        f'download.connect_to={{"{web.host}" = "{site_address}"}}',
        f"evaluate.suite={_quote(str(suite.relative_to(home)))}",
        f"evaluate.data={_quote(str(web.suite_root.relative_to(home)))}",
    ]
    if find_precision(on_gpu=False) != "bf16":
        own.append('evaluate.precision="fp32"')
    config.write_text(_NOTE + apply_settings(template.read_text("utf-8"), [*own, *settings]), "utf-8")
    return config


def _quote(value: str | list[str]) -> str:
    return json_.dumps(value, ensure_ascii=False)


def _quick_note(web: DemoWeb) -> str:
    return (
        f"\n--quick took {web.counts['emoji']} of the emoji and trained for two epochs. It shows that every stage runs; "
        f"the model has learnt next to nothing. `{command_name()} demo` trains one that has."
    )


def _print_next_commands(
    record: RunRecord, config: Path, servers: list[services.ServiceStatus], seconds: float
) -> None:
    out = console()
    out.message(f"\nDone in {seconds:.0f} s. These servers keep running until `pairmill down`:")
    for server in servers:
        page = record.model_links.get("runs", "") if server.name == "mlflow" else ""
        out.write(f"  {server.name:<8} {page or first_page(server)}")
    if any(server.login_file for server in servers):
        out.message("Prefect's pages ask once for a login: `pairmill status --show-login` prints it.")
    out.print()
    out.print("Open next:", highlight=False)
    name = command_name()
    commands = {
        f"{name} show --open": "the page of the dataset, in your browser: its images, and what was dropped and why",
        f"{name} show {record.run_id}": "the stages, the dropped rows, and the scores",
        f"{name} trace {record.model_version}": "what the model was made from",
        f"{name} run {_shorten(config)} --set train.epochs=30": "train again: all stages before are reused",
        f"{name} demo{_options(record.name)}": "again: every snapshot is reused",
    }
    width = max(map(len, commands))
    for command, effect in commands.items():
        out.write(f"  {command:<{width}}  # {effect}")


def _options(name: str) -> str:
    """Return the options of the command that ran a demo, by the name of its run."""
    return {"demo-quick": " --quick", "demo-from-scratch": " --from-scratch"}.get(name, "")


def _shorten(path: Path) -> str:
    """Return a path as short as a shell takes it in the working directory."""
    return shlex.quote(str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path))
