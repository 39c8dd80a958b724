"""A stage that is only arithmetic, and logs each part that it makes."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from dataops.config import StageConfig
from dataops.errors import SourceError
from dataops.schema import uid
from dataops.snapshot import Counts, Input, Record
from tasks.engine.map_parts import map_parts
from tasks.engine.stage import Stage, StageOutput, merge_records


@dataclass(frozen=True)
class Number:
    value: int
    log: str

    @property
    def id(self):
        return f"part-{self.value:05d}"


class SquareConfig(StageConfig):
    execution_fields = frozenset({"log"})
    count: int = 4
    log: str = ""


def square(draft, task):
    with Path(task.log).open("a") as log:
        log.write(f"{task.value}\n")
    if task.value == 3 and Path(f"{task.log}.fail").exists():
        raise SourceError("three failed")
    times = Path(f"{task.log}.die")
    if task.value == 2 and times.exists() and (left := times.read_text()):
        times.write_text(left[1:])
        if left[0] == "m":
            raise MemoryError
        os._exit(9) if left[0] == "x" else time.sleep(600)  # longer than a test may take
    part = draft.put_table(f"part-{task.value:05d}.parquet", pa.table({"uid": [uid("u", str(task.value**2))]}))
    return Record(task=task.id, parts=[part], counts=Counts(input=1, kept=1))


def make_squares(work, make_one=square, **options):
    tasks = [Number(n, work.config.log) for n in range(work.config.count)]
    return StageOutput(*merge_records(map_parts(make_one, tasks, work.draft, work.context, **options)))


SQUARES = Stage("filter", 1, make_squares, external_inputs=lambda config: [Input(stage="source", key="s", digest="d")])


def done(log):
    return sorted(int(line) for line in log.read_text().split()) if log.exists() else []
