"""The names of a checkpoint's files. No torch is imported here."""

from collections.abc import Iterable
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


def find_rollback_targets(steps: Iterable[int], every: int) -> set[int]:
    """Return the steps of the checkpoints that a rollback may need: the newest two multiples of `every`; 0: none.

    The newest one may be among the bad steps.
    """
    return set(sorted(step for step in steps if every and step > 0 and step % every == 0)[-2:])
