"""The examples of a rule and of a check in the docs work for a distribution that has nothing else."""

import re

import pytest

from dataops.home import CHECKOUT
from tests.stranger import Stranger

RULE = """
    import polars as pl
    from dataops.filters import evaluate_rules
    from dataops.schema import PAIRS
    from tasks.filter.config import FilterConfig
    from docs.tools.drop_reasons_page import describe_reasons
    rows = pl.DataFrame({name: [None] * 2 for name in PAIRS.names}, schema=pl.Schema(PAIRS))
    rows = rows.with_columns(caption=pl.Series(["a #red #kite", "a kite"]), url=pl.lit("http://a.example/1.jpg"))
    config = FilterConfig(max_hashtags=1)
    print(evaluate_rules(rows, config)["too_many_hashtags"].to_list())
    print(evaluate_rules(rows, FilterConfig()).columns.count("too_many_hashtags"))
    print(describe_reasons()["too_many_hashtags"].remedy, config.key_config()["plugins"])
    """
CHECK = """
    from tasks.checks.check import Versions
    from tasks.checks.check import ChecksConfig
    from dataops import plugins
    from types import SimpleNamespace
    from dataops.snapshot import Counts
    now = {"pack": SimpleNamespace(counts=Counts(input=9, kept=9))}
    bound = ChecksConfig(max_rows=8, levels={"max_rows": "block"}).max_rows
    result = plugins.find("checks", "max_rows").compare("max_rows", "block", bound, Versions(now, {}))
    print(result.outcome, result.text)
    """


@pytest.mark.parametrize(
    ("page", "module", "code", "expected"),
    [
        ("clean/filter.md", "my_rules", RULE, "[True, False]\n0\n`filter.max_hashtags` {'too_many_hashtags': 1}\n"),
        ("dataset/checks.md", "my_checks", CHECK, "blocks the dataset has 9 pairs; the maximum is 8\n"),
    ],
)
def test_example_of_a_page_works(tmp_path, page, module, code, expected):
    text = (CHECKOUT / "docs" / page).read_text(encoding="utf-8")
    text = text[re.search(r"^##+ Add a (?:rule|check)$", text, re.MULTILINE).start() :]
    python, toml = (re.search(rf"```{kind}\n(.*?)```", text, re.DOTALL)[1] for kind in ("python", "toml"))
    stranger = Stranger(tmp_path)
    stranger.install(module, python, toml.replace('[project.entry-points."', "[").replace('"]', "]").replace('"', ""))
    done = stranger.run(code)
    assert done.stdout == expected, done.stderr
