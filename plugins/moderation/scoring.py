"""What the scorers of moderation share."""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from dataops.errors import ConfigError, CorruptPart
from dataops.shards.tar import read_samples
from dataops.snapshot import Draft, Record, read_table
from tasks.curate.score import Scorer, ScoringTask, put_scores
from tasks.engine.context import Context
from tasks.engine.map_parts import map_parts


def find_package_file(package: str, name: str) -> Path | None:
    """Return a file beside the module of a package; None if it is not installed."""
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).with_name(name) if spec and spec.origin else None
    return path if path is not None and path.is_file() else None


@contextmanager
def loading(package: str) -> Iterator[None]:
    """Name the package, and the remedy, in what is raised for a model or library that is damaged. Raises: ConfigError."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # the errors of onnxruntime have no other class in common
        why = str(error).partition("\n")[0]
        remedy = f"pip install --force-reinstall --no-deps {package}"
        raise ConfigError(f"the package {package} cannot be loaded ({why}): {remedy}") from error


def score_each(
    scorer: Scorer,
    tasks: Sequence[ScoringTask],
    draft: Draft,
    context: Context,
    *,
    score: Callable[[bytes], dict[str, Any]],
) -> None:
    """Score images one by one in worker processes: the `compute` of a scorer that needs no batches.

    Args:
        score: returns the columns of the scorer for the bytes of an image, null if it cannot be decoded.

    Raises: CorruptPart if a shard lacks an image.
    """
    map_parts(partial(_score_images, schema=scorer.schema, score=score), tasks, draft, context)


def _score_images(
    draft: Draft, task: ScoringTask, schema: pa.Schema, score: Callable[[bytes], dict[str, Any]]
) -> Record:
    rows = read_table(draft.store, task.rows)
    ids = dict(zip(rows["key"].to_pylist(), rows["id"].to_pylist(), strict=True))
    scores: list[dict[str, Any]] = []
    with draft.store.open(task.tar) as file:
        for key, members in read_samples(file, task.tar):
            if key in ids and task.extension in members:
                scores.append({"id": ids.pop(key), **score(members[task.extension])})
    if ids:
        raise CorruptPart(f"{task.tar}: sample {next(iter(ids))!r} has no .{task.extension} image to score")
    put_scores(draft.store, task.scorer, pa.Table.from_pylist(scores, schema))
    return Record(task=task.id)
