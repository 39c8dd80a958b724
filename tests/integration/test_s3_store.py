"""The store on a real S3 server: the same promises as in a folder."""

import threading
import time

import boto3
import pytest

from dataops.errors import StorageError
from dataops.store import S3Store, Store
from tests.integration.conftest import KEY_ID, SECRET

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def environment(s3_endpoint, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture
def store(environment, tmp_path) -> Store:
    client = boto3.client("s3")
    for _ in range(50):  # the server answers a little before its volumes are ready
        try:
            client.create_bucket(Bucket="mill")
            break
        except client.exceptions.BucketAlreadyOwnedByYou:
            break
        except client.exceptions.ClientError:
            time.sleep(0.2)
    client.close()
    found = S3Store("mill", f"prefix/{tmp_path.name}", tmp_path / "cache")
    found.check_writable()
    return found


def test_objects_come_back_as_they_went(store, tmp_path):
    large = tmp_path / "large"
    large.write_bytes(bytes(range(256)) * 4096 * 12)  # over the multipart threshold of 8 MiB
    store.put("a/small", b"small")
    store.put("a/large", large)
    assert store.size("a/none") is None
    assert (store.read("a/small"), store.size("a/large")) == (b"small", large.stat().st_size)
    assert store.local("a/large").read_bytes() == large.read_bytes()
    store.copy("a/small", "b/copy")
    assert store.names("") == ["a/large", "a/small", "b/copy"]
    assert store.names("a") == ["a/large", "a/small"]
    store.delete_tree("a")
    assert store.names("") == ["b/copy"]


def test_of_many_creators_one_wins(store):
    won: list[int] = []
    barrier = threading.Barrier(6)

    def race(number: int) -> None:
        barrier.wait()
        if store.create("stage/key/manifest.json", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=race, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.read("stage/key/manifest.json") == str(won[0]).encode()


def test_more_objects_than_one_page_are_all_listed(store):
    threads = [
        threading.Thread(target=lambda s=s: [store.put(f"many/{n:04d}", b"") for n in range(s, 1050, 8)])
        for s in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.names("many") == [f"many/{n:04d}" for n in range(1050)]


def test_a_missing_bucket_and_wrong_credentials_name_the_remedy(store, monkeypatch, tmp_path):
    with pytest.raises(StorageError, match="Create the bucket"):
        S3Store("no-such-bucket-here", "x", tmp_path).read("a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match="AWS_SECRET_ACCESS_KEY"):
        S3Store("mill", "x", tmp_path).read("a")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL"):
        S3Store("mill", "x", tmp_path).read("a")
