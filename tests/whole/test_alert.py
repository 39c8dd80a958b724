"""An alert on known harmful images is sent as soon as the download has ended, and names no host."""

from uuid import UUID

from prefect.server.utilities.user_templates import render_user_template_sync

from dataops.snapshot import Counts
from flows.listeners.base import StageEnd
from plugins.deployment import events
from plugins.deployment.automations import notification_automations
from plugins.deployment.events import MATCHED
from tests.live_runs import build_live_run
from tests.manifests import build_manifest


def test_alert_on_known_harmful_images_names_only_count_lists_and_run(tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr(
        events, "emit_event", lambda event, resource, payload: sent.append({"resource": resource, "payload": payload})
    )
    manifest = build_manifest(
        "download", facts={"known_harm": {"iwf": 2, "own": 1}, "hosts": {"bad.example": {"rows": 1}}},
        counts=Counts(input=9, kept=6, dropped={"known_harm": 3}), prefect_flow_run_id="f",
    )  # fmt: skip
    clean = build_manifest("download", prefect_flow_run_id="f")
    run = build_live_run(tmp_path)
    run.record.begin("pipeline", None, "f")
    listener = events.Events(run)
    for stage, made in (("filter", clean), ("download", clean), ("filter", manifest), ("download", manifest)):
        assert sent == []
        run.manifests["download"] = made
        listener.stage_ended(StageEnd(stage, "Completed", 1.0, made))
    listener.ended("completed", None)  # and not once more
    (event,) = sent
    alert = next(one for one in notification_automations([UUID(int=1)], "") if MATCHED in one.trigger.expect)
    templates = [getattr(alert.actions[0], name) for name in ("subject", "body")]
    subject, body = (render_user_template_sync(template, {"event": event}) for template in templates)
    assert subject == "Known harmful images: 3 in demo-1"
    assert body.splitlines() == [
        "iwf: 2",
        "own: 1",
        "They were dropped before anything was written. What to do: docs/rights/hash-lists.md",
        "Run: pairmill show demo-1",
    ]
    assert "bad.example" not in str(event)
