"""The seam of a download: what plugins do with its requests and with the bytes that it fetches.

An entry point of `pairmill.fetch_hooks` names a `FetchHook`, whose config table extends `[download]`. Where a config uses
it, the run starts a `ShardHook`, whose methods every worker calls for the images of its shards.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from email.message import Message
from functools import cache
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import BaseModel

from dataops import plugins
from dataops.facts import DownloadFacts, Facts
from dataops.schema import DropReason
from dataops.snapshot import Draft, Input, Record
from dataops.trace.targets import Target
from tasks.engine.context import Context
from tasks.engine.stage import Work
from tasks.web.connection import Connection

KIND = "fetch_hooks"


class ShardHook:
    """What a hook does with the images of one run: the base class, whose methods do nothing. It is picklable.

    Workers call its methods from many threads, in the order of their definition here.
    """

    @contextmanager
    def open(self, draft: Draft) -> "Iterator[ShardHook]":
        """Yield the hook of one task in a worker process that has no other threads and no sockets yet."""
        yield self

    def begin(self, rows: pa.Table) -> None:
        """Prepare for the rows of a shard."""

    def fetch(self, fetch: Any, url: str) -> Any:
        """Return an image from elsewhere, without a request: a Fetched; None: it is requested.

        Args:
            fetch: the Fetch of tasks.download.opener, with its `evidence` and `read_response`.

        Raises: FetchError.
        """
        return None

    def headers(self, url: str) -> Mapping[str, str]:
        """Return headers for the request of an image."""
        return {}

    def answered(self, evidence: Any, connection: Connection) -> None:
        """Receive the connection of a response: the hook may state something of its host in `evidence.server`."""

    def stored(self, url: str) -> bytes | None:
        """Return the image for a response that it has not changed (status 304)."""
        return None

    def check(self, body: bytes) -> None:
        """Drop an image, before anything else is done with its bytes. Raises: FetchError with the drop reason."""

    def keep(self, url: str, body: bytes, headers: Message, *, new: bool) -> None:
        """Receive an image that a host sent (or, if not `new`, confirmed), and that opts out by nothing."""

    def failed(self, url: str) -> None:
        """Receive a URL that failed for good."""

    def end(self) -> None:
        """Raise an error where the shard must be fetched again."""

    def list_facts(self) -> Mapping[str, Any]:
        """Return facts for the manifest, in the driver."""
        return {}


class FetchHook:
    """A registered object: the base class, whose methods do nothing. The driver calls it with the DownloadConfig."""

    config: type[BaseModel] | None = None
    """Its keys in `[download]`."""
    table: str | None = None
    """Name of its table in `[download]`; None: its keys are in `[download]` itself."""
    execution_fields: frozenset[str] = frozenset()
    """Its keys that change no output."""
    erased_reasons: frozenset[str] = frozenset()
    """Drop reasons that leave nothing of a row but its uid and `error_message`, and that are not retried."""
    recovers: bool = False
    """Whether `recover` takes over what an older accepted version of the stage has fetched."""
    facts: type[Facts] = Facts
    """Model of what `ShardHook.list_facts` returns; it states the marks of text that a takedown overwrites."""

    reasons: ClassVar[Mapping[str, DropReason]] = {}
    """The meaning of its drop reasons."""

    def adapt(self, config: object, sources: Sequence[object]) -> Any:
        """Return the config with what it takes from the tables of `[source]`."""
        return config

    def key(self, config: object) -> Mapping[str, Any]:
        """Return fields for the snapshot's key, in place of the table's values or beside them."""
        return {}

    def problems(self, config: object) -> list[str]:
        """Return why the run cannot start: a line each, which begins with the path in `[download]`."""
        return []

    def inputs(self, config: object) -> list[Input]:
        """Return what is read from outside the store. Raises: ConfigError, SourceError."""
        return []

    def recover(self, work: Work[Any], rows: Sequence[tuple[str, int]]) -> Record | None:
        """Return the record of what was fetched before, with ReopenedShards; None: all rows are requested.

        Args:
            rows: the objects with all rows, each with its number of rows.
        """
        return None

    def start(self, work: Work[Any], context: Context, started: Sequence[ShardHook]) -> ShardHook | None:
        """Return what workers call; None where the config does not use the hook.

        Args:
            started: the hooks before this one.
        """
        return None

    def finish(self, work: Work[Any], facts: DownloadFacts) -> None:
        """End the run; `facts` are those of the manifest."""

    def list_copies(self, table: Mapping[str, object]) -> list[str]:
        """Return the folders of this machine in which a run with this table `[download]` kept images."""
        return []

    def erase(self, folder: str, urls: Sequence[str], targets: Sequence[Target]) -> int:
        """Delete the kept images of URLs and targets of takedown requests; return their number. Raises: ConfigError."""
        return 0


def load_hooks() -> Mapping[str, FetchHook]:
    """Return the registered hooks by name, in their order."""
    return plugins.load(KIND)


def start_hooks(work: Work[Any], context: Context) -> tuple[ShardHook, ...]:
    """Start the hooks that the config of a download uses."""
    started: list[ShardHook] = []
    for hook in load_hooks().values():
        if (found := hook.start(work, context, tuple(started))) is not None:
            started.append(found)
    return tuple(started)


@cache
def erased_reasons() -> frozenset[str]:
    """Return the drop reasons that leave nothing of a row but its uid and `error_message`."""
    return frozenset(reason for hook in load_hooks().values() for reason in hook.erased_reasons)
