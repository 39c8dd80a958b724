from pathlib import Path

import pytest

from dataops.errors import ConfigError
from dataops.home import CHECKOUT
from flows.config import load_config

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


def problems(folder: Path, *settings: str, **tables: str) -> list[str]:
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
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("tables", "start", "end"),
    [
        ({"top": "sed = 3"}, "sed: unknown key (value 3); allowed: curate, ", "; did you mean seed? (line 2)"),
        ({"top": "[trian]\nepochs = 1"}, "trian: unknown table; ", "; did you mean train? (line 2)"),
        ({"top": "[colour]\nred = 1"}, "colour: unknown table; allowed: ", ", train (line 2)"),
        ({"train": "epoch = 3"}, "train.epoch: unknown key (value 3); ", "; did you mean train.epochs? (line 15)"),
        ({"train": "min_side = 3"}, "train.min_side: unknown key ", "; did you mean curate.min_side? (line 15)"),
        (
            {"download": "[download.retry]\nround = 3"},
            "download.retry.round: unknown key (value 3); allowed: classes, delay, rounds",
            "; did you mean download.retry.rounds? (line 14)",
        ),
        (
            {"source": "pahts = 3"},
            "source.pahts: unknown key (value 3); allowed: ",
            "did you mean source.paths? (line 8)",
        ),
        (
            {"download": 'resize_mode = "boarder"'},
            "download.resize_mode: 'boarder'; allowed: 'no', ",
            "border? (line 13)",
        ),
        ({"filter": "min_chars = [\n  1,\n  2,\n]"}, "filter.min_chars: [1, 2]: ", " (line 10)"),
        (
            {"train": 'model = "vit-b32"'},
            "train.model: model 'vit-b32': cannot read ",
            "; did you mean ViT-B-32? (line 15)",
        ),
    ],
)
def test_problem_has_what_was_meant_and_its_line(folder: Path, tables: dict[str, str], start: str, end: str):
    (problem,) = problems(folder, **tables)
    assert problem.startswith(start)
    assert problem.endswith(end)


def test_kind_of_source_is_suggested(folder: Path):
    (problem,) = problems(folder, "source.kind=wark")
    assert problem == (
        "source.kind: 'wark' is not a kind of source; allowed: warc, wat, common_crawl, pairs, site; "
        "did you mean warc? (--set)"
    )


SITE = """name = "test"
[source]
kind = "site"
start = ["https://example.org/"]
{source}
[evaluate]
"""


@pytest.mark.parametrize(
    ("source", "start"),
    [
        (
            'contact = "mailto:us@example.org"\npaths = ["*.warc.gz"]',
            'source.paths: unknown key (value [\'*.warc.gz\']); only kind = "warc" or "wat" or "pairs" has it; '
            "allowed: allowed_domains, ",
        ),
        ("", "source: contact is required to crawl example.org; set it to a page or a mailto: address by which "),
        ("contact = 3", "source.contact: 3: Input should be a valid string"),
        ('connect_to = { "example.org" = "here" }', "source.connect_to: {'example.org': 'here'}: "),
    ],
)
def test_problem_of_one_kind_of_source_has_its_path(folder: Path, source: str, start: str):
    (folder / "site.toml").write_text(SITE.format(source=source))
    with pytest.raises(ConfigError) as caught:
        load_config(folder / "site.toml", until="extract")
    _, problem = str(caught.value).splitlines()
    assert problem.startswith(f"  {start}")
    assert "Value error" not in problem


def test_setting_is_named_as_the_origin(folder: Path):
    found = problems(folder, "trian.epochs=3", "train.epochs=0", train="epochs = 3")
    assert [line.rpartition(" (")[2] for line in found] == ["--set)", "--set)"]


def test_files_that_a_wrong_table_names_are_checked_too(folder: Path):
    found = problems(
        folder, train='model = "ViT-B-23"\nepochs = 0', source="max_page_bytes = -1", top="[execution]\nworkers = 0"
    )
    assert [line.partition(": ")[0] for line in found] == [
        *("source.max_page_bytes", "train.epochs", "execution.workers"),
        "train.model",
    ]
    assert "train.model: model 'ViT-B-23': cannot read" in found[-1]


def test_wrong_value_of_a_checked_key_is_one_problem(folder: Path):
    (problem,) = problems(folder, train="model = 3")
    assert problem.startswith("train.model: 3: Input should be a valid string")


def test_suite_is_suggested(folder: Path):
    (folder / "birds.toml").write_text("")
    (folder / "a.warc.gz").write_bytes(b"")
    empty = dict.fromkeys(("top", "source", "filter", "download", "train", "evaluate"), "")
    text = CONFIG.format(**empty, store=folder / "s", suite="bird.toml")
    (folder / "mine.toml").write_text(text)
    with pytest.raises(
        ConfigError, match=r"evaluate\.suite: bird\.toml: no such suite file; did you mean birds\.toml\?"
    ):
        load_config(folder / "mine.toml")
