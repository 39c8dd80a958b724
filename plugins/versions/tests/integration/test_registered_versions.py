"""The versions of a registered model are listed and compared, with their metrics and aliases in MLflow."""

import pytest

from dataops.errors import ConfigError, GateRefused
from plugins.versions.models import models, show_model_diff
from tasks.engine import stage
from tasks.tracking import client as tracking
from tests.registrations import commit_evaluation, plan_registration

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("register_plugins")]


def test_versions_of_a_model_are_listed_and_compared(mlflow_url, upstream, capsys, read_json, tmp_path):
    for name, right in (("first", 120), ("worse", 100)):
        evaluated = commit_evaluation(upstream.store, f"vs{name}", [n < right for n in range(200)])
        plan, context = plan_registration(upstream, evaluated, model_name="shown", not_worse=("twemoji-seen",))
        if name == "worse":
            with pytest.raises(GateRefused):
                stage.make(plan, context)
        else:
            stage.make(plan, context)
    client = tracking.connect()
    client.log_metric(client.get_model_version("shown", "2").run_id, "version/new", 40)  # as a run that grows a dataset
    capsys.readouterr()
    assert models("shown", json=True) == 0
    versions = read_json()["versions"]
    assert [(one["version"], one["aliases"]) for one in versions] == [("2", ["candidate"]), ("1", ["champion"])]
    assert versions[0]["metrics"] == {"held-out/image_to_text_R_at_1": 0.1, "pairs": 400.0, "twemoji-seen/top1": 0.06}
    assert versions[0]["changes"] == []
    store = upstream.store.uri
    assert show_model_diff("shown/1", "shown@candidate", tmp_path, store, as_json=True) == 0
    compared = read_json()
    (top1,) = (row for row in compared["metrics"] if row["key"] == "twemoji-seen/top1")
    assert (top1["comparison"]["verdict"], top1["comparison"]["difference"]) == ("worse", pytest.approx(-0.1))
    assert models(json=True) == 0
    listed = {model["name"]: model for model in read_json()["models"]}
    assert listed["shown"] == {"name": "shown", "newest": "2", "aliases": {"candidate": "2", "champion": "1"}}
    for wrong in ("shown/9", "no-such/1"):
        with pytest.raises(ConfigError, match="not found; `pairmill models` lists the registered models"):
            show_model_diff("shown/1", wrong, tmp_path, store, as_json=False)
