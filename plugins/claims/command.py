"""`pairmill claim`: was this image used? `claim verify`: is the answer genuine? `claim stamp`: since when?"""

import json as json_text
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from dataops.errors import ConfigError, CorruptPart, writing
from dataops.formatting import format_quantity
from dataops.regular_files import read_bytes
from flows.commands.options import Json, Name, StoreUri
from flows.commands.output import console, print_json
from infra.local import services
from plugins.claims.verify_claim import ANSWERS

VERIFIER = Path(__file__).with_name("verify_claim.py")


def claim(
    *what: Annotated[str, Parameter(help="An image file, a URL, a domain, a uid, sha256:HEX or phash:HEX.")],
    model: Annotated[Name, Parameter(help="A registered model, or the key or run of a training or a dataset.")],
    key: Annotated[
        Path | None, Parameter(help="PEM file of a private Ed25519 key that signs; without it, only print.")
    ] = None,
    names: Annotated[Path | None, Parameter(name="--list", help="File with further ones, a line each.")] = None,
    out: Annotated[Path, Parameter(help="Folder for the signed statements.")] = Path("claims"),
    limit: Annotated[int, Parameter(help="Number of pairs of each dataset to show.")] = 20,
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """State whether images are in the datasets of a model, with a proof that others can verify.

    Exits with 0 whether they are or not.
    """
    from plugins.claims.statement import find_subject, load_key, make_statement, parse_asked, read_list, sign_statement

    if limit < 0:
        raise ConfigError(f"--limit is {limit}; it must be at least 0")
    asked = [*map(parse_asked, what), *(read_list(names) if names else [])]
    if not asked:
        raise ConfigError("claim: name an image file, a URL, a domain, or a list of them with --list")
    private, subject = load_key(key) if key else None, find_subject(model, services.home(), store)
    statements = [make_statement(one, subject, limit) for one in asked]
    answers = [{**statement, "file": ""} for statement in statements]
    if private:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
            _write(out / VERIFIER.name, VERIFIER.read_bytes())
            for number, (statement, answer) in enumerate(zip(statements, answers, strict=True), 1):
                file = out / f"claim-{number:04d}.json"
                _write(file, (json_text.dumps(sign_statement(statement, private), indent=1) + "\n").encode())
                answer["file"] = str(file)
    if json:
        print_json(answers)
        return 0
    for answer in answers:
        _show(answer)
    return 0


def _write(file: Path, data: bytes) -> None:
    """Write a file whole or not at all: half of one that others rely on must not look finished."""
    unfinished = file.with_name(f".{file.name}.part")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def _show(answer: dict[str, Any]) -> None:
    out = console()
    out.write(f"{answer['name']}: {_conclude(answer)}", "bold")
    if answer["not_compared"]:
        remedy = "ask with a file that opens as an image"
        out.write(f"  only its bytes were compared, since it cannot be decoded: {answer['not_compared']}; {remedy}")
    for dataset in answer["datasets"]:
        meaning = "bytes" if answer["not_compared"] and dataset["answer"] == "absent" else dataset["answer"]
        lines = [f"  dataset {dataset['key']}: {_MEANINGS[meaning]}"]
        if dataset["pairs"]:
            lines[0] += f", {format_quantity(dataset['pairs'], 'pair')}"
        if dataset.get("removed_by"):
            lines[0] += f"; removed by takedown {', '.join(dataset['removed_by'])}"
        for row in dataset["rows"]:
            bits = f" ({row['differing_bits']} of 64 bits differ)" if row["differing_bits"] else ""
            lines.append(f"    {row['uid']}  {row.get('url', '')}{bits}")
            lines += [f"      {name}: {row[name]}" for name in _SHOWN if row.get(name)]
        for line in lines:
            out.write(line)
    if answer["started_from"]:
        names = ", ".join(answer["started_from"])
        out.write(f"  the training started from weights whose data are not known here: {names}")
    if answer["file"]:
        out.write(f"  signed: {answer['file']}; python {VERIFIER.name} verifies it")


_SHOWN = ("page_url", "license", "fetched_at", "opt_out")
_MEANINGS = {
    "proved": "it is in it, with proof",
    "listed": "it is in it",
    "absent": "it is not in it, with proof",
    "bytes": "these bytes are not in it, with proof",
    "unlisted": "no pair matches; this has no proof",
    "missing": "no longer in the store, so not known",
}


def _conclude(answer: dict[str, Any]) -> str:
    return f"{ANSWERS[answer['used']]} by {answer['subject']}"


def verify(
    file: Annotated[Path, Parameter(help="A signed statement.")],
    photo: Annotated[Path | None, Parameter(help="The file that it is about.")] = None,
    *,
    key: Annotated[str | None, Parameter(help="Public key of the signer, 64 hex digits.")] = None,
    root: Annotated[tuple[str, ...], Parameter(help="Published root of a dataset; may be repeated.")] = (),
    json: Json = False,
) -> int:
    """Verify a signed statement. Exits with 3 if its signature, a proof or an answer is not valid."""
    from plugins.claims.verify_claim import Refused, load
    from plugins.claims.verify_claim import verify as verify_envelope

    try:
        statement = verify_envelope(load(read_bytes(file)), key, frozenset(root), read_bytes(photo) if photo else None)
    except OSError as error:
        raise ConfigError(f"{error.filename or file} cannot be read: {error.strerror}") from error
    except Refused as error:
        raise CorruptPart(f"{file} is refused: {error}") from error
    if json:
        print_json({"file": str(file), "used": statement["used"], "subject": statement["subject"], "valid": True})
    else:
        console().write(f"{file}: valid: {statement['name']}: {_conclude(statement)}")
    return 0


def stamp(
    model: Annotated[Name, Parameter(help="A registered model, or the key or run of a training or a dataset.")],
    *,
    server: Annotated[str, Parameter(help="URL of a time stamp server (RFC 3161).")],
    ca: Annotated[
        Path | None, Parameter(help="PEM file of the authorities that you trust, by default Mozilla's.")
    ] = None,
    out: Annotated[Path, Parameter(help="Folder for roots.txt and roots.tsr.")] = Path("claims"),
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Have a time stamp server sign the roots of a model's datasets, so that nobody can say they were made later."""
    import certifi

    from plugins.claims.stamp import list_roots, load_authorities, request_stamp
    from plugins.claims.statement import find_subject

    authorities = load_authorities(ca or Path(certifi.where()))
    roots = list_roots(find_subject(model, services.home(), store))
    token, stamped_at = request_stamp(roots, server, authorities)
    files = [out / "roots.txt", out / "roots.tsr"]
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        for file, data in zip(files, (roots, token), strict=True):
            _write(file, data)
    if json:
        print_json({"stamped_at": stamped_at.isoformat(), "files": [str(file) for file in files]})
    else:
        rows = format_quantity(roots.count(b"\n"), "root")
        console().write(f"{rows} existed at {stamped_at.isoformat()}: {files[0]}, {files[1]}")
    return 0
