"""The config of a run: one TOML file with a table for each stage, which the stage defines.

All problems are reported together, each with its path, the value and what is allowed. Endpoints and secrets are in the
environment; a config with a secret is refused, so none can reach a manifest or a Prefect parameter.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self, get_type_hints

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from dataops import redaction
from dataops.config import PATH, RECORDED, FrozenModel, Seed, StageConfig, problems_of, resolve_path
from dataops.errors import ConfigError
from dataops.home import HOME_NAME, home, project_folder
from dataops.plugins import extend, find
from dataops.process import is_utf8
from dataops.redaction import redact
from dataops.snapshot import MANIFEST
from dataops.stages import STAGES
from dataops.store import open_store
from dataops.toml_problems import describe_problems, format_problems
from dataops.toml_text import find_key_lines, parse_toml, read_toml
from flows.config_problems import find_signer_problems, find_source_problems, name_sources, validate_rest
from infra.local.services import make_home
from tasks.checks.check import ChecksConfig
from tasks.curate.config import CurateConfig
from tasks.download.config import DownloadConfig
from tasks.engine.context import Engine, Executor
from tasks.evaluate.config import EvaluateConfig
from tasks.extract.config import SOURCE_KINDS, SourceConfig, name_source_path, name_tables
from tasks.filter.added_steps import used_steps
from tasks.filter.config import FilterConfig
from tasks.growth.versions import Version, find_newest, load_version, name_line
from tasks.pack.config import PackConfig
from tasks.register.config import RegisterConfig
from training.config import TrainConfig

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_DEFAULT_STORE = f"{HOME_NAME}/store"


def _resolve_store(uri: str, info: ValidationInfo) -> str:
    return str(project_folder() / uri) if uri == _DEFAULT_STORE else resolve_path(uri, info)


class StoreConfig(FrozenModel):
    """The `[store]` table: where snapshots are stored."""

    uri: Annotated[str, AfterValidator(_resolve_store), PATH[1]] = Field(
        default=_DEFAULT_STORE, min_length=1, validate_default=True
    )
    """A folder, or s3://bucket/prefix. The default starts at the project's folder, wherever the config is: the nearest
    folder upwards from the current one that has a `.pairmill`, else the current folder."""

    def problems(self, *, writes: bool = True) -> list[str]:
        """Return why the store is not writable; without `writes`, as far as reading it shows.

        Raises: StorageError if it does not answer.
        """
        return problems_of("uri", lambda: self._check(writes=writes))

    def _check(self, *, writes: bool) -> None:
        store = open_store(self.uri)
        if not is_utf8(store.uri):
            raise ConfigError(
                f"{store.uri!r} has bytes that are not UTF-8, so no server can record it; rename the folder"
            )
        if not writes:
            return store.check_readable()
        if Path(store.uri).is_relative_to(home()):  # else the first object makes the home, readable by others
            make_home()
        return store.check_writable()


def _find_engine(name: str) -> str:
    try:
        find("executors", name)
    except ConfigError as error:  # reported with the other problems of the config
        raise ValueError(str(error)) from error
    return name


class _Execution(FrozenModel):
    """The `[execution]` table: where and how the work runs; nothing in it changes the results."""

    engine: Annotated[str, AfterValidator(_find_engine)] = "local"
    """Where the tasks of a stage run: `local` in processes of this machine, `ray` on a Ray cluster
    (docs/operate/scale.md), `slurm` in array jobs (docs/operate/slurm.md)."""
    workers: PositiveInt | None = None
    """Number of tasks at a time. Default: one per core, or on a cluster as many as it has resources for. Set it if the
    cluster grows with its work."""
    retry_delays: tuple[Annotated[float, Field(ge=0, le=86_400)], ...] = Field(default=(5.0, 30.0), max_length=20)
    """Seconds to wait before each retry of a stage that failed with a retryable error; empty for no retries."""
    task_timeout: PositiveFloat | None = None
    """Seconds that a task of a stage may take; None: no limit. One that takes longer is ended and runs once more, alone;
    then it fails, when all other tasks of the stage are finished."""


class ExecutionConfig(extend(_Execution, "executors")):
    """The `[execution]` table: where and how the work runs; nothing in it changes the results."""

    def problems(self) -> list[str]:
        """Return what the executor lacks, if it is needed."""
        return [f"engine: {missing}"] if (missing := find("executors", self.engine).missing()) else []

    def executor(self, name: str | None = None) -> Executor:
        """Return the executor of a name, by default that of the stages, with the settings of this table."""
        engine: Engine = find("executors", name or self.engine)
        return engine.create(self)


class GrowConfig(FrozenModel):
    """The `[grow]` table: the dataset grows. A run adds what is new to the newest version, and trains on all versions."""

    base: NonNegativeInt | None = None
    """Number of the version that a run adds to; by default the newest one, which the run records. 0 starts again."""
    number: PositiveInt | None = None
    """Number of the version that a run makes, which the run records: by default the one after `base`, and where `base` is
    set the one after the newest."""
    compact: int | None = Field(default=32, ge=2)
    """Number of datasets without a full shard at which a run packs these again as one; None: they stay small."""


_TABLES = {"extract": "source", "register": "register_"}
"""Fields of RunConfig whose names are not those of their stages."""


class RunConfig(FrozenModel):
    """The config of one run."""

    name: str = Field(pattern=_NAME)
    """Name of the run's MLflow experiment, and prefix of its run ids."""
    seed: Seed = 0
    """Seed of every random choice."""
    store: StoreConfig = Field(default_factory=StoreConfig)
    source: SourceConfig
    filter: FilterConfig = FilterConfig()
    download: DownloadConfig = DownloadConfig()
    curate: CurateConfig = CurateConfig()
    pack: PackConfig = PackConfig()
    checks: ChecksConfig = ChecksConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    register_: RegisterConfig = Field(alias="register")
    execution: ExecutionConfig = ExecutionConfig()
    grow: GrowConfig | None = None
    _base: Version | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _default_model_name(cls, values: Any) -> Any:
        """Use the run's name as the model's name if `[register]` names no model."""
        register = values.get("register", {}) if isinstance(values, Mapping) else None
        if isinstance(register, Mapping) and "model_name" not in register:
            name = values.get("name")
            is_valid = isinstance(name, str) and re.match(_NAME, name)  # else the name is the only problem
            return {**values, "register": {**register, "model_name": name if is_valid else "unnamed"}}
        return values

    @model_validator(mode="after")
    def _decides_by_itself(self) -> Self:
        """Refuse steps that compare all pairs of a dataset: a run that adds to one has only its own."""
        wrong = [f"filter.{step.table}" for step, _ in used_steps(self.filter) if not step.kinds]
        if self.grow and wrong:
            raise ValueError(
                f"grow: {' and '.join(wrong)} compares all pairs of a dataset, and a run that adds to one has only its "
                "own; leave out one of the two"
            )
        if self.grow and self.train.dataset:
            raise ValueError("grow: a dataset that grows is trained on with all its versions; leave out train.dataset")
        return self

    @property
    def line(self) -> str:
        """Name of the line of versions that the dataset belongs to."""
        tables = (self.filter, self.download, self.curate, self.pack)
        rows = [table.row_config() for table in self.source.tables]
        return name_line(self.name, [self.seed, rows, *(table.key_config() for table in tables)])

    @property
    def base(self) -> Version | None:
        """The version that the dataset adds to; None if it does not grow. Raises: StorageError, CorruptPart."""
        if self.grow is not None and self._base is None:
            store, number = open_store(self.store.uri), self.grow.base
            self._base = find_newest(store, self.line) if number is None else load_version(store, self.line, number)
        return self._base

    def with_recorded_base(self) -> Self:
        """Return the config with the numbers of the versions that a run adds to and makes, for its record."""
        base, grow = self.base, self.grow
        if base is None or grow is None:
            return self
        # Not the newest one where a run adds to what was the newest: another run may have made the next one meanwhile.
        newest = base if grow.base is None else find_newest(open_store(self.store.uri), self.line)
        number = grow.number or newest.number + 1
        return self.model_copy(update={"grow": grow.model_copy(update={"base": base.number, "number": number})})

    def stage_config(self, name: str) -> Any:
        """Return a table by the name of its field, that of a stage with what it takes from other tables."""
        table = getattr(self, name)
        if not isinstance(table, StageConfig):
            return table
        table = table.within(self)
        return table if self.base is None else table.with_base(self.base)

    def as_dict(self) -> dict[str, Any]:
        """Return the config as JSON values, with the keys of the TOML file and the paths of a run record."""
        return self.model_dump(mode="json", by_alias=True, context=RECORDED)


