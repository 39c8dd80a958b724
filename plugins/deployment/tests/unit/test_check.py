import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock
from uuid import UUID

import pytest

from dataops.errors import ConfigError
from flows.config import RunConfig
from flows.pipeline import FLOWS
from plugins.deployment.automations import NAMES, zombie_automation
from plugins.deployment.deploy import check_request
from plugins.deployment.deployer import Deployer, fill_specifications
from plugins.deployment.request import DeployRequest

CONFIG = RunConfig.model_validate(
    {"name": "nightly", "source": {"kind": "warc", "paths": ["x.warc.gz"]}, "register": {"model_name": "clip"}}
)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"cron": "0 25 * * *"}, "--cron '0 25 * * *'"),
        ({"cron": "0 0 30 2 *"}, "--cron"),
        ({"timezone": "../etc/passwd"}, "--timezone"),
        ({"gpus": 0}, "--gpus 0"),
        ({"notify": ("ops",)}, "--notify 'ops'"),
    ],
)
def test_check_request_refuses_a_wrong_option(wrong, named):
    with pytest.raises(ConfigError, match=re.escape(named)):
        check_request(DeployRequest(Path("c.toml"), **wrong))


def test_last_stage_chooses_the_scheduled_flow(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for until, flow in (("register", "pipeline"), ("pack", "curate")):
        request = DeployRequest(
            tmp_path / "configs" / "c.toml", cron="0 3 * * *", until=until, overlap="queue", pool="mill"
        )
        found = {spec["flow"]: spec for spec in fill_specifications(request, CONFIG)}
        assert set(found) == {f.name for f in FLOWS} == set(NAMES)
        assert [name for name, spec in found.items() if spec.get("schedules")] == [flow]
        assert found[flow]["schedules"] == [{"cron": "0 3 * * *", "timezone": "Etc/UTC", "active": True}]
        assert found[flow]["parameters"] == {"config": "configs/c.toml", "grow": True}
        whole = fill_specifications(replace(request, whole=True), CONFIG)
        assert {"config": "configs/c.toml"} in [spec["parameters"] for spec in whole if spec["flow"] == flow]
        assert found[flow]["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
        assert found["train"]["work_pool"]["name"] == "mill-gpu"
        assert all("{{" not in str(spec["pull"]) and str(tmp_path) in str(spec["pull"]) for spec in found.values())


@pytest.mark.parametrize(
    ("kind", "data", "sends"),
    [
        ("custom-webhook", {"url": "http://h/{{body}}"}, True),
        ("custom-webhook", {"json_data": None, "form_data": {"text": "{{name}}"}}, False),
        ("slack-webhook", {"url": "********"}, True),
    ],
)
def test_deploy_refuses_a_webhook_that_would_send_no_message(kind, data, sends):
    client = MagicMock()
    client.read_block_document_by_name.return_value = SimpleNamespace(
        id=UUID(int=1), data=data, block_schema=SimpleNamespace(capabilities=["notify"])
    )
    client.read_work_pool.return_value = SimpleNamespace(type="process")
    client.read_automations_by_name.return_value = []
    client.create_deployment.return_value = UUID(int=1)
    refusal = pytest.raises(ConfigError, match=re.escape("neither {{subject}} nor {{body}}"))
    with nullcontext() if sends else refusal:
        Deployer(client).deploy(DeployRequest(Path("c.toml"), notify=(f"{kind}/ops",)), CONFIG)
    assert client.create_deployment.called is sends


def test_put_automation_updates_the_one_of_its_name_and_leaves_it_paused():
    automation = zombie_automation()
    existing = automation.model_copy(update={"enabled": False, "id": UUID(int=7)})
    client = MagicMock()
    client.read_automations_by_name.side_effect = lambda asked: [existing] if asked == automation.name else []
    row = Deployer(client).put_automation(automation)
    client.create_automation.assert_not_called()
    identity, updated = client.update_automation.call_args.args
    assert (identity, updated.enabled, row.what) == (UUID(int=7), False, "paused")
