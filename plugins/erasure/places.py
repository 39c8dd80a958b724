"""The places in a file at which text of a pair may stand, by the schema of the file.

The text of a pair is chosen by others: a caption may be the state of a run, and a redirect chooses a final URL. So text is
searched for and overwritten only where a schema says that a file quotes pairs:

- of a record in JSON, the fields that its model marks (`Quoted` of dataops/facts.py): examples, and messages of errors. Its
  other keys, its config and all other values are never read.
- of a page, the text between tags, and attributes that show or link something. Markup and the front matter of Markdown
  are left alone.
- logs.

No other file is ever overwritten. It is searched for URLs and long captions, and for short ones beside a URL or an image.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from pydantic import BaseModel

from dataops.facts import ExtractedFile, FilteredParts, FilterFacts
from dataops.snapshot import Manifest
from flows.records import RunRecord
from plugins.erasure.quotes import replace_fact_quotes, replace_quotes

_MARKUP = re.compile(
    rb"<!--(?:.*?-->|.*)|<(style|script)\b(?:.*?</\1>|.*)|<[!/?]?[A-Za-z][^<>]*>", re.DOTALL
)  # what is not closed reaches to the end
_ATTRIBUTE = re.compile(rb"""\s(?:title|alt|href|src|data-[\w-]+)\s*=\s*(?:"([^"<>]*)"|'([^'<>]*)')""")
_FRONT_MATTER = re.compile(rb"---\r?\n.*?\n---\r?\n", re.DOTALL)
MARKUP, TEXTS = (".html", ".svg"), (".md", ".log")
"""Suffixes of files that are for people only."""


@dataclass(frozen=True)
class RecordKind:
    """A kind of JSON object."""

    name: re.Pattern[str]
    """Matches the end of its path, from the beginning of a name."""
    replace: Callable[[Any, Callable[[str], str]], Any] = lambda value, replace: value
    """Returns the record with each text that may quote a pair replaced: those that its schema marks (dataops/facts.py)."""
    encode: Callable[[Any], bytes] = lambda value: json.dumps(value).encode()
    """Returns the bytes of a record that was changed. Raises: ValueError if it is not valid."""

    def redact(self, data: bytes, redact: Callable[[str], str]) -> bytes:
        """Return the record with its texts replaced; the same bytes if none was changed.

        Raises: ValueError if it is not JSON, or not valid after the change.
        """
        before = json.loads(data)
        try:
            value = self.replace(before, redact)
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"it is no record of its kind: {error!r}") from error
        return data if value == before else self.encode(value)


def _encode_manifest(value: dict[str, Any]) -> bytes:
    return Manifest.model_validate({name: one for name, one in value.items() if name != "sha256"}).encode()


def _replace_in_manifest(value: dict[str, Any], replace: Callable[[str], str]) -> dict[str, Any]:
    return value | {"facts": replace_fact_quotes(value["stage"], value["facts"], replace)}


class _TaskRecord(BaseModel):
    facts: ExtractedFile | FilteredParts


class _TaskRecords(BaseModel):
    records: list[_TaskRecord]


class _IndexEntry(BaseModel):
    record: _TaskRecord


KINDS = (
    RecordKind(re.compile(r"checkpoints/[^/]+/manifest\.json")),  # of an unfinished training
    RecordKind(re.compile(r"manifest\.json|manifests/[^/]+\.json"), _replace_in_manifest, _encode_manifest),
    RecordKind(re.compile(r"by-source/[0-9a-f]+\.json"), partial(replace_quotes, _IndexEntry)),
    RecordKind(re.compile(r"_work/records-.*\.json"), partial(replace_quotes, _TaskRecords)),
    # a record of a task, or what filter counts in its parts
    RecordKind(re.compile(r"_work/.*\.json"), partial(replace_quotes, _TaskRecord | FilterFacts)),
    RecordKind(re.compile(r"croissant\.json|registration\.json|evidence-registration\.json|job\.json|config\.json")),
    RecordKind(re.compile(r"publications/[0-9a-f]+\.json")),
    RecordKind(
        re.compile(r"runs/[^/]+\.json"),
        partial(replace_quotes, RunRecord),
        lambda value: RunRecord.model_validate(value).model_dump_json(indent=2).encode(),
    ),
)


def find_kind(name: str) -> RecordKind | None:
    """Return the kind of the record with this path; None if it is no record, or of none of these kinds."""
    path = PurePosixPath(name)
    ends = ["/".join(path.parts[start:]) for start in range(len(path.parts))] if path.suffix == ".json" else []
    return next((kind for kind in KINDS if any(kind.name.fullmatch(end) for end in ends)), None)


def is_text(name: str) -> bool:
    """Return whether a file is for people only, so that what it quotes may be overwritten."""
    return name.endswith((*MARKUP, *TEXTS))


def find_quotes(data: bytes, name: str) -> list[tuple[int, int]]:
    """Return the ranges of bytes of a page or log in which text of a pair may stand, in their order."""
    if not name.endswith(MARKUP):
        front = _FRONT_MATTER.match(data) if name.endswith(".md") else None
        return [(front.end() if front else 0, len(data))]
    return list(_find_in_markup(data))


def _find_in_markup(data: bytes) -> Iterator[tuple[int, int]]:
    at = 0
    for markup in _MARKUP.finditer(data):
        yield at, markup.start()
        at = markup.end()
        if markup[1] is None:
            for value in _ATTRIBUTE.finditer(data, markup.start(), at):
                yield value.span(1) if value[1] is not None else value.span(2)
    yield at, len(data)
