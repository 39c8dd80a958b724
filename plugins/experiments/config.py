"""The file of an experiment: the base config, its variants, and what decides. Everything is checked before work starts."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, field_validator

from dataops.config import FrozenModel
from dataops.digest import canonical_json, text_sha256
from dataops.errors import ConfigError
from dataops.toml_problems import describe_problems, format_problems
from dataops.toml_text import format_value
from flows.config import RunConfig, load_config, read_config
from plugins.experiments.forecast import MIN_SCALES
from training.evaluation.suite import Suite

LAST = "evaluate"
"""Last stage of a run: nothing is registered."""
SEED = "train.seed"
EPOCHS = "train.epochs"
SHARE = "curate.sample.share"
DECIDING = ("source", "filter", "download", "curate", "pack", "train")
"""Tables by which variants differ."""
METRIC = re.compile(r"top[15]|mean_per_class|(mean|image_to_text|text_to_image)_R_at_\d+|accuracy|jaccard")
"""Metrics that have a value for each image, which a paired comparison needs."""


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _check_name(name: str) -> str:
    if NAME.fullmatch(name) is None:
        raise ValueError(
            "write at most 64 Latin letters, digits, dots, underscores and hyphens, beginning with a letter or digit"
        )
    return name


Name = Annotated[str, AfterValidator(_check_name)]


class Control(FrozenModel):
    """The `[control]` table: what is equal in all variants."""

    equal: Literal["epochs", "samples_seen", "seconds", "pairs"] = "epochs"
    """epochs: as the config has them. samples_seen: so many epochs that each variant sees about as many samples as the
    first one. seconds: so many that its training takes about as long, at the speed that a training of one epoch had.
    pairs: a random part of each dataset, about as large as the smallest one."""


class Decide(FrozenModel):
    """The `[decide]` table: what decides which variant is better."""

    metric: str = "mean"
    """mean: the mean of the main metrics of the suite's tasks; or TASK, or TASK/METRIC."""
    confidence: float = Field(default=0.95, ge=0.5, lt=1)
    """Confidence of the intervals, and of all verdicts together."""
    racing: bool = False
    """Compare the variants after each seed from the second on, and train no further one of a variant that is worse than
    another: it can no longer win."""


class Ladder(FrozenModel):
    """The `[ladder]` table: smaller trainings, on which a forecast is fitted."""

    samples_seen: tuple[Annotated[float, Field(gt=0)], ...]
    """Samples that the trainings see, at least three numbers: each variant sees about so many, in whole epochs."""

    @field_validator("samples_seen")
    @classmethod
    def _has_scales(cls, samples: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(samples)) < MIN_SCALES:
            raise ValueError(f"a curve needs at least {MIN_SCALES} different scales, and it has {len(set(samples))}")
        return tuple(sorted(set(samples)))


class ExperimentFile(FrozenModel):
    """The file of an experiment."""

    name: Name
    base: Path
    """The config that the variants change; a relative path starts at the folder of this file."""
    seeds: int = Field(default=3, ge=2, le=100)
    """Trainings of each variant, with `train.seed` 0, 1, ...: one seed shows no noise."""
    variants: dict[Name, dict[str, Any]]
    """Settings of each variant by its name; none for the base config as it is."""
    control: Control = Control()
    ladder: Ladder | None = None
    decide: Decide = Decide()


@dataclass(frozen=True)
class Variant:
    """One variant: its settings, as `--set` takes them, and its config."""

    name: str
    settings: tuple[str, ...]
    config: RunConfig


@dataclass(frozen=True)
class Experiment:
    """An experiment whose file was checked."""

    file: ExperimentFile
    base: Path
    variants: tuple[Variant, ...]
    tasks: Mapping[str, str]
    """Names of the tasks whose mean decides, each with its metric."""

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def store_uri(self) -> str:
        """URI of the store of all runs."""
        return self.variants[0].config.store.uri


def load_experiment(path: Path, *, writes: bool = True) -> Experiment:
    """Read the file of an experiment, and check it with the config of each variant.

    Args:
        writes: False if nothing may be written, not even to test the store.

    Raises: ConfigError with what is wrong.
    """
    file = _read(path)
    base = path.parent / file.base
    if len(file.variants) < 2:
        raise ConfigError(
            f"{path}: [variants] has {len(file.variants)}; a comparison needs at least two, such as none = {{}}"
        )
    variants = tuple(_load_variant(path, base, name, values, writes) for name, values in file.variants.items())
    _check_differences(path, base, variants)
    _check_control(path, file, variants)
    return Experiment(file, base, variants, _choose_tasks(path, variants[0].config, file.decide.metric))


