import tomllib

from flows.config import RunConfig
from plugins.init.config import format_line, resolve_config


def resolve(path, *settings):
    config, tables = resolve_config(path, settings)
    lines = [line for table in tables for line in (table.header, *map(format_line, table.keys))]
    return config, {key.path: (key.value, key.origin) for table in tables for key in table.keys}, "\n".join(lines)


def test_each_key_has_its_origin(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\n[source]\nkind = "pairs"\npaths = ["a b.csv"]\n[curate.scores.aesthetic]\n'
        'model = "m"\nhead = "h.npz"\n[[curate.rules]]\nscore = "aesthetic"\nmax = 0.5\n[register.floors]\n"a/top1" = 0.2\n'
    )
    config, keys, text = resolve(path, "filter.min_words=3", "filter.balance.queries=q.parquet")
    assert keys["name"] == ("mine", "line 1")
    assert keys["source.paths"] == ([str(tmp_path / "a b.csv")], "line 4")
    assert keys["curate.rules.0.max"] == (0.5, "line 10")
    assert keys["curate.rules.0.min"] == (None, "default")
    assert keys["register.floors"] == ({"a/top1": 0.2}, "line 11")
    assert keys["register.model_name"] == ("mine", "default")
    assert keys["filter.min_words"] == (3, "--set")
    assert keys["filter.balance.queries"] == (str(tmp_path / "q.parquet"), "--set")
    assert keys["filter.balance.mode"] == ("offline", "default")
    for line in (
        "min_words = 3  # --set",
        "# max_caption_count is not set",
        '[[curate.rules]]\nscore = "aesthetic"\n# min is not set\nmax = 0.5\n',
        "[curate.scores.aesthetic]",
        'floors = { "a/top1" = 0.2 }',
        "epochs = 32  # default",
    ):
        assert line in text, line
    assert RunConfig.model_validate(tomllib.loads(text)) == config
    assert max(map(len, text.splitlines())) < 180
