"""What users must learn and install may become less, not more: a plugin is the place for what few need.

Lower a number here when it has become smaller. A change that must raise one says why in its commit.
"""

import tomllib
from importlib.metadata import entry_points

from dataops.config import tables_of
from dataops.home import CHECKOUT
from dataops.plugins import CORE, kinds
from flows.config import RunConfig
from training.config import TrainConfig

CONFIG_KEYS = 220
"""Keys of the core's tables."""
TRAIN_KEYS = 68
"""Keys of `[train]` and its tables; the goal was 70."""
COMMANDS = 8
"""Commands of the core without subcommands."""
PACKAGES = 45
"""Packages that every installation has; the goal is 42."""


def count_keys(root):
    """Return the number of keys of a table and of all tables in it, without those of plugins and of whole tables."""
    total, tables = 0, [root]
    for model in tables:
        for field in model.model_fields.values():
            tables += [inner for inner in tables_of(field.annotation) if inner not in tables]
        if model.__module__.partition(".")[0] in CORE:
            of_plugins = getattr(model, "plugin_fields", {})
            fields = {name: field for name, field in model.model_fields.items() if name not in of_plugins}
            total += sum(not tables_of(field.annotation) for field in fields.values())
    return total


def test_config_has_no_more_keys_than_before():
    assert count_keys(RunConfig) <= CONFIG_KEYS
    assert count_keys(TrainConfig) <= TRAIN_KEYS


def test_core_has_no_more_commands_than_before():
    registered = (point for kind in kinds("commands.") for point in entry_points(group=f"pairmill.{kind}"))
    ours = (point for point in registered if point.module.partition(".")[0] in CORE)
    assert len({point.name.partition(".")[0] for point in ours}) <= COMMANDS


def test_installation_has_no_more_packages_than_before():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]
    assert len(project["dependencies"]) <= PACKAGES
