"""A takedown that is killed at any moment is completed by the next call, and leaves no byte of a removed image."""

import base64
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dataops.errors import ConfigError
from dataops.images.decode import decode, make_preview
from dataops.snapshot import Draft, Manifest, Record, SnapshotName, find_manifest
from dataops.store import FolderStore
from dataops.trace.targets import image_targets
from flows.commands import takedown
from flows.commands.gc import Policy, Roots
from flows.records import Attempt, RunRecord, StageRun
from tasks.download.hooks import FetchHook
from tasks.engine import lease
from tasks.engine.context import Context
from tasks.engine.lease import hold_lease
from tasks.engine.stage import make, plan
from tasks.lineage.garbage_collection import delete_unneeded, plan_deletions
from tasks.lineage.inventory import DAY, Inventory
from tasks.lineage.takedown_leftovers import delete_leftovers, find_leftovers
from tasks.pack.config import PackConfig
from tasks.pack.stage import PACK
from tests.inline_executor import InlineExecutor
from tests.unit.tasks.dataset_chain import chain, jpeg, pair

REMOVED = (3, 4, 9)
"""Numbers of the removed pairs: by domain, by URL and by phash."""


def some_pairs() -> list[dict[str, Any]]:
    hashes = {9: image_targets(jpeg(9))[1].value}
    return [
        pair(n, page_url=f"https://site{n}.example/p", phash=hashes.get(n, f"{n:016x}"), caption=f"caption no. {n}")
        for n in range(12)
    ]


class Copies(FetchHook):
    """Keeps images in a folder."""

    @staticmethod
    def path(folder: Path, url: str) -> Path:
        return folder / url.replace("/", "_")

    def list_copies(self, table: Mapping[str, Any]) -> list[str]:
        return [table["copies"]]

    def erase(self, folder: str, urls: Sequence[str], targets: Sequence[Any]) -> int:
        return sum(path.unlink() is None for url in urls if (path := self.path(Path(folder), url)).exists())


class KilledError(BaseException):
    """Stands for SIGKILL: nothing that follows it changes the store."""


