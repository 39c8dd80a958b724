"""Text chosen by others never changes the structure of a record or a page, and is overwritten where one quotes a pair."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataops.snapshot import MANIFEST, Draft, Manifest, find_manifest
from dataops.store import FolderStore
from dataops.trace.sources import list_sources
from flows.records import Attempt, RunRecord, StageRun
from plugins.erasure.batches import Place, Sought
from plugins.erasure.erase_texts import erase_in_store, search_store
from plugins.erasure.scan import Scanner
from plugins.erasure.traces import put_traces, traces_name
from tasks.checks.check import CheckReport, CheckResult
from tasks.engine.context import Context
from tasks.lineage.graph import Lineage
from tasks.takedown.holders import Traces
from tests.inline_executor import PicklingExecutor
from tests.manifests import build_manifest

QUOTED, ERROR = "Completed", 'http://h.example/1.jpg "Completed" failed'
CONFIG = {
    "name": "RN-mini-64", "extract": {"ai_agents": ["GPTBot", "Completed"], "kind": "warc"},
    "download": {"contact": "https://example.org/crawler", "user_agent": "Mozilla 5.0 of a friendly bot"},
    "recaption": {"prompt": "Describe the image in one sentence."}, "license": "Apache-2.0",
}  # fmt: skip
RUN = RunRecord(
    run_id="demo-20261129T000000-aaaa", name="demo", created_at="2026-11-29T00:00:00+00:00", state="completed",
    config=CONFIG, stages=[StageRun(stage="pack", key="0" * 16, state="Completed")],
    attempts=[Attempt(started_at="2026-11-29T00:00:00+00:00", host="Host One", pid=1, error=ERROR)],
    checks=CheckReport(dataset="0" * 16, last=None, last_run=None, results=[
        CheckResult(check="kept", level="warn", state="not checked", bound=0.5, text="No version came before it."),
    ]),
    model_links={"model card": "https://mlflow.example/#/models/RN-mini-64"},
)  # fmt: skip
FACTS = {
    "examples": {"Completed": [QUOTED, "another"]}, "captions": {QUOTED: 2, "Other": 1},
    "licenses": {"https://creativecommons.org/licenses/by/4.0/": 3}, "links": {"run": "https://mlflow.example/#/run"},
}  # fmt: skip
MANIFEST_OF_FILTER = build_manifest("filter", key="f" * 16, config=CONFIG, facts=FACTS)
SOURCES = [{"name": "Completed", "failed_files": [["Completed", ERROR]]}]
MANIFEST_OF_EXTRACT = build_manifest("extract", key="a" * 16, facts={"sources": SOURCES})
WORK = {
    "facts": {"file": "Completed", "failed": ERROR, "balance": {"unmatched_examples": [QUOTED]}},
    "task": "Completed",
}
CROISSANT = {"@type": "sc:Dataset", "license": "https://creativecommons.org/licenses/by/4.0/", "name": "RN-mini-64"}
PAGE = (
    '<!doctype html><html lang="en"><head><style>.captions { display: grid; gap: 0 1.4rem; }</style></head>'
    '<body class="page main"><table><tr><td class="n">GPTBot</td><td title="GPTBot">kept</td></tr></table></body></html>'
)


def strings(value):
    """Yield all keys and values of a record."""
    if isinstance(value, dict):
        yield from (text for name, one in value.items() for text in (name, *strings(one)))
    elif isinstance(value, list | tuple):
        yield from (text for one in value for text in strings(one))
    elif isinstance(value, str):
        yield value


RECORDS = (RUN.model_dump(mode="json"), MANIFEST_OF_FILTER.model_dump(mode="json"), CROISSANT)
STRINGS = sorted({text for record in RECORDS for text in strings(record)} - {""})
MARKUP = ('<td class="n">', "</td><td title=", "captions", "page main", ".captions { display: grid; gap: 0 1.4rem; }")


def erase(store, texts):
    """Erase pairs with these texts as captions and URLs from records in a store."""
    RUN.save(store)
    draft = Draft(store, "filter", "f" * 16)
    if find_manifest(store, "filter", "f" * 16) is None:
        draft.commit(MANIFEST_OF_FILTER)
    store.put(draft.path(MANIFEST), MANIFEST_OF_FILTER.encode())
    store.put(MANIFEST_OF_EXTRACT.path(MANIFEST), MANIFEST_OF_EXTRACT.encode())
    store.put(MANIFEST_OF_EXTRACT.path("_work/x.json"), json.dumps(WORK).encode())
    store.put(MANIFEST_OF_EXTRACT.path("_work/records-00001-a-0.json"), json.dumps({"records": [WORK, WORK]}).encode())
    store.put("pack/0000000000000000/croissant.json", json.dumps(CROISSANT).encode())
    sought = Sought(Traces(urls=set(texts), captions=set(texts)))
    _, refused = erase_in_store(Lineage(store), Context(store, store.root), sought)
    assert refused == {}
    return sought


@given(st.lists(st.sampled_from(STRINGS), min_size=1, max_size=8))
def test_no_caption_or_url_changes_what_a_record_does_not_quote(tmp_path_factory, texts):
    store = FolderStore(tmp_path_factory.getbasetemp() / "records")
    sought = erase(store, texts)
    run = RunRecord.model_validate_json(store.read(f"runs/{RUN.run_id}.json"))
    (attempt,) = run.attempts
    assert run.model_copy(update={"attempts": [attempt.model_copy(update={"error": ERROR})]}) == RUN
    manifest = Manifest.decode(store.read(MANIFEST_OF_FILTER.path(MANIFEST)))
    same = {name: manifest.facts[name] for name in ("licenses", "links")}
    assert manifest.model_copy(update={"facts": FACTS}) == MANIFEST_OF_FILTER
    assert same == {name: FACTS[name] for name in same}
    assert manifest.facts["examples"].keys() == {"Completed"}
    assert json.loads(store.read("pack/0000000000000000/croissant.json")) == CROISSANT
    assert search_store(Context(store, store.root), sought, Lineage(store)).found == []


def test_workers_find_what_one_process_finds_and_get_names_only(tmp_path):
    store, urls = FolderStore(tmp_path), {f"http://h.example/{n}/{'x' * 90}.jpg" for n in range(400)}
    for number, url in enumerate(sorted(urls)[:30]):
        store.put(f"pack/{number:016x}/dataset.html", f"<p>{url if number % 3 else 'nothing'}</p>".encode())
    store.put("train/0/model.safetensors", b"x")
    traces, pool = Traces(urls=urls), PicklingExecutor()
    context, place = Context(store, tmp_path, pool=pool), Place(traces_name("t"), batch_bytes=1 << 17)
    put_traces(traces, store, place.traces)
    alone, by_workers = (search_store(context, Sought(traces), Lineage(store), one) for one in (None, place))
    assert by_workers == alone
    assert (alone.files, alone.weights_not_read, len(alone.found)) == (30, 1, 20)
    assert erase_in_store(Lineage(store), context, Sought(traces), place) == (20, {})
    assert search_store(context, Sought(traces), Lineage(store), place).found == []
    assert len(pool.sizes) > 10
    assert max(pool.sizes) < 1000, "no task has the URLs"


def test_what_a_record_quotes_is_overwritten(tmp_path):
    store = FolderStore(tmp_path)
    erase(store, [QUOTED, "http://h.example/1.jpg"])
    run = RunRecord.model_validate_json(store.read(f"runs/{RUN.run_id}.json"))
    assert run.attempts[0].error == f'{"-" * 22} "---------" failed'
    manifest = find_manifest(store, "filter", "f" * 16)
    assert manifest.facts["examples"] == {"Completed": ["-" * 9, "another"]}
    assert manifest.facts["captions"] == {"-" * 9: 2, "Other": 1}
    (source,) = list_sources(Manifest.decode(store.read(MANIFEST_OF_EXTRACT.path(MANIFEST))))
    assert (source.name, source.failed_files) == ("Completed", [("Completed", run.attempts[0].error)])
    work = json.loads(store.read(MANIFEST_OF_EXTRACT.path("_work/x.json")))
    redacted = {"file": "Completed", "failed": run.attempts[0].error, "balance": {"unmatched_examples": ["-" * 9]}}
    assert work == WORK | {"facts": redacted}
    log = json.loads(store.read(MANIFEST_OF_EXTRACT.path("_work/records-00001-a-0.json")))
    assert log == {"records": [work, work]}


@pytest.mark.parametrize("text", MARKUP)
def test_markup_of_a_page_is_no_text_of_a_pair(text):
    scanner = Scanner(Traces(urls={text}, captions={text}))
    assert scanner.redact(PAGE.encode(), "pack/0/dataset.html") == PAGE.encode()


def test_text_and_attributes_of_a_page_are_overwritten():
    redacted = Scanner(Traces(captions={"GPTBot"})).redact(PAGE.encode(), "pack/0/dataset.html").decode()
    assert redacted == PAGE.replace("GPTBot", "------")


@pytest.mark.parametrize("name", ["config.toml", "jobs/0/job.json", "runs/demo", "train/0/model.json", "a.js"])
def test_files_that_quote_no_pair_are_never_overwritten(name):
    text = "a friendly portrait of somebody in a garden"
    data = json.dumps({"text": text, "url": "http://h.example/1.jpg", "state": "Completed"}).encode()
    scanner = Scanner(Traces(urls={"http://h.example/1.jpg"}, captions={text, "Completed"}))
    assert scanner.redact(data, name) == data
