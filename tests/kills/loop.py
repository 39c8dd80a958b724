"""Run the command, kill it at a random moment of a stage, run it again until it completes, and check the result."""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime

from dataops import plugins
from dataops.errors import StorageError
from dataops.process import JOB_ENVIRONMENT
from dataops.snapshot import MANIFEST
from dataops.stages import STAGES
from dataops.storage.folder import TEMPORARY
from dataops.store import FolderStore
from flows.records import RunRecord
from infra.local import services
from tests.kills import checks
from tests.kills.processes import MARK, find_processes, kill_processes, wait_until_ended

LOG_CHARACTERS = 3000
"""Of the output of a command that failed, in a finding."""
TIMEOUT = 1200
"""Maximum seconds until a command ends or reaches the moment of its kill."""
END_SECONDS = 60
"""Maximum seconds until the workers of a killed command have ended. Each must first have loaded its modules."""


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
    faults: Counter[str] = field(default_factory=Counter)
    """Number of faults of the S3 server, by kind."""


class Chaos:
    """Disturbed runs in one environment, compared with an undisturbed run."""

    def __init__(self, environment, seed, say=lambda line: None):
        self.environment, self.random, self.say = environment, random.Random(seed), say
        self.outcome = Outcome()
        self.typical = {}
        self.parts = {}
        self.reference = {}
        self.jobs_before = checks.list_job_folders(environment.home)
        """Job folders of other runs, which are not leftovers."""
        self._position = None
        environment.temporary.mkdir(parents=True, exist_ok=True)

    # One command -----------------------------------------------------------------------------------------------------

    def _start(self, token, *arguments):
        self._position = None
        env = {**self.environment.env, MARK: token, "TMPDIR": str(self.environment.temporary), JOB_ENVIRONMENT: MARK}
        with (self.environment.folder / "chaos.log").open("ab") as log:
            log.write(f"\n--- {datetime.now(UTC):%H:%M:%S} {' '.join(arguments)}\n".encode())
            log.flush()
            command = [sys.executable, "-m", "flows.cli", *arguments]
            return subprocess.Popen(command, cwd=self.environment.folder, env=env, stdout=log, stderr=log)

    def _finish(self, process):
        try:
            code = process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self.outcome.findings.append(f"a command did not end within {TIMEOUT} s")
            process.kill()
            code = process.wait()
        self.outcome.exits[str(code)] += 1
        return code

    def run_undisturbed(self, store):
        """Run once in a folder without kills; keep the digests to compare with, and the usual time of each stage."""
        process = self._start("undisturbed", "run", str(self.environment.config(store)))
        if self._finish(process):
            raise RuntimeError(f"the undisturbed run failed:\n{self.log()[-5000:]}")
        record = newest_record(store)
        self.typical = {stage.stage: stage.seconds for stage in record.stages}
        found = checks.load_manifests(record, store)
        self.reference = checks.content_digests(found)
        self.parts = {stage: len(manifest.parts) for stage, manifest in found.items()}

    def log(self):
        """Return the output of all commands so far."""
        return (self.environment.folder / "chaos.log").read_text(errors="replace")

    # One cycle -------------------------------------------------------------------------------------------------------

    def cycle(self, store, targets):
        """Run on an empty store, with a kill in each of the target stages, in the order of the pipeline."""
        name = _name(store)
        token = f"{os.getpid()}-{name}"
        faults = self.environment.faults
        with faults.disturb() if faults else nullcontext():
            missed = self._run_and_kill(store, token, Counter(targets))
        self.outcome.cycles += 1
        if faults:
            self.outcome.faults = faults.counts
        self._shorten_missed_stages(store, missed)
        self._check_cycle(store, token)

    def _run_and_kill(self, store, token, counts):
        """Run until the run completes or fails for good; return the stages that ended before their kill."""
        name = _name(store)
        process = self._start(token, "run", str(self.environment.config(store)))
        partial = ""  # stage in which one process was killed, and which the command retries
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
                last = self.log().rpartition("\n--- ")[2][-LOG_CHARACTERS:]
                self.outcome.findings.append(f"{name}: exit code {code} after {self.outcome.kills[-1:]}:\n{last}")
                break
            waits = code == 75 or self.random.random() < 0.5  # else the rerun meets workers of this run
            if waits and (left := wait_until_ended(token, END_SECONDS)):
                self.outcome.findings.append(f"{name}: {left} are still alive after their run")
            record = newest_record(store)
            process = self._start(
                token, *(("rerun", record.run_id) if record else ("run", str(self.environment.config(store))))
            )
        return waiting

    def _shorten_missed_stages(self, store, missed):
        """Expect stages that ended before their kill to be as short again: `register` reuses its MLflow run."""
        record = newest_record(store)
        for stage in record.stages if record else ():
            if stage.stage in missed and stage.seconds:
                self.typical[stage.stage] = min(stage.seconds, self.typical.get(stage.stage, stage.seconds))

    def _wait(self, process, store, stage):
        """Wait for a random moment in a stage, by its usual time or by the number of written objects."""
        share = self.random.random()
        by_objects = self.random.random() < 0.5 and self.parts.get(stage, 0) > 4
        poll_seconds = 0.03 if isinstance(store, FolderStore) else 0.1
        deadline = time.monotonic() + TIMEOUT
        while process.poll() is None and time.monotonic() < deadline:
            position = self._find_position(store, process.pid)
            if position is not None and STAGES.index(position.stage) > STAGES.index(stage):
                return position  # the stage has ended: return the current one
            if position is not None and position.stage == stage:
                began = time.monotonic()
                usual = self.typical.get(stage, 3.0)
                goal = int(share * self.parts.get(stage, 0) * 1.3)  # records and the lease are objects too
                end = began + (usual if by_objects else 0.9 * share * usual)
                while process.poll() is None and time.monotonic() < end:
                    if by_objects and position.count_objects(store) >= goal:
                        break
                    time.sleep(poll_seconds)
                    now = self._find_position(store, process.pid)
                    if now is not None and now.stage != stage:  # it was faster than usual
                        break
                now = self._find_position(store, process.pid)
                return None if process.poll() is not None or now is None else now
            time.sleep(poll_seconds)
        return None

    def _find_position(self, store, pid):
        """Return the position of the run; while the S3 server is down the last known one."""
        if not (self.environment.faults and self.environment.faults.is_down):
            self._position = RunPosition.read(store, pid)
        return self._position

    def _kill(self, process, store, token, position, *, whole):
        """Kill one or all processes; return the stage that the command retries itself, or '' if the command was killed."""
        processes = find_processes(token)
        main = [p for p in processes if p.pid == process.pid]
        others = [p for p in processes if p.pid != process.pid and p.role not in ("main", "resource tracker")]
        kind = self.random.choice(("main", "all", "power", *(("one",) * 3 if others and not whole else ())))
        victims = {"main": main, "one": [self.random.choice(others)] if others else []}.get(kind, processes)
        kill_processes(victims)
        names = {"main": "main", "one": victims[0].role if victims else "nobody", "all": "all"}
        emptied = ()
        if kind == "power" and isinstance(store, FolderStore):
            emptied = tuple(self._empty_files(store.root, position))
        elif kind == "power" and self.environment.faults:
            self.environment.faults.lose_power()
        done = Kill(position.stage, names.get(kind, "all, power lost"), round(position.seconds(), 2), emptied)
        self.outcome.kills.append(done)
        self.say(f"kill {len(self.outcome.kills)}: {done}")
        if kind == "one":
            return position.stage
        process.wait()
        return ""

    def _empty_files(self, store, position):
        """Empty some of the newest files of the stage, as a power failure could."""
        folder = store / position.prefix
        files = [p for p in folder.rglob("*") if p.is_file()] if folder.is_dir() else []
        newest_first = sorted(files, key=lambda p: p.stat().st_mtime, reverse=True)[:3]
        for path in newest_first[: self.random.randint(0, len(newest_first))]:
            path.unlink()  # a new file, because the old one may be hard-linked in a complete snapshot
            path.touch()
            yield str(path.relative_to(store))

    # The end of a cycle ----------------------------------------------------------------------------------------------

    def _check_cycle(self, store, token):
        """Check all results of a completed run."""
        problems = []
        if left := wait_until_ended(token, END_SECONDS):
            problems.append(f"orphans: {left}")
            kill_processes(left)
        record = newest_record(store)
        found = checks.load_manifests(record, store)
        for stage, digest in checks.content_digests(found).items():
            if digest != self.reference.get(stage):
                problems.append(f"{stage}: digest {digest[:16]} is not {self.reference.get(stage, 'known')[:16]}")
        missing = [stage for stage in STAGES if stage not in found]
        problems += [f"no snapshot of {', '.join(missing)}"] if missing else checks.check_rows(found, store)
        if record.state != "completed":
            problems.append(f"the state of the record is {record.state}")
        urls = {s.name: s.url for s in services.status()}
        problems += checks.check_mlflow(urls["mlflow"], found["register"].key) if "register" in found else []
        problems += checks.check_flow_runs(urls["prefect"], record)
        problems += self._collect_garbage(store)
        self.outcome.findings += [f"{_name(store)}: {line}" for line in problems]

    def _find_leftovers(self, store):
        return list(checks.find_leftovers(store, self.environment.home, self.environment.temporary, self.jobs_before))

    def _collect_garbage(self, store):
        """Run `pairmill gc`, if installed, on leftovers made two days older; return those that it did not delete."""
        if "gc" not in plugins.targets("commands.operate"):
            return []
        for line in self._find_leftovers(store):
            self.outcome.swept[_kind(line)] += 1
        folder = store.root if isinstance(store, FolderStore) else self.environment.folder / "none"
        for top in (folder, self.environment.home / "jobs", self.environment.temporary):
            _age(top)
        faults = self.environment.faults
        with faults.aged(days=2) if faults else nullcontext():
            if self._finish(self._start("gc", "gc", "--store", store.uri, "--yes")):
                return ["pairmill gc failed"]
        return [f"left after gc: {line}" for line in self._find_leftovers(store)]


