import re

import pytest

from dataops.config import tables_of
from dataops.errors import ConfigError
from dataops.home import CHECKOUT
from dataops.toml_text import parse_toml
from flows.config import RunConfig, load_config, validate_values
from tasks.extract.config import SOURCE_KINDS

CONFIG = """name = "test"
{top}
[store]
uri = "{store}"
[source]
kind = "warc"
paths = ["*.warc.gz"]
{source}
[filter]
{filter}
[download]
contact = "mailto:us@example.org"
{download}
[train]
{train}
[evaluate]
suite = "{suite}"
{evaluate}
"""


def problems(folder, *settings, **tables):
    """Return the problems of a config, without the two spaces before each."""
    (folder / "a.warc.gz").write_bytes(b"")
    values = {"store": str(folder / "store"), "suite": str(CHECKOUT / "configs" / "suites" / "datacomp.toml")}
    empty = dict.fromkeys(("top", "source", "filter", "download", "train", "evaluate"), "")
    (folder / "mine.toml").write_text(CONFIG.format(**(empty | values | tables)))
    with pytest.raises(ConfigError) as caught:
        load_config(folder / "mine.toml", settings, until="train")
    first, *lines = str(caught.value).splitlines()
    assert first.startswith(f"{folder / 'mine.toml'}: {len(lines)} problem")
    return [line.removeprefix("  ") for line in lines]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("tables", "start", "end"),
    [
        ({"top": "sed = 3"}, "sed: unknown key (value 3)", "; did you mean seed? (line 2)"),
        (
            {"top": "paths = 3"},
            "paths: unknown key (value 3); did you mean ",
            "mean source.paths or curate.overlap.paths? (line 2)",
        ),
        ({"top": "[trian]\nepochs = 1"}, "trian: unknown table; ", "; did you mean train? (line 2)"),
        ({"top": "[colour]\nred = 1"}, "colour: unknown table; allowed: ", ", train (line 2)"),
        ({"source": 'license = "by"'}, "source.license: 'by': it must be a URL, ", "/licenses/by/4.0/ (line 8)"),
        ({"train": 'rdzv_endpoint = "a:65536"'}, "train.rdzv_endpoint: 'a:65536': it must be HOST:PORT", " (line 15)"),
        (
            {"source": 'name = "my run"'},
            "source.name: 'my run': use up to 40 letters, digits, '_' and '-', ",
            " first (line 8)",
        ),
        ({"train": "min_side = 3"}, "train.min_side: unknown key ", "; did you mean curate.min_side? (line 15)"),
        (
            {"filter": "min_side = 3"},
            "filter.min_side: unknown key ",
            "min_declared_side or curate.min_side? (line 10)",
        ),
        (
            {"download": "[download.retry]\nround = 3"},
            "download.retry.round: unknown key (value 3)",
            "; did you mean download.retry.rounds? (line 14)",
        ),
        (
            {"download": 'resize_mode = "boarder"'},
            "download.resize_mode: 'boarder'; allowed: 'no', ",
            "border? (line 13)",
        ),
        (
            {"train": 'model = "vit-b32"'},
            "train.model: model 'vit-b32': cannot read ",
            "; did you mean ViT-B-32? (line 15)",
        ),
    ],
)
def test_problem_has_what_was_meant_and_its_line(folder, tables, start, end):
    (problem,) = problems(folder, **tables)
    assert problem.startswith(start)
    assert re.sub(r"; plugins that are not installed.*(?= \(line)", "", problem).endswith(end)


def all_keys(table, path=""):
    """Yield each key with whether it is a table or an array of tables."""
    for name, field in table.model_fields.items():
        key, inner = f"{path}{field.alias or name}", tables_of(field.annotation)
        yield key, bool(inner)
        if key != "source":
            for model in inner:
                yield from all_keys(model, f"{key}.")


def put(values, key, value):
    *above, last = key.split(".")
    for step in above:
        values = values.setdefault(step, {})
    values[last] = value


