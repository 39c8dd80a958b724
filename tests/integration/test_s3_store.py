"""The store on a real S3 server: the same promises as in a folder, and what networks and servers do to them."""

import datetime
import hashlib
import logging
import threading
import time
from contextlib import contextmanager
from functools import partial

import botocore.auth
import pytest
from boto3.s3.transfer import TransferConfig

from dataops.errors import ConfigError, StorageError
from dataops.storage.s3 import S3Store, Transfers
from dataops.store import open_store
from flows.config import check_config
from tests.concurrency import at_once, check_race, wait_for
from tests.kills.faulty_proxy import meddler
from tests.kills.seaweed import KEY_ID, SECRET, free_port


@pytest.fixture
def store(s3_environment, tmp_path):
    return S3Store("mill", f"prefix/{tmp_path.name}", Transfers(first_pause=0.05))


@contextmanager
def meddled(store, s3_server, monkeypatch, meddle):
    """Return the same store behind a proxy."""
    with meddler(s3_server.endpoint, meddle) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        yield S3Store(store.bucket, store.prefix, store.transfers)


def test_objects_are_read_as_written(store, tmp_path):
    large = tmp_path / "large"
    large.write_bytes(bytes(range(256)) * 4096 * 20)  # over the multipart threshold
    store.put("a/small", b"small")
    store.put("a/large", large)
    store.put("a/large-bytes", large.read_bytes())
    assert store.size("a/none") is None
    assert (store.read("a/small"), store.size("a/large")) == (b"small", large.stat().st_size)
    for name in ("a/large", "a/large-bytes"):
        assert store.local(name).read_bytes() == large.read_bytes()
        head = store._s3.head_object(Bucket="mill", Key=f"{store.prefix}/{name}")
        assert head["ETag"].strip('"').endswith("-2"), "it did not go in two parts"
        assert head["Metadata"]["sha256"] == hashlib.sha256(large.read_bytes()).hexdigest()
    store.copy("a/small", "b/copy")
    assert store.names("") == ["a/large", "a/large-bytes", "a/small", "b/copy"]
    assert store.names("a") == ["a/large", "a/large-bytes", "a/small"]
    store.delete_tree("a")
    store.delete(["a/small", "never/there"])
    assert store.names("") == ["b/copy"]
    for missing in (lambda: store.read("a/small"), lambda: store.local("a/small"), lambda: store.copy("a/small", "c")):
        with pytest.raises(StorageError, match=r"no such object: a/small in s3://mill/.* at 127\.0\.0\.1:"):
            missing()


def record(store, *operations):
    """Return a list to which the names of such requests are added."""
    requests = []
    for operation in operations:
        store._s3.meta.events.register(f"before-call.s3.{operation}", lambda model, **_: requests.append(model.name))
    return requests


def test_copy_in_parts_gives_the_same_object(s3_environment, tmp_path):
    """Copy as with an object of more than 5 GB: the server copies ranges, and no byte is downloaded."""
    parts = TransferConfig(multipart_threshold=6 << 20, multipart_chunksize=5 << 20)
    store = S3Store("mill", f"parts/{tmp_path.name}", Transfers(copy_parts=parts))
    requests = record(store, "UploadPartCopy", "GetObject", "CopyObject")
    data = bytes(range(256)) * 4096 * 12
    store.put("large", data)
    store.copy("large", "copied")
    assert requests == ["UploadPartCopy"] * 3
    assert store.read("copied") == data
    head = store._s3.head_object(Bucket="mill", Key=f"{store.prefix}/copied")
    assert head["Metadata"]["sha256"] == hashlib.sha256(data).hexdigest()


def test_create_succeeds_for_one_of_many_writers(store):
    check_race(store, "stage/key/manifest.json")


