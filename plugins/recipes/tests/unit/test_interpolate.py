"""Weights between a model and its adapted version, and which of them two suites choose."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from plugins.recipes import interpolate as command
from plugins.recipes.interpolate_job import main
from tests.trainings import output_of
from training.model.checkpoint import load_model
from training.train import main as train


@pytest.mark.usefixtures("process_state")
def test_models_lie_between_the_two(make_job, tmp_path):
    """theta = (1 - share) theta_0 + share theta_1 (WiSE-FT, section 3), and both ends are the models themselves."""
    base = make_job("base", epochs=1)
    assert train([str(base)]) == 0
    model, vocabulary = (str(output_of(base) / name) for name in ("model.json", "tokenizer.json"))
    init = {"init": str(output_of(base)), "model": model, "vocabulary": vocabulary}
    tuned = make_job("tuned", epochs=1, seed=1, **init)
    assert train([str(tuned)]) == 0
    folders = {str(tmp_path / name): share for name, share in {"zero": 0.0, "some": 0.25, "one": 1.0}.items()}
    job = {"base": str(output_of(base)), "tuned": str(output_of(tuned)), "models": folders}
    (tmp_path / "i.json").write_text(json.dumps(job))
    assert main([str(tmp_path / "i.json")]) == 0
    first, last = (load_model(output_of(one)).model.state_dict() for one in (base, tuned))
    found = {name: load_model(tmp_path / name).model.state_dict() for name in ("zero", "some", "one")}
    assert any(not torch.equal(first[name], last[name]) for name in first)
    for name in first:
        assert torch.equal(found["one"][name], last[name]), name
        if first[name].is_floating_point():
            assert torch.equal(found["zero"][name], first[name]), name
            torch.testing.assert_close(found["some"][name], 0.75 * first[name] + 0.25 * last[name], msg=name)


def test_the_share_with_the_best_mean_of_both_suites_is_kept(tmp_path, monkeypatch, read_json):
    values = {"new": {"0": 0.1, "0.5": 0.6, "1": 0.7}, "old": {"0": 0.5, "0.5": 0.45, "1": 0.1}}

    def write(module, job, folder, **_):
        for model in job["models"]:
            Path(model).mkdir(parents=True)
            (Path(model) / "model.json").write_text(Path(model).name)

    def evaluate(model, suite, *_, **__):
        record = {
            "in_average": True,
            "main_metric": "top1",
            "metrics": {"top1": {"value": values[suite.name][Path(model).name]}},
        }
        return SimpleNamespace(metrics={"t": record})

    monkeypatch.setattr(command, "run_job", write)
    monkeypatch.setattr(command, "evaluate_model", evaluate)
    monkeypatch.setattr(command, "find_model", lambda name, home: SimpleNamespace(path=Path(name)))
    monkeypatch.setattr(command, "load_suite", lambda path, *_, **__: SimpleNamespace(name=path.stem, absent=()))
    monkeypatch.setattr(command, "read_tasks", lambda path: ("", [], []))
    suites, out = {"new": Path("new.toml"), "old": Path("old.toml")}, tmp_path / "model"
    assert command.interpolate("base", "tuned", out, shares=(1.0, 0.5, 0.0), json=True, **suites) == 0
    found = read_json()
    assert (found["chosen"], [row["share"] for row in found["rows"]]) == (0.5, [0.0, 0.5, 1.0])
    assert (out / "model.json").read_text() == "0.5"
    assert not (tmp_path / "model.candidates").exists()
    for wrong in ({"shares": (2.0,)}, {}):
        with pytest.raises(command.ConfigError, match="from 0 to 1" if wrong else "already"):
            command.interpolate("base", "tuned", tmp_path / "b" if wrong else out, **wrong, **suites)
