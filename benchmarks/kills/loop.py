"""Run the command, kill it at a random moment of a stage, run it again until it completes, and check the result."""

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
from benchmarks.kills.environment import ChaosEnvironment
from benchmarks.kills.processes import MARK, find_processes, kill_processes, wait_until_ended
from dataops.job_environment import JOB_ENVIRONMENT
from dataops.stages import STAGES
from dataops.store import FolderStore
from flows.records import RunRecord
from infra.local import services

TIMEOUT = 480
"""Maximum seconds until a command ends or reaches the moment of its kill."""


@dataclass(frozen=True)
class Kill:
    """One kill, and the position of the run."""

    stage: str
    victim: str
    seconds: float
    """Seconds since the stage began."""
    emptied: tuple[str, ...] = ()
    """Objects that were emptied, as after a power failure."""


@dataclass
class Outcome:
    """Result of a chaos run."""

    kills: list[Kill] = field(default_factory=list)
    exits: Counter[str] = field(default_factory=Counter)
    cycles: int = 0
    findings: list[str] = field(default_factory=list)
    swept: Counter[str] = field(default_factory=Counter)
    """Number of leftovers that `pairmill gc` deleted, by kind."""


class Chaos:
    """Disturbed runs in one environment, compared with an undisturbed run."""

    def __init__(self, environment: ChaosEnvironment, seed: int, say: Callable[[str], None] = lambda line: None):
        self.environment, self.random, self.say = environment, random.Random(seed), say
        self.outcome = Outcome()
        self.typical: dict[str, float] = {}
        self.parts: dict[str, int] = {}
        self.reference: dict[str, str] = {}
        self.jobs_before = checks.list_job_folders(environment.home)
        """Job folders of other runs, which are not leftovers."""
        environment.temporary.mkdir(parents=True, exist_ok=True)

    # One command -----------------------------------------------------------------------------------------------------

    def _start(self, token: str, *arguments: str) -> subprocess.Popen[bytes]:
        env = {**self.environment.env, MARK: token, "TMPDIR": str(self.environment.temporary), JOB_ENVIRONMENT: MARK}
        with (self.environment.folder / "chaos.log").open("ab") as log:
            log.write(f"\n--- {datetime.now(UTC):%H:%M:%S} {' '.join(arguments)}\n".encode())
            log.flush()
            command = [sys.executable, "-m", "flows.cli", *arguments]
            return subprocess.Popen(command, cwd=self.environment.folder, env=env, stdout=log, stderr=log)

    def _finish(self, process: subprocess.Popen[bytes]) -> int:
        try:
            code = process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self.outcome.findings.append(f"a command did not end within {TIMEOUT} s")
            process.kill()
            code = process.wait()
        self.outcome.exits[str(code)] += 1
        return code

    def run_undisturbed(self, store: Path) -> None:
        """Run once without kills; keep the digests to compare with, and the usual time of each stage."""
        process = self._start("undisturbed", "run", str(self.environment.config(store)))
        if self._finish(process):
            raise RuntimeError(f"the undisturbed run failed:\n{self.log()[-5000:]}")
        record = newest_record(store)
        assert record is not None
        self.typical = {stage.stage: stage.seconds for stage in record.stages}
        found = checks.load_manifests(record, FolderStore(store))
        self.reference = checks.content_digests(found)
        self.parts = {stage: len(manifest.parts) for stage, manifest in found.items()}

    def log(self) -> str:
        """Return the output of all commands so far."""
        return (self.environment.folder / "chaos.log").read_text(errors="replace")

    # One cycle -------------------------------------------------------------------------------------------------------

    def cycle(self, store: Path, targets: Iterable[str]) -> None:
        """Run on an empty store, with a kill in each of the target stages, in the order of the pipeline."""
        token = f"{os.getpid()}-{store.name}"
        process = self._start(token, "run", str(self.environment.config(store)))
        partial = ""  # stage in which one process was killed, and which the command retries
        counts = Counter(targets)
        waiting = [stage for stage in STAGES for _ in range(counts[stage])]
        while True:
            stage = waiting[0] if waiting else None
            position = self._wait(process, store, stage) if stage else None
            if position is not None:
                waiting.pop(0)
                partial = self._kill(process, store, token, position, whole=partial == position.stage)
                if partial:
                    continue
            code = self._finish(process)
            if code == 0:
                break
            if code not in (-9, 75):  # killed, or retryable
                self.outcome.findings.append(f"{store.name}: exit code {code} after {self.outcome.kills[-1:]}")
                break
            waits = code == 75 or self.random.random() < 0.5  # else the rerun meets workers of this run
            if waits and (left := wait_until_ended(token, 20)):
                self.outcome.findings.append(f"{store.name}: {left} are still alive after their run")
            record = newest_record(store)
            process = self._start(
                token, *(("rerun", record.run_id) if record else ("run", str(self.environment.config(store))))
            )
        self.outcome.cycles += 1
        self._shorten_missed_stages(store, waiting)
        self._check_cycle(store, token)

    def _shorten_missed_stages(self, store: Path, missed: Iterable[str]) -> None:
        """Expect stages that ended before their kill to be as short again: `register` reuses its MLflow run."""
        record = newest_record(store)
        for stage in record.stages if record else ():
            if stage.stage in missed and stage.seconds:
                self.typical[stage.stage] = min(stage.seconds, self.typical.get(stage.stage, stage.seconds))

    def _wait(self, process: subprocess.Popen[bytes], store: Path, stage: str) -> "RunPosition | None":
        """Wait for a random moment in a stage, by its usual time or by the number of written objects."""
        share = self.random.random()
        by_objects = self.random.random() < 0.5 and self.parts.get(stage, 0) > 4
        deadline = time.monotonic() + TIMEOUT
        while process.poll() is None and time.monotonic() < deadline:
            position = RunPosition.read(store, process.pid)
            if position is not None and STAGES.index(position.stage) > STAGES.index(stage):
                return position  # the stage has ended: return the current one
            if position is not None and position.stage == stage:
                began = time.monotonic()
                usual = self.typical.get(stage, 3.0)
                goal = int(share * self.parts.get(stage, 0) * 1.3)  # records and the lease are objects too
                end = began + (usual if by_objects else 0.9 * share * usual)
                while process.poll() is None and time.monotonic() < end:
                    if by_objects and position.objects() >= goal:
                        break
                    time.sleep(0.005)
                now = RunPosition.read(store, process.pid)
                return None if process.poll() is not None or now is None else now
            time.sleep(0.01)
        return None

    def _kill(
        self, process: subprocess.Popen[bytes], store: Path, token: str, position: "RunPosition", *, whole: bool
    ) -> str:
        """Kill one or all processes; return the stage that the command retries itself, or '' if the command was killed."""
        processes = find_processes(token)
        main = [p for p in processes if p.pid == process.pid]
        others = [p for p in processes if p.pid != process.pid and p.role not in ("main", "resource tracker")]
        kind = self.random.choice(("main", "all", "power", *(("one",) * 3 if others and not whole else ())))
        victims = {"main": main, "one": [self.random.choice(others)] if others else []}.get(kind, processes)
        kill_processes(victims)
        names = {"main": "main", "one": victims[0].role if victims else "nobody", "all": "all"}
        emptied = tuple(self._empty_files(store, position)) if kind == "power" else ()
        done = Kill(position.stage, names.get(kind, "all, power lost"), round(position.seconds(), 2), emptied)
        self.outcome.kills.append(done)
        self.say(f"kill {len(self.outcome.kills)}: {done}")
        if kind == "one":
            return position.stage
        process.wait()
        return ""

    def _empty_files(self, store: Path, position: "RunPosition") -> Iterator[str]:
        """Empty some of the newest files of the stage, as a power failure could."""
        files = [p for p in position.folder.rglob("*") if p.is_file()] if position.folder.is_dir() else []
        newest_first = sorted(files, key=lambda p: p.stat().st_mtime, reverse=True)[:3]
        for path in newest_first[: self.random.randint(0, len(newest_first))]:
            path.unlink()  # a new file, because the old one may be hard-linked in a complete snapshot
            path.touch()
            yield str(path.relative_to(store))

    # The end of a cycle ----------------------------------------------------------------------------------------------

    def _check_cycle(self, store: Path, token: str) -> None:
        """Check all results of a completed run."""
        problems: list[str] = []
        if left := wait_until_ended(token, 10):
            problems.append(f"orphans: {left}")
            kill_processes(left)
        record, opened = newest_record(store), FolderStore(store)
        assert record is not None
        found = checks.load_manifests(record, opened)
        for stage, digest in checks.content_digests(found).items():
            if digest != self.reference.get(stage):
                problems.append(f"{stage}: digest {digest[:16]} is not {self.reference.get(stage, 'known')[:16]}")
        problems += [f"{stage}: no snapshot" for stage in STAGES if stage not in found]
        problems += checks.check_rows(found, opened)
        if record.state != "completed":
            problems.append(f"the state of the record is {record.state}")
        urls = {s.name: s.url for s in services.status()}
        problems += checks.check_mlflow(urls["mlflow"], found["register"].key) if "register" in found else []
        problems += checks.check_flow_runs(urls["prefect"], record)
        problems += self._collect_garbage(store)
        self.outcome.findings += [f"{store.name}: {line}" for line in problems]

    def _find_leftovers(self, store: Path) -> list[str]:
        return list(checks.find_leftovers(store, self.environment.home, self.environment.temporary, self.jobs_before))

    def _collect_garbage(self, store: Path) -> list[str]:
        """Run `pairmill gc` on leftovers that were made two days older; return those that it did not delete."""
        for line in self._find_leftovers(store):
            self.outcome.swept[line.split(":")[0] + ": " + _kind(line)] += 1
        for top in (store, self.environment.home / "jobs", self.environment.temporary):
            _age(top)
        process = self._start("gc", "gc", "--store", str(store), "--yes")
        if self._finish(process):
            return ["pairmill gc failed"]
        return [f"left after gc: {line}" for line in self._find_leftovers(store)]


