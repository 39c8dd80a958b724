"""Each store makes valid keys of assets, and only what a task run made is reported as materialised."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from prefect.context import AssetContext
from prefect.states import Completed

from dataops.snapshot import Counts, Manifest
from dataops.store import FolderStore
from flows import task_run
from tasks.engine.context import Context
from tests.manifests import build_manifest


def describe(store: Any) -> task_run.StageAsset | None:
    planned: Any = SimpleNamespace(
        stage=SimpleNamespace(name="filter"), key="f" * 16, upstream=[build_manifest("extract")]
    )
    return task_run.describe_asset(planned, Context(store, Path("/home"), run_name="demo"))


@pytest.mark.parametrize(
    ("uri", "key"),
    [
        ("s3://bucket/mill", "s3://bucket/mill/filter/ffffffffffffffff"),
        ("s3://user:hunter22@bucket/x", "s3://bucket/x/filter/ffffffffffffffff"),
        ("/data/store", "file:///data/store/filter/ffffffffffffffff"),
        ("/a b/%41?#'[<ü\x1b\n", "file:///a_b/_41_____ü__/filter/ffffffffffffffff"),
        ("/" + "x" * 600, None),
    ],
)
def test_any_store_has_valid_keys_or_no_assets(uri, key):
    found = describe(SimpleNamespace(uri=uri))
    assert (found and found.asset.key) == key
    if found:
        assert [one.key for one in found.upstream] == [key.replace("filter/" + "f" * 16, "extract/" + "0" * 16)]


@pytest.mark.parametrize("how", ["made", "reused", "made by another run"])
def test_only_what_a_task_run_made_is_materialised(monkeypatch, tmp_path, how):
    """The body of the task runs in the context that Prefect's engine gives it, which then emits the events."""
    emitted: list[tuple[str, str, Any]] = []

    def materialize(asset: Any, *, by: str, **options: Any) -> Any:
        def call(body: Any) -> Any:
            context = AssetContext(
                direct_asset_dependencies={*options["asset_deps"]}, downstream_assets={asset}, materialized_by=by
            )

            def run(**_: Any) -> Any:
                with context, mock.patch("prefect.events.emit_event", record):
                    body()
                    context.emit_events(Completed())
                return Completed(name="Reused" if how != "made" else None)

            return run

        return call

    def record(event: str, resource: Any, related: Any, payload: Any = None) -> None:
        emitted.append((event, resource["prefect.resource.id"].rpartition("/")[0].rpartition("/")[2], payload))

    monkeypatch.setattr(task_run, "materialize", materialize)
    flow_run_id = None if how == "made" else "of-another"
    made = build_manifest("filter", counts=Counts(input=3, kept=2, dropped={"a": 1}), prefect_flow_run_id=flow_run_id)

    def reuse() -> Manifest | None:
        return made if how == "reused" else None

    task_run.run_task("filter", "", reuse, lambda: made, (), asset=describe(FolderStore(tmp_path)))
    if how == "made":
        (_, referenced, _), (event, name, payload) = emitted
        assert (event, name, referenced) == ("prefect.asset.materialization.succeeded", "filter", "extract")
        assert (payload["kept"], payload["digest"]) == (2, made.content_digest)
    else:
        assert emitted == []
