"""Problems of the keys of one kind of source among all kinds."""

import pytest

from dataops.errors import ConfigError
from flows.config import load_config


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('paths = ["a"]', r"source\.kind: is required; allowed: warc, wat, common_crawl"),
        ('kind = "wet"', r"source\.kind: 'wet' is not a kind of source; allowed: warc, wat, common_crawl"),
        (
            'kind = "site"\nstart = ["https://example.org/"]',
            "source: contact is required to crawl example.org; set it to",
        ),
        (
            'kind = "common_crawl"\nnum_files = 1\ncrawl = 3',
            r"source\.crawl: 3: it must be a string or an array \(line 5\)$",
        ),
        (
            'kind = "wat"\npaths = ["*.gz"]\ncrawl = "x"',
            r"source\.crawl: unknown key \(value 'x'\); only kind = \"common_crawl\" has it; allowed: kind, .*, paths",
        ),
        (
            'kind = "common_crawl"\nnum_files = 0',
            r"(?s)source\.crawl: is required.*source\.num_files: 0: .*greater than",
        ),
        ('kind = "pairs"\npaths = ["*.csv"]\nimages = "archive"', r"source\.images: 'archive': only .*kind = \"warc\""),
        ('kind = "common_crawl"\nnum_files = 1\ncrawl = "../x"', r"source\.crawl: '\.\./x': .* is no crawl id"),
    ],
)
def test_each_kind_of_source_checks_its_own_keys(folder, source, message):
    (folder / "one.toml").write_text(f'name = "test"\n[source]\n{source}\n')
    with pytest.raises(ConfigError, match=message):
        load_config(folder / "one.toml", until="extract")
