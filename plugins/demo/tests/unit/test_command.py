import tomllib

import pytest

from plugins.demo.command import apply_settings


def test_settings_replace_values_and_keep_the_comments():
    config = 'name = "a"  # a name\n# two tables\n[train]\nlr = 1\nlrs = 2\n[evaluate]\nlr = 3\n'
    changed = apply_settings(config, ['name="b"', "train.lr=0.5", 'evaluate.data="ü"', "train.x={}"])
    assert tomllib.loads(changed) == {
        "name": "b",
        "train": {"lr": 0.5, "lrs": 2, "x": {}},
        "evaluate": {"lr": 3, "data": "ü"},
    }
    assert "# two tables" in changed
    with pytest.raises(ValueError, match="not in list"):
        apply_settings(config, ["nothing.x=1"])
