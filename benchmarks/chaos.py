"""Kills a pipeline at random moments in every stage until it is through, again and again: `python -m benchmarks.chaos`.

A cycle is one run on an empty store. In each of its stages some process of the run dies by SIGKILL (the command itself, a
worker, torchrun, the trainer, the evaluator) or all of them do, with or without what a lost power supply leaves behind:
files of no length. `pairmill rerun` goes on until the run completes. Then everything is compared with an undisturbed run:
one dataset digest, one weights digest, one evaluation digest; no sample lost or doubled; no process, temporary file or
second model version left. tests/e2e/test_chaos.py runs a short one.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import chaos_checks as checks
from benchmarks.victims import MARK, ended, kill, living
from dataops.snapshot import find
from dataops.store import FolderStore
from flows.runs import RunRecord
from infra import services
from tasks.demo.build import build_demo_web

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("extract", "filter", "download", "curate", "pack", "train", "evaluate", "register")
PATIENCE = 240
"""Seconds within which a command must end or reach its moment."""
CONFIG = """
name = "chaos"
[store]
uri = {store}
[source]
kind = "warc"
paths = [{archive}]
[filter]
languages = ["en"]
language_min_score = 0.5
language_page_weight = 0.8
[download]
image_size = 64
resize_mode = "border"
shard_size = 20
connect_to = {{ "{host}" = "{site}" }}
[curate]
min_side = 32
[pack]
shard_size = 16
[train]
model = {model}
epochs = 4
batch_size = 16
lr = 1e-3
vocab_size = 400
checkpoint_every = 3
precision = "fp32"
[evaluate]
suite = {suite}
data = {data}
[register]
model_name = "chaos"
"""


@dataclass(frozen=True)
class Ground:
    """Where the command runs: a folder, an environment with servers, and how a config for a store is written."""

    folder: Path
    home: Path
    env: dict[str, str] = field(repr=False)
    config_for: Callable[[Path], str]

    @property
    def temporary(self) -> Path:
        """The TMPDIR of all disturbed runs."""
        return self.folder / "tmp"


@dataclass(frozen=True)
class Kill:
    """One death, and where the run stood."""

    stage: str
    victim: str
    seconds: float
    """Since the stage began."""
    emptied: tuple[str, ...] = ()
    """Objects that were left with no bytes, as after a power loss."""


@dataclass
class Outcome:
    """What a chaos run found."""

    kills: list[Kill] = field(default_factory=list)
    exits: Counter[str] = field(default_factory=Counter)
    cycles: int = 0
    findings: list[str] = field(default_factory=list)
    swept: Counter[str] = field(default_factory=Counter)
    """Rubbish that `pairmill gc` had to sweep, by kind."""


class Chaos:
    """Disturbed runs on one ground, compared with an undisturbed one."""

    def __init__(self, ground: Ground, seed: int, say: Callable[[str], None] = lambda line: None):
        self.ground, self.random, self.say = ground, random.Random(seed), say
        self.outcome = Outcome()
        self.typical: dict[str, float] = {}
        self.parts: dict[str, int] = {}
        self.reference: dict[str, str] = {}
        ground.temporary.mkdir(parents=True, exist_ok=True)

    # One command -----------------------------------------------------------------------------------------------------

    def _start(self, token: str, *arguments: str) -> subprocess.Popen[bytes]:
        env = {**self.ground.env, MARK: token, "TMPDIR": str(self.ground.temporary)}
        with (self.ground.folder / "chaos.log").open("ab") as log:
            log.write(f"\n--- {datetime.now(UTC):%H:%M:%S} {' '.join(arguments)}\n".encode())
            log.flush()
            command = [sys.executable, "-m", "flows.cli", *arguments]
            return subprocess.Popen(command, cwd=self.ground.folder, env=env, stdout=log, stderr=log)

    def _finish(self, process: subprocess.Popen[bytes]) -> int:
        try:
            code = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.outcome.findings.append(f"a command hung for {PATIENCE} s")
            process.kill()
            code = process.wait()
        self.outcome.exits[str(code)] += 1
        return code

    def undisturbed(self, store: Path) -> None:
        """Run once in peace: the digests to compare with, and how long each stage takes."""
        process = self._start("undisturbed", "run", str(self._config(store)))
        if self._finish(process):
            raise RuntimeError(f"the undisturbed run failed; see {self.ground.folder / 'chaos.log'}")
        record = newest(store)
        assert record is not None
        self.typical = {stage.stage: stage.seconds for stage in record.stages}
        found = checks.manifests(record, FolderStore(store))
        self.reference = checks.digests(found)
        self.parts = {stage: len(manifest.parts) for stage, manifest in found.items()}

    def _config(self, store: Path) -> Path:
        path = self.ground.folder / f"{store.name}.toml"
        path.write_text(self.ground.config_for(store))
        return path

    # One cycle -------------------------------------------------------------------------------------------------------

    def cycle(self, store: Path, targets: list[str]) -> None:
        """One run on an empty store, with a kill in each of the target stages, in the order of the pipeline."""
        token = f"{os.getpid()}-{store.name}"
        process = self._start(token, "run", str(self._config(store)))
        partial = ""  # the stage in which a part of the processes died, and which is about to be tried again
        targets = sorted(targets, key=STAGES.index)
        while True:
            stage = targets[0] if targets else None
            standing = self._wait(process, store, stage) if stage else None
            if standing is not None:
                targets.pop(0)
                partial = self._kill(process, store, token, standing, whole=partial == standing.stage)
                if partial:
                    continue
            code = self._finish(process)
            if code == 0:
                break
            if code not in (-9, 75):  # killed, or says that another try may help
                self.outcome.findings.append(f"{store.name}: exit code {code} after {self.outcome.kills[-1:]}")
            waits = code == 75 or self.random.random() < 0.5  # else the next try meets the last workers of this one
            if waits and (left := ended(token, 20)):
                self.outcome.findings.append(f"{store.name}: {left} outlive their run")
            partial = ""
            record = newest(store)
            process = self._start(token, *(("rerun", record.run_id) if record else ("run", str(self._config(store)))))
            if len(self.outcome.exits) > 3 or sum(self.outcome.exits.values()) > 400:
                raise RuntimeError(f"{self.outcome.findings}")
        self.outcome.cycles += 1
        self._judge(store, token)

    def _wait(self, process: subprocess.Popen[bytes], store: Path, stage: str) -> "Standing | None":
        """Wait for a random moment in a stage: of its usual time, or when some of its objects are written."""
        share = self.random.random()
        by_objects = self.random.random() < 0.5 and self.parts.get(stage, 0) > 4
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            standing = Standing.read(store, process.pid)
            if standing is not None and STAGES.index(standing.stage) > STAGES.index(stage):
                return standing  # it was too quick: whatever runs now
            if standing is not None and standing.stage == stage:
                began = time.monotonic()
                usual = self.typical.get(stage, 3.0)
                goal = int(share * self.parts.get(stage, 0) * 1.3)  # its records and lease are objects too
                while process.poll() is None and time.monotonic() - began < (
                    usual if by_objects else 0.9 * share * usual
                ):
                    if by_objects and standing.objects() >= goal:
                        break
                    time.sleep(0.005)
                now = Standing.read(store, process.pid)
                return None if process.poll() is not None or now is None else now
            time.sleep(0.01)
        return None

    def _kill(
        self, process: subprocess.Popen[bytes], store: Path, token: str, standing: "Standing", *, whole: bool
    ) -> str:
        """Kill something; the stage whose next try the command itself makes, or '' when the command is dead."""
        processes = living(token)
        main = [p for p in processes if p.pid == process.pid]
        others = [p for p in processes if p.pid != process.pid and p.role not in ("main", "resource tracker")]
        kind = self.random.choice(("main", "all", "power", *(("one",) * 3 if others and not whole else ())))
        victims = {"main": main, "one": [self.random.choice(others)] if others else []}.get(kind, processes)
        kill(victims)
        names = {"main": "main", "one": victims[0].role if victims else "nobody", "all": "all"}
        emptied = tuple(self._lose_power(store, standing)) if kind == "power" else ()
        done = Kill(standing.stage, names.get(kind, "all, power lost"), round(standing.seconds(), 2), emptied)
        self.outcome.kills.append(done)
        self.say(f"kill {len(self.outcome.kills)}: {done}")
        if kind == "one":
            return standing.stage
        process.wait()
        return ""

    def _lose_power(self, store: Path, standing: "Standing") -> Iterator[str]:
        """Empty some of the newest files of the stage, as a crash before the folder was on disk could leave them."""
        files = [p for p in standing.folder.rglob("*") if p.is_file()] if standing.folder.is_dir() else []
        newest_first = sorted(files, key=lambda p: p.stat().st_mtime, reverse=True)[:3]
        for path in newest_first[: self.random.randint(0, len(newest_first))]:
            path.unlink()  # a new file: the old one may have another name (a hard link) in a whole snapshot
            path.touch()
            yield str(path.relative_to(store))

    # The end of a cycle ----------------------------------------------------------------------------------------------

    def _judge(self, store: Path, token: str) -> None:
        """Compare everything that a finished run must show."""
        wrong: list[str] = []
        if left := ended(token, 10):
            wrong.append(f"orphans: {left}")
            kill(left)
        record, opened = newest(store), FolderStore(store)
        assert record is not None
        found = checks.manifests(record, opened)
        for stage, digest in checks.digests(found).items():
            if digest != self.reference.get(stage):
                wrong.append(f"{stage}: digest {digest[:16]} is not {self.reference.get(stage, 'known')[:16]}")
        wrong += [f"{stage}: no snapshot" for stage in STAGES if stage not in found]
        wrong += checks.rows_lost_or_doubled(found, opened)
        if record.state != "completed":
            wrong.append(f"the record says {record.state}")
        addresses = {s.name: s.url for s in services.status()}
        wrong += checks.doubled_in_mlflow(addresses["mlflow"], record.config["register"]["model_name"], 1)
        wrong += checks.unfinished_flow_runs(addresses["prefect"], record)
        wrong += self._swept(store)
        self.outcome.findings += [f"{store.name}: {line}" for line in wrong]

    def _swept(self, store: Path) -> list[str]:
        """Rubbish of killed processes may lie about until `pairmill gc`; after it, and a day, none may."""
        for line in checks.rubbish(store, self.ground.home, self.ground.temporary):
            self.outcome.swept[line.split(":")[0] + ": " + _kind(line)] += 1
        for top in (store, self.ground.home / "jobs", self.ground.temporary):
            _age(top)
        process = self._start("gc", "gc", "--store", str(store), "--yes")
        if self._finish(process):
            return ["pairmill gc failed"]
        return [f"left after gc: {line}" for line in checks.rubbish(store, self.ground.home, self.ground.temporary)]


@dataclass(frozen=True)
class Standing:
    """Where a run stands now."""

    stage: str
    folder: Path
    began: float

    @classmethod
    def read(cls, store: Path, pid: int) -> "Standing | None":
        """The stage that the process works on; None before its first."""
        record = newest(store)
        if record is None or not record.attempts or record.attempts[-1].pid != pid:
            return None
        running = [stage for stage in record.stages if stage.state == "Running"]
        if not running:
            return None
        folder = store / running[-1].stage / running[-1].key
        if (folder / "manifest.json").exists() and find(FolderStore(store), running[-1].stage, running[-1].key):
            return None  # about to be reused
        return cls(running[-1].stage, folder, (store / "runs" / f"{record.run_id}.json").stat().st_mtime)

    def objects(self) -> int:
        """How many objects it has written so far."""
        return sum(1 for path in self.folder.rglob("*") if path.is_file()) if self.folder.is_dir() else 0

    def seconds(self) -> float:
        """How long it has run."""
        return time.time() - self.began


def newest(store: Path) -> RunRecord | None:
    """The newest run of a store that has a readable record."""
    paths = sorted((store / "runs").glob("*.json")) if (store / "runs").is_dir() else []
    return RunRecord.model_validate_json(paths[-1].read_bytes()) if paths else None


def _kind(line: str) -> str:
    name = line.rsplit("/", 1)[-1].split(": ")[-1]
    return name.split("-")[0] if not name.startswith("pairmill-") else "-".join(name.split("-")[:2])


def _age(folder: Path, days: float = 2) -> None:
    """Make everything in a folder older, as if so much time had passed."""
    for path in sorted(folder.rglob("*"), reverse=True) if folder.is_dir() else ():
        if "runs" not in path.parts:
            stat = path.lstat()
            os.utime(path, (stat.st_atime - days * 86400, stat.st_mtime - days * 86400), follow_symlinks=False)


@contextmanager
def ground() -> Iterator[Ground]:
    """Servers, a small web and its site in a temporary folder; all ended and deleted afterwards."""
    saved = dict(os.environ)
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory(prefix="pairmill-chaos-") as name:
        folder = Path(name)
        os.environ["PAIRMILL_HOME"] = str(folder / "home")
        try:
            web = build_demo_web(folder / "web", limit=60)
            services.up()
            server = [sys.executable, "-m", "tasks.demo.server", "--directory", str(web.site), "--port", "{port}"]
            site = services.ensure_service("demo-site", server, health_path="/healthz", env={}, port=None)

            def config_for(store: Path) -> str:
                return CONFIG.format(
                    store=json.dumps(str(store)),
                    archive=json.dumps(f"{web.archive}/*.warc.gz"),
                    host=web.host,
                    site=site.url.removeprefix("http://").rstrip("/"),
                    model=json.dumps(str(ROOT / "tests/e2e/tiny-model.json")),
                    suite=json.dumps(str(ROOT / "configs/suites/demo.toml")),
                    data=json.dumps(str(web.suite_root)),
                )

            yield Ground(folder, folder / "home", {**os.environ, "PYTHONPATH": str(ROOT)}, config_for)
        finally:
            services.down()
            os.environ.clear()
            os.environ.update(saved)


def run(ground: Ground, kills: int, seed: int, say: Callable[[str], None]) -> Outcome:
    """Cycles until so many kills are made; at most two in each stage of a cycle."""
    chaos = Chaos(ground, seed, say)
    chaos.undisturbed(ground.folder / "peace")
    say(f"undisturbed: {', '.join(f'{stage} {seconds:.1f} s' for stage, seconds in chaos.typical.items())}")
    while (left := kills - len(chaos.outcome.kills)) > 0:
        made = Counter(kill.stage for kill in chaos.outcome.kills)
        fewest_first = sorted([*STAGES, *STAGES], key=lambda stage: made[stage])
        targets = fewest_first if left >= len(fewest_first) else sorted(STAGES, key=lambda stage: made[stage])[:left]
        chaos.cycle(ground.folder / f"store-{chaos.outcome.cycles + 1}", targets)
        say(f"cycle {chaos.outcome.cycles} ended; {len(chaos.outcome.findings)} findings so far")
    return chaos.outcome


def report(outcome: Outcome, seed: int, seconds: float) -> dict[str, Any]:
    """The JSON object that every benchmark ends with, and what is particular to this one."""
    by_stage = Counter(kill.stage for kill in outcome.kills)
    rows = [
        {"case": f"kills {stage}", "ours": by_stage[stage], "peer": None, "peer_name": None, "unit": "kills"}
        | {"ratio": None, "limit": None, "goal": 1, "met": by_stage[stage] >= 1}
        for stage in STAGES
    ]
    return {
        "benchmark": "chaos",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("prefect", "mlflow", "img2dataset", "torch")},
        "rows": rows,
        "equal_output": not any("digest" in finding for finding in outcome.findings),
        "seed": seed,
        "seconds": round(seconds),
        "cycles": outcome.cycles,
        "victims": dict(Counter(kill.victim for kill in outcome.kills)),
        "emptied_files": sum(len(kill.emptied) for kill in outcome.kills),
        "exit_codes": dict(outcome.exits),
        "swept_by_gc": dict(outcome.swept),
        "findings": outcome.findings,
        "kills": [asdict(kill) for kill in outcome.kills],
    }


def show(result: dict[str, Any]) -> None:
    """The report for people."""
    lines = [f"{len(result['kills'])} kills in {result['cycles']} cycles, {result['seconds']} s, seed {result['seed']}"]
    lines += [f"  {row['case']:<16} {row['ours']:>3}" for row in result["rows"]]
    for name in ("victims", "exit_codes", "emptied_files", "swept_by_gc"):
        lines.append(f"  {name.replace('_', ' ')}: {result[name]}")
    lines.append("  one digest, no sample lost or doubled" if not result["findings"] else "FINDINGS")
    sys.stdout.write("\n".join([*lines, *result["findings"]]) + "\n")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="8 kills, one in each stage")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep-log", type=Path, help="copy the commands' output here")
    arguments = parser.parse_args()
    started = time.monotonic()
    with ground() as prepared:
        try:
            outcome = run(
                prepared,
                len(STAGES) if arguments.quick else arguments.kills,
                arguments.seed,
                lambda line: sys.stderr.write(f"{line}\n") and None,
            )
        finally:
            if arguments.keep_log:
                arguments.keep_log.write_bytes((prepared.folder / "chaos.log").read_bytes())
    result = report(outcome, arguments.seed, time.monotonic() - started)
    if arguments.json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        show(result)
    return 1 if outcome.findings else 0


if __name__ == "__main__":
    sys.exit(main())
