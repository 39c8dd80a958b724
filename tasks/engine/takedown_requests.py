"""Requests to take things out: read from a file, recorded in the store for good, heeded by every later run.

    takedowns/<digest>.json           what is to be taken out: the digest is of the targets
    takedowns/<digest>.report.json    what was done about it, and the proof; written anew by each `pairmill takedown`

`pack` heeds all requests of its store: their digests are inputs of its snapshots, so a new one gives new keys. `download`
does not fetch what a request means; its key does not change with requests, as it does not with robots.txt.
"""

import csv
import hashlib
import io
import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from dataops.digest import canonical_json
from dataops.errors import ConfigError, CorruptPart
from dataops.images.decode import ImageRefused
from dataops.snapshot import Input
from dataops.store import Store
from dataops.trace.targets import KINDS, Target, image_targets, parse_target

FOLDER = "takedowns"
STAGE = "takedown"
"""Of an `Input` that is a request."""
LISTED = 20
_NAME = re.compile(rf"{FOLDER}/([0-9a-f]{{16}})\.json")


class Request(BaseModel):
    """takedowns/<digest>.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    targets: tuple[str, ...]
    """Sorted, each as `dataops.trace.targets.Target` writes itself."""
    reason: str = ""
    requested_at: str

    @property
    def digest(self) -> str:
        """16 hex digits over the targets: the same request twice is one."""
        return hashlib.sha256(canonical_json(list(self.targets)).encode()).hexdigest()[:16]

    def parsed(self) -> list[Target]:
        """The targets. Raises: ValueError where somebody else wrote the record."""
        return [parse_target(text) for text in self.targets]


def make_request(targets: Sequence[Target], reason: str) -> Request:
    """A request of this moment."""
    named = tuple(sorted({str(target) for target in targets}))
    return Request(targets=named, reason=reason, requested_at=datetime.now(UTC).isoformat(timespec="seconds"))


def record_request(store: Store, request: Request) -> bool:
    """Write a request down; False where the store has it already."""
    return store.create(f"{FOLDER}/{request.digest}.json", request.model_dump_json(indent=2).encode())


def list_requests(store: Store) -> list[Input]:
    """All requests of a store, as inputs of a snapshot, sorted."""
    digests = [found[1] for name in store.names(FOLDER) if (found := _NAME.fullmatch(name))]
    return [Input(stage=STAGE, key=digest, digest=digest) for digest in digests]


def select_requests(inputs: Iterable[Input]) -> list[Input]:
    """The requests among the inputs of a snapshot."""
    return [one for one in inputs if one.stage == STAGE]


def load_targets(store: Store, requests: Sequence[Input]) -> tuple[Target, ...]:
    """What these requests take out, each once.

    Raises: CorruptPart when a record is damaged: nothing may be made before it is known what must be left out.
    """
    found: dict[Target, None] = {}
    for request in requests:
        name = f"{FOLDER}/{request.key}.json"
        try:
            read = Request.model_validate_json(store.read(name))
            targets = read.parsed()
        except (ValidationError, ValueError) as error:
            raise CorruptPart(
                f"{store.uri}/{name} is no takedown request ({error}); write it again with `pairmill takedown`"
            ) from error
        if read.digest != request.key:
            raise CorruptPart(
                f"{store.uri}/{name} holds other targets than its name says; write it again with `pairmill takedown`"
            )
        found |= dict.fromkeys(targets)
    return tuple(found)


def read_targets(path: Path) -> list[Target]:
    """The targets of a file: a list, one a line; a CSV with the columns kind and value; or TOML with a list a kind.

    In a list, `#` begins a comment. `image:PATH` stands for a picture: its bytes, and all that looks like it.

    Raises: ConfigError with every line that is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = list({".toml": _toml_lines, ".csv": _csv_lines}.get(path.suffix.lower(), _list_lines)(text))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as a takedown request: {error}") from error
    targets, problems = list[Target](), list[str]()
    for where, line in lines:
        try:
            targets += _parse(line, path.parent)
        except (ValueError, OSError) as error:
            problems.append(f"  {path}{where}: {error}")
    if problems:
        more = [f"  and {len(problems) - LISTED} more"] if len(problems) > LISTED else []
        head = f"{len(problems)} of {len(lines)} lines are no targets; nothing was done"
        raise ConfigError("\n".join([head, *problems[:LISTED], *more]))
    if not targets:
        raise ConfigError(f"{path}: names nothing to take down")
    return list(dict.fromkeys(targets))


def _parse(text: str, folder: Path) -> list[Target]:
    if not text.startswith("image:"):
        return [parse_target(text)]
    name = text.removeprefix("image:").strip()
    try:
        return image_targets((folder / name).read_bytes())
    except ImageRefused as error:
        raise ValueError(f"{name}: {error}") from error


def _list_lines(text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        wanted = re.sub(r"(^|\s)#.*", "", line).strip()
        if wanted:
            yield f":{number}", wanted


def _csv_lines(text: str) -> Iterator[tuple[str, str]]:
    reader = csv.DictReader(io.StringIO(text))
    if not {"kind", "value"} <= set(reader.fieldnames or ()):
        raise ValueError("its first line must name the columns kind and value")
    for row in reader:
        kind, value = (row["kind"] or "").strip(), (row["value"] or "").strip()
        yield f":{reader.line_num}", f"{kind}:{value}" if kind else value


def _toml_lines(text: str) -> Iterator[tuple[str, str]]:
    values: dict[str, Any] = tomllib.loads(text)
    allowed = (*KINDS, "image")
    for kind, listed in values.items():
        if kind not in allowed or not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
            raise ValueError(f"{kind}: expected lists of strings named {', '.join(allowed)}")
        for place, one in enumerate(listed):
            yield f": {kind}[{place}]", f"{kind}:{one}"
