"""Open shards: those on this disk, and those that arrive while training runs, because the disk does not hold all.

The process that started the job brings them (tasks/train/transfers.py); the trainer holds no
credential. The two share only the shards' folder. `wanted.json`, written here, lists the shards in
the order in which they will be read. Each arrives whole, under its name, and is deleted once
`wanted.json` does not list it. `refused.json` holds the error of a failed one.
"""

import json
import os
import resource
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dataops.digest import canonical_json
from dataops.errors import ConfigError, ContractError, StorageError
from dataops.parquet import read_parquet
from dataops.regular_files import check_regular, open_descriptor, read_text
from training.data.sampling_plan import Plan

WANTED, REFUSED = "wanted.json", "refused.json"
POLL_SECONDS = 0.05
MAX_OPEN = max(64, min(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4, 65_536))
"""Maximum number of open shards of a process: a quarter of its limit for files."""


class _OpenFile:
    """A file that is closed when its last reader has ended, also if another thread has removed it from the open ones."""

    def __init__(self, path: Path):
        self.descriptor = open_descriptor(path)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class ShardFiles:
    """Files of shards by number, opened when they are first read.

    Args:
        arriving: bytes of the shards that arrive while training runs, by file name.
        max_open: maximum files that are open at a time.
    """

    def __init__(self, paths: Sequence[Path], arriving: Mapping[str, int], max_open: int = MAX_OPEN):
        self.paths, self._arriving, self._max_open = paths, arriving, max_open
        self._have_unique_names = len({path.name for path in paths}) == len(paths)
        self._files: OrderedDict[int, _OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    def label(self, shard: int) -> str:
        """Return the name of a shard in messages: its file name, after that of its folder where any two names are equal."""
        path = self.paths[shard]
        return path.name if self._have_unique_names else f"{path.parent.name}-{path.name}"

    def arrives(self, shard: int) -> bool:
        """Return whether a shard arrives while training runs."""
        return self.paths[shard].name in self._arriving

    def size(self, shard: int) -> int:
        """Return the bytes of a shard, on this disk or not."""
        path = self.paths[shard]
        return self._arriving[path.name] if path.name in self._arriving else path.stat().st_size

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """Read bytes of a shard; waits until the shard has arrived.

        Raises: ContractError if the shard ends before; the error in refused.json if the shard cannot be brought.
        """
        file = self._file(shard)
        data = os.pread(file.descriptor, size, offset)
        if len(data) != size:
            raise ContractError(f"shard {self.paths[shard]} ends before byte {offset + size:,}: it was cut while open")
        return data

    def close(self, keep: frozenset[int] = frozenset()) -> None:
        """Close all but those to `keep`, which frees the disk of deleted ones."""
        with self._lock:
            for shard in self._files.keys() - keep:
                del self._files[shard]

    def _file(self, shard: int) -> _OpenFile:
        with self._lock:
            if (file := self._files.get(shard)) is not None:
                self._files.move_to_end(shard)
                return file
        opened = self._open(shard)
        with self._lock:
            file = self._files.setdefault(shard, opened)  # another thread may have been faster
            if len(self._files) > self._max_open:
                self._files.popitem(last=False)
            return file

    def _open(self, shard: int) -> _OpenFile:
        path = self.paths[shard]
        while True:
            try:
                return _OpenFile(path)
            except FileNotFoundError:
                if not self.arrives(shard):
                    raise
            if (refused := path.with_name(REFUSED)).exists():
                _raise(json.loads(read_text(refused)))
            time.sleep(POLL_SECONDS)


def find_checksum(checksums: Mapping[str, str], shard: Path) -> str | None:
    """Return the sha256 that a shard must have, listed by its path, or by its file name; None if it is not listed."""
    return checksums.get(str(shard)) or checksums.get(shard.name)


def rows_of_shard(shard: Path) -> Path:
    """Return the path of the Parquet file beside a shard that holds its rows."""
    return shard.with_name(f"part-{shard.stem}.parquet")


def read_shard_rows(shard: Path, columns: list[str], optional: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Yield columns of a shard's samples in its order, and the `key` of each, from the dataset's Parquet beside the shard.

    Args:
        optional: columns that the file may lack.

    Raises: ContractError if the file is missing or lacks a column.
    """
    path = rows_of_shard(shard)
    try:
        check_regular(path)
        table = read_parquet(path, str(path), ["key", *columns, *optional])
        yield from table.select(["key", *columns, *(one for one in optional if one in table.column_names)]).to_pylist()
    except (OSError, ValueError, KeyError) as error:
        raise ContractError(f"{path}: {error}") from error


class ShardRequests:
    """The list of shards that rank 0 requests, step by step.

    Args:
        files: the shards of the dataset.
        plan: a plan with windows.
        limit: maximum bytes of the folder.

    Raises: ConfigError if it does not hold twice what is shuffled together: one half is read while the next one
    arrives.
    """

    def __init__(self, files: ShardFiles, plan: Plan, limit: int):
        assert plan.windows is not None
        self._files, self._plan, self._limit = files, plan, limit
        self._folder = files.paths[0].parent
        self._written: tuple[set[int], set[int]] | None = None
        together = 0
        for windows in plan.all_windows():
            shards = range(windows.first_shard, windows.first_shard + len(windows.sizes))
            together += sum(sorted(map(files.size, shards))[-windows.at_once :])
        of_each = " of each dataset" if plan.mixture else ""
        self._check(2 * together, f"twice shuffle_shards = {plan.windows.at_once} shards{of_each}")

    def write(self, step: int, soon: list[int]) -> None:
        """Request the shards that are needed from a step on, unless the last request was the same.

        Args:
            step: the next step.
            soon: shards of this step and of those that are read ahead, in the order of need.

        Raises: ConfigError if the shards of one step do not fit.
        """
        now = self._plan.shards_of(step, step)
        if self._written == (request := (set(now), set(soon))):
            return
        self._check(sum(map(self._files.size, now)), f"the {len(now)} shards of step {step}")
        names = [self._files.paths[shard].name for shard in dict.fromkeys(soon + self._plan.shards_after(step))]
        part = self._folder / f".{WANTED}"
        part.write_text(canonical_json(names), "utf-8")
        part.replace(self._folder / WANTED)
        self._written = request

    def _check(self, size: int, subject: str) -> None:
        if size > self._limit:
            raise ConfigError(
                f"shard_cache_bytes = {self._limit:,} does not hold {subject}, {size:,} bytes: raise it, or lower "
                "shuffle_shards or batch_size"
            )


def _raise(refusal: dict[str, Any]) -> None:
    raise (ContractError if refusal["exit_code"] == ContractError.exit_code else StorageError)(refusal["message"])
