"""A pickle that must not run."""

from pathlib import Path


class Bomb:
    """Whose unpickling leaves a mark."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)
