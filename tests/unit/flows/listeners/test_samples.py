"""The artefact with images shows what was kept and why the rest was dropped, and no image that may have to be removed."""

import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
from httpx import ConnectError
from markdown_it import MarkdownIt

from dataops.snapshot import Counts, Manifest, Part, Record
from dataops.trace.requests import make_request, record_request
from flows.listeners import artefacts, samples
from flows.listeners.base import StageEnd
from tests.hostile_text import HOSTILE_MARKDOWN, Page
from tests.live_runs import build_live_run, build_plan
from tests.unit.tasks.dataset_chain import packed_in, pair


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    rows = [pair(n, "too_small" if n % 4 == 2 else None, caption=f"{HOSTILE_MARKDOWN} {n}") for n in range(16)]
    store, manifests = packed_in(tmp_path_factory.mktemp("store"), rows)
    return SimpleNamespace(store=store, manifests=manifests)


def test_curate_shows_images_with_captions_and_reasons_as_text(chain):
    text = samples.render_samples("curate", chain.manifests, chain.store)
    assert text is not None
    assert text.startswith("curate kept 12 of 16 rows (75.0%).")
    shown = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    images = re.findall(r'<img src="data:image/jpeg;base64,[A-Za-z0-9+/=]+" alt="" ?/?>', shown)
    assert len(images) == 8 + 4
    assert {*Page(shown).tags} <= {
        "p",
        "h2",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "img",
        "br",
        "strong",
        "code",
    }
    assert shown.count("<strong>too_small</strong>") == 4
    assert len(text) < 100_000


def test_stage_without_images_has_no_artefact(chain):
    assert samples.render_samples("filter", chain.manifests, chain.store) is None
    assert samples.render_samples("curate", {"curate": chain.manifests["curate"]}, chain.store) is None


def test_each_reason_is_shown_before_a_second_image_of_one():
    groups = [[{"caption": "a"}, {"caption": "b"}], [{"caption": "c"}]]
    assert [row["caption"] for row in samples.interleave(groups)] == ["a", "c", "b"]


def test_store_with_takedowns_shows_no_images(tmp_path):
    store, manifests = packed_in(tmp_path, [pair(n) for n in range(2)])
    assert samples.render_samples("curate", manifests, store)
    record_request(store, make_request([], "a letter"))
    assert samples.render_samples("curate", manifests, store) is None


def test_running_download_shows_its_newest_tasks_after_a_minute_and_then_every_ten(chain):
    now = 0.0
    download: Manifest = chain.manifests["download"]
    planned: Any = SimpleNamespace(stage=SimpleNamespace(name="download", version=1), key=download.key)
    newest = samples.NewestTasks(planned, lambda: now)

    def finish(number: int, parts: Sequence[Part] = ()) -> Manifest | None:
        return newest.add(Record(task=f"task-{number}", parts=[*parts], counts=Counts(input=2, kept=1)))

    assert finish(0, download.parts) is None
    now = 61.0
    found = finish(1)
    assert found is not None
    assert (found.parts, found.counts) == (download.parts, Counts(input=4, kept=2))
    now = 600.0
    assert finish(2) is None
    now = 662.0
    for number in range(samples.NEWEST):
        found = finish(number + 3) or found
    assert (found.parts, found.counts.input) == (download.parts, 8)
    now = 1300.0
    found = finish(99)
    assert found is not None
    assert (found.parts, found.counts.input) == ([], 2 * samples.NEWEST)


def test_images_of_a_running_stage_say_that_they_are_of_its_newest_tasks(chain):
    text = samples.render_samples("curate", chain.manifests, chain.store, running=True)
    assert text is not None
    assert text.startswith("So far, the newest tasks of curate kept 12 of 16 rows (75.0%).")


def test_other_stages_show_no_images_while_they_run():
    planned: Any = SimpleNamespace(stage=SimpleNamespace(name="curate", version=1), key="a" * 16)
    times = iter((0.0, 100.0))
    assert samples.NewestTasks(planned, lambda: next(times)).add(Record(task="part-0")) is None