class FailingStore(FolderStore):
    """A store whose user is killed before the change of a number."""

    def __init__(self, root: Path, kill_at: int):
        super().__init__(root)
        self.changes, self.kill_at = list[str](), kill_at

    def _count(self, name: str) -> None:
        self.changes.append(name)
        if len(self.changes) >= self.kill_at:
            raise KilledError

    def put(self, name: str, data: bytes | memoryview | Path) -> None:
        self._count(f"put {name}")
        super().put(name, data)

    def create(self, name: str, data: bytes) -> bool:
        self._count(f"create {name}")
        return super().create(name, data)

    def copy(self, source: str, target: str) -> None:
        self._count(f"copy {target}")
        super().copy(source, target)

    def delete(self, names: Sequence[str]) -> None:
        for name in names:
            self._count(f"delete {name}")
            super().delete([name])

    def delete_tree(self, prefix: str) -> None:
        self.delete(self.names(prefix))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a store of raw shards, a dataset, a half-made download, and a folder of copies."""
    home = tmp_path_factory.mktemp("home")
    store = FolderStore(home / "store")
    made = chain(store, some_pairs(), 5)
    dataset = make(
        plan(PACK, PackConfig(shard_size=3), 0, [made["curate"], made["download"]], store),
        Context(store, home, pool=InlineExecutor()),
    )
    put_unfinished(store, made["download"], "f" * 16)
    (home / "copies").mkdir()
    for row in some_pairs():
        Copies.path(home / "copies", row["url"]).write_bytes(row["data"])
    record = RunRecord(
        run_id="run", name="n", created_at="2026-01-01T00:00:00+00:00", state="completed",
        attempts=[Attempt(started_at="2026-01-01T00:00:00+00:00", host="h", pid=1)], config={},
        stages=[StageRun(stage="pack", key=dataset.key, state="Completed")],
    )  # fmt: skip
    record.save(store)
    return home


def put_unfinished(store: FolderStore, download: Manifest, key: str) -> None:
    """Copy a download without its manifest, as a killed run leaves it: one task is finished, and one is half-written."""
    draft = Draft(store, "download", key)
    tables = download.named("part-", ".parquet")
    for part in tables[:1]:
        number = part.name.removeprefix("part-").removesuffix(".parquet")
        parts = [one for one in download.parts if number in one.name]
        for one in parts:
            store.copy(download.path(one.name), draft.path(one.name))
        draft.finish(Record(task=f"shard-{number}", parts=parts))
    store.copy(download.path("00001.tar"), draft.path("00001.tar"))


@pytest.fixture
def copy_home(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(takedown, "Context", partial(Context, pool=InlineExecutor()))
    monkeypatch.setattr(lease, "ORPHAN_SECONDS", 0.0)

    def copy(name: str) -> Path:
        home = tmp_path / name
        shutil.copytree(template, home)
        (home / "request.txt").write_text(f"site3.example\nhttp://host1.example/4.jpg\n{image_targets(jpeg(9))[1]}\n")
        path = home / "store" / "runs" / "run.json"
        record = json.loads(path.read_text())
        record["config"]["download"] = {"copies": str(home / "copies")}
        path.write_text(json.dumps(record))
        return home

    return copy


def take_down(home: Path, store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(takedown, "known_stores", lambda *_: [store])
    monkeypatch.setattr(takedown, "load_hooks", lambda: {"copies": Copies()})
    options = takedown.TakedownOptions(home / "request.txt", "a letter", delete_raw=True, yes=True)
    return takedown.takedown(options, home, None, as_json=True)


def find_images(home: Path) -> set[str]:
    """Return the files that hold a removed image or its preview."""
    previews = [make_preview(decode(jpeg(n))) for n in REMOVED]
    searched = [jpeg(n) for n in REMOVED] + [base64.b64encode(preview) for preview in previews]
    files = [path for path in home.rglob("*") if path.is_file()]
    return {str(path.relative_to(home)) for path in files if any(data in path.read_bytes() for data in searched)}


def find_texts(home: Path) -> set[str]:
    """Return the files of the store, but the requests, with the URL or the caption of a removed pair."""
    texts = {text for n in REMOVED for text in (pair(n)["url"], f"caption no. {n}")}
    found: set[str] = set()
    for path in (home / "store").rglob("*"):
        if not path.is_file() or path.parent.name == "takedowns":
            continue
        data = path.read_bytes()
        if path.suffix == ".parquet":
            data = repr(pq.read_table(path).to_pylist()).encode()
        if any(text.encode() in data for text in texts):
            found.add(str(path.relative_to(home)))
    return found


def test_takedown_leaves_no_image_in_the_store_or_the_copies_of_a_hook(
    copy_home: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = copy_home("a")
    before = find_images(home)
    assert {name.split("/")[0] for name in before} == {"store", "copies"}
    assert any(name.startswith(f"store/download/{'f' * 16}") for name in before)
    assert take_down(home, FolderStore(home / "store"), monkeypatch) == 0
    assert find_images(home) == set()
    assert find_texts(home) == set()
    kept = [n for n in range(12) if n not in REMOVED]
    assert all(Copies.path(home / "copies", pair(n)["url"]).exists() for n in kept)


@pytest.mark.timeout(300)  # about 40 takedowns: before the first change of each kind
def test_takedown_killed_at_any_change_is_completed_by_the_next_call(
    copy_home: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = copy_home("whole")
    whole = FailingStore(home / "store", kill_at=10**9)
    assert take_down(home, whole, monkeypatch) == 0
    expected = digests(whole)
    by_kind: dict[str, list[int]] = {}
    for at, change in enumerate(whole.changes, 1):
        if "_work/shard-" not in change:
            kind = re.sub(r"[0-9a-f]{8,}|[0-9]+", "#", change)
            by_kind.setdefault(re.sub(r"(delete pack/#)/(?!manifest).*", r"\1", kind), []).append(at)
    assert len(by_kind) > 20
    moments = sorted(found[0] for found in by_kind.values())
    for kill_at in moments:
        home = copy_home(f"killed-{kill_at}")
        with pytest.raises(KilledError):
            take_down(home, FailingStore(home / "store", kill_at), monkeypatch)
        store = FolderStore(home / "store")
        assert take_down(home, store, monkeypatch) == 0, kill_at
        assert find_images(home) == set(), kill_at
        assert find_texts(home) == set(), kill_at
        assert digests(store) == expected, kill_at
        shutil.rmtree(home)
    capsys.readouterr()


def digests(store: FolderStore) -> dict[str, str]:
    """Return the content digest of each complete snapshot, after all its parts were read."""
    found: dict[str, str] = {}
    for name in store.names(""):
        if name.endswith("/manifest.json"):
            stage, key, _ = name.split("/")
            manifest = find_manifest(store, stage, key, verify=True)
            assert manifest is not None
            found[f"{stage}/{key}"] = manifest.content_digest
    return found


def test_takedown_with_another_run_at_work_names_it_and_is_completed_after_it(
    copy_home: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = copy_home("held")
    store = FolderStore(home / "store")
    draft = Draft(store, "download", "f" * 16)
    with hold_lease(draft, Context(store, home, run_id="another")):
        assert take_down(home, store, monkeypatch) == 3
        report = next(one for one in json.loads(capsys.readouterr().out)["stores"] if one["datasets"])
        assert "is being made by run another" in report["deleted"]["not_deleted"][f"download/{'f' * 16}"]
        with pytest.raises(ConfigError, match="run another"):
            delete_leftovers(Context(store, home), SnapshotName("download", "f" * 16), image_targets(jpeg(4)))
    assert take_down(home, store, monkeypatch) == 0
    assert find_images(home) == set()


def test_find_leftovers_ignores_unfinished_work_without_a_match(copy_home: Callable[[str], Path]) -> None:
    store = FolderStore(copy_home("b") / "store")
    unfinished = f"download/{'f' * 16}"
    found = find_leftovers(Inventory(store), image_targets(jpeg(99)))
    assert [(str(one.snapshot), one.objects) for one in found] == [(unfinished, (f"{unfinished}/00001.tar",))]


def test_gc_keeps_the_version_that_a_takedown_made(
    copy_home: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = copy_home("gc")
    store = FolderStore(home / "store")
    assert take_down(home, store, monkeypatch) == 0
    report = next(one for one in json.loads(capsys.readouterr().out)["stores"] if one["datasets"])
    (new,) = report["versions"].values()
    roots = Roots(store, Policy(keep_runs=1))
    assert SnapshotName("pack", new) in roots(), "the kept run used the version before it"
    two_days = time.time() - 2 * DAY
    for path in (home / "store").rglob("*"):
        if path.is_file():
            os.utime(path, (two_days, two_days))
    assert SnapshotName("pack", new) not in Roots(store, Policy(keep_runs=0))()
    planned = plan_deletions(store, Roots(store, Policy(keep_runs=0))())
    assert SnapshotName("pack", new) in {deletion.name for deletion in planned.snapshots}
    assert take_down(home, store, monkeypatch) == 0  # after gc has planned; it makes nothing new
    result = delete_unneeded(planned, Context(store, home, run_id="gc"), Roots(store, Policy(keep_runs=0)))
    assert result.spared[SnapshotName("pack", new)] == "a dataset version that a takedown made within a day"
    assert find_manifest(store, "pack", new, verify=True) is not None
    os.utime(home / "store" / "pack" / new / "manifest.json")
    for path in (home / "store" / "takedowns").iterdir():
        os.utime(path, (two_days, two_days))
    roots = Roots(store, Policy(keep_runs=0))
    roots.read_takedowns()
    kept = plan_deletions(store, roots()).kept
    assert kept[SnapshotName("pack", new)] == "a dataset version that a takedown made within a day"
    assert {name.stage for name in kept} >= {"pack", "curate", "download"}, "with its ancestors"