def test_names_and_delete_handle_more_objects_than_one_page(store):
    at_once(8, lambda start: [store.put(f"many/{n:04d}", b"") for n in range(start, 1050, 8)])
    requests = record(store, "ListObjectsV2", "DeleteObjects", "DeleteObject")
    assert store.names("many") == [f"many/{n:04d}" for n in range(1050)]
    assert requests == ["ListObjectsV2"] * 2
    store.delete_tree("many")
    assert requests.count("DeleteObjects") == 2
    assert "DeleteObject" not in requests
    assert store.names("") == []


def test_sweep_aborts_unfinished_uploads(store):
    for name in ("a/b", "other"):
        where = {"Bucket": "mill", "Key": f"{store.prefix}/{name}"}
        upload = store._s3.create_multipart_upload(**where)["UploadId"]
        store._s3.upload_part(**where, UploadId=upload, PartNumber=1, Body=b"x")
    assert store.sweep("a", older_than_seconds=3600) == 0
    assert store.sweep("a") == 1
    assert store.sweep("") == 1
    assert store.sweep("") == 0


def test_create_succeeds_when_the_answer_to_its_put_was_lost(store, s3_server, monkeypatch):
    dropped = []

    def lose_first_answers(exchange):
        if exchange.is_answered and exchange.method == "PUT" and len(dropped) < 3:
            dropped.append(exchange.path)
            exchange.dropped = True

    with meddled(store, s3_server, monkeypatch, lose_first_answers) as behind:
        assert behind.create("manifest.json", b"mine")
        assert len(dropped) == 3
        assert not behind.create("manifest.json", b"mine"), "equal bytes of another writer are still another's"
    assert store.read("manifest.json") == b"mine"


def test_create_waits_for_another_conditional_put(store, s3_server, monkeypatch):
    conflicts = []

    def conflict_twice(exchange):
        if not exchange.is_answered and exchange.method == "PUT" and len(conflicts) < 2:
            conflicts.append(exchange.path)
            code = "ConditionalRequestConflict"
            exchange.respond(409, f"<Error><Code>{code}</Code><Message>try again</Message></Error>".encode())

    with meddled(store, s3_server, monkeypatch, conflict_twice) as behind:
        assert behind.create("free", b"mine")
        conflicts.clear()
        store.create("taken", b"another's")
        assert not behind.create("taken", b"mine")
    assert (len(conflicts), store.read("free"), store.read("taken")) == (2, b"mine", b"another's")


