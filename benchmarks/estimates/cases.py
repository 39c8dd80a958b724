"""The runs whose estimates are measured, and how one of them is planned and made."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.inputs.rows import make_parts
from dataops.formatting import format_quantity
from dataops.home import CHECKOUT
from dataops.snapshot import Manifest, load_manifest
from dataops.store import FolderStore
from infra.local import services
from plugins.demo.build import build_demo_web
from plugins.demo.command import CONFIG, QUICK, QUICK_LIMIT, apply_settings, demo_settings

QUANTITIES = ("kept", "stored_bytes", "cpu_seconds", "seconds")
"""Fields of an estimate that are compared: rows, bytes in the store, CPU time, wall time."""
PAIRS = """
name = "estimates"
store.uri = "{store}"
source = {{ kind = "pairs", paths = {lists} }}
filter.languages = ["en"]
download.contact = "https://example.org/benchmark"
"""
SITE = """
name = "estimates-site"
store.uri = "{store}"
filter.languages = ["en"]
[source]
kind = "site"
start = ["{start}"]
delay = 0.0
concurrency_per_host = 8
max_pages = 1000
connect_to = {connect_to}
[download]
connect_to = {connect_to}
host_concurrency = 32
host_rate = 0
"""


@dataclass(frozen=True)
class Case:
    """A run: its config, and the last stage."""

    name: str
    config: str
    """Text of the config, in which `{store}` is the URI of the store."""
    until: str


@dataclass(frozen=True)
class Compared:
    """One quantity of a stage, or of a whole run (stage `all`): its estimate and its real value."""

    case: str
    basis: str
    """`none` without an earlier run, else `earlier`."""
    stage: str
    quantity: str
    estimated: float
    real: float
    at_most: bool = False
    """Whether the estimate is a bound: the rows of a first crawl are not known."""

    @property
    def error(self) -> float:
        """How far the estimate is from the real value, as a share of it."""
        return self.estimated / self.real - 1 if self.real else 0.0


class Pipeline:
    """Plans and runs of configs in a folder, by the command line."""

    def __init__(self, folder: Path):
        self.folder, self.home = folder, folder / "home"

    def call(self, *command: str) -> dict[str, Any]:
        """Run a command with --json and return its result."""
        environment = {**os.environ, "PAIRMILL_HOME": str(self.home), "PYTHONPATH": str(CHECKOUT)}
        code = "from flows.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, *command, "--json"],
            env=environment,
            cwd=self.folder,
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        return json.loads(done.stdout)

    def measure(self, case: Case, say: Callable[[str], Any]) -> Iterator[Compared]:
        """Plan a case in an empty store and in the store of the earlier cases, run it there, and compare."""
        store, empty = self.folder / "store", self.folder / "empty"
        plans: dict[str, dict[str, Any]] = {}
        for basis, place in (("none", empty), ("earlier", store)):
            config = self.folder / f"{case.name.replace(' ', '-').replace(',', '')}.toml"
            config.write_text(case.config.replace("{store}", str(place)))
            if basis == "none" or store.exists():
                plans[basis] = self.call("plan", str(config), "--until", case.until)
        if plans.get("earlier") and all(one["estimate"]["basis"][0] == "measured costs" for one in made_of(plans)):
            del plans["earlier"]  # no earlier run has these stages
        result = self.call("run", str(config), "--until", case.until)
        stages = {one["stage"]: one for one in result["stages"]}
        took = [
            f"{name} {one['seconds']:.1f} s, {one.get('cpu_seconds', 0):.1f} s of CPU" for name, one in stages.items()
        ]
        say(f"{case.name}: {'; '.join(took)}")
        for basis, plan in plans.items():
            yield from compare(case.name, basis, plan, stages, FolderStore(store))


def made_of(plans: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the stages that the plan with earlier runs makes."""
    return [one for one in plans["earlier"]["stages"] if one["action"] != "reuse"]


def compare(
    case: str, basis: str, plan: Mapping[str, Any], stages: Mapping[str, Any], store: FolderStore
) -> Iterator[Compared]:
    """Yield each quantity of each stage that was made, then those of the whole run."""
    sums: dict[str, list[float]] = {name: [0.0, 0.0] for name in QUANTITIES}
    for planned in plan["stages"]:
        stage = stages[planned["stage"]]
        if stage["state"] != "Completed":
            continue
        manifest = load_manifest(store, stage["stage"], stage["key"])
        assert manifest is not None
        for name, real in real_values(stage, manifest).items():
            estimated = planned["estimate"][name]
            sums[name] = [sums[name][0] + estimated, sums[name][1] + real]
            yield Compared(case, basis, stage["stage"], name, estimated, real, planned["estimate"]["at_most"])
            if name == "kept":
                sums[name] = [estimated, real]  # those of the last stage
    for name, (estimated, real) in sums.items():
        yield Compared(case, basis, "all", name, estimated, real, plan["total"]["at_most"])


def real_values(stage: Mapping[str, Any], manifest: Manifest) -> dict[str, float]:
    """Return what a stage took, by the names in an estimate."""
    return {
        "kept": float(manifest.counts.kept),
        "stored_bytes": float(sum(part.bytes for part in manifest.parts)),
        "cpu_seconds": float(stage["cpu_seconds"] or 0),
        "seconds": float(stage["seconds"]),
    }


def pair_cases(folder: Path, sizes: Sequence[int]) -> Iterator[Case]:
    """Yield a run up to filter for each number of pairs."""
    for size in sizes:
        paths, _ = make_parts(folder / "pairs", size)
        lists = json.dumps([str(path) for path in paths])
        yield Case(
            f"pairs to filter, {format_quantity(size, 'row')}", PAIRS.format(store="{store}", lists=lists), "filter"
        )


@contextmanager
def demo_cases(folder: Path) -> Iterator[list[Case]]:
    """Serve a small demo web, and return a run of all stages on its archive and a crawl of its site."""
    os.environ["PAIRMILL_HOME"] = str(folder / "home")
    web = build_demo_web(folder / "demo", limit=QUICK_LIMIT)
    command = [sys.executable, "-m", "plugins.demo.server", "--directory", str(web.site), "--port", "{port}"]
    site = services.ensure_service("estimates-site", command, health_path="/healthz", env={}, port=None)
    address = str(site.url).removeprefix("http://").rstrip("/")
    settings = [*demo_settings(web, folder, address), *QUICK, 'store.uri="{store}"']
    whole = apply_settings(CONFIG.read_text("utf-8"), settings)
    crawl = SITE.format(store="{store}", start=web.base_url, connect_to=f'{{ "{web.host}" = "{address}" }}')
    yield [Case("demo, all stages", whole, "register"), Case("site to pack", crawl, "pack")]
