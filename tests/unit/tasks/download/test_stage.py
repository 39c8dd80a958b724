import pyarrow as pa
import pytest
from pydantic import ValidationError

from dataops.errors import SourceError
from dataops.schema import uid
from dataops.snapshot import Counts, Draft, Record
from dataops.store import FolderStore
from tasks.download import stage as download
from tasks.download.config import DownloadConfig
from tasks.download.stage import DOWNLOAD
from tasks.engine.stage import Work
from tests.inline_executor import inline_context
from tests.manifests import build_manifest


def test_config_refuses_bad_values_and_its_key_ignores_execution():
    for bad in (
        {"encode_format": "png"},  # the quality of 95 is no png compression
        {"connect_to": {"a.test": "localhost:80"}},
        {"contact": "a\r\nX: b"},
        {"retry": {"classes": ["timeout", "../x"]}},
    ):
        with pytest.raises(ValidationError):
            DownloadConfig.model_validate(bad)
    plain = DownloadConfig()
    moved = DownloadConfig(threads=2, contact="mailto:a@b.test", connect_to={"a.test": "127.0.0.1:80"})
    assert plain.key_config() == moved.key_config()
    assert plain.key_config() != DownloadConfig(image_size=64).key_config()
    assert moved.user_agent_header == "pairmill/0.2 (+mailto:a@b.test)"


def stored(store, sizes):
    draft, parts = Draft(store, "filter", "k"), []
    for number, size in enumerate(sizes):
        uids = [uid(str(number), str(i)) for i in range(size)]
        rows = pa.table({"uid": uids, "url": [f"http://a.test/{one}" for one in uids]})
        parts.append(draft.put_table(f"part-{number:05d}.parquet", rows))
    return build_manifest("filter", parts, key="k")


def ended(index, facts=None, **counts):
    known = {"bytes": 1, "seconds": 1.0, "round": 0, "again": 0, "hosts": {}}
    return Record(task=f"shard-{index:05d}", counts=Counts(**counts), facts=known | (facts or {}))


def test_stage_fails_and_deletes_failed_shards_when_too_few_images_are_fetched(tmp_path, monkeypatch):
    store = FolderStore(tmp_path)
    draft = Draft(store, "download", "k")
    hosts = {"hosts": {"dead.test": {"rows": 7, "dns": 6}, "poor.test": {"rows": 3, "dns": 2}}}
    shards = [ended(0, input=5, kept=5), ended(1, hosts, input=5, dropped={"dns": 5})]
    by_id = {record.task: record for record in shards}
    monkeypatch.setattr(download, "download_shard", lambda draft, shard: by_id[shard.id])
    source = stored(store, [10])

    def work(min_success):
        config = DownloadConfig(shard_size=5, min_success=min_success)
        return Work(config, 0, {"filter": source}, draft, inline_context(store, tmp_path))

    with pytest.raises(SourceError, match=r"fetched 5 of 10 images, less than the share 0\.6") as failed:
        DOWNLOAD.make(work(0.6))
    lines = [" ".join(line.split()) for line in str(failed.value).splitlines()[1:]]
    assert lines == [
        "dns 5",
        "worst hosts, failed of all rows:",
        "dead.test 6 of 7 (dns 6)",
        "poor.test 2 of 3 (dns 2)",
    ]
    assert failed.value.retryable
    assert draft.done("shard-00000") is not None
    assert draft.done("shard-00001") is None
    assert DOWNLOAD.make(work(0.5)).counts.kept == 5
