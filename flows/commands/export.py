"""`pairmill export MODEL`: finds a model, exports it in another tool's format, and prints what was written."""

from pathlib import Path

from dataops.errors import ConfigError
from flows.commands.output import console, print_json, text
from flows.records import find_snapshot
from tasks.engine.scratch_folders import scratch_folder
from tasks.models.export import export_model, fetch_snapshot_model
from tasks.models.find import find_model

USE = {
    "open_clip": 'open_clip.create_model_and_transforms("local-dir:{out}")',
    "hf": 'transformers.CLIPModel.from_pretrained("{out}"), transformers.CLIPProcessor.from_pretrained("{out}")',
    "onnx": 'onnxruntime.InferenceSession("{out}/image.onnx"), onnxruntime.InferenceSession("{out}/text.onnx")',
}
"""Python code that loads each format."""


def export(model: str, form: str, out: Path, home: Path, store_uri: str | None, *, as_json: bool) -> int:
    """Export a model.

    Args:
        model: a folder, the key of a train snapshot, or models:/name/version.
        form: a key of USE.

    Raises: ConfigError if there is no such model, or it cannot be exported in this format.
    """
    with scratch_folder("exported-model") as scratch:
        files = export_model(_find(model, scratch, home, store_uri), form, out, home)
    use = USE[form].format(out=out)
    if as_json:
        listed = [{"name": file.name, "bytes": file.stat().st_size} for file in files]
        print_json({"model": model, "format": form, "out": str(out), "files": listed, "use": use})
    else:
        for file in files:
            console().print(text(f"{file}  {file.stat().st_size:,} bytes"), soft_wrap=True)
        console().print(text(use), soft_wrap=True)
    return 0


def _find(model: str, scratch: Path, home: Path, store_uri: str | None) -> Path:
    """Return a folder that holds the model's files, in `scratch` if they come from a snapshot."""
    if not Path(model).exists() and (found := find_snapshot(model, home, store_uri)) is not None:
        return fetch_snapshot_model(*found, scratch)
    try:
        return find_model(model, home).path
    except ConfigError as error:
        raise ConfigError(
            f"{error}; it is not the key of a complete snapshot in a known store either (--store names another store)"
        ) from error
