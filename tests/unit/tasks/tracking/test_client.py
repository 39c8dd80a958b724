"""The tracking URI, and credentials in messages."""

import pytest

from dataops.errors import ConfigError
from tasks.tracking import client as tracking


def test_tracking_uri_names_the_remedy_when_none_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match="pairmill up"):
        tracking.tracking_uri()


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("http://user:pa55@host:5000/x", "http://host:5000/x"),
        ("postgresql+psycopg://u:p@db/m and s3://k:s@b/c", "postgresql+psycopg://db/m and s3://b/c"),
        ("http://token@host", "http://host"),
        ("http://host/a@b", "http://host/a@b"),
        ("mail a@b.org", "mail a@b.org"),
    ],
)
def test_remove_credentials(text: str, clean: str) -> None:
    assert tracking.remove_credentials(text) == clean
