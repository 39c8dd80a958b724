"""What is written about a version of a dataset that grows is about all of its pairs, also of those packed again as one."""

import json

import polars as pl
import pytest

from dataops.errors import ContractError, PairmillError
from dataops.schema import uid
from dataops.store import FolderStore
from dataops.trace.lineages import merge_lineages
from dataops.trace.requests import make_request, record_request
from dataops.trace.targets import Target
from flows.commands.show import write_stage_page
from flows.next_version import compact
from tasks.growth.versions import find_packs
from tasks.pack.union import load_union
from tests.growing import NIGHTS, configured, list_uids, run_night, web
from tests.inline_executor import inline_context

__all__ = ["web"]  # a fixture
pytestmark = [
    pytest.mark.timeout(300),
    *map(
        pytest.mark.filterwarnings,  # mlcroissant's: rdflib's old classes, and files left to the collector
        ("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    ),
]


@pytest.fixture(scope="module")
def grown(web, tmp_path_factory):
    """Return the folder, a version of two datasets, of which the first has the pairs of two nights, and the uids."""
    folder = tmp_path_factory.mktemp("grown")
    store = FolderStore(folder / "store")
    for number in (1, 2):
        made, _ = run_night(web, folder, number)
    config, context = configured(web, folder), inline_context(store, folder)
    assert compact(context, made, config.stage_config("pack"), config.seed, 2) is not None
    version, _ = run_night(web, folder, 3)
    return folder, version, list_uids(store, find_packs(store, version))


def test_union_has_the_rows_and_the_funnel_of_all_nights(grown):
    folder, version, uids = grown
    union, lineages = load_union(version, FolderStore(folder / "store"))
    assert [len(pack.inputs) for pack in union.packs] == [4, 2]
    assert union.counts.kept == union.facts["samples"] == sum(union.facts["caption_sources"].values()) == len(uids)
    assert len(lineages) == 3
    merged = merge_lineages(lineages)
    rows = sum(map(len, NIGHTS[:3]))
    assert (merged["extract"].counts.input, merged["extract"].facts["files"]) == (rows, 3)
    for above, below in (("extract", "filter"), ("filter", "download"), ("download", "curate")):
        assert merged[above].counts.kept == merged[below].counts.input
    assert merged["curate"].counts.kept == union.counts.input == len(uids)


def test_version_is_published_whole_and_the_next_one_sends_what_is_new(grown, read_json, web):
    publish = pytest.importorskip("plugins.publish.publish")
    folder, version, uids = grown
    store = FolderStore(folder / "store")

    def published(what, to="out"):
        options = {"to": str(folder / to), "license": "cc-by-4.0", "store": store.uri}
        assert publish.command(what, **options, json=True) == 0
        return read_json()

    first = published(version.name)
    assert set(pl.read_parquet(folder / "out/*/part-*.parquet")["uid"]) == uids
    card = (folder / "out/README.md").read_text()
    assert f"{len(uids)} pairs of image and caption in 2 shards" in card
    assert "path: '*/*.tar'" in card
    assert all(f"./{pack.key}/{{00000..00000}}.tar" in card for pack in version.packs)
    manifest = json.loads((folder / "out/manifest.json").read_text())
    names = {part["name"] for part in manifest["parts"]}
    assert names == {one["name"] for one in first["files"]} - {
        "README.md",
        "DATASET.md",
        "manifest.json",
        "croissant.json",
    }
    croissant = json.loads((folder / "out/croissant.json").read_text())
    assert [one["@id"] for one in croissant["distribution"]][:2] == [f"{one.key}/00000.tar" for one in version.packs]
    assert croissant["rai:dataCollectionRawData"].count("download/") == 3
    records = pytest.importorskip("mlcroissant").Dataset(folder / "out/croissant.json").records("pairs")
    assert {row["pairs/uid"].decode() for row in records} == uids
    after, _ = run_night(web, folder, 5)
    sent = {one["name"] for one in published(f"{after.line}/{after.number}")["files"] if one["sent"]}
    assert {name.partition("/")[0] for name in sent if "/" in name} == {after.packs[-1].key}
    assert published(f"run-{after.number}")["what"] == after.name, "a run's dataset is its version"
    lost = folder / f"store/pack/{version.packs[0].key}/part-00000.parquet"
    rows = lost.read_bytes()
    lost.unlink()
    for broken in (None, rows[: len(rows) // 2]):
        if broken is not None:
            lost.write_bytes(broken)
        with pytest.raises(PairmillError, match=rf"{version.packs[0].key}/part-00000.parquet"):
            published(after.name, "elsewhere")
    lost.write_bytes(rows)
    record_request(store, make_request([Target("url", NIGHTS[0][0][0])], ""))
    with pytest.raises(ContractError, match=rf"1 pair in part-00000.parquet of dataset {version.packs[0].key} match"):
        published(after.name)


def test_summary_counts_the_images_of_all_nights(grown):
    subject = pytest.importorskip("plugins.disclosure.subject")
    from plugins.disclosure.domains import measure
    from plugins.disclosure.provider_facts import ProviderFacts
    from plugins.disclosure.summary import summarise

    folder, version, uids = grown
    store = FolderStore(folder / "store")
    found = subject.find_subject(version.name, folder / "home", store.uri)
    summary = summarise(found, ProviderFacts())
    assert (summary.pairs, summary.name) == (len(uids), version.name)
    assert summary.datasets == tuple(f"pack/{pack.key}" for pack in version.packs)
    fetched = measure(found.chains, store)
    assert (fetched.images, fetched.unsized) == (len(uids), 0)
    run_ = subject.find_subject(f"run-{version.number}", folder / "home", store.uri)
    assert run_.name == version.name
    [merged] = subject.describe_dataset(found.chains[0].pack.packs[0], store).chains
    assert measure([merged], store).images == merged.pairs


def test_page_shows_images_of_all_datasets(grown):
    folder, version, uids = grown
    home = folder / "home"
    home.mkdir(exist_ok=True)
    page = write_stage_page(version.name, home, f"{folder}/store", None).read_text()
    assert f"{len(uids)} pairs of image and caption in 2 shards" in page
    captions = {caption for night in NIGHTS[:3] for url, caption in night if uid(url, caption) in uids}
    assert all(caption in page for caption in captions)
    assert page.count("data:image/jpeg") >= len(uids)
