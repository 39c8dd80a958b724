"""A config with a key of a plugin that is not installed."""

from pathlib import Path

import pytest

from tests.stranger import Stranger

POINTS = """
    [pairmill.rules]
    too_green = lost_plugin:TOO_GREEN
    [pairmill.steps]
    brightness = lost_plugin:BRIGHTNESS
    [pairmill.executors]
    farm = lost_plugin:FARM
    """


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (
            "{'curate': {'brightness': {}}}",
            "curate.brightness: its plugin is not installed; to install it: pip install",
        ),
        ("{'filter': {'drop_green': True}}", "filter.drop_green: unknown key (value true); "),
        ("{'filter': {'drop_green': True}}", "plugins that are not installed may have it: pip install"),
        ("{'execution': {'engine': 'farm'}}", "'farm' is not installed: pip install"),
    ],
)
def test_error_names_the_command_that_installs_the_plugin(tmp_path: Path, table: str, expected: str):
    stranger = Stranger(tmp_path)
    stranger.install("lost_plugin", "", POINTS)
    (tmp_path / "lost_plugin.py").unlink()
    code = f"""
    from flows.config import validate_values
    values = {{"name": "a", "source": {{"kind": "warc", "paths": ["a"]}}}} | {table}
    print(*validate_values(values)[1], sep="\\n")
    """
    done = stranger.run(code)
    assert expected in done.stdout, done.stderr
    assert "lost_plugin" in done.stdout
