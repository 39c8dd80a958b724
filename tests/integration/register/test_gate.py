"""The gate: floors, the comparison with the champion, and the audit trail of aliases."""

import json
from pathlib import Path

import pytest

from dataops.errors import ConfigError, GateRefused
from tasks.engine import stage
from tasks.evaluate.config import EvaluateConfig
from tasks.evaluate.stage import EVALUATE
from tests.python_code import run_python
from tests.registrations import (
    commit_evaluation,
    connect,
    find_versions,
    plan_registration,
)

pytestmark = pytest.mark.xdist_group("register")


# In its own process, to see which modules it imports.
REFUSED = """
import json, sys
from pathlib import Path
from dataops.errors import GateRefused
from dataops.snapshot import Manifest
from dataops.store import FolderStore
from tasks.engine import stage
from tasks.register.config import RegisterConfig
from tasks.register.stage import REGISTER

store = FolderStore(Path(sys.argv[1]))
manifests = [Manifest.model_validate(m) for m in json.loads(sys.argv[2])]
config = RegisterConfig(model_name="refused", floors={"twemoji-seen/top1": 0.5, "held-out/image_to_text_R@1": 0.05})
context = stage.Context(store=store, home=Path(sys.argv[1]), run_name="refusals")
for _ in range(2):
    try:
        stage.make(stage.plan(REGISTER, config, 3, manifests), context)
    except GateRefused as error:
        print(json.dumps({"message": str(error), "code": error.exit_code, "torch": "torch" in sys.modules}))
"""


def test_gate_refuses_a_model_below_a_floor_without_an_import_of_torch(mlflow_url, upstream):
    manifests = json.dumps([m.model_dump(mode="json") for m in upstream.manifests])
    results = [json.loads(line) for line in run_python(REFUSED, upstream.store.root, manifests).stdout.splitlines()]
    message = "refused version 1 is refused by the gate: twemoji-seen/top1 is 0.06, floor 0.5"
    assert results == [{"message": message, "code": 5, "torch": False}] * 2
    (version,) = find_versions("refused")
    assert version.tags["gate"] == "refused: twemoji-seen/top1 is 0.06, floor 0.5"
    assert connect().get_model_version_by_alias("refused", "candidate").version == version.version
    run = connect().get_run(version.run_id)
    assert (run.info.status, run.data.tags["gate"]) == ("FAILED", version.tags["gate"])


def test_version_without_an_evaluation_is_a_candidate_that_says_so(mlflow_url, upstream, tmp_path):
    train, pack = upstream.manifests[1:3]
    context = stage.Context(store=upstream.store, home=upstream.home)
    evaluated = stage.make(stage.plan(EVALUATE, EvaluateConfig(), 3, [train, pack]), context)
    assert evaluated.facts["metrics"] == {}
    plan, context = plan_registration(upstream, evaluated, model_name="unknown")
    manifest = stage.make(plan, context)
    verdict = (
        "no gate: register.floors is empty; not evaluated, since evaluate.suite is not set, so it is only a candidate"
    )
    assert (manifest.facts["alias"], manifest.facts["gate"]) == ("candidate", verdict)
    version = connect().get_model_version("unknown", manifest.facts["version"])
    assert (list(version.aliases), version.tags["gate"]) == (["candidate"], verdict)
    folder = Path(connect().download_artifacts(version.run_id, "", str(tmp_path)))
    assert "The model was not evaluated." in (folder / "model_card.html").read_text("utf-8")


def test_worse_model_becomes_a_candidate_and_each_move_of_an_alias_is_recorded(mlflow_url, upstream, capsys, read_json):
    promote = pytest.importorskip("plugins.versions.promote").promote

    results = []
    for name, right in (("first", 120), ("same", 119), ("worse", 100)):
        evaluated = commit_evaluation(upstream.store, f"ev{name}", [n < right for n in range(200)])
        plan, context = plan_registration(upstream, evaluated, model_name="rivals", not_worse=("twemoji-seen",))
        try:
            results.append(stage.make(plan, context).facts["gate"])
        except GateRefused as error:
            results.append(str(error))
    assert results[0].startswith("no gate: register.floors is empty; above chance on "), "there was no champion"
    assert results[1] == "passed"
    assert "rivals version 3 is refused by the gate: worse than rivals version 2 on twemoji-seen" in results[2]
    assert "(19 only the champion, 0 only this one, p 1.91e-06)" in results[2]
    assert connect().get_model_version_by_alias("rivals", "champion").version == "2"
    assert connect().get_model_version_by_alias("rivals", "candidate").version == "3"
    with pytest.raises(ConfigError, match="--reason"):
        promote("rivals/1", alias="champion", reason=" ", json=False)
    assert promote("models:/rivals/1", alias="champion", reason="version 2 is slow", json=False) == 0
    assert "moved from version 2 to version 1 (no gate: register.floors is empty; " in capsys.readouterr().out
    assert connect().get_model_version_by_alias("rivals", "champion").version == "1"
    assert promote("rivals", alias="champion", reason="", json=True) == 0
    moves = read_json()["moves"]
    assert [(m["alias"], m["before"], m["after"]) for m in moves] == [
        ("champion", None, "1"), ("champion", "1", "2"), ("candidate", None, "3"), ("champion", "2", "1"),
    ]  # fmt: skip
    assert moves[-1]["why"] == "version 2 is slow"
    model = connect().get_registered_model("rivals")
    assert len([name for name in model.tags if name.startswith("audit.")]) == 4
    newest = model.description.partition("Newest moves of its aliases:")[2].split("\n- ")[1]
    assert " UTC, champion: 2 to 1, by " in newest
    assert newest.endswith(": version 2 is slow")
    connect().update_registered_model("rivals", "a text of ours")
    assert promote("rivals/2", alias="champion", reason="again", json=False) == 0
    assert connect().get_registered_model("rivals").description == "a text of ours"
    with pytest.raises(ConfigError):
        promote("rivals/99", alias="champion", reason="why not", json=False)
