"""Export a finished model to the format of another tool: `python -m training.export JOB.json`.

JOB.json: {"model": folder of a finished model, "format": open_clip, hf or onnx, "output": folder, "parent_pid": null}.
The features equal ours: tests compare them, and ONNX graphs are compared before they are written. Texts differ: the
other tools do not clean captions as CLIP's vocabulary does (hf, onnx), and take only texts of the whole context
(open_clip).
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

from training.exporters.limits import Format, check_model, check_packages
from training.exporters.tokenizer import export_tokenizer
from training.job import JobFile, run_command
from training.model.checkpoint import LoadedModel, load_model, write_atomically
from training.model.pretrained import save_state_dict
from training.model.tokenizer import ClipTokenizer

logger = logging.getLogger(__name__)


class ExportJob(JobFile):
    """The fields of a job file."""

    model: Path
    """Folder with model.safetensors, model.json and tokenizer.json."""
    format: Format
    """The tool to export to."""
    output: Path
    """Folder that receives the files, made where it is missing."""


def export(loaded: LoadedModel, form: Format, output: Path) -> None:
    """Write a model into `output`.

    Raises: ConfigError if the format cannot hold this model, or a package is missing; names the remedy.
    """
    check_packages(form)
    check_model(loaded.config, form)
    output.mkdir(parents=True, exist_ok=True)
    if form == "open_clip":
        export_open_clip(loaded, output)
    elif form == "hf":
        from training.exporters.hf import export_hf

        export_hf(loaded, output)
    else:
        from training.exporters.onnx_graph import export_onnx

        export_onnx(loaded, output)


def export_open_clip(loaded: LoadedModel, output: Path) -> None:
    """Write the files of `open_clip.create_model_and_transforms("local-dir:OUTPUT")`.

    A vocabulary other than CLIP's is written beside them, and `open_clip.get_tokenizer` reads it through transformers.
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


def run_job(job: ExportJob) -> None:
    """Read the model and write it into the job's output.

    Raises: see export and training/model/checkpoint.py.
    """
    export(load_model(job.model), job.format, job.output)


def main(arguments: list[str]) -> int:
    """Run the job file that the command line names, and return the exit code."""
    return run_command(arguments, ExportJob, run_job)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