def config_name(path: Path) -> str:
    """Return the `name` of a config file, without checking the rest of it.

    Raises: ConfigError if it has none.
    """
    if (name := read_toml(path)[0].get("name")) is None:
        raise ConfigError(f"{path}: name: is required")
    return str(name)


def load_config(
    path: Path, settings: Iterable[str] = (), until: str | None = None, *, writes: bool = True
) -> RunConfig:
    """Read a config file, apply `a.b=value` settings, and check everything that can be checked before work starts.

    Args:
        settings: each `dotted.path=value`; the value is TOML, or else a plain string.
        until: the last stage that will run; by default all stages run.

    Raises: ConfigError that lists all problems.
    """
    values, origins = read_config(path, settings)
    return check_config(values, str(path), folder=folder_of(path), until=until, writes=writes, origins=origins)


def folder_of(config: Path) -> Path:
    """Return the folder of a config file, at which its relative paths start."""
    return config.parent.resolve()


def with_growth(path: Path) -> list[str]:
    """Return the setting with which a config has a table `[grow]`; none if it has one. Raises: ConfigError."""
    return [] if "grow" in read_config(path)[0] else ["grow={}"]


def read_config(path: Path, settings: Iterable[str] = ()) -> tuple[dict[str, Any], Callable[[], dict[str, str]]]:
    """Return the values of a config file with settings applied, and a function that returns where each was set, by path.

    Raises: ConfigError if the file is no TOML, or a setting cannot be applied.
    """
    values, text = read_toml(path)
    set_paths = [apply_setting(values, setting) for setting in settings]

    def origins() -> dict[str, str]:
        found = find_key_lines(text)
        for key in set_paths:
            tables = [key[:end] for end, letter in enumerate(key) if letter == "."]
            kept = {name: where for name, where in found.items() if not name.startswith(f"{key}.")}
            found = dict.fromkeys(tables, "--set") | kept | {key: "--set"}
        return {name_source_path(name, values.get("source")): where for name, where in reversed(found.items())}

    return values, origins