@pytest.mark.parametrize("size", [1000, 20 << 20], ids=["whole", "by parts"])
def test_read_retries_when_received_bytes_are_corrupt(store, s3_server, monkeypatch, size):
    times, always = [0], [False]

    def corrupt(exchange):
        if exchange.is_answered and exchange.method == "GET" and (always[0] or times[0] == 0):
            times[0] += 1
            headers, data = exchange.answer
            exchange.answer = (headers, data[:-1] + bytes([data[-1] ^ 1]))

    data = bytes(range(256)) * (size // 250)
    store.put("a/part", data)
    with meddled(store, s3_server, monkeypatch, corrupt) as behind:
        assert behind.read("a/part") == data
        times[0] = 0
        path = behind.local("a/part")
        assert (times[0], path.read_bytes()) == (1, data)
        path.unlink()
        always[0] = True
        for read in (behind.read, behind.local):
            with pytest.raises(StorageError, match=r"(read|fetch) a/part in s3://mill/.* at 127") as caught:
                read("a/part")
            assert "sha256" in str(caught.value) or "checksum" in str(caught.value)
        assert not [p for p in path.parent.iterdir() if p.is_file()], "a corrupt copy was kept"


def test_put_retries_when_sent_bytes_are_corrupt(store, s3_server, monkeypatch):
    spoiled = []

    def spoil(exchange):
        if not exchange.is_answered and exchange.method == "PUT" and not spoiled:
            spoiled.append(exchange.path)
            exchange.body = bytes([exchange.body[0] ^ 1]) + exchange.body[1:]

    data = bytes(range(256)) * 4096 * 20
    for name, written in (("small", b"small"), ("large", data)):
        spoiled.clear()
        with meddled(store, s3_server, monkeypatch, spoil) as behind:
            behind.put(name, written)
        assert spoiled
        assert store.read(name) == written


def test_requests_are_retried_with_one_log_line_when_the_server_is_busy(store, s3_server, monkeypatch, caplog):
    refused = []

    def slow_down(exchange):
        if not exchange.is_answered and len(refused) < 6:
            refused.append(exchange.path)
            exchange.respond(503, b"<Error><Code>SlowDown</Code><Message>reduce your rate</Message></Error>")

    caplog.set_level(logging.WARNING, "dataops")
    with meddled(store, s3_server, monkeypatch, slow_down) as behind:
        behind.put("a", b"x")
    assert len(refused) == 6
    lines = [record.message for record in caplog.records if record.name == "dataops.storage.s3_requests"]
    assert len(lines) == 2
    assert "waiting up to 120 s for s3://mill/" in lines[0]
    assert "SlowDown: reduce your rate" in lines[0]
    assert "answers again after" in lines[1]


def test_requests_continue_after_a_server_restart(s3_environment, s3_server, tmp_path):
    store = S3Store("mill", f"restarted/{tmp_path.name}")
    large = tmp_path / "large"
    large.write_bytes(bytes(range(256)) * 4096 * 20)
    store.put("source", large)
    ended, failures, done = threading.Event(), [], {"put": 0, "read": 0, "create": 0, "upload": 0}

    def work(kind):
        number = 0
        try:
            while not ended.is_set():
                number += 1
                if kind == "put":
                    store.put(f"put/{number}", str(number).encode())
                elif kind == "read":
                    assert len(store.read("source")) == large.stat().st_size
                elif kind == "upload":
                    store.put("upload", large)
                else:
                    assert store.create(f"create/{number}", b"x")
                done[kind] = number
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(kind,)) for kind in done]
    for thread in threads:
        thread.start()
    time.sleep(1)
    s3_server.stop(at_once=True)
    time.sleep(3)
    before = dict(done)
    s3_server.start()
    wait_for(lambda: failures or all(done[k] > before[k] + 1 for k in done), 100)
    ended.set()
    for thread in threads:
        thread.join()
    assert not failures
    for number in range(1, done["put"] + 1):
        assert store.read(f"put/{number}") == str(number).encode()


def test_unreachable_server_raises_a_retryable_error(s3_environment, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StorageError, match=r"tried for .*Check AWS_ENDPOINT_URL, the network") as caught:
        S3Store("mill", "x", Transfers(outlast_seconds=1.5)).read("a")
    assert caught.value.exit_code == 75


@pytest.mark.parametrize("status", [500, 503, 429])
def test_metadata_is_asked_for_again_when_the_server_was_busy(store, s3_server, monkeypatch, status):
    refused = []

    def refuse_heads(exchange):
        if not exchange.is_answered and exchange.method == "HEAD" and len(refused) < 4:
            refused.append(exchange.path)
            exchange.respond(status, b"")

    store.put("empty", b"")
    store.put("full", b"1234")
    with meddled(store, s3_server, monkeypatch, refuse_heads) as behind:
        for name, size in (("missing", None), ("empty", 0), ("full", 4)):
            refused.clear()
            assert behind.size(name) == size
            assert len(refused) == 4


def unsigned(endpoint, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")


def late(endpoint, monkeypatch):
    now = botocore.auth.get_current_datetime
    three_hours = datetime.timedelta(hours=3)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *a, **k: now(*a, **k) - three_hours)


def setting(name, value):
    return lambda endpoint, monkeypatch: monkeypatch.setenv(name, value.format(port=endpoint.rpartition(":")[2]))


