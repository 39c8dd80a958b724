"""One task of a suite: an evaluation set, its source, and the metrics to measure on it. Imports no torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, model_validator

from dataops import plugins
from dataops.config import ConfigPath, FrozenModel
from dataops.digest import file_sha256
from dataops.errors import ConfigError
from training.evaluation.measures import Measure, current_name
from training.evaluation.sets import EvalSet, Kind

SPLIT = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
PROMPTS = "prompts"
"""The protocol that measures each prompt alone; all others read examples with labels."""


def _is_protocol(name: str) -> str:
    if name != PROMPTS:
        try:
            plugins.find("protocols", name)
        except ConfigError as error:
            raise ValueError(str(error)) from error
    return name


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]


class Group(FrozenModel):
    """Groups of images that are reported one by one, by one of the facts beside each image."""

    name: Name
    """The fact that separates the groups, for reports: region, income, ..."""
    column: int = Field(ge=0)
    """Column of the group in {key}.npy."""
    values: tuple[str, ...] = ()
    """Names of the groups 0, 1, ..., for reports."""
    ignore: tuple[int, ...] = ()
    """Groups that do not count as the worst one, such as FMoW's `Other`."""


class Task(FrozenModel):
    """One evaluation set and the protocols to run on it."""

    name: Name
    """Letters, digits, `.`, `_`, `-`: it names metrics and files."""
    kind: Kind
    """classification: zero-shot top-1/top-5 over the class names; multilabel: average precision of each class; retrieval:
    R@1/5/10 both ways; association: the Jaccard index of the images that are chosen for a word; choice: the share of images
    that prefer their right caption to wrong ones."""
    root: ConfigPath = Field(min_length=1)
    """Folder of the data; a relative one starts at the data folder of `load_suite`. Default: the set's name in `source`."""
    split: str = Field(default="test", pattern=SPLIT)
    """Folder below the root."""
    description: str = ""
    """What the task measures, for reports."""
    source: str = Field(default="", pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*)?$")
    """Source for `pairmill datasets fetch`: a dataset repository of the Hub."""
    missing: str = ""
    """Reason why the set is not available. Such a task is never run, and always listed."""
    metric: Annotated[str, AfterValidator(current_name)] | None = None
    """Metric that stands for the set in averages; None: the kind's own (top1, mean_average_precision, mean_R_at_1)."""
    classes: int | None = Field(default=None, ge=2)
    """Number of classes that the set must have."""
    samples: PositiveInt | None = None
    """Number of images that the set is known to have; another number is reported beside the result."""
    train_split: str | None = Field(default=None, pattern=SPLIT)
    """Labelled examples for `linear_probe` and `few_shot`."""
    val_split: str | None = Field(default=None, pattern=SPLIT)
    """Examples to choose the probe's regularisation by; None: a fifth of the training examples."""
    protocols: tuple[Annotated[str, AfterValidator(_is_protocol)], ...] = ()
    """Measurements besides zero-shot transfer: linear_probe, few_shot (1, 2, 4, 8, 16 a class), prompts (each alone)."""
    base: str = ""
    """The task whose classes this one shows under a natural shift: its robustness is measured against that one."""
    in_average: bool = True
    """True if it counts in the suite's average; a probe of fairness may be no measure of transfer."""
    group: Group | None = None
    """Report each of these groups, and the worst."""
    objective: str = Field(default="", pattern=r"^[a-z_]*$")
    """Objective of a set with several questions per image: see training/evaluation/sets.py."""
    label_column: NonNegativeInt | None = None
    """Column of the label among the facts beside the image, if it is one of them."""

    @model_validator(mode="after")
    def _fits(self) -> "Task":
        try:
            metrics = self.measure.metrics
        except ConfigError as error:
            raise ValueError(str(error)) from error
        if self.metric is not None and self.metric not in metrics:
            raise ValueError(f"metric {self.metric} is none of a {self.kind} task: {', '.join(metrics)}")
        if self.metric in ("worst_group_top1", "worst_group_top5") and self.group is None:
            raise ValueError(f"metric {self.metric} needs [task.group]")
        if self.protocols and self.kind != "classification":
            raise ValueError(f"protocols are for classification, not {self.kind}")
        if self.probes and self.train_split is None:
            raise ValueError(f"{' and '.join(self.probes)} need train_split")
        return self

    @property
    def main_metric(self) -> str:
        """Metric that stands for the set."""
        return self.metric or self.measure.metrics[0]

    @property
    def measure(self) -> Measure:
        """What is computed for tasks of this kind. Raises: ConfigError if its plugin is not installed."""
        return plugins.find("measures", self.kind)

    @property
    def probes(self) -> list[str]:
        """Protocols that read examples with labels, in the order in which they run."""
        return [name for name in plugins.load("protocols") if name in self.protocols]

    @property
    def data(self) -> EvalSet:
        """The images of the evaluated split."""
        return self.data_of(self.split)

    def data_of(self, split: str) -> EvalSet:
        """Return the images of one split."""
        return EvalSet(Path(self.root), split, self.kind, self.objective, self.label_column, self.group is not None)

    def splits(self) -> list[str]:
        """Return all splits that the task reads."""
        others = [self.train_split, self.val_split] if self.probes else []
        return [self.split, *(split for split in others if split is not None)]

    def identity(self, digest: Callable[[Path], str] = file_sha256) -> dict[str, Any]:
        """Return all that decides the task's result except the model: no absolute path, no clock.

        Args:
            digest: returns the sha256 of a file.
        """
        sets = [self.data_of(split) for split in self.splits()]
        paths = dict.fromkeys(path for data in sets for path in data.files())
        return self.model_dump(mode="json", exclude={"root", "source"}, exclude_defaults=True) | {
            "split": self.split,
            "files": [[path.relative_to(self.root).as_posix(), digest(path)] for path in paths]
            + [[name, ""] for data in sets for name in data.empty_folders()],
        }

    def problems(self) -> list[str]:
        """Return all that is wrong with the data, without reading the samples."""
        sets = list(map(self.data_of, self.splits()))
        if found := list(dict.fromkeys(problem for data in sets for problem in data.problems())):
            return found
        names = {tuple(path.name for path in data.class_folders()) for data in sets if data.layout() == "folder"}
        if len(names) > 1:  # a label is the index of a folder
            return [f"{self.root}: its splits have different class folders; add the missing ones, also empty"]
        if self.classes is not None and (have := len(self.data.class_names())) != self.classes:
            return [f"{self.root}: has {have} classes, but `classes` of the suite is {self.classes}"]
        return []
