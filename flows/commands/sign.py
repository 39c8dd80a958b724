"""`pairmill sign` and `pairmill verify`: find what is named, and write or check its signature."""

from pathlib import Path

from dataops.errors import ConfigError
from dataops.formatting import format_quantity
from flows.commands.output import console, print_json, text
from flows.records import find_snapshot
from tasks.engine.scratch_folders import scratch_folder
from tasks.models.find import REGISTERED, find_model
from tasks.publish.signatures import SIGNATURE, sign_folder, sign_snapshot, verify_folder, verify_snapshot
from tasks.tracking import client as tracking

ARTEFACT = "signature"
"""Folder of the signature in the MLflow run of a registered model."""


def sign(what: str, key: str, home: Path, store_uri: str | None, *, as_json: bool) -> int:
    """Sign a folder, a snapshot or a registered model.

    Raises: ConfigError if there is no such thing, or the key cannot be used.
    """
    path = Path(what).expanduser()
    if path.is_dir():
        sign_folder(path, key, path / SIGNATURE)
        signature = str(path / SIGNATURE)
    elif (found := find_snapshot(what, home, store_uri)) is not None:
        signature = f"{found[1].uri}/{sign_snapshot(*found, key)}"
    else:
        signature = _sign_registered(what, key)
    if as_json:
        print_json({"what": what, "signature": signature})
    else:
        console().print(text(f"signed {what}: {signature}"), soft_wrap=True)
    return 0


def verify(what: str, key: str, home: Path, store_uri: str | None, *, as_json: bool) -> int:
    """Compare a folder, a snapshot or a registered model with its signature.

    Raises: CorruptPart that names what differs; ConfigError if there is no signature.
    """
    path = Path(what).expanduser()
    if path.is_dir():
        if not (path / SIGNATURE).is_file():
            raise ConfigError(f"{what} has no {SIGNATURE}; sign it with `pairmill sign`")
        verify_folder(path, key, path / SIGNATURE)
        files = sum(file.is_file() for file in path.rglob("*")) - 1
    elif (found := find_snapshot(what, home, store_uri)) is not None:
        files = verify_snapshot(*found, key)
    else:
        files = _verify_registered(what, key)
    if as_json:
        print_json({"what": what, "files": files, "verified": True})
    else:
        console().print(text(f"{what}: the signature matches, {format_quantity(files, 'file')}"), soft_wrap=True)
    return 0


def _sign_registered(what: str, key: str) -> str:
    with scratch_folder("sign") as scratch:
        files = find_model(what, scratch)  # a copy of now, not the cached one
        sign_folder(files.path, key, scratch / SIGNATURE)
        run = _find_run(files.name)
        with tracking.mlflow_errors():
            tracking.connect().log_artifact(run, str(scratch / SIGNATURE), ARTEFACT)
    return f"runs:/{run}/{ARTEFACT}/{SIGNATURE}"


def _verify_registered(what: str, key: str) -> int:
    with scratch_folder("verify") as scratch:
        files = find_model(what, scratch)
        run = _find_run(files.name)
        with tracking.mlflow_errors():
            client = tracking.connect()
            if not any(file.path.endswith(f"/{SIGNATURE}") for file in client.list_artifacts(run, ARTEFACT)):
                raise ConfigError(f"{files.name} is not signed; sign it with `pairmill sign`")
            signature = Path(client.download_artifacts(run, f"{ARTEFACT}/{SIGNATURE}", str(scratch)))
        verify_folder(files.path, key, signature)
        return sum(file.is_file() for file in files.path.rglob("*"))


def _find_run(model: str) -> str:
    match = REGISTERED.fullmatch(model)
    assert match is not None
    with tracking.mlflow_errors():
        run = tracking.connect().get_model_version(match["name"], match["version"]).run_id
    if run is None:
        raise ConfigError(f"{model} has no MLflow run, which would hold its signature; export it, and sign the folder")
    return str(run)
