"""The names of the stages, in their order. Loads nothing: the command line imports it."""

from typing import Literal, get_args

StageName = Literal["extract", "filter", "download", "curate", "pack", "train", "evaluate", "register"]
"""The name of a stage. flows/pipeline.py connects them."""
STAGES: tuple[StageName, ...] = get_args(StageName)
SOURCE = "source"
"""Kind of an input that is a file, or another thing outside of the store, which a stage reads."""
SOURCE_NAMES = "source_names"
"""Kind of the input of `extract` that has the digest of the names of its source files."""
PAIR_STAGES = STAGES[:5]
"""The stages whose counts are of pairs: those that the funnel shows."""

RunState = Literal["running", "completed", "failed", "stopped", "crashed"]
"""State of a run of the pipeline. stopped: by Ctrl-C, SIGTERM or its cancellation; crashed: its process was killed."""


def find_table(stage: str) -> str:
    """Return the name of the table of a stage in a config file."""
    return "source" if stage == "extract" else stage
