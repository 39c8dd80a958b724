"""Erase removed pairs from the files that pairmill wrote under the home folder, and search these."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dataops.errors import PairmillError
from dataops.home import SERVERS, WRITTEN
from dataops.regular_files import open_regular
from plugins.erasure.places import is_text
from plugins.erasure.scan import Finds, Scanner, is_weights
from plugins.erasure.traces import WHOLE_BYTES
from tasks.takedown.holders import Erased, Found, Scope, Searched, Traces

CACHES = ("cache", "pages", "browse/indexes", "browse/sessions")
"""Folders of the home folder whose files are deleted if they hold a removed pair: they can be rebuilt."""
REMEDY = "delete the file, and repeat the takedown"
REMEDY_JOB = "complete its run, or delete the folder of the job; then repeat the takedown"
REMEDY_SERVER = (
    "stop the server with `pairmill down`, then repeat the takedown; a database that still has it needs VACUUM"
)
REMEDY_ARTEFACT = "start the server with `pairmill up`, then repeat the takedown, which erases through the server"


@dataclass(frozen=True)
class Home:
    """Files that pairmill wrote under the home folder."""

    order: int = 30

    def erase(self, traces: Traces, scope: Scope) -> Erased:
        """Overwrite pages and logs that quote the pairs, and delete copies of the store's files that hold them."""
        scanner, erased = Scanner(traces), Erased()
        for path in _list_files(scope):
            name = path.relative_to(scope.home)
            is_copy = any(name.is_relative_to(folder) for folder in CACHES)
            if name.parts[0] == SERVERS or is_weights(path.name):
                continue
            try:
                if (is_copy or is_text(path.name)) and _scan(scanner, path, name):
                    if is_copy:
                        path.unlink()
                    elif path.stat().st_size <= WHOLE_BYTES:
                        _overwrite(path, scanner.redact(path.read_bytes(), str(name)))
                    else:
                        continue
                    erased.files += 1
            except (OSError, PairmillError, ValueError) as error:
                erased.refused[str(path)] = str(error)
        return erased

    def find(self, traces: Traces, scope: Scope) -> Searched:
        """Search all these files."""
        scanner, searched = Scanner(traces), Searched(f"home {scope.home}")
        for path in _list_files(scope):
            if is_weights(path.name):
                searched.weights_not_read += 1
                continue
            name = path.relative_to(scope.home)
            try:
                size, finds = path.stat().st_size, _scan(scanner, path, name)
            except OSError:  # deleted meanwhile
                continue
            searched.files, searched.bytes = searched.files + 1, searched.bytes + size
            if finds:
                remedy = {SERVERS: REMEDY_SERVER, "jobs": REMEDY_JOB}.get(name.parts[0], REMEDY)
                if name.is_relative_to(f"{SERVERS}/mlflow/artifacts"):
                    remedy = REMEDY_ARTEFACT
                searched.found.append(Found(searched.place, str(name), dict(finds), remedy))
        return searched


HOME = Home()


def _list_files(scope: Scope) -> Iterator[Path]:
    """Yield the files that pairmill wrote under the home folder, without the stores and the servers' own pages there."""
    home, left_out = scope.home, {Path(store.uri).resolve() for store in scope.stores if not store.is_remote}
    for written in WRITTEN:
        for folder, names, files in os.walk(home / written):
            here = Path(folder)
            packaged = {here / "ui"} if here.parent == home / SERVERS else set[Path]()
            names[:] = sorted(name for name in names if (here / name).resolve() not in left_out | packaged)
            yield from (path for name in sorted(files) if (path := here / name).is_file() and not path.is_symlink())


def _scan(scanner: Scanner, path: Path, name: Path) -> Finds:
    with open_regular(path) as file:
        return scanner.scan(file, str(name), path.stat().st_size)


def _overwrite(path: Path, data: bytes) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    unfinished.write_bytes(data)
    unfinished.replace(path)
