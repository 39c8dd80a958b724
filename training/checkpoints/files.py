"""The names of a checkpoint's files."""

from pathlib import Path

STATE, MANIFEST = "state.json", "manifest.json"


def name_tensor_file(kind: str, number: int, parts: int) -> str:
    """Return the name of a file of tensors.

    Args:
        kind: model or optimizer.
        number: number of the part, from 0.
        parts: number of parts; 1: the tensors are whole.
    """
    return f"{kind}.safetensors" if parts == 1 else f"{kind}-{number + 1:05d}-of-{parts:05d}.safetensors"


def step_of(path: Path) -> int:
    """Return the step in the name of a checkpoint's folder; -1 for another folder."""
    digits = path.name.removeprefix("step-")
    return int(digits) if digits.isdigit() else -1
