"""`[download.identity]`: what is refused before a run, and that it changes no key of a snapshot."""

import os
import pickle
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dataops.errors import ConfigError
from dataops.snapshot import Draft, Record
from dataops.store import FolderStore
from tasks.download.config import DownloadConfig
from tasks.download.make_opener import make_opener
from tasks.download.shard import ShardTask
from tasks.engine.context import Context
from tasks.engine.map_parts import WAITING, map_parts
from tasks.engine.ray_driver import Caller, code_digest, run_call
from tasks.extract.config import Sources
from tasks.extract.sources.site import SiteSource
from tasks.web.identity.config import IdentityConfig
from tasks.web.identity.key_file import create_key
from tests.inline_executor import InlineExecutor

AGENT = "https://crawler.example.org"


def identity(path: Path, **options: object) -> IdentityConfig:
    return IdentityConfig.model_validate({"key_file": str(path), "signature_agent": AGENT} | options)


def site(name: str, **options: object) -> SiteSource:
    return SiteSource.model_validate(
        {"start": ["https://a.test/"], "contact": "mailto:a@b.test", "name": name} | options
    )


def test_unusable_key_file_is_a_problem_of_the_download_and_of_the_crawl(tmp_path: Path):
    missing = identity(tmp_path / "none.pem")
    problem = f"identity.key_file: {tmp_path}/none.pem does not exist on {os.uname().nodename}"
    contact = {"contact": "mailto:a@b.test"}
    for table in (DownloadConfig(identity=missing, **contact), site("", identity=missing)):
        assert [line[: len(problem)] for line in table.problems()] == [problem]
    create_key(tmp_path / "none.pem")
    assert DownloadConfig(identity=missing, **contact).problems() == []


def open_shard(draft: Draft, task: ShardTask) -> Record:
    """Make the opener of a shard, as its download does before the first request."""
    with closing(make_opener(task.config, Path(task.site_files))):
        return Record(task=task.id)


class ClusterPool(InlineExecutor):
    """Runs calls as a worker of Ray does: what it gets and returns is pickled, and an error is a value."""

    def __init__(self, caller: Caller):
        self.caller, self.wire = caller, list[bytes]()

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.wire.append(pickle.dumps((fn, args, kwargs)))
        kind, value = run_call(*pickle.loads(self.wire[-1]), self.caller)
        self.wire.append(pickle.dumps(value))
        future: Future[Any] = Future()
        (future.set_result if kind == "result" else future.set_exception)(value)
        return future


def test_worker_of_a_cluster_without_the_key_ends_the_stage_and_is_not_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.chdir(tmp_path)
    key, path = create_key(tmp_path / "k.pem"), tmp_path / "k.pem"
    config = DownloadConfig(identity=identity(path), contact="mailto:a@b.test")
    (tmp_path / "site-files").mkdir()
    tasks = [ShardTask(n, (), config, site_files=str(tmp_path / "site-files")) for n in range(8)]
    draft = Draft(FolderStore(tmp_path), "download", "k")
    pool = ClusterPool(Caller(code_digest(), str(tmp_path), str(tmp_path)))
    context = Context(store=draft.store, home=tmp_path, workers=1, pool=pool)
    assert len(map_parts(open_shard, tasks[:2], draft, context)) == 2
    kept = path.read_bytes()
    machine, remedy = (
        os.uname().nodename,
        "each machine that downloads needs the key file of the run at this path: copy it",
    )
    for change, message in (
        (path.unlink, f"{path} does not exist on {machine}; {remedy}"),
        (
            lambda: path.write_bytes(kept[:40]) and path.chmod(0o600),
            f"{path} on {machine} is no PEM file of a private ",
        ),
        (lambda: path.chmod(0o644), f"{path} on {machine} has the mode 0644, with which other users can read"),
    ):
        change()
        sent = len(pool.wire)
        with pytest.raises(ConfigError) as raised:
            map_parts(open_shard, tasks[2:], draft, context)
        assert str(raised.value).startswith(message)
        assert len(pool.wire) == sent + 2 * WAITING  # what was submitted ahead: nothing is submitted again
    secrets = (key.private_bytes_raw(), *kept.splitlines()[1:2], *path.read_bytes().splitlines()[1:2])
    assert not [secret for secret in secrets for sent in (*pool.wire, caplog.text.encode()) if secret in sent]


def test_identity_changes_no_key_and_the_key_is_in_no_task(tmp_path: Path):
    key = create_key(tmp_path / "k.pem")
    signed = DownloadConfig(identity=identity(tmp_path / "k.pem"))
    assert signed.key_config() == DownloadConfig().key_config()
    assert site("").with_identity(identity(tmp_path / "k.pem")).key_config() == site("").key_config()
    for stored in (pickle.dumps(signed), signed.model_dump_json().encode(), repr(signed).encode()):
        assert str(tmp_path / "k.pem").encode() in stored
        assert key.private_bytes_raw() not in stored
        assert b"PRIVATE" not in stored


def test_crawls_sign_with_the_identity_of_the_download_unless_they_have_their_own(tmp_path: Path):
    ours, theirs = identity(tmp_path / "a.pem"), identity(tmp_path / "b.pem")
    both = Sources(tables=(site("a"), site("b", identity=theirs))).with_identity(ours)
    assert [table.identity for table in both.tables if isinstance(table, SiteSource)] == [ours, theirs]


@pytest.mark.parametrize(
    "options",
    [{"signature_agent": "http://a.test"}, {"expires_after": 0}, {"expires_after": 86_401}, {"agent_form": "list"},
     {"key_file": ""}, {"key": "x"}],
)  # fmt: skip
def test_wrong_values_are_refused(tmp_path: Path, options: dict[str, object]):
    with pytest.raises(ValidationError):
        identity(tmp_path / "k.pem", **options)


def test_key_file_is_relative_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert identity(Path("keys/k.pem")).key_file == str(tmp_path / "keys/k.pem")