class ArtefactServer:
    """What Prefect's client and server keep of artefacts, and the contents that their events have."""

    def __init__(self) -> None:
        self.artefacts: dict[Any, str] = {}
        self.events: list[str] = []

    def __enter__(self) -> "ArtefactServer":
        return self

    def __exit__(self, *_: object) -> None: ...

    def create(self, markdown: str, *, key: str, description: str) -> str:
        self.events.append(markdown)
        self.artefacts[key] = markdown
        return key

    def request(self, method: str, path: str, *, path_params: dict[str, Any], json: dict[str, str]) -> None:
        assert (method, path) == ("PATCH", "/artifacts/{id}")
        self.artefacts[path_params["id"]] = json["data"]

    def read_artifacts(self, *, artifact_filter: Any, offset: int) -> list[Any]:
        assert artifact_filter.key.like_ == "samples-"
        return [SimpleNamespace(id=one) for one in [*self.artefacts][offset : offset + 2]]  # a page

    def delete_artifact(self, artefact: str) -> None:
        del self.artefacts[artefact]
        self.events += self.artefacts.values()


def test_images_are_in_no_event_of_their_artefacts(tmp_path, monkeypatch):
    server = ArtefactServer()
    for module in (artefacts, samples):
        monkeypatch.setattr(module, "get_client", lambda **_: server)
    monkeypatch.setattr(artefacts, "create_markdown_artifact", server.create)
    monkeypatch.setattr(artefacts, "render_samples", lambda stage, *_, running=False: f"images of {stage} {running}")
    stages = [f"stage-{n}" for n in range(5)]
    monkeypatch.setattr(samples, "FIRST_SECONDS", 0.0)
    run = build_live_run(tmp_path)
    shown = artefacts.Artefacts(run)
    for run.stage in stages:
        planned = build_plan("download")
        shown.stage_started(planned)
        shown.task_finished(Record(task="one"))
        assert server.artefacts[f"samples-{run.stage}"] == f"images of {run.stage} True"
        shown.stage_ended(StageEnd(run.stage, "Completed", 1.0, None))
        assert server.artefacts[f"samples-{run.stage}"] == f"images of {run.stage} False"
    assert samples.try_to_delete_samples() == {"deleted": 5}
    assert server.artefacts == {}
    assert {*server.events} == {samples.EMPTY}


def test_local_database_has_no_deleted_image(tmp_path, monkeypatch):
    database = tmp_path / "services" / "prefect" / "prefect.db"
    database.parent.mkdir(parents=True)
    monkeypatch.setattr(samples.services, "home", lambda: tmp_path)
    with closing(sqlite3.connect(database, isolation_level=None)) as server:
        server.execute("PRAGMA journal_mode = WAL")
        server.execute("PRAGMA secure_delete = OFF")
        server.execute("CREATE TABLE artefacts (data)")
        server.execute("INSERT INTO artefacts VALUES ('data:image' || hex(zeroblob(9000)))")

        def delete_samples() -> int:
            return server.execute("DELETE FROM artefacts").rowcount

        monkeypatch.setattr(samples, "delete_samples", delete_samples)
        assert any(b"data:image" in path.read_bytes() for path in database.parent.iterdir())
        assert samples.try_to_delete_samples() == {"deleted": 1}
        assert not any(b"data:image" in path.read_bytes() for path in database.parent.iterdir())


def test_server_that_does_not_answer_is_named_with_the_artefacts_that_may_be_left(monkeypatch, caplog):
    def connect(**_: Any) -> Any:
        raise ConnectError("down")

    monkeypatch.setattr(samples, "get_client", connect)
    assert samples.try_to_delete_samples() == {"deleted": 0, "error": "ConnectError: down"}
    assert "its artefacts samples-* may still show removed images" in caplog.text