def list_settings(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the values of a variant as settings `dotted.path=value`, in their order.

    Tables are opened, except for those that are empty or have a key with a dot, such as a host.
    """
    found: list[str] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value and not any("." in name for name in value):
            found += list_settings(value, f"{prefix}{key}.")
        else:
            found.append(f"{prefix}{key}={format_value(value)}")
    return found


def _read(path: Path) -> ExperimentFile:
    values, find_origins = read_config(path)
    try:
        return ExperimentFile.model_validate(values)
    except ValidationError as error:
        problems = describe_problems(error.errors(), ExperimentFile, values)
        raise ConfigError(format_problems(str(path), problems, find_origins())) from error


def _load_variant(path: Path, base: Path, name: str, values: Mapping[str, Any], writes: bool) -> Variant:
    if wrong := [key for key in DECIDING if not isinstance(values.get(key, {}), Mapping | list)]:
        raise ConfigError(
            f"{path}: variant {name} sets {wrong[0]}, which is a table; set its keys: {wrong[0]}.KEY = ..."
        )
    settings = tuple(list_settings(values))
    keys = {line.partition("=")[0] for line in settings}
    if set_here := sorted(key for key in keys if key in (SEED, "name") or key.split(".")[0] in ("store", "evaluate")):
        raise ConfigError(
            f"{path}: variant {name} sets {set_here[0]}; seeds, store and suite are the same in all variants: set it in "
            f"{base}"
        )
    try:
        config = load_config(base, (*settings, f"{SEED}=0"), LAST, writes=writes)
    except ConfigError as error:
        raise ConfigError(f"{path}: variant {name}: {error}") from error
    if config.grow is not None:
        raise ConfigError(f"{path}: {base} has a table [grow]: each run would add to the dataset of the variant before")
    return Variant(name, settings, config)


def _check_differences(path: Path, base: Path, variants: Sequence[Variant]) -> None:
    """Check that each variant with settings differs from the base config, and all from each other."""
    unchanged = _fingerprint(load_config(base, (f"{SEED}=0",), LAST, writes=False))
    known: dict[str, str] = {}
    for one in variants:
        found = _fingerprint(one.config)
        if one.settings and found == unchanged:
            raise ConfigError(
                f"{path}: variant {one.name} changes nothing: {base} makes the same with {', '.join(one.settings)}; "
                "write it as {} if it stands for the base config"
            )
        if found in known:
            raise ConfigError(f"{path}: variants {known[found]} and {one.name} are equal; leave out one")
        known[found] = one.name


def _check_control(path: Path, file: ExperimentFile, variants: Sequence[Variant]) -> None:
    """Check that no variant sets what the control or the ladder sets."""
    equal, taken = file.control.equal, dict[str, str]()
    if equal == "pairs":
        taken[SHARE] = f'control.equal = "{equal}"'
    if equal in ("samples_seen", "seconds") or file.ladder:
        taken[EPOCHS] = "[ladder]" if file.ladder else f'control.equal = "{equal}"'
    for one in variants:
        for key, table in taken.items():
            if any(line.startswith(f"{key}=") for line in one.settings):
                raise ConfigError(f"{path}: {table} sets {key}, and variant {one.name} sets it too; leave out one")


def _fingerprint(config: RunConfig) -> str:
    """Return what decides the keys of a config's snapshots."""
    return canonical_json([config.seed, *(config.stage_config(table).key_config() for table in DECIDING)])


def describe_kind(config: RunConfig) -> str:
    """Return a digest of the kind of data and training: equal ones differ in source files, size, epochs and seeds only."""
    tables = {table: config.stage_config(table).key_config() for table in DECIDING if table != "source"}
    for key in ("epochs", "seed"):
        tables["train"].pop(key, None)
    kinds = sorted({one.kind for one in config.source.tables})
    tasks = sorted(task.name for task in config.evaluate.load().tasks) if config.evaluate.suite is not None else []
    return text_sha256(canonical_json([kinds, tables, tasks]))


def _choose_tasks(path: Path, config: RunConfig, metric: str) -> dict[str, str]:
    """Return the tasks whose mean decides, each with its metric. Raises: ConfigError if the suite lacks it."""
    if config.evaluate.suite is None:
        raise ConfigError(f"{path}: the base config has no evaluate.suite, so nothing could be compared; set it there")
    suite: Suite = config.evaluate.load()
    if metric == "mean":
        chosen = {task.name: task.main_metric for task in suite.tasks if task.in_average}
    else:
        name, slash, of_task = metric.partition("/")
        chosen = {task.name: of_task or task.main_metric for task in suite.tasks if task.name == name}
        if chosen and slash and of_task not in next(one for one in suite.tasks if one.name == name).measure.metrics:
            chosen = {}
    if not chosen:
        listed = ", ".join(f"{task.name}/{task.main_metric}" for task in suite.tasks)
        raise ConfigError(
            f"{path}: decide.metric {metric!r} is not in the suite {suite.name}; it has {listed}, and `mean` of them"
        )
    if wrong := [f"{task}/{one}" for task, one in chosen.items() if not METRIC.fullmatch(one)]:
        raise ConfigError(
            f"{path}: decide.metric: {', '.join(wrong)} has no value for each image, which a paired comparison needs; "
            "name another metric of the suite"
        )
    return chosen