def check_config(
    values: Mapping[str, object],
    where: str,
    *,
    folder: Path | None = None,
    sources: bool = True,
    until: str | None = None,
    writes: bool = True,
    origins: Callable[[], Mapping[str, str]] = dict,
) -> RunConfig:
    """Validate config values, and the files and services that they name.

    Args:
        where: the config's file or run, for messages.
        folder: the folder of the file; None for a run record (dataops.home.recorded_base).
        sources: False on a machine that reads a run's dataset from the store: it needs no source files, and downloads
            nothing.
        until: the last stage that will run; by default all stages run.
        writes: False for a plan: nothing is written, not even to test the store.
        origins: returns where each key was set, such as `line 12`, by path; called if there are problems.

    Raises: ConfigError that lists all problems, each with its path, the value and what is allowed; StorageError if the
        store does not answer.
    """
    problems = secret_problems(values)
    if problems:  # no further checks: their messages might repeat the secret
        raise ConfigError(format_problems(where, problems, origins()))
    config, problems = validate_values(values, folder)
    problems += _problems_outside(values, config, folder, sources=sources, until=until, writes=writes)
    if problems or config is None:
        raise ConfigError(format_problems(where, problems, origins()))
    return config


def validate_values(values: Mapping[str, object], folder: Path | None = None) -> tuple[RunConfig | None, list[str]]:
    """Validate the keys and the values of a config in a folder, without the files and services that they name.

    Returns: the config, or None if it is not valid; and the problems, a line each.
    """
    config, details = None, []
    try:
        config = RunConfig.model_validate(values, context={"folder": folder})
    except ValidationError as error:
        details = error.errors()
    problems = describe_problems(details, RunConfig, values)
    return None if problems else config, name_sources(problems, values.get("source"))


