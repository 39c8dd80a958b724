"""Builds the User-Agent header with which the pipeline identifies itself."""

VERSION = "0.1"


def format_user_agent(name: str, contact: str | None) -> str:
    """Return the header, for example `pairmill/0.1 (+https://example.org/bot)`."""
    return f"{name}/{VERSION}" + (f" (+{contact})" if contact else "")
