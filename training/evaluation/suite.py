"""A suite: the named evaluation tasks that one TOML file lists, checked before anything runs.

Imports no torch: the orchestrator loads suites to refuse a bad one at once and to put their digest into snapshot keys.

    name = "demo"
    [[task]]
    name = "twemoji-seen"        # metrics are named <task>/<metric>
    kind = "classification"      # classification | multilabel | retrieval | association | choice
    root = "twemoji-seen"        # a folder in one of the layouts of training/evaluation/sets.py
    split = "test"
    description = "another artist's drawings of what was trained on"

The suites in configs/suites also set where a set comes from (`source`), its main metric (`metric`),
its size (`classes`, `samples`) and what else to measure on it: training/evaluation/task.py has all
keys.
"""

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from dataops.config import FrozenModel
from dataops.digest import canonical_json, text_sha256
from dataops.errors import ConfigError
from dataops.formatting import find_closest
from dataops.home import home
from dataops.toml_problems import describe_problems, format_problems
from dataops.toml_text import find_key_lines, read_toml
from training.evaluation.task import PROMPTS, Name, Task

Precision = Literal["fp32", "bf16", "bf16_texts"]
"""In what a model computes: bf16 is the type of all weights; bf16_texts computes only the text tower in it, by autocast."""
FETCHED = "datasets"
"""Folder of the sets that `pairmill datasets fetch` downloads, in the home."""


class Absent(FrozenModel):
    """A task of the suite that is not run, and the reason."""

    name: Name
    reason: str


class SuiteFile(FrozenModel):
    """The file of a suite."""

    name: Name
    task: tuple[Task, ...] = ()


class Suite(FrozenModel):
    """Tasks to evaluate a model on. A job file of `training.evaluate` holds `model_dump(mode="json")`."""

    name: Name
    tasks: tuple[Task, ...]
    absent: tuple[Absent, ...] = ()
    """The suite's other tasks, whose data is missing."""

    def digest(self) -> str:
        """Return the sha256 over the suite and every byte of its data; it does not depend on the data's path."""
        content: dict[str, Any] = {"name": self.name, "tasks": [task.identity() for task in self.tasks]}
        if self.absent:
            content["absent"] = [task.name for task in self.absent]
        return text_sha256(canonical_json(content))


def load_suite(path: Path, data_root: Path | None = None, *, partial: bool = False) -> Suite:
    """Read and check a suite and the layout of its data.

    Args:
        path: the TOML file.
        data_root: parent of relative roots; None: the file's folder.
        partial: list the tasks (or probes) whose folder is missing in `absent` instead of raising an error.

    Raises: ConfigError listing every problem with its file, task, key and what is allowed; or if no task's data exists.
    """
    name, labelled, problems = read_tasks(path, data_root)
    base = (data_root if data_root is not None else path.parent).absolute()
    present: list[Task] = []
    absent: list[Absent] = []
    unusable: list[Task] = []
    for label, task in labelled:
        reason = _absence(task, path, base) if partial or task.missing else ""
        if reason:
            absent += [Absent(name=task.name, reason=reason)] if task.in_average else []
            continue
        runnable, absent_probes = _without_probes(task) if partial else (task, [])
        present.append(runnable)
        absent += absent_probes
        found = runnable.problems()
        unusable += [task] if found else []
        problems += [f"{label}.root: {problem}" for problem in found]
    if labelled and not present:
        unusable = [task for _, task in labelled if not task.missing]
        listed = [f"{task.name}: {task.missing or f'{task.root} is not there'}" for _, task in labelled]
        problems.append("\n    ".join([f"none of its {len(labelled)} sets is there:", *listed]))
    if problems:
        message = format_problems(str(path), problems, find_key_lines(_read(path)[1]))
        raise ConfigError("\n  ".join([message, *(f"remedy: {one}" for one in _remedies(unusable, path, base))]))
    return Suite(name=name, tasks=tuple(present), absent=tuple(absent))


