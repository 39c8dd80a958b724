"""Outputs of commands, screenshots and the notebook are of one run."""

import json
import re

from PIL import Image

from docs.tools.links import ROOT, links
from docs.tools.notebook import NOTEBOOK, texts


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
