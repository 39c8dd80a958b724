"""Export a finished model to the format of another tool: `python -m training.export JOB.json`.

JOB.json: {"model": folder of a finished model, "format": open_clip, hf or onnx, "output": folder, "parent_pid": null}.
The features equal ours: tests compare them, and ONNX graphs are compared before they are written. Texts differ: the
other tools do not clean captions as CLIP's vocabulary does (hf, onnx), and take only texts of the whole context
(open_clip).
"""

import logging
import sys
from pathlib import Path

from training.exporters.limits import Format, check_model, check_packages
from training.job import JobFile, run_command
from training.model.checkpoint import LoadedModel, load_model

logger = logging.getLogger(__name__)


class ExportJob(JobFile):
    """The fields of a job file."""

    model: Path
    """Folder with model.safetensors, model.json and tokenizer.json."""
    format: Format
    """The tool to export to."""
    output: Path
    """Folder that receives the files, made where it is missing."""
    final: Path | None = None
    """Folder to which they are copied later; None: they stay."""


def export(loaded: LoadedModel, form: Format, output: Path, final: Path | None = None) -> None:
    """Write a model into `output`.

    Args:
        final: folder where the files will lie; None: `output`.

    Raises: ConfigError if the format cannot hold this model, or a package is missing; names the remedy.
    """
    check_packages(form)
    check_model(loaded.config, form)
    output.mkdir(parents=True, exist_ok=True)
    if form == "open_clip":
        from training.exporters.open_clip import export_open_clip

        export_open_clip(loaded, output, final or output)
    elif form == "hf":
        from training.exporters.hf import export_hf

        export_hf(loaded, output)
    else:
        from training.exporters.onnx_graph import export_onnx

        export_onnx(loaded, output)


def run_job(job: ExportJob) -> None:
    """Read the model and write it into the job's output.

    Raises: see export and training/model/checkpoint.py.
    """
    export(load_model(job.model), job.format, job.output, job.final)


def main(arguments: list[str]) -> int:
    """Run the job file that the command line names, and return the exit code."""
    return run_command(arguments, ExportJob, run_job)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
