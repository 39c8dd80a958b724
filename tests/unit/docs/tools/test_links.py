"""Links, anchors, paths, lines and words of all pages, and of pages made to fail."""

import pytest

from docs.tools import links, style

PAGES = {str(page.relative_to(links.ROOT)): page for page in links.pages()}


def test_lines_are_short():
    assert {name: long for name, page in PAGES.items() if (long := style.long_lines(page))} == {}


def test_words_are_those_of_the_field():
    assert {name: words for name, page in PAGES.items() if (words := style.replaced_words(page))} == {}


def test_map_lists_every_page():
    listed = {links.linked_file(PAGES["docs/README.md"], target) for target in links.links(read("docs/README.md"))}
    below = {page for name, page in PAGES.items() if name.startswith("docs/") and "/decisions/" not in name}
    assert below - {PAGES["docs/README.md"]} <= listed
    index = PAGES["docs/decisions/README.md"]
    decisions = {links.linked_file(index, target) for target in links.links(index.read_text(encoding="utf-8"))}
    assert set(index.parent.glob("*.md")) - {index} == decisions


def read(name):
    return PAGES[name].read_text(encoding="utf-8")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Return a small repository with a page `docs/other.md`."""
    monkeypatch.setattr(links, "ROOT", tmp_path)
    (tmp_path / ".gitignore").write_text("infra/.env\n")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "other.md").write_text('# A `b_c` & d\n\n## Twice\n\n## Twice\n\n<a id="own"></a>\n')
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "real.py").write_text("def work(): ...\n")
    return tmp_path


def page(root, text):
    path = root / "docs" / "page.md"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "[a](missing.md) and [b](other.md#twice-1), [c](other.md#own), [d](other.md#a-b_c--d) `[a](missing.md)`",
        "[a](other.md#twice-2)",
        "[a](#here)",
        "[a][b]\n\n[b]: missing.md",
        '<img alt="x" src="missing.png">',
        "[outside](../../missing.md)",
        "````\n```\n````\n[a](missing.md)",
    ],
)
def test_broken_links(root, text):
    assert len(links.broken_links(page(root, text))) == 1


def test_broken_paths(root):
    good = "`tasks/real.py` `tasks.real.work` `tasks.real` `infra/.env` `tasks/<name>/x.py` `other/thing` `train.lr`"
    assert links.broken_paths(page(root, good)) == []
    bad = "`tasks/unreal.py` `tasks.unreal` `tasks.real.rest` `docs/nothing`"
    assert len(links.broken_paths(page(root, bad))) == 4


def test_long_lines_and_words_are_found(root):
    assert len(style.long_lines(page(root, "word " * 30))) == 1
    assert style.replaced_words(page(root, "A picture.\n\n```\npicture\n```\n")) == ["line 1: 'picture': write image"]
