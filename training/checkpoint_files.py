"""The names of a checkpoint's files. No torch is imported here."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

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


def find_needed(steps: Iterable[int], every: int, state: Mapping[str, Any]) -> set[int]:
    """Return the steps of the checkpoints that stay though they are not among the newest.

    They are the newest two multiples of `every`, of which a rollback may need one, as the newest may be among the bad
    steps, the best one on the hold-out, and those that the plan of the training names.

    Args:
        every: 0: there are no rollbacks.
        state: of the newest checkpoint; `best` is there if the training ends with its best weights, `kept` if the plan
            names steps.
    """
    targets = sorted(step for step in steps if every and step > 0 and step % every == 0)[-2:]
    return {*targets, *state.get("kept", ()), *([state["best"]] if state.get("best") else [])}