@dataclass(frozen=True)
class RunPosition:
    """Current stage of a run."""

    stage: str
    prefix: str
    began: float

    @classmethod
    def read(cls, store, pid):
        """Return the stage that the process works on; None before the first, or while the store does not respond."""
        try:
            return cls._read(store, pid)
        except StorageError:
            return None

    @classmethod
    def _read(cls, store, pid):
        entry = _newest_entry(store)
        if entry is None:
            return None
        record = _load_record(store, entry)
        if not record.attempts or record.attempts[-1].pid != pid:
            return None
        running = [stage for stage in record.stages if stage.state == "Running"]
        if not running:
            return None
        current = running[0]  # a later one was left by a killed attempt
        prefix = f"{current.stage}/{current.key}"
        if store.size(f"{prefix}/{MANIFEST}"):
            return None  # about to be reused
        return cls(current.stage, prefix, entry.modified)

    def count_objects(self, store):
        """Return the number of objects that the stage has written; 0 while the store does not respond."""
        try:
            return len(store.names(self.prefix))
        except StorageError:
            return 0

    def seconds(self):
        """Return the seconds since the stage began."""
        return time.time() - self.began


def newest_record(store):
    """Return the newest run record of a store; None if there is none."""
    entry = _newest_entry(store)
    return None if entry is None else _load_record(store, entry)


def _newest_entry(store):
    return max((entry for entry in store.entries("runs") if entry.name.endswith(".json")), default=None)


def _load_record(store, entry):
    return RunRecord.model_validate_json(store.read(entry.name))


def _name(store):
    return store.uri.rpartition("/")[2]


def _kind(line):
    """Return the kind of a leftover, without what is random in its name."""
    place, _, name = line.partition(": " if ": " in line else "/")
    name = name.rpartition("/")[2]
    if name.startswith("pairmill-scratch-"):
        name = name.rpartition("-")[0]
    elif name.startswith((TEMPORARY, "train-", "evaluate-")):
        name = name.partition("-")[0]
    return f"{place}: {'upload of ' if 'upload of' in line else ''}{name}"


def _age(folder, days=2):
    """Set the times of all files in a folder back by some days, except the run records."""
    for path in sorted(folder.rglob("*"), reverse=True) if folder.is_dir() else ():
        if "runs" not in path.parts or path.name.startswith(TEMPORARY):
            stat = path.lstat()
            os.utime(path, (stat.st_atime - days * 86400, stat.st_mtime - days * 86400), follow_symlinks=False)
