"""What a backfill refuses before any work."""

import pytest

from dataops.errors import ConfigError
from plugins.backfill.command import check_versions

LIST = '[[source]]\nkind = "warc"\npaths = ["a.warc"]\n'


def write(folder, sources):
    path = folder / "mine.toml"
    path.write_text(f'name = "mine"\n[store]\nuri = "{folder / "store"}"\n{sources}')
    return path


@pytest.mark.parametrize(
    ("each", "message"),
    [
        ((), "write --each KEY=VALUE"),
        (("source.crawl",), "write --each KEY=VALUE"),
        (("store.uri=a",), "not store.uri"),
        (("seed=1", "name=b"), "several keys: name, seed"),
        (("seed=1", "seed=2", "seed=1"), "1 is named twice"),
    ],
)
def test_each_version_has_its_own_value_of_one_key(tmp_path, each, message):
    with pytest.raises(ConfigError, match=message):
        check_versions(tmp_path / "mine.toml", (), each)


def test_the_config_of_every_version_is_checked_before_any_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.warc", "b.warc"):
        (tmp_path / name).touch()
    config = write(tmp_path, LIST + '[download]\ncontact = "mailto:a@b.test"\n')
    settings = ("grow={}",)
    check_versions(config, settings, ["source.0.paths=['a.warc']", "source.0.paths=['b.warc']"])
    with pytest.raises(ConfigError, match=r"seed: -1.*\(--set\)"):
        check_versions(config, settings, ["seed=1", "seed=-1"])
    with pytest.raises(ConfigError, match="seed=1 and seed=2 make datasets of their own"):
        check_versions(config, settings, ["seed=1", "seed=2"])
    with pytest.raises(ConfigError, match=r"train\.epochs=1 and train\.epochs=2 read the same"):
        check_versions(config, settings, ["train.epochs=1", "train.epochs=2"])
    paths = [f"source.0.paths={value}" for value in ("['a.warc']", "['b.warc']", '["b.warc"]')]
    with pytest.raises(ConfigError) as refused:
        check_versions(config, settings, paths)
    assert str(refused.value).startswith(f"{paths[1]} and {paths[2]} read the same: ")