def secret_problems(values: object, path: str = "") -> list[str]:
    """Return a problem for each key and value of a config that looks like a secret; it does not repeat the secret."""
    if isinstance(values, Mapping):
        items = [(str(name), value) for name, value in values.items()]
    elif isinstance(values, list | tuple):
        items = [("", value) for value in values]
    else:
        return []
    found: list[str] = []
    for index, (name, value) in enumerate(items):
        where = f"{path}.{redact(name) or index}".lstrip(".")
        problem = redaction.describe_secret(name, value) or (redaction.describe_secret("", name) if name else None)
        found += [f"{where}: {problem}"] if problem else secret_problems(value, where)
    return found


def _problems_outside(
    values: Mapping[str, Any],
    config: RunConfig | None,
    folder: Path | None,
    *,
    sources: bool,
    until: str | None,
    writes: bool,
) -> list[str]:
    """Return the problems of the files and services that the tables name, without those of stages that will not run.

    If a table is not valid, the others are checked all the same, and of that table the keys that are valid.
    """
    types = get_type_hints(RunConfig, include_extras=True)

    def check(name: str) -> tuple[Any, list[str]]:
        if config is not None:
            table, wrong = config.source if name == "source" else config.stage_config(name), set[str]()
        elif name == "source" and isinstance(values.get("source"), list) and len(values["source"]) > 1:
            return None, find_source_problems(values["source"], folder)
        else:
            adapter: TypeAdapter[Any] = TypeAdapter(types[name])
            table, wrong = validate_rest(adapter, values.get(RunConfig.model_fields[name].alias or name, {}), folder)
            source = values.get("source")
            sources = source if isinstance(source, list) else [source]
            if name == "download" and not any(map(_requests_images, sources)):
                wrong.add("contact")  # no host is asked
        found = table.problems(**({"writes": writes} if name == "store" else {})) if table is not None else []
        return table, [line for line in found if line.partition(":")[0].partition(".")[0] not in wrong]

    last = STAGES.index(until) + 1 if until in STAGES else len(STAGES)
    stages = STAGES[0 if sources else STAGES.index("train") : last]
    problems: list[str] = []
    tables: dict[str, Any] = {}
    for name in ("execution", *(_TABLES.get(stage, stage) for stage in stages), "store"):
        tables[name], found = check(name)
        problems += [f"{RunConfig.model_fields[name].alias or name}.{line}" for line in found]
    if (train := tables.get("train")) is not None:
        problems += _find_launch_problems(train.launch)
        curate = tables.get("curate") if "curate" in tables else check("curate")[0]
        if train.blur_faces and curate is not None and not getattr(getattr(curate, "scores", None), "faces", None):
            problems.append("train.blur_faces: needs a table [curate.scores.faces], which finds the faces")
        if train.dataset and tables["store"] is not None and not any(line.startswith("store.") for line in problems):
            problems += _find_missing_datasets(train, tables["store"].uri)
    problems += find_signer_problems(tables, lambda: check("download")[0])
    if (evaluate := tables.get("evaluate")) is not None and evaluate.suite is None:
        problems += _problems_without_suite(train, tables.get("register_"))
    elif evaluate is not None:
        problems += _find_suite_problems(evaluate, tables.get("register_"))
    return problems


def _requests_images(table: object) -> bool:
    """Return whether the images of a table of `[source]` are requested; the table may be wrong, and its kind unknown."""
    if not isinstance(table, Mapping) or (kind := SOURCE_KINDS.get(str(table.get("kind")))) is None:
        return False
    return kind.model_construct(**table).requests_images


