"""`[download.identity]`: what is refused before a run, and that it changes no key of a snapshot."""

import os
import pickle

import pytest

from dataops.errors import ConfigError
from dataops.plugins import find
from plugins.identity.hook import IdentityConfig
from plugins.identity.keys import create_key
from tasks.download.config import DownloadConfig
from tasks.download.opener import make_opener
from tasks.extract.config import Sources
from tasks.web.host_state import HostState

AGENT = "https://crawler.example.org"


def identity(path, **options):
    return IdentityConfig.model_validate({"key_file": str(path), "signature_agent": AGENT} | options)


def site(name, **options):
    pytest.importorskip("plugins.crawl")
    return find("sources", "site").model_validate(
        {"start": ["https://a.test/"], "contact": "mailto:a@b.test", "name": name} | options
    )


def test_worker_without_the_key_ends_the_stage_with_the_remedy_of_its_machine(tmp_path):
    path, machine = tmp_path / "k.pem", os.uname().nodename
    config = pickle.loads(pickle.dumps(DownloadConfig(identity=identity(path), contact="mailto:a@b.test")))
    create_key(path)
    make_opener(config, HostState(tmp_path / "site-files")).close()
    remedy = "each machine that downloads needs the key file of the run at this path: copy it"
    path.unlink()
    with pytest.raises(ConfigError) as raised:
        make_opener(config, HostState(tmp_path / "site-files"))
    assert str(raised.value).startswith(f"{path} does not exist on {machine}; {remedy}")


def test_identity_changes_no_key_and_the_key_is_in_no_task(tmp_path):
    key = create_key(tmp_path / "k.pem")
    signed = DownloadConfig(identity=identity(tmp_path / "k.pem"))
    assert signed.key_config() == DownloadConfig().key_config()
    assert site("").signing_as(signed).key_config() == site("").key_config()
    for stored in (pickle.dumps(signed), signed.model_dump_json().encode(), repr(signed).encode()):
        assert str(tmp_path / "k.pem").encode() in stored
        assert key.private_bytes_raw() not in stored
        assert b"PRIVATE" not in stored


def test_crawls_sign_with_the_identity_of_the_download_unless_they_have_their_own(tmp_path):
    ours, theirs = identity(tmp_path / "a.pem"), identity(tmp_path / "b.pem")
    both = Sources(tables=(site("a"), site("b", identity=theirs))).signing_as(DownloadConfig(identity=ours))
    assert [table.identity for table in both.tables if table.kind == "site"] == [ours, theirs]