@pytest.mark.parametrize(
    ("bucket", "prefix", "spoil", "code", "remedy"),
    [
        ("no-such-bucket", "x", None, "NoSuchBucket", "Create the bucket, or correct store.uri"),
        ("mill", "x", setting("AWS_ACCESS_KEY_ID", "wrong-key"), "InvalidAccessKeyId", "Correct AWS_ACCESS_KEY_ID"),
        ("mill", "x", setting("AWS_SECRET_ACCESS_KEY", "wrong-secret"), "Signature", "Correct AWS_SECRET_ACCESS_KEY"),
        ("mill", "x", unsigned, "Unable to locate credentials", "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ("mill", "locked", None, "AccessDenied", "Give these credentials the right to read, write, list and delete"),
        ("mill", "x", late, "RequestTimeTooSkewed", "Set this machine's clock"),
        ("mill", "x", setting("AWS_ENDPOINT_URL", "https://127.0.0.1:{port}"), "SSL", "correct http:// or https://"),
        ("mill", "x", setting("AWS_ENDPOINT_URL", "127.0.0.1:{port}"), "Invalid endpoint", "http(s)://host[:port]"),
    ],
    ids=["bucket", "key", "secret", "no-credentials", "denied", "clock", "tls", "address"],
)
def test_configuration_errors_are_raised_at_once_with_the_remedy(
    store, s3_endpoint, monkeypatch, bucket, prefix, spoil, code, remedy
):
    statement = '{{"Effect":"Deny","Principal":"*","Action":["s3:PutObject"],"Resource":["arn:aws:s3:::{}/locked/*"]}}'
    policy = f'{{"Version":"2012-10-17","Statement":[{statement.format("mill")}]}}'
    store._s3.put_bucket_policy(Bucket="mill", Policy=policy)
    if spoil is not None:
        spoil(s3_endpoint, monkeypatch)
    started = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        S3Store(bucket, prefix, transfers=Transfers(check_seconds=300)).check_writable()
    message = str(caught.value)
    assert time.monotonic() - started < 60, "it would be tried for 300 s"
    assert code in message
    assert remedy in message
    assert f"s3://{bucket}/{prefix}" in message
    if code != "Invalid endpoint":
        assert "127.0.0.1:" in message
    for secret in (SECRET, KEY_ID, "wrong-secret", "wrong-key"):
        assert secret not in message


def test_check_writable_raises_when_the_server_ignores_conditions(store, s3_server, monkeypatch):
    # The signature covers the header, so the proxy answers in the server's place.
    def accept(exchange):
        if not exchange.is_answered and "If-None-Match" in exchange.headers:
            exchange.respond(200, b"")

    match = "ignores If-None-Match"
    with meddled(store, s3_server, monkeypatch, accept) as behind, pytest.raises(ConfigError, match=match):
        behind.check_writable()
    assert store.names("") == []


def test_local_fetches_a_changed_object_of_the_same_size_and_second(store):
    store.put("part", b"one")
    assert store.local("part").read_bytes() == b"one"
    store.put("part", b"two")
    assert store.local("part").read_bytes() == b"two"


def test_config_check_distinguishes_config_errors_from_transient_ones(s3_environment, monkeypatch):
    """Expect exit code 2 with all problems for config errors, and 75, which a scheduler retries, for transient ones."""
    config = {"name": "x", "store": {"uri": "s3://mill/x"}, "source": {"kind": "warc", "paths": ["/nowhere/*"]}}
    config["evaluate"] = {"suite": "missing.toml"}
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    with pytest.raises(ConfigError, match=r"store\.uri: cannot write .*Correct AWS_SECRET_ACCESS_KEY") as caught:
        check_config(config, "here")
    assert "source.paths" in str(caught.value)
    assert "evaluate.suite" in str(caught.value)
    open_store.cache_clear()
    impatient = partial(S3Store, transfers=Transfers(check_seconds=0.5))
    monkeypatch.setattr("dataops.storage.s3.S3Store", impatient)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StorageError, match=r"s3://mill/x at 127\.0\.0\.1") as away:
        check_config(config, "here")
    assert away.value.exit_code == 75
    open_store.cache_clear()
