"""The index of a snapshot finds what reading all rows finds, and reads few parts."""

import shutil
import tempfile
from pathlib import Path

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from dataops.schema import CAPTIONS, CURATED, conform
from dataops.snapshot import Draft, read_table
from dataops.store import FolderStore
from dataops.trace.targets import Target, matching_rows, parse_target
from plugins.row_index.index import select_parts, write_index
from tasks.engine.context import Context
from tasks.search import Rows, Search
from tests.inline_executor import InlineExecutor, inline_context
from tests.manifests import build_manifest

HOSTS = st.sampled_from(["a.example", "b.a.example", "c.b.a.example", "xa.example", "d.test", "192.0.2.7", "example"])
URLS = st.builds("{}://{}{}/{}".format, st.sampled_from(["http", "https"]), HOSTS, st.sampled_from(["", ":81"]),
                 st.sampled_from(["", "1.jpg", "?q=/2", "é", "~b(c)", "%7eb%28c%29"]))  # fmt: skip
NUMBERS = st.integers(0, 30)
PHASHES = st.one_of(st.none(), NUMBERS.map(lambda n: f"{n * 0x0101_0101:016x}"), st.just("f" * 16))
CAPTION = st.fixed_dictionaries({"uid": NUMBERS.map(lambda n: f"{n + 40:032x}"), "page_url": st.none() | URLS})
ROW = st.fixed_dictionaries(
    {
        "uid": NUMBERS.map(lambda n: f"{n:032x}"),
        "url": URLS,
        "page_url": st.none() | URLS,
        "sha256": NUMBERS.map(lambda n: f"{n:064x}"),
        "phash": PHASHES,
        "captions": st.none() | st.lists(CAPTION, max_size=2),
    }
)
TARGET = st.one_of(
    st.integers(0, 80).map(lambda n: Target("uid", f"{n:032x}")),
    URLS.map(lambda url: parse_target(f"url:{url}")),
    HOSTS.filter(lambda host: "." in host).map(lambda host: parse_target(f"domain:{host}")),
    NUMBERS.map(lambda n: Target("sha256", f"{n:064x}")),
    st.builds(lambda n, bits: Target("phash", f"{n * 0x0101_0101:016x}", bits), NUMBERS, st.integers(0, 8)),
)
PARTS = st.lists(st.lists(ROW, max_size=4), min_size=1, max_size=6)


def put(draft, number, rows, *, captions, images):
    schema = CURATED.append(CAPTIONS) if captions else CURATED
    if not images:  # of an earlier stage
        schema = pa.schema([field for field in schema if field.name != "phash"])
    return draft.put_table(f"part-{number:05d}.parquet", conform(pa.Table.from_pylist(rows, schema), schema, "rows"))


def find_by_reading(store, manifest, targets):
    found = set()
    for part in manifest.named("part-"):
        rows = read_table(store, manifest.path(part.name))
        found |= {(part.name, row) for row in matching_rows(rows, targets).nonzero()[0].tolist()}
    return found


@given(
    PARTS,
    st.lists(TARGET, min_size=1, max_size=4),
    st.booleans(),
    st.booleans(),
    st.sampled_from([20, 1000]),
    st.data(),
)
def test_index_finds_the_rows_that_reading_all_parts_finds(
    parts,
    targets,
    captions,
    images,
    file_entries,
    data,
):
    folder = Path(tempfile.mkdtemp())
    try:
        store = FolderStore(folder)
        draft = Draft(store, "pack", "0" * 16)
        kinds = {"captions": captions, "images": images}
        written = [put(draft, number, rows, **kinds) for number, rows in enumerate(parts)]
        context = Context(store, folder, pool=InlineExecutor(), inline_rows=data.draw(st.sampled_from([0, 1000])))
        index = write_index(draft, written, context, task_rows=5, file_entries=file_entries)
        rewritten = data.draw(st.integers(0, len(parts)))  # after the index was written; the last one is added
        written[rewritten : rewritten + 1] = [
            put(draft, rewritten, data.draw(st.lists(ROW, min_size=1, max_size=3)), **kinds)
        ]
        manifest = build_manifest("pack", [*written, *index], key="0" * 16)
        expected = find_by_reading(store, manifest, targets)
        hits = Search(store).find(Rows(manifest, "part-"), targets)
        assert {(hit.part.name, hit.row) for hit in hits} == expected
        chosen = {part.name for part in select_parts(store, manifest, written, targets)}
        assert chosen <= {name for name, _ in expected} | {written[rewritten].name}, "no other part is read"
    finally:
        shutil.rmtree(folder)


def test_with_the_index_of_other_rows_all_parts_are_read_and_no_row_is_missed(tmp_path, caplog):
    store, context = FolderStore(tmp_path), inline_context(FolderStore(tmp_path), tmp_path)
    manifests = []
    for number in range(2):
        draft = Draft(store, "pack", f"{number:016x}")
        rows = [
            {"uid": f"{n:032x}", "url": f"http://h.test/{n}", "sha256": f"{n:064x}", "phash": f"{n:016x}"}
            for n in range(number, 40, 2)
        ]
        written = [put(draft, part, rows[part::2], captions=False, images=True) for part in range(2)]
        index = write_index(draft, written, context)
        manifests.append(build_manifest("pack", [*written, *index], key=draft.key))
    for target in (Target("uid", f"{7:032x}"), Target("phash", f"{7:016x}", 0)):
        for prefix in ("index-0", "index-images-"):
            for part in manifests[0].named(prefix):
                path = tmp_path / manifests[1].path(part.name)
                before = path.read_bytes()
                path.write_bytes((tmp_path / manifests[0].path(part.name)).read_bytes())
                sizes = [one.model_copy(update={"bytes": part.bytes}) if one.name == part.name else one
                         for one in manifests[1].parts]  # fmt: skip
                other = manifests[1].model_copy(update={"parts": sizes})
                if (prefix == "index-images-") == (target.kind == "phash"):
                    [hit] = Search(store).find(Rows(other, "part-"), [target])
                    assert hit.rows.manifest == other
                    assert f"{part.name} is the index of other rows" in caplog.text
                    path.write_bytes(b"no table")
                    assert len(Search(store).find(Rows(other, "part-"), [target])) == 1
                    path.unlink()
                    assert len(Search(store).find(Rows(other, "part-"), [target])) == 1
                caplog.clear()
                path.write_bytes(before)
        [hit] = Search(store).find(Rows(manifests[1], "part-"), [target])
        assert hit.rows.manifest == manifests[1]
