"""The card of a model: its lineage, facts and rights, hostile text as text, and the front matter that the Hub reads."""

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from selectolax.lexbor import LexborHTMLParser

from dataops.snapshot import Counts, Input
from tasks.register.card import Card, describe_model, write_front_matter
from tests.manifests import build_manifest

HOSTILE = "<script>alert(1)</script> [x](javascript:1) \x1b[31m | `"


FACTS = {
    "pack": {"samples": 8, "shards": 1, "bytes": 1, "licenses": {HOSTILE: 3, "": 5}, "hosts": {HOSTILE: 8}},
    "evaluate": {"metrics": {HOSTILE: {"n": 10}}},
}


def manifests():
    found = {}
    below = [Input(stage="source", key=HOSTILE, digest="0" * 64)]
    below += [Input(stage="source_names", key="1 files", digest="1" * 64)]
    for number, stage in enumerate(("extract", "filter", "download", "curate", "pack", "train", "evaluate")):
        found[stage] = build_manifest(
            stage,
            key=f"{number:016x}",
            inputs=below,
            config={"model": HOSTILE, "kind": HOSTILE},
            code={"commit": "c" * 40},
            counts=Counts(input=10, kept=8, dropped={HOSTILE: 2}),
            facts=FACTS.get(stage, {}),
            content_digest=f"{number:064x}",
            created_at=f"2026-01-02T03:04:0{number}+00:00",
        )
        below = [found[stage].as_input()]
    return found


ROWS = [
    {"key": "t/top1", "task": HOSTILE, "metric": "top1", "value": 0.5, "low": 0.0, "high": 0.6, "chance": 0.1, "n": 10}
]


def registered(**values):
    known = {
        "description": "Made by `us`.",
        "license": "MIT",
        "version": "3",
        "registered": "2026-01-02",
    }
    known |= {
        "decided_by": "which-filter",
        "config_hash": "0123456789abcdef",
        "commit_url": "https://git.example/r/commit/c",
        "link": lambda name: name,
    }
    return Card("m", manifests(), ROWS, "passed", **known | values)


def without_front_matter(card):
    return card.partition("\n---\n")[2] if card.startswith("---\n") else card


def read_page(markdown):
    return LexborHTMLParser(MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown))


def test_lineage_leads_stage_by_stage_down_to_the_sources():
    pytest.importorskip("plugins.pages")
    for text in (registered().markdown(), registered().summary({"runs": "#/x"}, ())):
        page = read_page(without_front_matter(text))
        links = {node.text(): node.attributes["href"] for node in page.css("td a")}
        assert links.keys() == {*manifests(), "source", "source file", "config", "code"}
        assert [name for name in links if name in manifests()] == list(reversed(manifests()))
        assert links["source"] == links["source file"] == links["extract"] == "extract.html"
        assert links["filter"] == "filter.html"
        assert links["pack"] == "manifests/pack.json", "this dataset has no page"
        assert links["code"] == "https://git.example/r/commit/c"
        shown = page.text()
        for words in ("0123456789abcdef", "c" * 16, "Trained on 2026-01-02", "experiment which-filter"):
            assert words in shown
    assert "](#/x)" in text
    assert not read_page(Card("m", manifests(), ROWS, "passed").markdown()).css("a"), "there is no run"


def test_summary_begins_with_the_main_results_and_ends_with_whole_rows():
    """MLflow's database holds 5,000 characters; a model of many tasks and source files has more to say."""
    rows = [
        {"key": f"task-{n}/{metric}", "task": f"task-{n}", "metric": metric, "value": 0.5, "low": 0.4, "high": 0.6}
        | {"chance": 0.1, "n": 10}
        for n in range(3)
        for metric in ("top1", "top5")
    ]
    card = Card("m", manifests(), rows, "passed", decided_by="which", link=lambda name: name + "?" + "x" * 1500)
    text = card.summary({"runs": "#/x"}, {f"task-{n}/top1" for n in range(3)})
    assert len(text) <= 5000
    assert text.endswith("…")
    page = read_page(text)
    results, *others = [[row.text(separator=" ").split()[:2] for row in table.css("tr")] for table in page.css("table")]
    assert results == [["task", "metric"], *([f"task-{n}", "top1"] for n in range(3))]
    assert len(others) == 1
    assert others[0][1] == ["decided", "by"], "the lineage is cut at its end"
    whole = registered(description="").summary({}, ())
    assert "…" not in whole
    assert "Training data" in whole


RESULTS = [
    {"task": "digits", "metric": "top1", "value": 0.25},
    {"task": "flickr <b>", "metric": "image_to_text_R_at_1", "value": 0.125},
]


def hub_card(init, license_="Apache-2.0"):  # its fields have no types
    train = build_manifest("train", config={"init": init})
    fields = describe_model("m", {"train": train}, RESULTS, license_, ["pack/00"], {"en": 3, "zh-cn": 1, "": 2})
    return ModelCard(write_front_matter(fields) + "# m\n")


def test_hub_reads_results_data_and_licence():
    data = hub_card(None).data
    assert (data.license, data.datasets, data.language) == ("apache-2.0", ["pack/00"], ["en", "zh"])
    assert data.base_model is None
    results = {(one.dataset_name, one.task_type, one.metric_type): one.metric_value for one in data.eval_results}
    assert results == {
        ("digits", "zero-shot-image-classification", "top1"): 0.25,
        ("flickr -b", "image-text-retrieval", "image_to_text_R_at_1"): 0.125,
    }
