"""A small project as this version leaves it: `python -m tests.stored_project` writes it into tests/data/stored.

Two nights of a dataset that grows, one run over both nights with its record, and their lists. Make one for each release
that changes a format or raises the version of a stage; tests/integration/test_stored_project.py reads them all.
"""

import csv
import json
import shutil
import tarfile
import tempfile
from pathlib import Path

import pytest

from dataops.formats import RELEASE
from dataops.store import open_store
from flows.records import StageRun, create_run
from tests.growing import ANSWERS, NIGHTS, configured, run
from tests.servers.hostile_web import served

pytest.importorskip("plugins.own_images")  # which reads the lists

STORED = Path(__file__).parent / "data" / "stored"


def of_lists(web, folder):
    """Return the config of a dataset that grows by lists."""
    return configured(web, folder, source={"kind": "pairs", "paths": [str(folder / "nights" / "*.csv")]})


def put_list(folder, number, rows):
    """Write the list of a night."""
    (folder / "nights").mkdir(parents=True, exist_ok=True)
    with (folder / "nights" / f"{number:03d}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("url", "caption"), *rows])


def whole(web, folder):
    """Return the config of the run over all nights."""
    return of_lists(web, folder).model_copy(update={"name": "whole", "grow": None})


def record_run(config, home, manifests):
    """Write the record of a completed run."""
    record = create_run(config, home, "whole-20261130T030000-abcd", until="pack")
    for stage, manifest in manifests.items():
        record.set_stage(StageRun(stage=stage, key=manifest.key, state="Completed", counts=manifest.counts))
    record.end("completed")
    record.save(open_store(config.store.uri))
    return record


def make_project(folder):
    """Make the project in a folder."""
    with served(ANSWERS) as web:
        for number, night in enumerate(NIGHTS[:2], 1):
            put_list(folder, number, night)
            run(of_lists(web, folder), folder / "home")
        config = whole(web, folder)
        _, manifests = run(config, folder / "home")
        record_run(config, folder / "home", manifests)


def main():
    """Make the project, and write its store and lists as `project-RELEASE.tar.xz`."""
    folder = Path(tempfile.mkdtemp(prefix="pairmill-stored-"))
    make_project(folder)
    for path in (folder / "store" / "runs").iterdir():
        path.write_text(path.read_text().replace(str(folder), "/project"))
    with tarfile.open(STORED / f"project-{RELEASE}.tar.xz", "w:xz") as archive:
        for path in sorted((*(folder / "store").rglob("*"), *(folder / "nights").rglob("*"))):
            if path.is_file():
                archive.add(path, path.relative_to(folder), filter=_anonymous)
    shutil.rmtree(folder)


def _anonymous(member):
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def load_keys(folder):
    """Return the keys of the run over all nights, by stage."""
    (path,) = (folder / "store" / "runs").glob("whole-*.json")
    return {stage["stage"]: stage["key"] for stage in json.loads(path.read_text())["stages"]}


if __name__ == "__main__":
    main()
