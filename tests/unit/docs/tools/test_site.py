"""The site's sources and the check for requests to other hosts; `make docs` builds the site itself."""

import pytest

from docs.tools.site import remote_requests


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
def test_requests_to_other_hosts_are_found(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert len(list(remote_requests(tmp_path))) == 1


def test_links_and_own_files_are_no_requests(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="https://example.org">x</a><img src="x.png"><script src="a/x.js"></script>'
    )
    (tmp_path / "a.css").write_text("body { background: url(data:image/png;base64,AA) }")
    assert list(remote_requests(tmp_path)) == []
