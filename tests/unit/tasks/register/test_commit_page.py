import pytest

from tasks.register.commit_page import build_commit_url

COMMIT = "1e15253aa0"


@pytest.mark.parametrize(
    ("remote", "page"),
    [
        ("https://git.example.org/team/clip.git", f"https://git.example.org/team/clip/commit/{COMMIT}"),
        ("https://user:hunter2@git.example.org/team/clip", f"https://git.example.org/team/clip/commit/{COMMIT}"),
        ("git@git.example.org:team/sub/clip.git", f"https://git.example.org/team/sub/clip/commit/{COMMIT}"),
        ("ssh://git@git.example.org:2222/team/clip.git", f"https://git.example.org/team/clip/commit/{COMMIT}"),
        ("/srv/git/clip.git", None),
        ("../clip", None),
        ("file:///srv/git/clip.git", None),
        ("", None),
        ("https://git.example.org/a)](javascript:1", None),
    ],
)
def test_commit_page_is_that_of_the_remote(remote: str, page: str | None):
    assert build_commit_url(remote, COMMIT) == page


def test_unknown_commit_has_no_page():
    assert build_commit_url("https://git.example.org/team/clip", "unknown") is None