def _find_launch_problems(launch: str) -> list[str]:
    """Return why trainings cannot be launched so."""
    if launch in ("local", "work_pool"):
        return []
    return problems_of("train.launch", lambda: _check_launch(launch))


def _check_launch(launch: str) -> None:
    engine: Engine = find("executors", launch)
    if problem := engine.missing():
        raise ConfigError(problem)
    if engine.train is None:
        raise ConfigError(f"the executor {launch} makes no trainings")


def _find_missing_datasets(train: TrainConfig, store_uri: str) -> list[str]:
    """Return a problem for each dataset of a training that is not in the store, before hours of other stages."""
    store = open_store(store_uri)
    keys = [one.key for one in train.dataset if one.key is not None]
    return [
        f"train.dataset: there is no complete dataset pack/{key} in {store.uri}; `pairmill show RUN_ID` prints the key of "
        "a run's dataset"
        for key in keys
        if store.size(f"pack/{key}/{MANIFEST}") is None
    ]


def _problems_without_suite(train: TrainConfig | None, register: RegisterConfig | None) -> list[str]:
    """Return the settings that need the suite of `[evaluate]`, which the config does not name."""
    needing = {
        "train.evaluate_every": train is not None and train.evaluate_every and not train.holdout,
        "register.floors": register is not None and register.floors,
        "register.not_worse": register is not None and register.not_worse,
    }
    remedy = "needs evaluate.suite, a TOML file with your evaluation sets (docs/evaluate/evaluation.md)"
    return [f"{key}: {remedy}" for key, is_set in needing.items() if is_set]


def _find_suite_problems(evaluate: EvaluateConfig, register: RegisterConfig | None) -> list[str]:
    """Return what is wrong with the suite, or the tasks of the gate that it lacks, before days of training."""
    tasks: list[str] = []
    wrong = problems_of("evaluate.suite", lambda: tasks.extend(task.name for task in evaluate.load().tasks))
    if wrong or register is None:
        return wrong
    named = {"floors": [floor.partition("/")[0] for floor in register.floors], "not_worse": register.not_worse}
    return [
        f"register.{key}: {evaluate.suite} has no task {name!r}; there are {', '.join(tasks)}"
        for key, names in named.items()
        for name in names
        if name not in tasks
    ]


def apply_setting(values: dict[str, object], setting: str) -> str:
    """Apply a setting `path.to.key=value` and return its path. Raises: ConfigError."""
    name, equals, text = setting.partition("=")
    steps = name.strip().split(".")
    if not equals or not all(steps):
        raise ConfigError(f"--set {name!r}: it has no value; write it as path.to.key=value")
    try:
        [value] = parse_toml(f"value = {text}").values()  # a line end may begin another key
    except ValueError:
        value = text
    table: Any = values
    path: list[str] = []
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        if isinstance(table, list) and len(table) == 1 and not (step.isdecimal() or step in name_tables(table)):
            table = table[0]  # the keys of a list of one table need no name
        if isinstance(table, list):
            index = _find_table(table, step, f"--set {name!r}")
            path.append(str(index))
            if index == len(table):
                table.append({})
            if following is None:
                table[index] = value
            table = table[index]
        else:
            path.append(step)
            if following is None:
                table[step] = value
            table = table.setdefault(step, {})
        if following is not None and not _is_table(table):
            raise ConfigError(f"--set {name!r}: {step} is a value, not a table")
    return ".".join(path)


def _is_table(value: object) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)
    )


def _find_table(tables: Sequence[Mapping[str, object]], step: str, where: str) -> int:
    """Return the index of a table in a list: by its number from 0, or by its name. The next number adds a table.

    Raises: ConfigError that lists the names.
    """
    names = name_tables(tables)
    if step in names or (step.isdecimal() and int(step) <= len(tables)):
        return names.index(step) if step in names else int(step)
    raise ConfigError(
        f"{where}: {step!r} names none of the {len(tables)} tables; write {' or '.join(names)}, or 0, 1, ..."
    )
