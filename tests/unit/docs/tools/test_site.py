"""The site's sources and the check for requests to other hosts; `make docs` builds the site itself."""

import tomllib
from pathlib import Path

import pytest

from docs.tools.links import ROOT, pages
from docs.tools.site import _config, copy_sources, remote_requests


def test_sources_have_their_paths_and_the_files_that_pages_link_to(tmp_path: Path):
    copy_sources(tmp_path)
    copied = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert {page.relative_to(ROOT) for page in pages()} <= copied
    assert {path.suffix for path in copied} > {".md"}  # such as configs/demo.toml, to which pages link
    assert all((ROOT / path).is_file() for path in copied)


def test_navigation_lists_every_page_of_the_map():
    project = tomllib.loads(_config())["project"]
    sections = {name: entries for item in project["nav"] for name, entries in item.items()}
    assert sections["Home"] == "README.md"
    listed = {
        page for entries in sections.values() if isinstance(entries, list) for item in entries for page in item.values()
    }
    assert {"docs/data/extract.md", "docs/reference/config.md", "docs/decisions/README.md", "SECURITY.md"} <= listed
    assert all((ROOT / page).is_file() for page in listed)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.html", '<script src="https://cdn.example/x.js"></script>'),
        ("a.html", '<link rel="stylesheet" href="//fonts.example/x.css">'),
        ("a.html", '<img alt="" src=http://example.org/badge.svg>'),
        ("a.html", '<pre class="mermaid"><code>flowchart</code></pre>'),
        ("a.css", "body { background: url(https://example.org/x.png) }"),
        ("a.css", "@import 'https://fonts.example/x.css';"),
    ],
)
def test_requests_to_other_hosts_are_found(tmp_path: Path, name: str, text: str):
    (tmp_path / name).write_text(text)
    assert len(list(remote_requests(tmp_path))) == 1


def test_links_and_own_files_are_no_requests(tmp_path: Path):
    (tmp_path / "a.html").write_text(
        '<a href="https://example.org">x</a><img src="x.png"><script src="a/x.js"></script>'
    )
    (tmp_path / "a.css").write_text("body { background: url(data:image/png;base64,AA) }")
    assert list(remote_requests(tmp_path)) == []
