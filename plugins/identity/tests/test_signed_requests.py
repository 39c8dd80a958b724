"""Every request of a download and of a crawl is signed, and the key is written nowhere."""

import pytest

from dataops.plugins import find
from dataops.store import FolderStore
from plugins.identity.keys import create_key, key_id
from tasks.engine.stage import make, plan
from tasks.extract.stage import EXTRACT
from tests.downloads import fetched
from tests.inline_executor import inline_context
from tests.servers import site
from tests.servers.hostile_web import served
from tests.servers.signatures import Guard

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def web():
    with served() as web:
        yield web


def test_every_request_is_signed_for_its_host_and_the_key_is_written_nowhere(tmp_path, web):
    key, other = create_key(tmp_path / "k.pem"), create_key(tmp_path / "other.pem")
    web.guard = Guard(key.public_key(), key_id(key), "https://crawler.example")
    urls = ["http://signed.test/1.png", "http://signed.test/2.png", "http://signed.test/moved.png"]
    identity = {"key_file": str(tmp_path / "k.pem"), "signature_agent": "https://crawler.example"}
    reasons, evidence = fetched(tmp_path / "signed", urls, connect_to=web.connect_to(), identity=identity)
    assert reasons == dict.fromkeys(urls)
    assert evidence[urls[2]]["final_url"] == "http://also-signed.test/1.png"
    assert web.guard.accepted == len(web.log) == 10  # 3 files of each host, and 4 images
    secret = (tmp_path / "k.pem").read_bytes().splitlines()[1]
    assert not [path for path in (tmp_path / "signed").rglob("*") if path.is_file() and secret in path.read_bytes()]

    unsigned, _ = fetched(tmp_path / "unsigned", urls[:1], connect_to=web.connect_to())
    assert unsigned == {urls[0]: "http_401"}
    identity["key_file"] = str(tmp_path / "other.pem")
    wrongly_signed, _ = fetched(tmp_path / "other", urls[:1], connect_to=web.connect_to(), identity=identity)
    assert wrongly_signed == {urls[0]: "http_403"}
    assert web.guard.accepted == 10
    assert key_id(other) != key_id(key)


def test_every_request_of_a_crawl_is_signed(tmp_path):
    key, path = create_key(tmp_path / "k.pem"), tmp_path / "k.pem"
    with site.served() as pages:
        pages.guard = guard = Guard(key.public_key(), key_id(key), "https://crawler.example")
        pytest.importorskip("plugins.crawl")
        source = find("sources", "site").model_validate(
            {"start": ["http://linker.test/"], "delay": 0.05, "connect_to": {"linker.test": pages.address}}
            | {"identity": {"key_file": str(path), "signature_agent": guard.agent}}
        )
        context = inline_context(FolderStore(tmp_path / "store"), tmp_path / "home")
        manifest = make(plan(EXTRACT, source, 0, []), context)
        assert manifest.facts["crawl"]["outcomes"]["archived"] == 1
        assert guard.accepted == len(pages.log) == len(guard.nonces)  # other requests would have been refused
    secret = path.read_bytes().splitlines()[1]
    written = {one for one in tmp_path.rglob("*") if one.is_file() and secret in one.read_bytes()}
    assert written == {path}
    assert "identity" not in str(manifest.config)
