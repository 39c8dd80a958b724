"""Disturbed runs: start the command, wait for a random moment of a stage, kill, start again, and judge what came out."""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.kills import checks
from benchmarks.kills.ground import Ground
from benchmarks.kills.processes import MARK, alive, ended, kill
from dataops.stages import STAGES
from dataops.store import FolderStore
from flows.records import RunRecord
from infra.local import services

PATIENCE = 480
"""Seconds within which a command must end or reach its moment."""


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
        self.jobs_before = checks.job_folders(ground.home)
        """Job folders of other runs."""
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
        process = self._start("undisturbed", "run", str(self.ground.config(store)))
        if self._finish(process):
            raise RuntimeError(f"the undisturbed run failed:\n{self.log()[-5000:]}")
        record = newest(store)
        assert record is not None
        self.typical = {stage.stage: stage.seconds for stage in record.stages}
        found = checks.manifests(record, FolderStore(store))
        self.reference = checks.digests(found)
        self.parts = {stage: len(manifest.parts) for stage, manifest in found.items()}

    def log(self) -> str:
        """What all commands have said so far."""
        return (self.ground.folder / "chaos.log").read_text(errors="replace")

    # One cycle -------------------------------------------------------------------------------------------------------

    def cycle(self, store: Path, targets: Iterable[str]) -> None:
        """One run on an empty store, with a kill in each of the target stages, in the order of the pipeline."""
        token = f"{os.getpid()}-{store.name}"
        process = self._start(token, "run", str(self.ground.config(store)))
        partial = ""  # the stage in which a part of the processes died, and which is about to be tried again
        wanted = Counter(targets)
        waiting = [stage for stage in STAGES for _ in range(wanted[stage])]
        while True:
            stage = waiting[0] if waiting else None
            standing = self._wait(process, store, stage) if stage else None
            if standing is not None:
                waiting.pop(0)
                partial = self._kill(process, store, token, standing, whole=partial == standing.stage)
                if partial:
                    continue
            code = self._finish(process)
            if code == 0:
                break
            if code not in (-9, 75):  # killed, or says that another try may help
                self.outcome.findings.append(f"{store.name}: exit code {code} after {self.outcome.kills[-1:]}")
                break
            waits = code == 75 or self.random.random() < 0.5  # else the next try meets the last workers of this one
            if waits and (left := ended(token, 20)):
                self.outcome.findings.append(f"{store.name}: {left} outlive their run")
            record = newest(store)
            process = self._start(
                token, *(("rerun", record.run_id) if record else ("run", str(self.ground.config(store))))
            )
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
                end = began + (usual if by_objects else 0.9 * share * usual)
                while process.poll() is None and time.monotonic() < end:
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
        processes = alive(token)
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
        wrong += checks.doubled_in_mlflow(addresses["mlflow"], found["register"].key) if "register" in found else []
        wrong += checks.unfinished_flow_runs(addresses["prefect"], record)
        wrong += self._swept(store)
        self.outcome.findings += [f"{store.name}: {line}" for line in wrong]

    def _rubbish(self, store: Path) -> list[str]:
        return list(checks.rubbish(store, self.ground.home, self.ground.temporary, self.jobs_before))

    def _swept(self, store: Path) -> list[str]:
        """Rubbish of killed processes may lie about until `pairmill gc`; after it, and a day, none may."""
        for line in self._rubbish(store):
            self.outcome.swept[line.split(":")[0] + ": " + _kind(line)] += 1
        for top in (store, self.ground.home / "jobs", self.ground.temporary):
            _age(top)
        process = self._start("gc", "gc", "--store", str(store), "--yes")
        if self._finish(process):
            return ["pairmill gc failed"]
        return [f"left after gc: {line}" for line in self._rubbish(store)]


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
        now = running[0]  # a later one is what a killed try left
        manifest = store / now.stage / now.key / "manifest.json"
        if manifest.exists() and manifest.stat().st_size:
            return None  # about to be reused
        return cls(now.stage, manifest.parent, (store / "runs" / f"{record.run_id}.json").stat().st_mtime)

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
