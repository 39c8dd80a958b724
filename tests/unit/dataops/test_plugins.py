"""Distributions in a temporary folder register objects; only their metadata and modules are there, as after an install."""

from importlib.metadata import EntryPoint

import pytest

from dataops.errors import ConfigError
from dataops.plugins import install_command, require
from tests.stranger import Stranger


@pytest.fixture
def stranger(tmp_path):
    return Stranger(tmp_path)


TABLE = """
    from types import SimpleNamespace
    from pydantic import BaseModel
    class Config(BaseModel):
        shade: int = 3
    THING = SimpleNamespace(config=Config, table={table!r}, version=7, order={order})
"""
USE = """
    from dataops.config import StageConfig
    from dataops.plugins import extend, load
    class Base(StageConfig):
        depth: int = 1
    class Table(extend(Base, "things")):
        pass
    """


def test_key_of_a_plugin_is_in_the_snapshot_key_only_where_it_is_set(stranger):
    stranger.install("colour", TABLE.format(table=None, order=1), "[pairmill.things]\ncolour = colour:THING\n")
    done = stranger.run(USE + "print(Table().key_config(), Table(shade=4).key_config())")
    assert done.stdout.strip() == "{'depth': 1} {'shade': 4, 'depth': 1, 'plugins': {'colour': 7}}", done.stderr


@pytest.mark.parametrize(
    ("key", "named"),
    [("{}", ["things green: its config key shade is already that of blue"]), ("same", ["blue 1.0", "green 1.0"])],
)
def test_two_objects_with_one_name_or_key_are_an_error_that_names_both(stranger, key, named):
    for name in ("blue", "green"):
        entry = f"[pairmill.things]\n{key.format(name)} = {name}:THING\n"
        stranger.install(name, TABLE.format(table=None, order=1), entry)
    errors = stranger.run(USE).stderr
    assert [text for text in named if text not in errors] == []


def test_key_without_a_default_is_an_error_that_names_its_object(stranger):
    stranger.install(
        "red", TABLE.format(table=None, order=1).replace(" = 3", ""), "[pairmill.things]\nred = red:THING\n"
    )
    done = stranger.run(USE)
    assert "ConfigError: things red: its config key shade has no default; give one that turns it off" in done.stderr


@pytest.mark.parametrize(
    ("point", "named"),
    [
        ("red", "red 1.0: red is a module; name an object in it, as MODULE:NAME"),
        ("red:Config.shade", "red 1.0: cannot import red:Config.shade: AttributeError"),
        ("red:Config", "things red: red:Config is <class 'red.Config'>, without config and table"),
        ("red:THINGS", "red 1.0: cannot import red:THINGS: AttributeError"),
        ("rad:THING", "red 1.0: cannot import rad:THING: ModuleNotFoundError: No module named 'rad'"),
    ],
)
def test_entry_point_on_something_else_is_an_error_that_names_it(stranger, point, named):
    stranger.install("red", TABLE.format(table=None, order=1), f"[pairmill.things]\nred = {point}\n")
    assert named in stranger.run(USE).stderr


def test_two_rules_of_one_drop_reason_are_an_error_that_names_both(stranger):
    for name in ("blue", "green"):
        module = TABLE.format(table=name, order=1).replace("version=7", "version=7, reason='dull'")
        stranger.install(name, module, f"[pairmill.things]\n{name} = {name}:THING\n")
    assert "things green: its drop reason dull is already that of blue" in stranger.run(USE).stderr


def test_object_without_its_packages_counts_as_not_installed(stranger):
    stranger.install("bare", "import there_is_no_such_package", "[pairmill.things]\nbare = bare:THING\n")
    done = stranger.run("""
        from dataops.plugins import find, load, missing, targets
        print(dict(load("things")), dict(missing("things")))
        find("things", "bare")
    """)
    assert done.stdout.strip() == "{} {'bare': 'pip install --force-reinstall bare'}"
    assert "'bare' is not installed: pip install --force-reinstall bare" in done.stderr


def test_broken_module_is_an_error_that_names_its_distribution(stranger):
    stranger.install("broken", "import dataops.no_such_module", "[pairmill.things]\nbroken = broken:THING\n")
    done = stranger.run("from dataops.plugins import load; load('things')")
    assert "broken 1.0: cannot import broken:THING" in done.stderr


def test_missing_package_is_an_error_with_the_command_that_installs_it():
    require(["json"], "any", "a key")
    with pytest.raises(
        ConfigError, match=r"a key needs no_such_package, not installed here: pip install 'pairmill\[any\]'"
    ):
        require(["json", "no_such_package"], "any", "a key")


def test_extras_are_named_as_every_pip_finds_them():
    point = EntryPoint("folder", "plugins.own_images.sources:FOLDER", "pairmill.sources")
    assert install_command(point) == "pip install 'pairmill[own-images]'"
