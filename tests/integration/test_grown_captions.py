"""What the filter knows of the captions of earlier nights is that of a slow reference, also after kills."""

from collections import Counter
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataops.kernels.hashes import uid_halves
from dataops.schema import uid
from dataops.store import FolderStore
from dataops.text.balance import compute_probabilities, hash_queries, sample_pairs
from tasks.growth.versions import find_packs, list_newest, load_version
from tests.growing import HOST, Killed, MortalStore, configured, list_uids, put_night, run, web

__all__ = ["web"]  # a fixture
pytestmark = pytest.mark.timeout(300)
SUBJECTS = ("kite", "lamp", "river", "tower")
MAX_COUNT, MAX_PER_QUERY, NUMBER = 3, 4, 16


def caption_nights():
    """Return three nights, each with pictures of its own and one of the first night; few captions, in two spellings."""
    random, nights = Random(5), []
    for night in range(3):
        numbers = [1, *range(100 * night + 2, 100 * night + NUMBER)]
        captions = [f"A drawing of a {random.choice(SUBJECTS)} with number {random.randrange(5)}" for _ in numbers]
        nights.append(
            [
                (f"http://{HOST}/{n}.png", caption.upper() if random.random() < 0.2 else caption)
                for n, caption in zip(numbers, captions, strict=True)
            ]
        )
    return nights


def new_rows(nights):
    """Return the rows of the last night whose URLs are new."""
    asked = {url for night in nights[:-1] for url, _ in night}
    return [(url, caption) for url, caption in nights[-1] if url not in asked]


def count_captions(nights, before):
    counts = Counter(caption.casefold() for night in nights for _, caption in night)
    return {uid(url, caption) for url, caption in new_rows(nights) if counts[caption.casefold()] <= MAX_COUNT}


def drop_captions(nights, before):
    had = {caption.casefold() for night in nights[:-1] for url, caption in night if uid(url, caption) in before}
    found = {}
    for url, caption in new_rows(nights):
        if caption.casefold() not in had:
            found.setdefault(caption.casefold(), []).append((caption.isupper(), uid(url, caption)))
    return {min(rows)[1] for rows in found.values()}


def sample_queries(nights, before):
    counts = np.zeros(len(SUBJECTS), np.int64)
    for number in range(1, len(nights) + 1):
        for _, caption in new_rows(nights[:number]):
            counts[[subject in caption.lower() for subject in SUBJECTS].index(True)] += 1
    rows = new_rows(nights)
    uids = [uid(*row) for row in rows]
    matches = pa.array(
        [[n for n, subject in enumerate(SUBJECTS) if subject in caption.lower()] for _, caption in rows],
        pa.list_(pa.uint32()),
    )
    probabilities = compute_probabilities(counts, MAX_PER_QUERY)
    sampled, __ = sample_pairs(uid_halves(pa.array(uids)), matches, probabilities, hash_queries(SUBJECTS, 0))
    return {one for one, is_sampled in zip(uids, sampled, strict=True) if is_sampled}


def settings(kind, folder):
    pq.write_table(pa.table({"query": list(SUBJECTS)}), folder / "queries.parquet")
    balance = {"queries": str(folder / "queries.parquet"), "max_per_query": MAX_PER_QUERY}
    return {
        "counts": {"max_caption_count": MAX_COUNT},
        "caption": {"dedupe": ["caption"]},
        "queries": {"balance": balance},
        "all": {
            "max_caption_count": 5,
            "dedupe": ["url", "caption"],
            "balance": balance,
            "captions_per_image": 2,
        },
    }[kind]


@pytest.mark.parametrize(
    ("kind", "reference"), [("counts", count_captions), ("caption", drop_captions), ("queries", sample_queries)]
)
def test_each_night_adds_the_pairs_of_the_reference(kind, reference, web, tmp_path):
    nights, store, kept = caption_nights(), FolderStore(tmp_path / "store"), set()
    for number, night in enumerate(nights, 1):
        put_night(tmp_path, number, night)
        run(configured(web, tmp_path, filter=settings(kind, tmp_path)), tmp_path)
        new = reference(nights[:number], kept)
        assert new
        kept |= new
        [newest] = list_newest(store)
        assert list_uids(store, find_packs(store, newest)) == kept
    assert len(kept) < len({url for night in nights for url, _ in night}) - 4


def test_kills_and_workers_change_no_table_of_captions(web, tmp_path):
    random, kills, digests = Random(7), 0, []
    for name in ("whole", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        for number, night in enumerate(caption_nights(), 1):
            put_night(folder, number, night)
            config = configured(web, folder, filter=settings("all", folder)).with_recorded_base()
            while True:
                lives = random.randrange(60) if name == "killed" else 1 << 30
                try:
                    run(config, folder, MortalStore(folder / "store", lives))
                    break
                except Killed:
                    kills += 1
        store = FolderStore(folder / "store")
        [newest] = list_newest(store)
        versions = [load_version(store, newest.line, number) for number in (1, 2, 3)]
        assert {table.kind for table in newest.tables} >= {"captions", "caption_counts", "queries"}
        digests.append([table.sha256 for one in versions for table in one.tables if table.kind != "files"])
    assert kills
    assert digests[0] == digests[1]
