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
            'source.paths: unknown key (value ["*.warc.gz"]); only kind = "warc" or "wat" or "pairs" has it; '
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
