import tomllib
from pathlib import Path

import pytest

from flows.records import RunRecord
from infra.local.services import ServiceStatus
from plugins.demo.command import _print_next_commands, apply_settings


def test_next_commands_are_as_typed_and_the_login_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("plugins.demo.command.command_name", lambda: ".venv/bin/pairmill")
    record = RunRecord(
        run_id="demo-1", name="demo", created_at="now", config={}, model_version="models:/pairmill-demo/1"
    )
    servers = [
        ServiceStatus("prefect", "", "http://127.0.0.1:4200", 1, "running", "", login_file="/home/prefect-login"),
        ServiceStatus("mlflow", "", "http://127.0.0.1:5000", 2, "running", ""),
    ]
    config = Path.cwd() / "a home" / "demo.toml"
    _print_next_commands(record, config, servers, 61.2)
    assert "  mlflow   http://127.0.0.1:5000/#/experiments?workflowType=machine_learning\n" in capsys.readouterr().out
    record.model_links = {"run": "http://127.0.0.1:5000/#/run", "runs": "http://127.0.0.1:5000/#/runs?view"}
    _print_next_commands(record, config, servers, 61.2)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "",
        "Done in 61 s. These servers keep running until `pairmill down`:",
        "  prefect  http://127.0.0.1:4200",
        "  mlflow   http://127.0.0.1:5000/#/runs?view",
        "Prefect's pages ask once for a login: `pairmill status --show-login` prints it.",
        "",
        "Open next:",
        "  .venv/bin/pairmill show --open                                   "
        "# the page of the dataset, in your browser: its images, and what was dropped and why",
        "  .venv/bin/pairmill show demo-1                                   # the stages, the dropped rows, and the scores",
        "  .venv/bin/pairmill trace models:/pairmill-demo/1                 # what the model was made from",
        "  .venv/bin/pairmill run 'a home/demo.toml' --set train.epochs=30  # train again: all stages before are reused",
        "  .venv/bin/pairmill demo                                          # again: every snapshot is reused",
    ]


def test_settings_replace_values_and_keep_the_comments():
    config = 'name = "a"  # a name\n# two tables\n[train]\nlr = 1\nlrs = 2\n[evaluate]\nlr = 3\n'
    changed = apply_settings(config, ['name="b"', "train.lr=0.5", 'evaluate.data="ü"', "train.x={}"])
    assert tomllib.loads(changed) == {
        "name": "b",
        "train": {"lr": 0.5, "lrs": 2, "x": {}},
        "evaluate": {"lr": 3, "data": "ü"},
    }
    assert "# two tables" in changed
    with pytest.raises(ValueError, match="nothing"):
        apply_settings(config, ["nothing.x=1"])
