"""The rows that the trainer has written since the last time they were read."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

FILES = ("metrics.jsonl", "evidence-throughput.jsonl", "evidence-suite.jsonl")
"""Files in a job's folder with one JSON object a line, which has a `step`."""


class NewRows:
    """Reads the lines that were appended to the files of a job.

    Args:
        folder: the job's folder.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._offsets: dict[str, int] = dict.fromkeys(FILES, 0)

    def read(self, file: str) -> list[dict[str, Any]]:
        """Return the rows of complete lines that were not returned before."""
        with suppress(FileNotFoundError), (self._folder / file).open("rb") as stream:
            stream.seek(self._offsets[file])
            complete = stream.read().rpartition(b"\n")[0]
            self._offsets[file] += len(complete) + 1 if complete else 0
            return [json.loads(line) for line in complete.splitlines()]
        return []
