"""A config with a key of a plugin that is not installed."""

import re

from tests.stranger import Stranger

POINTS = """
    [pairmill.rules]
    too_green = plugins.lost_plugin:TOO_GREEN
    [pairmill.steps]
    brightness = plugins.lost_plugin:BRIGHTNESS
    [pairmill.executors]
    farm = plugins.lost_plugin:FARM
    """


FOUND = {
    "{'curate': {'brightness': {}}}": "curate.brightness: its plugin is not installed; to install it: pip install",
    "{'filter': {'drop_green': True}}": r"filter.drop_green: unknown key \(value true\); .*"
    "plugins that are not installed may have it: pip install",
    "{'execution': {'engine': 'farm'}}": "'farm' is not installed: pip install",
}


def test_error_names_the_command_that_installs_the_plugin(tmp_path):
    stranger = Stranger(tmp_path)
    stranger.install("lost_plugin", "", POINTS)
    done = stranger.run(f"""
    from flows.config import validate_values
    for table in ({", ".join(FOUND)}):
        values = {{"name": "a", "source": {{"kind": "warc", "paths": ["a"]}}}} | table
        print(*validate_values(values)[1])
    """)
    for line, expected in zip(done.stdout.splitlines(), FOUND.values(), strict=True):
        assert re.search(f"{expected}.*lost-plugin", line), done.stderr
