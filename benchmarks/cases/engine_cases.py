"""Ways to run the map of a stage, for benchmarks/engines.py: a module, so that workers can import the functions."""

import os
import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dataops.snapshot import Draft, Record
from dataops.store import FolderStore, Store
from plugins.own_images.pairs import PairsSource
from plugins.ray.engine import RayExecutor
from tasks.engine.context import Context, OpenWorkers
from tasks.engine.map_parts import map_parts
from tasks.extract.stage import FileTask, extract_file

KILLED = 3
"""Number of the task whose worker is killed."""


class Try(NamedTuple):
    """One run: where, and how often a worker is killed."""

    address: str
    folder: Path
    lists: tuple[str, ...]
    kills: int

    @property
    def draft(self) -> Draft:
        """Return the snapshot that it writes."""
        return Draft(FolderStore(self.folder / "store"), "extract", "k")


def make_part(draft: Draft, task: FileTask) -> Record:
    """Extract a file, or kill the worker of one task as often as files in `kills` say."""
    kills = Path(draft.store.uri).parent / "kills"
    if task.index == KILLED and (left := list(kills.iterdir())):
        left[0].unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return extract_file(draft, task)


def call(folder: Path, task: FileTask) -> str:
    """Make a part and its record, as `map_parts` does."""
    draft = Draft(FolderStore(folder / "store"), "extract", "k")
    return draft.finish(make_part(draft, task)).task


def list_tasks(one: Try) -> list[FileTask]:
    """Return the tasks of extract."""
    source = PairsSource(paths=list(one.lists))
    files = source.fetch(one.draft, Context(one.draft.store, one.folder)).files
    return [FileTask(number, file, file.digest(), source, "source") for number, file in enumerate(files)]


def run_local(one: Try, tasks: Sequence[FileTask]) -> None:
    """Run on two processes of this machine."""
    map_parts(make_part, tasks, one.draft, Context(one.draft.store, one.folder, workers=2))


def run_ours(one: Try, tasks: Sequence[FileTask]) -> None:
    """Run by plugins/ray."""
    executor = RayExecutor(one.address)
    map_parts(make_part, tasks, one.draft, Context(one.draft.store, one.folder, executor=executor))


def run_ray_tasks(one: Try, tasks: Sequence[FileTask]) -> None:
    """Run as plain Ray tasks, with Ray's retries."""
    import ray

    ray.init(address=one.address, log_to_driver=False)
    remote = ray.remote(num_cpus=1, max_retries=3)(call)
    ray.get([remote.remote(one.folder, task) for task in tasks])


class _Caller:
    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"task": [call(*pickle.loads(one)) for one in batch["call"]]}


def run_ray_data(one: Try, tasks: Sequence[FileTask]) -> None:
    """Run by Ray Data with a pool of actors."""
    import ray

    ray.init(address=one.address, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    calls = [{"call": pickle.dumps((one.folder, task))} for task in tasks]
    # A `repartition` would wait for ever: the two actors have both cores, and its own tasks need one.
    rows = ray.data.from_items(calls, override_num_blocks=len(calls))
    rows.map_batches(_Caller, batch_size=1, compute=ray.data.ActorPoolStrategy(size=2)).take_all()


def run_daft(one: Try, tasks: Sequence[FileTask]) -> None:
    """Run by Daft on Ray."""
    import daft

    daft.set_runner_ray(address=one.address)
    calls = daft.from_pydict({"call": [pickle.dumps((one.folder, task)) for task in tasks]}).into_partitions(len(tasks))

    @daft.udf(return_dtype=daft.DataType.string(), batch_size=1)
    def make(column: Any) -> list[str]:
        return [call(*pickle.loads(one)) for one in column.to_pylist()]

    calls.with_column("task", make(calls["call"])).collect()


ENGINES: dict[str, Callable[[Try, Sequence[FileTask]], None]] = {
    "local processes": run_local,
    "ours on Ray": run_ours,
    "Ray tasks": run_ray_tasks,
    "Ray Data": run_ray_data,
    "Daft": run_daft,
}


def run_engine(name: str, one: Try, pipe: Any) -> None:
    """Run an engine in a process of its own, and send how it ended."""
    try:
        ENGINES[name](one, list_tasks(one))
        pipe.send("all tasks finish")
    except BaseException as error:
        pipe.send(f"fails with {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300])


# Whole stages ---------------------------------------------------------------------------------------------------------


class _TasksPool(Executor):
    """Makes each call as a plain Ray task."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        import ray

        return ray.remote(num_cpus=1, max_retries=3)(fn).remote(*args, **kwargs).future()


@dataclass(frozen=True)
class TasksExecutor:
    """Lets plain Ray tasks make the calls of all maps of a stage."""

    address: str
    shares_disk: bool = False

    @contextmanager
    def open(self, workers: int, store: Store) -> Iterator[OpenWorkers]:
        """Use the cluster."""
        import ray

        ray.init(address=self.address, log_to_driver=False)
        try:
            yield OpenWorkers(_TasksPool(), 2, 1)
        finally:
            ray.shutdown()