def read_tasks(path: Path, data_root: Path | None = None) -> tuple[str, list[tuple[str, Task]], list[str]]:
    """Return a suite's name, its tasks (each with its path in the file) with or without data, and what is wrong.

    Raises: ConfigError if the file is no TOML.
    """
    values, details = _read(path)[0], list[Any]()
    tables = values["task"] if isinstance(values.get("task"), list) else []
    tables[:] = map(_name_root, tables)
    context = {"folder": (data_root if data_root is not None else path.parent).absolute()}
    try:
        SuiteFile.model_validate(values, context=context)
    except ValidationError as error:
        details = error.errors()
    problems = describe_problems(details, SuiteFile, values)
    problems += [] if tables else ["task: at least one [[task]] is needed"]
    wrong = {detail["loc"][1] for detail in details if len(detail["loc"]) > 1}
    tasks: list[tuple[str, Task]] = []
    for position, table in enumerate(tables):
        if position in wrong:
            continue
        task, where = Task.model_validate(table, context=context), f"task.{position}"
        try:
            for split in task.splits():
                task.data_of(split).folder.is_dir()
        except OSError as error:  # a name that is too long for a file
            problems.append(f"{where}.root: {error.strerror} ({task.root[:80]!r})")
            continue
        tasks.append((where, task))
    known = Counter(task.name for _, task in tasks)
    problems += [
        f"task: {count} tasks are named {name!r}; their names must differ" for name, count in known.items() if count > 1
    ]
    problems += [f"{where}.base: no task is named {t.base!r}" for where, t in tasks if t.base and t.base not in known]
    return str(values.get("name")), tasks, problems


def _without_probes(task: Task) -> tuple[Task, list[Absent]]:
    """Return the task without the probes whose examples are missing."""
    missing = [split for split in task.splits()[1:] if not task.data_of(split).folder.is_dir()]
    if not missing:
        return task, []
    reason = f"{task.root} has no split {', '.join(missing)}"
    probes = [name for name in task.protocols if name != PROMPTS]
    rest = task.model_copy(update={"protocols": tuple(name for name in task.protocols if name == PROMPTS)})
    return rest, [Absent(name=f"{task.name}.{name}", reason=reason) for name in probes]


def _absence(task: Task, path: Path, base: Path) -> str:
    """Return why a task cannot be run, and the remedy; empty if it can."""
    if task.missing:
        return task.missing
    if task.data.folder.is_dir() or (Path(task.root).is_dir() and not task.source):
        return ""
    return "; ".join([f"{task.root} is not there", *_remedies([task], path, base)])


def _remedies(tasks: Sequence[Task], path: Path, base: Path) -> list[str]:
    """Return what to do about tasks without usable data.

    Args:
        path: the suite's file.
        base: parent of the suite's relative roots.
    """
    remedies = []
    if any(task.source for task in tasks):
        # Without --data, the command uses the folder of fetched sets; a config uses the suite's folder.
        folder = "" if base == home() / FETCHED else f" --data {shlex.quote(str(base))}"
        remedies.append(f"fetch it: pairmill datasets fetch {shlex.quote(str(path))}{folder}")
    roots = [Path(task.root) for task in tasks if not task.source and not Path(task.root).is_dir()]
    if roots:
        remedies.append("name the folder that has it with --data (in a config: evaluate.data)")
        names = [root.relative_to(base) for root in roots if root.is_relative_to(base)]
        for folder in (home() / "demo" / "suite", home() / FETCHED):
            if folder != base and (there := sum((folder / name).is_dir() for name in names)):
                remedies[-1] += f"; {folder} has {there} of the {len(roots)} sets: --data {shlex.quote(str(folder))}"
    return remedies


def _read(path: Path) -> tuple[dict[str, Any], str]:
    try:
        return read_toml(path)
    except ConfigError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        closest = find_closest(path.stem, (file.stem for file in path.parent.glob("*.toml")))
        remedy = (
            f"did you mean {path.with_name(f'{closest}.toml')}?"
            if closest
            else "docs/evaluate/evaluation.md has an example"
        )
        raise ConfigError(f"{path}: no such suite file; {remedy}") from error


def _name_root(table: object) -> Any:
    """Return the table with a root, which by default is named after the source, or the task."""
    if not isinstance(table, dict) or not table.keys() & {"source", "missing"}:
        return table
    source, name = table.get("source"), table.get("name")
    return {"root": source.rpartition("/")[2] if isinstance(source, str) and source else name} | table
