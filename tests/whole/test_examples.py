"""The examples of configs and commands in the docs: every key and every option exists."""

import re
import shlex
import tomllib

import pytest
from cyclopts import CycloptsError
from pydantic import ValidationError

from docs.tools.links import ROOT, pages
from docs.tools.outputs import find_blocks
from flows.app import make_app
from flows.config import RunConfig

APP = make_app()
_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^\s*(?:\$ )?(pairmill (?! )[^\n]*)", re.MULTILINE)
_TABLES = {field.alias or name for name, field in RunConfig.model_fields.items()}
_NEEDED = {"name": "example", "source": {"kind": "warc", "paths": ["*.warc.gz"]}, "register": {}}


def examples():
    """Yield page, language and text of each fenced block."""
    for page in pages():
        for language, text in _FENCE.findall(page.read_text(encoding="utf-8")):
            yield str(page.relative_to(ROOT)), language, text


def configs():
    for page, language, text in examples():
        if language == "toml":
            values = tomllib.loads(text)
            if values.keys() <= _TABLES:
                yield page, values


def commands():
    """Yield page and command line, without those that show alternatives (`[--json]`, `hf|onnx`)."""
    for page, language, text in examples():
        if language in ("sh", "bash", "console", "text", ""):
            lines = _COMMAND.findall(text.replace("\\\n", " "))
            yield from ((page, line) for line in lines if not re.search(r"\[[-A-Z]|\w\|\w", line))


def problems_of(values):
    """Return the keys of an example that the config would not accept; keys that it leaves out are no problem."""
    try:
        RunConfig.model_validate(_NEEDED | values)
    except ValidationError as error:
        wrong = (detail for detail in error.errors() if detail["type"] not in ("missing", "union_tag_not_found"))
        return [f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in wrong]
    return []


def test_example_configs_have_only_keys_and_values_that_a_run_accepts():
    found = list(configs())
    assert len(found) > 20
    assert [(page, problem) for page, values in found for problem in problems_of(values)] == []


def parse(command):
    """Return the error of a command line, without its comment and what follows it in a shell; '' if it is valid."""
    text = re.split(r"\s+#|\s[|;&>]|;|`", command)[0].replace("...", "").strip()
    words = shlex.split(text)[1:]
    try:
        APP.parse_args(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        return str(error)
    return ""


def test_example_commands_have_only_options_that_exist():
    found = list(dict.fromkeys(commands()))
    assert len(found) > 30
    assert [(page, command, error) for page, command in found if (error := parse(command))] == []


BLOCKS = [(page.name, block) for page in pages() for block in find_blocks(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("page", "block"), BLOCKS, ids=lambda value: getattr(value, "shown", value))
def test_each_block_calls_a_command_as_it_is(page, block):
    words = shlex.split(block.shown)
    if words[0] == "pairmill":
        APP.parse_args(words[1:], exit_on_error=False, print_error=False)  # raises CycloptsError for what is unknown
    assert block.content.startswith("$ "), f"{page}: run `make docs-outputs`"