@dataclass(frozen=True)
class RunPosition:
    """Current stage of a run."""

    stage: str
    folder: Path
    began: float

    @classmethod
    def read(cls, store: Path, pid: int) -> "RunPosition | None":
        """Return the stage that the process works on; None before the first."""
        record = newest_record(store)
        if record is None or not record.attempts or record.attempts[-1].pid != pid:
            return None
        running = [stage for stage in record.stages if stage.state == "Running"]
        if not running:
            return None
        current = running[0]  # a later one was left by a killed attempt
        manifest = store / current.stage / current.key / "manifest.json"
        if manifest.exists() and manifest.stat().st_size:
            return None  # about to be reused
        return cls(current.stage, manifest.parent, (store / "runs" / f"{record.run_id}.json").stat().st_mtime)

    def objects(self) -> int:
        """Return the number of objects that the stage has written."""
        return sum(1 for path in self.folder.rglob("*") if path.is_file()) if self.folder.is_dir() else 0

    def seconds(self) -> float:
        """Return the seconds since the stage began."""
        return time.time() - self.began


def newest_record(store: Path) -> RunRecord | None:
    """Return the newest run record of a store; None if there is none."""
    paths = sorted((store / "runs").glob("*.json")) if (store / "runs").is_dir() else []
    return RunRecord.model_validate_json(paths[-1].read_bytes()) if paths else None


def _kind(line: str) -> str:
    name = line.rsplit("/", 1)[-1].split(": ")[-1]
    return name.split("-")[0] if not name.startswith("pairmill-") else "-".join(name.split("-")[:2])


def _age(folder: Path, days: float = 2) -> None:
    """Set the times of all files in a folder back by some days."""
    for path in sorted(folder.rglob("*"), reverse=True) if folder.is_dir() else ():
        if "runs" not in path.parts:
            stat = path.lstat()
            os.utime(path, (stat.st_atime - days * 86400, stat.st_mtime - days * 86400), follow_symlinks=False)
