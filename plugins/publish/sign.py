"""`pairmill sign` and `pairmill verify`: find what is named, and write or check its signature."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dataops.errors import ConfigError
from dataops.formatting import format_quantity
from flows.commands.options import Json, Name, StoreUri
from flows.commands.output import console, print_json
from flows.records import find_snapshot
from infra.local import services
from plugins.publish.signatures import (
    SIGNATURE,
    name_signature,
    sign_folder,
    sign_snapshot,
    verify_folder,
    verify_snapshot,
)
from tasks.engine.scratch_folders import scratch_folder
from tasks.models.find import get_version
from tasks.tracking import client as tracking

ARTEFACT = "signature"
"""Folder of the signature in the MLflow run of a registered model."""


def sign(
    what: Name,
    *,
    key: Annotated[str, Parameter(name="--key", help="PEM file of the private key, or a PKCS#11 URI without a PIN.")],
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Sign a model or a dataset, with OpenSSF Model Signing.

    Args:
        what: A folder, the key of a snapshot such as a dataset, or a registered model.
    """
    if (path := _find_folder(what)) is not None:
        target = path / SIGNATURE
        replaces = target.exists()
        sign_folder(path, key, target)
        signature = str(target)
    elif (found := find_snapshot(what, services.home(), store)) is not None:
        manifest, holder = found
        replaces = holder.size(name_signature(manifest)) is not None
        signature = f"{holder.uri}/{sign_snapshot(manifest, holder, key)}"
    else:
        signature, replaces = _sign_registered(what, key)
    if json:
        print_json({"what": what, "signature": signature, "replaced": replaces})
    else:
        earlier = " (the earlier signature is replaced)" if replaces else ""
        console().write(f"signed {what}: {signature}{earlier}")
    return 0


def verify(
    what: Name,
    *,
    key: Annotated[str, Parameter(name="--key", help="PEM file of the public key.")],
    signed_as: Annotated[str | None, Parameter(help="Name that a folder had when it was signed.")] = None,
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Compare every byte of a signed model or dataset with its signature. Exits with 3 if one differs.

    Args:
        what: A folder, the key of a snapshot such as a dataset, or a registered model.
    """
    if (path := _find_folder(what)) is not None:
        if not (path / SIGNATURE).exists():
            raise ConfigError(f"{what} has no {SIGNATURE}; sign it with `pairmill sign`")
        files = verify_folder(path, key, path / SIGNATURE, what, signed_as)
    elif (found := find_snapshot(what, services.home(), store)) is not None:
        files = verify_snapshot(*found, key)
    else:
        files = _verify_registered(what, key)
    if json:
        print_json({"what": what, "files": files, "verified": True})
    else:
        console().write(f"{what}: the signature matches, {format_quantity(files, 'file')}")
    return 0


def _find_folder(what: str) -> Path | None:
    path = Path(what).expanduser()
    if path.is_file():
        raise ConfigError(f"{what} is a file, and folders are signed; name its folder")
    return path if path.is_dir() else None


def _sign_registered(what: str, key: str) -> tuple[str, bool]:
    """Sign a registered version. Return the URI of the signature, and whether it replaced an earlier one."""
    name, run = _find_version(what)
    replaces = _is_signed(run)
    with scratch_folder("sign") as scratch:
        sign_folder(_download(name, scratch), key, scratch / SIGNATURE)
        with tracking.mlflow_errors():
            tracking.connect().log_artifact(run, str(scratch / SIGNATURE), ARTEFACT)
    return f"runs:/{run}/{ARTEFACT}/{SIGNATURE}", replaces


def _verify_registered(what: str, key: str) -> int:
    name, run = _find_version(what)
    if not _is_signed(run):
        raise ConfigError(f"{name} is not signed; sign it with `pairmill sign`")
    with scratch_folder("verify") as scratch:
        with tracking.mlflow_errors():
            signature = Path(tracking.connect().download_artifacts(run, f"{ARTEFACT}/{SIGNATURE}", str(scratch)))
        return verify_folder(_download(name, scratch), key, signature, name)


def _find_version(what: str) -> tuple[str, str]:
    """Return the name of a registered version, and its MLflow run."""
    version = get_version(what)
    name = f"models:/{version.name}/{version.version}"
    if version.run_id is None:
        raise ConfigError(f"{name} has no MLflow run, which would hold its signature; export it, and sign the folder")
    return name, version.run_id


def _download(name: str, scratch: Path) -> Path:
    """Return a folder with all files of a registered version as they are now, with its code."""
    import mlflow.artifacts

    folder = scratch / "files"
    folder.mkdir()
    with tracking.mlflow_errors():
        found = Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=name, dst_path=str(folder), tracking_uri=tracking.tracking_uri()
            )
        )
    (found / "registered_model_meta").unlink(missing_ok=True)  # the client adds it to its copy
    return found.rename(scratch / name.removeprefix("models:/").replace("/", "-"))  # the name that is signed


def _is_signed(run: str) -> bool:
    with tracking.mlflow_errors():
        return any(file.path.endswith(f"/{SIGNATURE}") for file in tracking.connect().list_artifacts(run, ARTEFACT))
