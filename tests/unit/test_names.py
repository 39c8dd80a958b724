"""A name of a stage, a drop reason, an opt-out signal, a kind of source or a command stands in one module of the core."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

from dataops import plugins, reasons, schema
from dataops.schema import MEANINGS
from dataops.stages import STAGES
from docs.tools.drop_reasons_page import DAMAGES, describe_reasons
from flows.pipeline import PIPELINE
from tasks.download.outcome import EVIDENCE
from tasks.reports.drop_reasons import DROP_REASONS

ROOT = Path(reasons.__file__).parents[1]
REASONS = {name for stage in DROP_REASONS.values() for name in stage} | {*describe_reasons()}
MAKES_REASON = frozenset({"BadPage", "BadUrl", "Damage", "FetchError", "ImageRefused", "RequestRefused", "refuse"})
"""Calls whose first argument is a reason."""
MAKES_DAMAGE = frozenset({"BadBody", "add_damage"})
NO_ROWS = frozenset({"redirect", "bad_answer", "unreadable", "not_encrypted"})
"""Errors of files of sources and hosts, and of images that a model captions, which drop no row."""


def modules():
    """Yield the modules that have a name as a text, or a call that makes a reason."""
    names = "|".join(map(re.escape, (*REASONS, *plugins.names("signals"), *plugins.names("sources"))))
    wanted = re.compile(rf"[\"'](?:{names})[\"']|\b(?:{'|'.join(MAKES_REASON | MAKES_DAMAGE)})\(")
    for folder in plugins.CORE:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if wanted.search(source := path.read_text("utf-8")):
                yield str(path.relative_to(ROOT)), ast.parse(source)


def find_literals(tree):
    """Yield the texts of a module, without docstrings."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node


def find_doubles(names, trees):
    """Return the modules of each name that more than one module has as a text."""
    found = defaultdict(set)
    for module, tree in trees.items():
        for node in find_literals(tree):
            if node.value in names:
                found[str(node.value)].add(module)
    return {name: sorted(places) for name, places in found.items() if len(places) > 1}


def find_made(trees, names, count=None):
    """Yield place and text of each name among the first arguments of the calls of these functions."""
    for module, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in names:
                texts = [str(one.value) for one in node.args[:count] if isinstance(one, ast.Constant)]
                yield from ((f"{module}:{node.lineno}", t) for t in texts if re.fullmatch(r"[a-z]+(_[a-z0-9]+)*", t))


@pytest.fixture(scope="module")
def trees():
    return dict(modules())


def test_names_of_two_words_stand_in_one_module(trees):
    """A name of one word is often something else as well (`timeout`, `pairs`), and so is the name of a column."""
    names = REASONS | {*plugins.names("signals"), *plugins.names("sources")}
    assert find_doubles({name for name in names if {"_", "-"} & {*name}} - MEANINGS.keys(), trees) == {}


def test_reasons_of_one_word_are_constants_where_an_error_is_made(trees):
    assert [one for one in find_made(trees, MAKES_REASON, 1) if one[1] in REASONS] == []


def test_reasons_and_damages_where_an_error_is_made_are_described(trees):
    found = [*find_made(trees, MAKES_REASON | MAKES_DAMAGE)]
    assert "bad_record" in {text for _, text in found}
    assert [one for one in found if one[1] not in {*REASONS, *DAMAGES, *NO_ROWS}] == []


def test_each_shared_reason_is_described():
    shared = {name: value for name, value in vars(reasons.Reason).items() if name.isupper()}
    assert {*shared.values()} <= REASONS
    assert all(name == value.upper() for name, value in shared.items())


def test_each_column_has_a_meaning_and_each_meaning_a_column():
    columns = {field.name for field in [*schema.CURATED, schema.CAPTIONS, *schema.DROP, *EVIDENCE]}
    assert columns == {*MEANINGS}


NAMED = {
    "rules": lambda one: one.reason.removesuffix("_NAME"),  # what varies
    "signals": lambda one: one.name,
    "sources": lambda one: one.model_fields["kind"].default,
    "steps": lambda one: one.table,
}


@pytest.mark.parametrize("kind", NAMED)
def test_an_object_has_the_name_of_its_entry_point(kind):
    assert {name: NAMED[kind](one) for name, one in plugins.load(kind).items()} == {
        name: name for name in plugins.load(kind)
    }


def test_stages_and_commands_are_registered_once():
    assert [step.stage.name for step in PIPELINE] == [*STAGES]
    commands = [name for group in plugins.kinds("commands.") for name in plugins.names(group)]
    assert len(commands) == len({*commands})
