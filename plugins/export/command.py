"""`pairmill export MODEL`: finds a model, exports it in another tool's format, and prints what was written."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dataops.errors import ConfigError
from flows.commands.options import Json, Name, StoreUri
from flows.commands.output import console, print_json
from flows.records import find_snapshot
from infra.local import services
from tasks.engine.scratch_folders import scratch_folder
from tasks.models.export import check_target, export_model, fetch_snapshot_model
from tasks.models.find import find_model
from tasks.register.documents import describe_files, describe_snapshot, describe_version
from training.exporter import find_exporter


def export(
    model: Name,
    *,
    format: Annotated[str, Parameter(help="The tool to export for: open_clip, hf (transformers) or onnx.")],
    out: Annotated[Path, Parameter(help="Folder to write; it must be empty or not exist yet.")],
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Write a trained model in the format of another tool.

    Args:
        model: A folder with a trained model, the key of a train snapshot, or models:/name/version.
    """
    check_target(format, out)
    home = services.home()
    with scratch_folder("exported-model") as scratch:
        folder, documents = _find(model, format, scratch, home, store)
        files = export_model(folder, format, out, home, documents)
    use = find_exporter(format).use.format(out=out)
    if json:
        listed = [{"name": file.name, "bytes": file.stat().st_size} for file in files]
        print_json({"model": model, "format": format, "out": str(out), "files": listed, "use": use})
    else:
        for file in files:
            console().write(f"{file}  {file.stat().st_size:,} bytes")
        console().write(use)
    return 0


def _find(model: str, form: str, scratch: Path, home: Path, store_uri: str | None) -> tuple[Path, dict[str, str]]:
    """Return a folder with the model's files, in `scratch` if they come from a snapshot, and the model's documents."""
    if not Path(model).exists() and (found := find_snapshot(model, home, store_uri)) is not None:
        return fetch_snapshot_model(*found, scratch, form), describe_snapshot(*found)
    try:
        files = find_model(model, home)
    except ConfigError as error:
        raise ConfigError(
            f"{error}; it is not the key of a complete snapshot in a known store either (--store names another store)"
        ) from error
    if Path(model).expanduser().exists():
        return files.path, describe_files(files.path.name)
    return files.path, describe_version(files.name)
