"""Make the key with which requests are signed (Web Bot Auth), and its public directory: `identity create`, `directory`."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dataops.errors import ConfigError, writing
from dataops.toml_text import format_value
from flows.commands.options import Json
from infra.local import services

Days = Annotated[int, Parameter(help="Days for which the signatures of the directory are valid.")]
MAX_DAYS = 3650
DIRECTORY, HEADERS = ".directory.json", ".directory.headers"
"""Suffixes of the directory and of its headers, beside the file of the key."""


def create(
    *,
    out: Annotated[
        Path | None, Parameter(help="File to write the private key to; default: identity.pem in the home.")
    ] = None,
    agent: Annotated[
        str | None, Parameter(help="URL of the host of the directory, such as https://crawler.example.org.")
    ] = None,
    days: Days = 90,
    json: Json = False,
) -> int:
    """Make a key to sign requests with, and the directory of its public key for you to host.

    Existing files are never overwritten. Only you can read the file of the key.
    """
    from plugins.identity.keys import create_key

    path, origin = out or services.make_home() / "identity.pem", _check_agent(agent) if agent else None
    _check_days(days)
    for file in (path, path.with_suffix(DIRECTORY), path.with_suffix(HEADERS)):
        if file.exists():
            raise ConfigError(f"{file} exists, and is not overwritten; name another file with --out")
    create_key(path)
    return _write_directory([path], origin, days, as_json=json)


def directory(
    *keys: Annotated[
        Path, Parameter(help="Files of private keys: that in use, and also the next one during a change.")
    ],
    agent: Annotated[str, Parameter(help="URL of the host of the directory, such as https://crawler.example.org.")],
    days: Days = 90,
    json: Json = False,
) -> int:
    """Write the directory of public keys again, beside the first key file, with new signatures."""
    if not keys:
        raise ConfigError("identity directory: name at least one file of a private key")
    _check_days(days)
    return _write_directory(keys, _check_agent(agent), days, as_json=json)


def _check_agent(agent: str) -> str:
    from plugins.identity.hook import parse_agent

    try:
        return parse_agent(agent)
    except ValueError as error:
        raise ConfigError(f"--agent {agent}: {error}") from None


def _check_days(days: int) -> None:
    if not 1 <= days <= MAX_DAYS:
        raise ConfigError(f"--days {days}: must be 1 to {MAX_DAYS}")


def _write_directory(paths: Sequence[Path], agent: str | None, days: int, *, as_json: bool) -> int:
    """Write the directory, and its headers if its host is known. Print where they are, and what to do with them."""
    from flows.commands.output import console, print_json
    from plugins.identity.keys import PATH, key_id, load_key, make_document, make_headers

    keys = [load_key(path) for path in paths]
    target, document, now = paths[0].with_suffix(DIRECTORY), make_document(keys), datetime.now(UTC)
    header_file, expires = paths[0].with_suffix(HEADERS), now + timedelta(days=days)
    with writing(target):
        target.write_bytes(document)
        if agent:
            headers = make_headers(keys, document, agent, now, expires)
            header_file.write_text("".join(f"{name}: {value}\n" for name, value in headers.items()), "ascii")
    ids = {str(path): key_id(key) for path, key in zip(paths, keys, strict=True)}
    if as_json:
        signed = {"headers": str(header_file), "signed_until": expires.isoformat(timespec="seconds")} if agent else {}
        print_json({"keys": ids, "directory": str(target), **signed})
        return 0
    url = agent or "https://YOUR-HOST"
    lines = [f"key {kid}: {path}" for path, kid in ids.items()]
    lines.append(f"directory: {target}: serve it at {url}{PATH}")
    if agent:
        lines.append(f"headers: {header_file}: send them with it, and sign it again before {expires:%Y-%m-%d}")
    else:
        lines.append(f"headers: none yet; `pairmill identity directory {paths[0]} --agent {url}` writes them")
    lines += ["", "Add to the config:", "", "[download.identity]", f"key_file = {format_value(str(paths[0]))}"]
    for line in (*lines, f"signature_agent = {format_value(url)}"):
        console().message(line)
    return 0
