"""A suite: the named evaluation tasks that one TOML file lists, checked before anything runs.

Imports no torch: the orchestrator loads suites to refuse a bad one at once and to put their digest into snapshot keys.

    name = "demo"
    [[task]]
    name = "twemoji-seen"        # metrics are named <task>/<metric>
    kind = "classification"      # classification | retrieval
    root = "twemoji-seen"        # a folder in one of the layouts of training/eval_sets.py
    split = "test"
    description = "another artist's drawings of what was trained on"
"""

import hashlib
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dataops.digest import canonical_json, file_sha256
from dataops.errors import ConfigError, ContractError
from training.eval_sets import EvalSet, Kind

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]


class Task(BaseModel):
    """One evaluation set and what to do with it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Name
    """Letters, digits, `.`, `_`, `-`: it names metrics and files."""
    kind: Kind
    """classification: zero-shot top-1/top-5 over the class names; retrieval: R@1/5/10 both ways."""
    root: str = Field(min_length=1)
    """Folder of the data; a relative one is resolved by `load_suite`."""
    split: str = Field(default="test", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Folder below the root."""
    description: str = ""
    """What the task shows, for reports."""

    @property
    def data(self) -> EvalSet:
        """The task's images."""
        return EvalSet(Path(self.root), self.split, self.kind)

    def identity(self) -> dict[str, Any]:
        """All that decides the task's result but the model: no absolute path, no clock."""
        root = Path(self.root)
        files = [[p.relative_to(root).as_posix(), file_sha256(p)] for p in self.data.files()]
        return {**self.model_dump(mode="json", exclude={"root"}), "files": files}


class Suite(BaseModel):
    """Tasks to evaluate a model on. `model_dump(mode="json")` is what a job file of `training.evaluate` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    tasks: tuple[Task, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> "Suite":
        names = [task.name for task in self.tasks]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            msg = f"task names must differ; {', '.join(twice)} is there more than once"
            raise ValueError(msg)
        return self

    def digest(self) -> str:
        """sha256 over the suite and every byte of its data; the same wherever the data lies."""
        content = {"name": self.name, "tasks": [task.identity() for task in self.tasks]}
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def load_suite(path: Path, data_root: Path | None = None) -> Suite:
    """Read and check a suite and the layout of its data.

    Args:
        path: the TOML file.
        data_root: where relative roots lie; None: beside the file.

    Raises: ConfigError listing every problem with its file, task, key and what is allowed.
    """
    raw = _read(path)
    base = (data_root if data_root is not None else path.parent).absolute()
    problems: list[str] = [
        f"unknown key {key!r}; allowed: name, [[task]]" for key in sorted(raw.keys() - {"name", "task"})
    ]
    tables = raw.get("task")
    if not isinstance(tables, list) or not tables:
        problems.append("task: at least one [[task]] is needed")
        tables = []
    tasks: list[Task] = []
    for position, table in enumerate(tables):
        where = _task_label(position, table)
        try:
            task = Task.model_validate(_resolved(table, base))
        except ValidationError as error:
            problems += [f"{where}.{line}" for line in _lines(error)]
            continue
        tasks.append(task)
        problems += [f"{where}.root: {problem}" for problem in task.data.problems()]
    suite = None
    try:
        # A placeholder where all tasks are bad already, so that the name is still checked.
        suite = Suite.model_validate(
            {"name": raw.get("name"), "tasks": tasks or [Task(name="x", kind="retrieval", root="x")]}
        )
    except ValidationError as error:
        problems += _lines(error)
    if problems or suite is None:
        msg = "\n".join([f"{path}: {len(problems)} problem(s)", *(f"  {line}" for line in problems)])
        raise ConfigError(msg)
    return suite


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        msg = f"{path}: no such suite file"
        raise ConfigError(msg) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        msg = f"{path}: cannot be read as TOML ({error})"
        raise ConfigError(msg) from error


def _task_label(position: int, table: Any) -> str:
    name = table.get("name") if isinstance(table, dict) else None
    return f"task[{position}]" + (f" ({name})" if isinstance(name, str) else "")


def _resolved(table: Any, base: Path) -> Any:
    if isinstance(table, dict) and isinstance(table.get("root"), str) and table["root"]:
        return {**table, "root": str(base / table["root"])}
    return table


def _lines(error: ValidationError) -> list[str]:
    """Each problem as `key: what (got value)`; an unknown key names the allowed ones."""
    lines = []
    for item in error.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"]) or "suite"
        what, got = item["msg"], f" (got {str(item['input'])[:60]!r})"
        if item["type"] == "extra_forbidden":
            what, got = f"unknown key; allowed: {', '.join(Task.model_fields)}", ""
        elif item["type"] in ("missing", "value_error"):
            got = ""
        lines.append(f"{where}: {what}{got}")
    return lines


__all__ = ["ConfigError", "ContractError", "Suite", "Task", "load_suite"]
