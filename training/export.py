"""Export a finished model to the format of another tool: `python -m training.export JOB.json`.

JOB.json: {"model": folder of a finished model, "format": open_clip, hf or another, "output": folder, "parent_pid": null}.
The features equal ours: tests compare them, and ONNX graphs are compared before they are written. Texts differ: the
other tools do not clean captions as CLIP's vocabulary does (hf, onnx), and take only texts of the whole context
(open_clip).
"""

import sys
from pathlib import Path

from training.exporter import find_exporter
from training.job import JobFile, run_command
from training.model.checkpoint import LoadedModel, load_model


class ExportJob(JobFile):
    """The fields of a job file."""

    model: Path
    """Folder with model.safetensors, model.json and tokenizer.json."""
    format: str
    """The tool to export to."""
    output: Path
    """Folder that receives the files, made where it is missing."""
    final: Path | None = None
    """Folder to which they are copied later; None: they stay."""


def export(loaded: LoadedModel, form: str, output: Path, final: Path | None = None) -> None:
    """Write a model into `output`.

    Args:
        form: name of an exporter.
        final: folder where the files will lie; None: `output`.

    Raises: ConfigError if the format cannot hold this model, or a package is missing; names the remedy.
    """
    exporter = find_exporter(form)
    exporter.check(loaded.config)
    output.mkdir(parents=True, exist_ok=True)
    exporter.write(loaded, output, final or output)


def run_job(job: ExportJob) -> None:
    """Read the model and write it into the job's output.

    Raises: see export and training/model/checkpoint.py.
    """
    find_exporter(job.format)  # before the model is read
    export(load_model(job.model), job.format, job.output, job.final)


def main(arguments: list[str]) -> int:
    """Run the job file that the command line names, and return the exit code."""
    return run_command(arguments, ExportJob, run_job)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
