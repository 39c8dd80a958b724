"""configs/bootstrap.toml scores the pairs that configs/common-crawl.toml has downloaded."""

from pathlib import Path

import pytest

from dataops.home import CHECKOUT
from flows.config import load_config


def test_bootstrap_config_reuses_the_download_of_common_crawl_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set" / "test" / "one").mkdir(parents=True)
    (tmp_path / "set" / "test" / "one" / "0.png").write_bytes(b"")
    (tmp_path / "suite.toml").write_text('name = "s"\n[[task]]\nname = "set"\nkind = "classification"\nroot = "set"\n')
    settings = [f"store.uri={tmp_path}/store", "evaluate.suite=suite.toml", f"evaluate.data={tmp_path}"]
    first, second = (load_config(CHECKOUT / f"configs/{name}.toml", settings) for name in ("common-crawl", "bootstrap"))
    for table in ("seed", "source", "filter", "download"):
        assert getattr(second, table) == getattr(first, table)
    (rule,) = second.curate.rules
    assert second.train.epochs * rule.top_fraction == pytest.approx(first.train.epochs)
    assert second.curate.scores.clip_score.model == f"models:/{first.register_.model_name}@{first.register_.alias}"
