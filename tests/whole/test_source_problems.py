"""Problems of the keys of one kind of source among all kinds."""

from pathlib import Path

import pytest

from dataops.errors import ConfigError
from flows.config import load_config


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


SITE = """name = "test"
[source]
kind = "site"
start = ["https://example.org/"]
{source}
[evaluate]
"""


@pytest.mark.parametrize(
    ("source", "start"),
    [
        (
            'contact = "mailto:us@example.org"\npaths = ["*.warc.gz"]',
            'source.paths: unknown key (value ["*.warc.gz"]); only kind = "warc" or "wat" or "pairs" or '
            '"webdataset" or "huggingface" has it; '
            "allowed: allowed_domains, ",
        ),
        ("", "source: contact is required to crawl example.org; set it to a page or a mailto: address by which "),
        ("contact = 3", "source.contact: 3: it must be a string"),
        ('connect_to = { "example.org" = "here" }', 'source.connect_to: { "example.org" = "here" }: '),
    ],
)
def test_problem_of_one_kind_of_source_has_its_path(folder: Path, source: str, start: str):
    (folder / "site.toml").write_text(SITE.format(source=source))
    with pytest.raises(ConfigError) as caught:
        load_config(folder / "site.toml", until="extract")
    _, problem = str(caught.value).splitlines()
    assert problem.startswith(f"  {start}")
    assert "Value error" not in problem


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("3", ["source.crawl: 3: it must be a string or an array (--set)"]),
        ("true", ["source.crawl: true: it must be a string or an array (--set)"]),
        ("[3]", ["source.crawl.0: 3: it must be a string (--set)"]),
    ],
)
def test_wrong_type_of_a_key_with_two_types_is_one_problem(folder: Path, value: str, expected: list[str]):
    (folder / "cc.toml").write_text(
        'name = "t"\n[source]\nkind = "common_crawl"\ncrawl = "CC-MAIN-2024-10"\nnum_files = 1\n'
    )
    with pytest.raises(ConfigError) as caught:
        load_config(folder / "cc.toml", [f"source.crawl={value}"], until="extract")
    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == expected


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('paths = ["a"]', r"source\.kind: is required; allowed: warc, wat, common_crawl"),
        ('kind = "wet"', r"source\.kind: 'wet' is not a kind of source; allowed: warc, wat, common_crawl"),
        ('kind = "wat"', r"source\.paths: is required"),
        (
            'kind = "wat"\npaths = ["*.gz"]\ncrawl = "x"',
            r"source\.crawl: unknown key \(value 'x'\); only kind = \"common_crawl\" has it; allowed: kind, .*, paths",
        ),
        (
            'kind = "common_crawl"\nnum_files = 0',
            r"(?s)source\.crawl: is required.*source\.num_files: 0: .*greater than",
        ),
        ('kind = "wat"\npaths = ["*.gz"]\nimages = "archive"', r"source\.images: 'archive': only .*kind = \"warc\""),
        ('kind = "pairs"\npaths = ["*.csv"]\nimages = "archive"', r"source\.images: 'archive': only .*kind = \"warc\""),
        ('kind = "common_crawl"\nnum_files = 1\ncrawl = "../x"', r"source\.crawl: '\.\./x': .* is no crawl id"),
        (
            'kind = "common_crawl"\nnum_files = 1\ncrawl = "x"\nbase_url = "file:///etc"',
            r"source\.base_url: 'file:///etc'",
        ),
    ],
)
def test_each_kind_of_source_checks_its_own_keys(folder: Path, source: str, message: str):
    (folder / "one.toml").write_text(f'name = "test"\n[source]\n{source}\n')
    with pytest.raises(ConfigError, match=message):
        load_config(folder / "one.toml", until="extract")
