"""A pickle that must not run."""

from pathlib import Path
from typing import Any


class Bomb:
    """Whose unpickling leaves a mark."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)
