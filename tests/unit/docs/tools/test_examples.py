"""Commands and TOML blocks on the pages use commands, options, modules and config keys that exist."""

import importlib.util
import tomllib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest
from cyclopts.exceptions import CycloptsError
from pydantic import ValidationError

from docs.tools.examples import Example, find_examples, list_commands
from docs.tools.links import ROOT, pages
from flows.cli import app
from flows.config import RunConfig

TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in pages()}
TABLES = frozenset(field.alias or name for name, field in RunConfig.model_fields.items()) - {"name", "seed"}
INCOMPLETE = frozenset({"missing", "value_error", "union_tag_not_found"})
"""Types of errors that a part of a config may have."""


def wrong_keys(values: Mapping[str, Any]) -> list[str]:
    """Return a problem for each key of a part of a config that does not exist or has a value that it cannot have."""
    try:
        RunConfig.model_validate(values)
    except ValidationError as error:
        details = (detail for detail in error.errors() if detail["type"] not in INCOMPLETE)
        return [f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in details]
    return []


def apply_setting(setting: str) -> dict[str, Any]:
    """Return the part of a config that `--set` changes."""
    name, _, text = setting.partition("=")
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    for step in reversed(name.split(".")):
        value = {step: value}
    return value


def check_command(words: Sequence[str]) -> None:
    """Raise an error if a command of pairmill, its options or settings, or a module of the repository do not exist."""
    if words[0] == "pairmill":
        app.parse_args(words[1:], exit_on_error=False, print_error=False)
        for option, value in pairwise(words):
            assert option != "--set" or wrong_keys(apply_setting(value)) == [], value
    elif tuple(words[:2]) == ("python", "-m") and words[2].partition(".")[0] in {"benchmarks", "docs", "tasks"}:
        assert importlib.util.find_spec(words[2]), words


def test_commands_are_split():
    script = "A=1 pairmill run x.toml \\\n    --json > out  # why\ncat out | pairmill diff - 2>&1 && ls"
    found = list_commands(f"```sh\n{script}\n```\n```text\nno\n```\n")
    assert found == [["pairmill", "run", "x.toml", "--json"], ["cat", "out"], ["pairmill", "diff", "-", "2"], ["ls"]]


def test_wrong_commands_are_found():
    with pytest.raises(CycloptsError):
        check_command(["pairmill", "run", "x.toml", "--colour"])
    with pytest.raises(AssertionError):
        check_command(["pairmill", "run", "x.toml", "--set", "filter.min_char=1"])
    with pytest.raises(AssertionError):
        check_command(["python", "-m", "benchmarks.nothing"])


def test_examples_have_a_language():
    assert list(find_examples("```toml\na = 1\n```\n```\nb\n```\n")) == [Example("toml", "a = 1\n")]


def test_wrong_keys_are_found():
    assert wrong_keys({"filter": {"min_chars": 1}, "source": {"kind": "site"}}) == []
    assert wrong_keys({"filter": {"min_char": 1}}) == ["filter.min_char: Extra inputs are not permitted"]
    assert wrong_keys(apply_setting("source.kind=web"))
    assert apply_setting("a.b=[1]") == {"a": {"b": [1]}}


@pytest.mark.parametrize("page", TEXTS)
def test_commands_of_a_page_exist(page: str):
    for words in list_commands(TEXTS[page]):
        check_command(words)


@pytest.mark.parametrize("page", TEXTS)
def test_toml_of_a_page_has_keys_of_the_config(page: str):
    for example in find_examples(TEXTS[page]):
        if example.language == "toml" and not TABLES.isdisjoint(values := tomllib.loads(example.content)):
            assert wrong_keys(values) == [], example.content
