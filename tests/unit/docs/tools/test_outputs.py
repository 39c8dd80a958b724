"""Blocks with outputs of commands: how they are found, filled and compared; and that each names a real command."""

import shlex

import pytest

from docs.tools.links import pages
from docs.tools.outputs import Block, fill_blocks, find_blocks, read_variables
from flows.app import make_app

APP = make_app()
PAGE = """Before.

<!-- output: pairmill show $PACK | head -2 -->
```text
$ old
  old  output
kept 3
```

<!-- output demo-only: pairmill trace uid -->
```
```

```text
$ not marked
```
"""
BLOCKS = [(page.name, block) for page in pages() for block in find_blocks(page.read_text(encoding="utf-8"))]


def test_blocks_are_found_and_filled():
    assert list(find_blocks(PAGE)) == [
        Block("pairmill show $PACK | head -2", demo_only=False, content="$ old\n  old  output\nkept 3\n"),
        Block("pairmill trace uid", demo_only=True, content=""),
    ]
    filled = fill_blocks(PAGE, lambda command: f"out of {command}  \n\n  b\n", {"PACK": "0123"})
    assert "```text\n$ pairmill show 0123\nout of pairmill show $PACK | head -2\n\n  b\n```\n" in filled
    assert "```\n$ pairmill trace uid\nout of pairmill trace uid\n\n  b\n```\n" in filled
    assert "$ not marked" in filled
    assert "old" not in filled
    assert fill_blocks(filled, lambda command: f"out of {command}  \n\n  b\n", {"PACK": "0123"}) == filled


def test_labels_are_the_lines_without_digits():
    block = next(find_blocks(PAGE))
    assert block.labels() == ["old output"]
    assert block.arguments({"PACK": "0123"}) == ["pairmill", "show", "0123"]


def test_variables_of_a_run():
    stages = [{"stage": "pack", "key": "01", "path": "/store/pack/01"}]
    shown = {"run_id": "demo-1", "model_version": "models:/demo/1", "stages": stages}
    assert read_variables(shown) == {"RUN": "demo-1", "MODEL": "demo/1", "STORE": "/store", "PACK": "01"}


@pytest.mark.parametrize(("page", "block"), BLOCKS, ids=lambda value: getattr(value, "shown", value))
def test_each_block_calls_a_command_as_it_is(page: str, block: Block):
    words = shlex.split(block.shown)
    if words[0] == "pairmill":
        APP.parse_args(words[1:], exit_on_error=False, print_error=False)  # raises CycloptsError for what is unknown
    assert block.content.startswith("$ "), f"{page}: run `make docs-outputs`"
