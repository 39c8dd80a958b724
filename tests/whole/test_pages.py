"""The pages of the docs, which describe the core and all plugins: generated pages are those of the code, links resolve."""

import re

import pytest

from dataops.home import CHECKOUT, WRITTEN
from docs.tools import links
from docs.tools.reference import PAGES, render_page
from plugins.retention.local_files import GROUPS
from tests.cuda_lines import PAGE, TABLE, find_places, format_row


@pytest.mark.parametrize("name", PAGES)
def test_page_is_what_the_code_gives(name):
    committed = (CHECKOUT / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert committed == render_page(name), f"docs/reference/{name} is old: run `make docs-reference`, commit it"


def _pages():
    return {str(page.relative_to(links.ROOT)): page for page in links.pages()}


def test_links_and_anchors_resolve():
    assert {name: broken for name, page in _pages().items() if (broken := links.broken_links(page))} == {}


def test_paths_and_modules_in_backticks_exist():
    assert {name: broken for name, page in _pages().items() if (broken := links.broken_paths(page))} == {}


def test_folders_of_the_home_are_listed_in_the_docs():
    """A folder that no list has is neither deleted by gc nor searched by a takedown."""
    pattern = re.compile(r"\bhome(?:\(\))?(?:\.resolve\(\))? / \"([a-z_./-]+)\"")
    folders = ("dataops", "training", "tasks", "infra", "flows", "plugins")
    modules = [path for name in folders for path in (CHECKOUT / name).rglob("*.py")]
    modules = [path for path in modules if "tests" not in path.relative_to(CHECKOUT).parts]
    found = {name.partition("/")[0] for path in modules for name in pattern.findall(path.read_text("utf-8"))}
    assert found >= {"jobs", "models", "features"}
    page = (CHECKOUT / "docs" / "operate" / "retention.md").read_text("utf-8")
    table = page.partition("## What is in the home folder")[2].partition("\n## ")[0]
    listed = set(
        re.findall(r"`([a-z-]+)(?:/[a-z/]*)?`", " ".join(row.split("|")[1] for row in table.splitlines() if "|" in row))
    )
    assert found | set(WRITTEN) | {group.partition("/")[0] for group in GROUPS} <= listed
    unsearched = {"store", "demo", "hosts", "metrics", "prefect-login", "mlflow-webhook-key"}
    assert found - set(WRITTEN) <= unsearched, "a takedown searches what a run writes into the home"


def test_the_table_of_what_never_ran_names_code_that_is_there():
    """`make cuda-lines` writes it, from a run of the unit tests."""
    (table,) = TABLE.findall(PAGE.read_text("utf-8"))
    places = find_places()
    assert set(re.findall(r"^\| `.*$", table, re.MULTILINE)) <= {format_row(place) for place in places}
    assert f"{len(places)} places" in table
