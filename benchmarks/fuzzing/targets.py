"""List the targets of `python -m benchmarks.fuzz` by name."""

from importlib import import_module

from benchmarks.fuzzing.targets_archives import ARCHIVE_TARGETS
from benchmarks.fuzzing.targets_images import IMAGE_TARGETS
from benchmarks.fuzzing.targets_stored import STORED_TARGETS
from benchmarks.fuzzing.targets_web import WEB_TARGETS

TARGETS = {target.name: target for target in (*WEB_TARGETS, *ARCHIVE_TARGETS, *IMAGE_TARGETS, *STORED_TARGETS)}
"""All parsers of foreign bytes."""


def find_target(name):
    """Return a target by its name in TARGETS, or one of another module by `MODULE:NAME`."""
    module, colon, attribute = name.partition(":")
    return getattr(import_module(module), attribute) if colon else TARGETS[name]
