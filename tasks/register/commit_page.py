"""The page of a commit on the server that the checkout was cloned from."""

import re
import subprocess

from dataops.home import CHECKOUT

_REMOTE = re.compile(
    r"(?:https?://|ssh://|git://)?(?:[^@/\s]+@)?(?P<host>[A-Za-z0-9.-]+\.[A-Za-z]+)(?::\d+)?[:/](?P<path>[\w./~-]+?)(?:\.git)?/?"
)


def find_commit_url(commit: str) -> str | None:
    """Return the URL of a commit's page, or None if the checkout has no remote `origin` on a server."""
    command = ["git", "-C", str(CHECKOUT), "remote", "get-url", "origin"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return build_commit_url(done.stdout.strip(), commit)


def build_commit_url(remote: str, commit: str) -> str | None:
    """Return the URL of a commit's page, as GitHub, GitLab and Gitea have it; None for a remote that is a folder."""
    found = _REMOTE.fullmatch(remote)
    is_commit = re.fullmatch(r"[0-9a-f]{7,64}", commit)
    return f"https://{found['host']}/{found['path']}/commit/{commit}" if found and is_commit else None
