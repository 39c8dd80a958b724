"""Captions of rows that are dropped for their URL, in the column `captions` of the row that is kept."""

import random
from collections import defaultdict

from dataops.schema import CAPTIONS, FILTERED, uid
from dataops.snapshot import read_parts
from dataops.store import FolderStore
from dataops.text.duplicates import FULL_CAPTION_WORDS, LONG_CAPTION_WORDS, SOURCE_RANK
from tests.filter_runs import filtered, with_sizes

WORDS = ["red", "kite", "over", "the", "old", "river", "boat", "near", "green", "hill"]


def make_rows(images, seed):
    """Return rows of several captions an image, some equal, some that a rule drops, in a random order."""
    chosen = random.Random(seed)
    rows = []
    for i in range(images):
        url = f"http://img.example/{i}.jpg"
        for _ in range(chosen.randint(1, 6)):
            caption = " ".join(chosen.choices(WORDS, k=chosen.randint(1, 6)))
            caption = chosen.choice([caption, caption, caption.upper(), "IMG_0042.jpg"])
            kind = chosen.choice(["alt", "title", "pair_list", "keywords", "description"])
            rows.append({"uid": uid(url, caption), "url": url, "caption": caption, "caption_source": kind})
            rows[-1] |= {"page_url": f"http://p.example/{i}", "source": "list", "source_offset": len(rows)}
    chosen.shuffle(rows)
    return rows


def collect_slowly(rows, kept, dropped, limit):
    """Return the uids of the further captions of each kept row: the best of those dropped for its URL."""
    best = {row["url"]: row["uid"] for row in kept}
    waiting = defaultdict(list)
    for row in dropped:
        if row["drop_reason"] == "duplicate_url" and row["url"] in best:
            words = len(row["caption"].split())
            short = words < FULL_CAPTION_WORDS or row["caption_source"] == "keywords"
            order = (
                short,
                row["caption"].isupper(),
                SOURCE_RANK[row["caption_source"]],
                -min(words, LONG_CAPTION_WORDS),
            )
            waiting[best[row["url"]]].append((order, row["uid"]))
    return {of: [one for _, one in sorted(found)[: limit - 1]] for of, found in waiting.items()}


def test_captions_of_an_image_equal_a_slow_reference_on_any_partitions(tmp_path):
    rows, made = make_rows(80, seed=1), []
    for partitions, batch_rows in ((1, 1), (3, 1000), (8, 16)):
        sizes = with_sizes(partitions, batch_rows, batch_rows if batch_rows > 1 else 1 << 17)
        made.append(
            filtered(tmp_path / str(partitions), rows, stage=sizes, captions_per_image=3, language_page_weight=0)
        )
    tables = [read_parts(FolderStore(tmp_path / str(n)), m) for n, m in zip((1, 3, 8), made, strict=True)]
    assert all(table.equals(tables[0]) for table in tables)
    store = FolderStore(tmp_path / "8")
    table, dropped = read_parts(store, made[-1]), read_parts(store, made[-1], "dropped-")
    assert table.schema == FILTERED.append(CAPTIONS)
    kept = table.to_pylist()
    expected = collect_slowly(rows, kept, dropped.to_pylist(), 3)
    found = {row["uid"]: [one["uid"] for one in row["captions"] or []] for row in kept}
    assert {of: uids for of, uids in found.items() if uids} == expected
    assert max(map(len, found.values())) == 2
    of_uid = {row["uid"]: row for row in dropped.to_pylist()}
    for caption in (one for row in kept for one in row["captions"] or []):
        assert caption == {name: of_uid[caption["uid"]][name] for name in caption}, "each has its own origin"
        assert uid(of_uid[caption["uid"]]["url"], caption["caption"]) == caption["uid"]


def test_personal_data_is_masked_in_further_captions(tmp_path):
    captions = ["dial +1 212 555 0199 for kites on the hill", "a long red kite over the very old river"]
    rows = [
        {"uid": uid("http://img.example/a.jpg", text), "url": "http://img.example/a.jpg", "caption": text}
        | {"caption_source": "alt", "page_url": "http://p.example/", "source": "list", "source_offset": number}
        for number, text in enumerate(captions)
    ]
    manifest = filtered(tmp_path, rows, personal="mask", captions_per_image=2)
    [row] = read_parts(FolderStore(tmp_path), manifest).to_pylist()
    assert "dial <private> for kites on the hill" in {row["caption"], row["captions"][0]["caption"]}
