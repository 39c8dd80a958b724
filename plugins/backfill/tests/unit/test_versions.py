"""Which versions a backfill has, by its options."""

import pytest

from dataops.errors import ConfigError
from plugins.backfill.command import check_versions, list_settings

CRAWL = '[[source]]\nkind = "common_crawl"\ncrawl = "x"\nnum_files = 1\n'
LIST = '[[source]]\nkind = "warc"\npaths = ["a.warc"]\n'


def write(folder, sources):
    path = folder / "mine.toml"
    path.write_text(f'name = "mine"\n[store]\nuri = "{folder / "store"}"\n{sources}')
    return path


@pytest.mark.parametrize(
    ("sources", "settings", "key"),
    [(CRAWL.replace("[[source]]", "[source]"), (), "source.crawl"), (CRAWL, (), "source.crawl"),
     (LIST + CRAWL, (), "source.common_crawl.crawl"), (CRAWL + LIST, ("source.0.name=cc",), "source.cc.crawl")],
)  # fmt: skip
def test_crawls_are_values_of_the_only_source_of_common_crawl(tmp_path, sources, settings, key):
    pytest.importorskip("plugins.common_crawl")
    found = list_settings(write(tmp_path, sources), settings, ("CC-MAIN-2026-43", "2026"), ())
    assert found == [f'{key}="CC-MAIN-2026-43"', f'{key}="2026"']


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
