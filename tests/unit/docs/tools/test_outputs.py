"""Blocks with outputs of commands, screenshots and the notebook: how they are made, and that they are of one run."""

import json
import re

from PIL import Image

from docs.tools.links import ROOT, links
from docs.tools.notebook import NOTEBOOK, execute, texts
from docs.tools.outputs import Block, fill_blocks, find_blocks

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


def test_screenshots_and_notebook_are_of_the_run_that_the_readme_shows():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    keys = {stage.upper(): key for stage, key in re.findall(r"^(\w+) +([0-9a-f]{16}) ", readme, re.MULTILINE)}
    assert len(keys) == 8
    found = {}
    for name in links(readme):
        if name.endswith(".png"):
            with Image.open(ROOT / name) as image:
                found[name] = json.loads(image.info["keys"])
    assert len(found) == 8
    assert found == dict.fromkeys(found, keys), "run `make docs-outputs`"
    outputs = [text for text, _ in texts(json.loads((ROOT / NOTEBOOK).read_text(encoding="utf-8")))]
    assert all(outputs)
    assert keys["PACK"] in outputs[1]


def test_cells_of_a_notebook_share_their_names_and_show_their_last_expression():
    sources = [["a = 2\n", "a + 1"], ["b = a"], ["b\n", "'x'\n"]]
    cells = [{"cell_type": "code", "metadata": {"tags": ["same"]}, "source": source} for source in sources]
    notebook = {"cells": [{"cell_type": "markdown", "source": ["a"]}, *cells]}
    execute(notebook)
    assert texts(notebook) == [("3", ["same"]), ("", ["same"]), ("'x'", ["same"])]