VALUES = [
    "true",
    "3",
    '"3"',
    '"yes"',
    "1.5",
    "1979-05-27",
    "10:00:00",
    "[[1, []]]",
    "{ zz = [] }",
    "[{ zz = 1 }]",
    "nan",
]


@pytest.mark.parametrize("text", VALUES)
@pytest.mark.parametrize(("kind", "of_tables"), [*((kind, False) for kind in SOURCE_KINDS), ("warc", True)])
def test_value_of_a_wrong_type_is_a_problem_in_the_words_of_toml(text, kind, of_tables):
    value = parse_toml(f"value = {text}")["value"]
    keys = [key for key, _ in all_keys(SOURCE_KINDS[kind], "source.") if key != "source.kind"]
    if kind == "warc":  # the other tables do not depend on it
        keys += [key for key, is_table in all_keys(RunConfig) if is_table is of_tables and not key.startswith("source")]
    values = {"source": {"kind": kind}}
    for key in sorted(keys, reverse=True):
        if not of_tables or "." not in key or key.startswith("source"):  # a table that is no table has no keys
            put(values, key, value)
    config, found = validate_values(values)
    assert config is None
    allowed = {*keys, *(key.rpartition(".")[0] for key in keys), "name"}
    for problem in found:
        path, _, rest = problem.partition(": ")
        assert re.sub(r"\.(zz|\d+)(?=\.|$)", "", path) in allowed, problem
        internal = (
            r"[a-z](Config|Source)\b|datetime|tuple|instance|<class|\bNone\b|\bTrue\b|valid (integer|bool|str|dict)"
        )
        assert re.search(internal, rest) is None, problem


SOURCES = """name = "test"
[[source]]
name = "crawl"
kind = "warc"
paths = ["{crawl}"]

[[source]]
kind = "warc"
paths = ["{list}"]
{more}
[download]
contact = "mailto:us@example.org"
"""


def load_sources(folder, *settings, **values):
    (folder / "a.warc.gz").write_bytes(b"")
    (folder / "b.warc").touch()
    (folder / "mine.toml").write_text(SOURCES.format(**({"crawl": "*.gz", "list": "b.warc", "more": ""} | values)))
    return load_config(folder / "mine.toml", [f"store.uri={folder / 'store'}", *settings], until="pack")


@pytest.mark.parametrize(
    ("values", "settings", "problem"),
    [
        (
            {"more": "max_failed_files = -1"},
            (),
            "source.warc.max_failed_files: -1: it must be greater than or equal to 0",
        ),
        ({"list": "none.csv"}, (), "source.warc.paths: '{folder}/none.csv' is not a file"),
        (
            {"crawl": "none.gz", "more": "max_failed_files = -1"},
            (),
            "source.crawl.paths: '{folder}/none.gz' is not a file",
        ),
        ({}, ("source.2.kind=wet",), "source.2.kind: 'wet' is not a kind of source; allowed: warc"),
        ({"more": 'name = "crawl"'}, (), "source: two sources are named 'crawl'; set another `name` in one of"),
    ],
)
def test_a_problem_of_one_of_several_sources_names_it(folder, values, settings, problem):
    with pytest.raises(ConfigError) as caught:
        load_sources(folder, *settings, **values)
    assert "\n  " + problem.replace("{folder}", str(folder)) in str(caught.value)


def test_set_reaches_a_source_by_its_name_or_number(folder):
    settings = ("source.crawl.max_failed_files=2", "source.1.name=licensed", "source.licensed.license=https://l.test/1")
    sources = load_sources(folder, *settings).source.tables
    assert [(one.name, one.max_failed_files, one.license) for one in sources] == [
        ("crawl", 2, None), ("licensed", 0, "https://l.test/1")
    ]  # fmt: skip
    added = load_sources(folder, 'source.2={kind="warc",paths=["b.warc"]}').source.tables
    assert [one.name for one in added] == ["crawl", "warc", "warc-2"]
    with pytest.raises(ConfigError, match="'paths' names none of the 2 tables; write crawl or warc, or 0, 1"):
        load_sources(folder, "source.paths=[]")
