"""A small dataset with its stages, and a client that asks a site about it."""

import gzip

import pytest

from dataops.digest import text_sha256
from flows.records import RunRecord, StageRun
from tests.unit.tasks.dataset_chain import dropped_pairs, packed_in, pair, some_pairs

HOSTILE = '<script>alert("x")</script> \' OR 1=1 --'


def hostile_pair():
    return pair(30, caption=HOSTILE, page_url="javascript:alert(1)", cluster="c" * 32, clip_score=0.25)


RUN = "browsed-20260102T030405-abcd"
ARCHIVED = "http://site.example/31"
"""Page of the row whose record is in an archive."""


def write_archive(path, caption):
    """Write a WARC file of two pages, and return where the second one begins."""
    members = []
    for url, text in (("http://site.example/", "first"), (ARCHIVED, f"<p>{HOSTILE}</p><img alt='{caption}'>")):
        response = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n{text}".encode()
        head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nContent-Length: {len(response)}\r\n\r\n"
        members.append(gzip.compress(head.encode() + response + b"\r\n\r\n"))
    path.write_bytes(b"".join(members))
    return len(members[0])


def remember_run(home):
    """Let a home know the run that made the dataset, and return the home."""
    (home / "runs").mkdir(parents=True)
    (home / "runs" / RUN).write_text("x")
    return home


@pytest.fixture(scope="session")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browse")
    archive, archived = folder / "pages.warc.gz", pair(31, cluster="c" * 32)
    offset = write_archive(archive, archived["caption"])
    archived |= {
        "page_url": ARCHIVED,
        "source": archive.name,
        "source_offset": offset,
        "extracted_with": "pairmill-warc/3",
    }
    pairs = [*some_pairs(), hostile_pair(), archived, pair(32, "near_duplicate", cluster="c" * 32), *dropped_pairs()]
    pairs = [row | {"sha256": text_sha256(row["url"])} for row in pairs]
    store, manifests = packed_in(folder / "st[or]e", pairs)
    made = StageRun(stage="extract", key=manifests["extract"].key, state="Completed")
    config = {"source": {"kind": "warc", "paths": [str(archive)]}}
    RunRecord(run_id=RUN, name="browsed", created_at="2026-01-02", config=config, stages=[made]).save(store)
    return store, manifests
