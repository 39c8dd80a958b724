"""A finished model in the form of others' tools, as `python -m training.export JOB.json`.

JOB.json: {"model": folder of a finished model, "format": open_clip, hf or onnx, "output": folder, "parent_pid": null}.
Features are ours: tests compare them, and what ONNX makes is compared before it is handed over. Text is the difference:
others know neither the cleaning of CLIP's captions (hf, onnx) nor texts shorter than the context (open_clip).
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dataops.errors import ConfigError, PairmillError
from training.checkpoint import LoadedModel, load_model, write_atomically
from training.export_tokenizer import export_tokenizer
from training.process import follow_parent
from training.state_dicts import save_state_dict
from training.tokenizer import ClipTokenizer

logger = logging.getLogger(__name__)

Format = Literal["open_clip", "hf", "onnx"]


class ExportJob(BaseModel):
    """What a job file holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: Path
    """Folder with model.safetensors, model.json and tokenizer.json."""
    format: Format
    """Whose form."""
    output: Path
    """Folder that receives the files, made where it is missing."""
    parent_pid: int | None = Field(default=None, gt=0)
    """Process whose end ends this one."""


def export(loaded: LoadedModel, form: Format, output: Path) -> None:
    """Write a model into `output`.

    Raises: ConfigError where the form cannot hold this model, or a package is missing; names the remedy.
    """
    output.mkdir(parents=True, exist_ok=True)
    if form == "open_clip":
        export_open_clip(loaded, output)
    elif form == "hf":
        from training.export_hf import export_hf

        export_hf(loaded, output)
    else:
        from training.export_onnx import export_onnx

        export_onnx(loaded, output)


def export_open_clip(loaded: LoadedModel, output: Path) -> None:
    """open_clip_config.json and open_clip_model.safetensors: `open_clip.create_model_and_transforms("local-dir:OUTPUT")`.

    A vocabulary of one's own lies beside them, which `open_clip.get_tokenizer` reads through transformers.
    Source: open_clip, factory.py and push_to_hf_hub.py.
    """
    model_cfg: dict[str, Any] = loaded.config.model_dump(mode="json")
    if loaded.config.init_logit_bias is None:
        del model_cfg["init_logit_bias"]
    if not isinstance(loaded.tokenizer, ClipTokenizer):
        model_cfg["text_cfg"]["hf_tokenizer_name"] = "local"
        export_tokenizer(loaded.tokenizer, output)
    facts = loaded.preprocess.facts()
    preprocess = {name: facts[name] for name in ("mean", "std", "interpolation", "resize_mode", "fill_color")}
    card = {"model_cfg": model_cfg, "preprocess_cfg": {"size": facts["image_size"], "mode": "RGB", **preprocess}}
    save_state_dict(loaded.model.state_dict(), output / "open_clip_model.safetensors")
    write_atomically(output / "open_clip_config.json", json.dumps(card, indent=2) + "\n")


def main(arguments: list[str]) -> int:
    """Run the job file that the command line names; returns the exit code of dataops/errors.py."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        if len(arguments) != 1:
            raise ConfigError("usage: python -m training.export JOB.json")
        job = _read_job(Path(arguments[0]))
        if job.parent_pid is not None:
            follow_parent(job.parent_pid)
        export(load_model(job.model), job.format, job.output)
    except PairmillError as error:
        logger.error("%s: %s", type(error).__name__, error)
        return error.exit_code
    return 0


def _read_job(path: Path) -> ExportJob:
    try:
        return ExportJob.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigError(f"{path}: not a job of export: {error}") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
