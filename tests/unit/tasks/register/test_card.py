"""The card of a model: its lineage, facts and rights, hostile text as text, and the front matter that the Hub reads."""

import re
from typing import Any

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from selectolax.lexbor import LexborHTMLParser

from dataops.snapshot import Counts, Input, Manifest
from dataops.trace.sources import TrainingDataset
from tasks.register.card import Card, describe_contamination, describe_model, split_front_matter, write_front_matter
from tasks.register.registration import build_commit_url
from tasks.tracking.run_metadata import build_lineage_tags, build_params
from tests.manifests import build_manifest

HOSTILE = "<script>alert(1)</script> [x](javascript:1) \x1b[31m | `"


FACTS: dict[str, dict[str, Any]] = {
    "pack": {"samples": 8, "shards": 1, "bytes": 1, "licenses": {HOSTILE: 3, "": 5}, "hosts": {HOSTILE: 8}},
    "evaluate": {"metrics": {HOSTILE: {"n": 10}}},
}
BALANCE = {"pairs": 8, "unmatched": 0, "kept": 8, "seen": 8, "queries": 1234, "queries_found": 1, "matches_before": 8,
           "matches_after": 8, "effective_before": 1.0, "effective_after": 1.0}  # fmt: skip


def manifests() -> dict[str, Manifest]:
    found: dict[str, Manifest] = {}
    below: list[Input] = [Input(stage="source", key=HOSTILE, digest="0" * 64)]
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


ROWS = [{"task": HOSTILE, "metric": "top1", "value": 0.5, "low": 0.0, "high": 0.6, "chance": 0.1, "n": 10}]


def balanced() -> dict[str, Manifest]:
    theirs, queries = manifests(), Input(stage="source", key="queries.parquet", digest="ab" * 32)
    words = Input(stage="source", key="unsafe words", digest="0" * 64)
    theirs["filter"] = theirs["filter"].model_copy(
        update={
            "inputs": [*theirs["filter"].inputs, words, queries],
            "config": {"balance": {"max_per_query": 5}},
            "facts": {"balance": BALANCE},
        }
    )
    return theirs


def registered(**values: Any) -> Card:
    known: dict[str, Any] = {
        "description": "Made by `us`.",
        "license": "MIT",
        "version": "3",
        "registered": "2026-01-02",
    }
    known |= {
        "config_hash": "0123456789abcdef",
        "commit_url": "https://git.example/r/commit/c",
        "link": lambda name: name,
    }
    return Card("m", balanced(), ROWS, "passed", **known | values)


def read_page(markdown: str) -> LexborHTMLParser:
    return LexborHTMLParser(MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown))


def test_lineage_leads_stage_by_stage_down_to_the_sources() -> None:
    for text in (registered().markdown(), registered().summary({"runs": "#/x"})):
        page = read_page(split_front_matter(text)[1])
        links = {node.text(): node.attributes["href"] for node in page.css("td a")}
        assert links.keys() == {*manifests(), "source", "source file", "word list", "config", "code"}
        assert [name for name in links if name in manifests()] == list(reversed(manifests()))
        assert links["source"] == links["source file"] == links["extract"] == "extract.html"
        assert links["filter"] == links["word list"] == "filter.html"
        assert links["pack"] == "manifests/pack.json", "this dataset has no page"
        assert links["code"] == "https://git.example/r/commit/c"
        shown = page.text()
        for words in ("0123456789abcdef", "c" * 16, "queries.parquet", "ab" * 8, "Trained on 2026-01-02"):
            assert words in shown
    assert "](#/x)" in text
    assert "word list" not in Card("m", manifests(), ROWS, "passed").markdown(), "the filter did not balance"
    assert not read_page(Card("m", manifests(), ROWS, "passed").markdown()).css("a"), "there is no run"


def test_card_has_version_and_dates_and_shows_code_as_code() -> None:
    card = registered(comparisons=("few: 9 of 10 right",))
    page, plain = card.html(), card.markdown()
    for text in ("m, version 3", "Trained on 2026-01-02, registered on 2026-01-02.", "0123456789abcdef"):
        assert text in page
    assert split_front_matter(plain)[1].startswith("# m, version 3\n")
    assert "<code>us</code>" in page
    assert "<code>pairmill takedown</code>" in page
    assert "few: 9 of 10 right" in page


def test_model_file_is_named_without_its_folder() -> None:
    theirs = manifests()
    theirs["train"] = theirs["train"].model_copy(update={"config": {"model": "/home/somebody/models/tiny.json"}})
    text = Card("m", theirs, ROWS, "passed").markdown()
    assert "CLIP tiny.json, trained on" in text
    assert "somebody" not in text.partition("## Training data")[0]


def test_summary_is_truncated_at_a_line_and_counts_every_dropped_row() -> None:
    assert len(Card("m", balanced(), ROWS * 100, "passed").summary({})) <= 5000
    assert Card("m", balanced(), ROWS * 100, "passed").summary({}).endswith("\n…")
    theirs = manifests()
    counts = Counts(input=200, kept=100, dropped={f"r{n}": 15 - n for n in range(10)})
    theirs["filter"] = theirs["filter"].model_copy(update={"counts": counts})
    assert "r7 8, other reasons 13&emsp; |" in Card("m", theirs, (), "passed").summary({})


def test_card_escapes_hostile_text_and_names_missing_checks() -> None:
    card = Card(HOSTILE, manifests(), ROWS, HOSTILE, HOSTILE, HOSTILE)
    page, plain = card.html(), card.markdown()
    assert "<script" not in page
    assert "\x1b" not in page + plain
    assert not re.search(r"(?<!\\)\]\(", plain)
    assert "<script" not in re.sub(r"\\[<>]", "", plain)
    rows = [line for line in plain.splitlines() if line.startswith(r"| \<script")]
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in rows] == [4, 5, 7], "no cell begins in a text"
    assert "were not searched for" in describe_contamination(manifests()).sentences[0]
    assert "No better than chance" in page


def mixture(others: int) -> tuple[dict[str, Manifest], list[TrainingDataset]]:
    """Return the manifests of a training on several datasets, and these; the last one was deleted."""
    theirs = manifests()
    packs = [
        theirs["pack"],
        *(theirs["pack"].model_copy(update={"key": f"{n:016x}"}) for n in range(0xF0, 0xF0 + others)),
    ]
    counts = Counts(input=8 * len(packs), kept=8 * len(packs))
    config = {"model": "tiny", "dataset": [1] * len(packs)}
    theirs["train"] = theirs["train"].model_copy(
        update={"counts": counts, "config": config, "inputs": [pack.as_input() for pack in packs]}
    )
    datasets = [
        TrainingDataset(pack.as_input(), None if number == others else pack, 1 / len(packs), number == 0)
        for number, pack in enumerate(packs)
    ]
    return theirs, datasets


def test_card_lists_each_dataset_with_its_share_and_licences() -> None:
    theirs, datasets = mixture(2)
    card = Card("m", theirs, ROWS, "passed", "", "MIT", datasets=datasets)
    plain = card.markdown()
    assert "trained on 24 pairs of image and caption in 3 datasets" in plain
    digest = theirs["pack"].content_digest[:16]
    assert f"| {theirs['pack'].key} (of the run) | {digest} | 8 | 33.33% | 3 |" in plain
    assert f"| {0xF0:016x} | {digest} | 8 | 33.33% | 3 |" in plain
    assert f"| {0xF1:016x} | {digest} | no longer in the store | 33.33% | no longer in the store |" in plain
    assert "For 6 of 16 training pairs a licence was declared" in plain
    assert "| none | none declared | 10 |" in plain, "licences of both datasets are counted together"
    assert "For 62.5% of the pairs (10 of 16) no licence was declared" in plain
    assert "Captions are in any language in the run's own dataset; the others" in plain
    assert "The stages of the run's own dataset" in plain
    assert split_front_matter(plain)[0]["datasets"] == [f"pack/{theirs['pack'].key}", f"pack/{0xF0:016x}"]
    assert "Datasets" not in Card("m", manifests(), ROWS, "passed").markdown()


def with_sources(number: int) -> dict[str, Manifest]:
    theirs = manifests()
    names = [f"source-{letter}" for letter in "abcdef"[:number]]
    sources = [{"name": name, "kind": "pairs", "license": "https://l.test/1", "files": 2} for name in names]
    packed = theirs["pack"].facts | {"sources": dict.fromkeys(names, 4)}
    theirs["extract"] = theirs["extract"].model_copy(update={"facts": {"sources": sources}})
    theirs["pack"] = theirs["pack"].model_copy(update={"facts": packed})
    return theirs


def test_model_card_names_each_source_with_its_licence() -> None:
    text = Card("m", with_sources(2), ROWS, "gate").markdown()
    assert "2 source files of kind pairs (source-a) and 2 source files of kind pairs (source-b)" in text
    assert text.replace("\\", "").count("https://l.test/1") == 2
    assert text.count("4 | 50.0% |") == 2
    params = build_params(
        {"extract": build_manifest("extract", config={"sources": [{"name": "a", "kind": "wat"}]})}, {}, 0
    )
    assert params["extract.sources.a.kind"] == "wat"


WEIGHTS = [
    {"tower": "text", "name": "made", "version": "1.2", "license": "CC0", "file": "v.npy", "sha256": "a" * 64},
    {"tower": "image", "name": "net.safetensors", "version": "", "license": "", "file": "", "sha256": ""},
]


def test_card_and_tags_name_the_weights_of_others() -> None:
    plain = manifests()
    found = {**plain, "train": plain["train"].model_copy(update={"facts": {"weights": WEIGHTS}})}
    text = Card("m", found, ROWS, "passed").markdown()
    assert "## Pretrained weights" in text
    assert re.search(rf"\| text \| made 1\.2 \| CC0 \| v\.npy \| {'a' * 64} \|", text)
    assert re.search(r"\| image \| net\.safetensors \| not stated \| - \| not known \|", text)
    assert "Licences of the pretrained weights in it: made: CC0, net.safetensors: not stated." in text
    assert "For the pretrained weights `net.safetensors` no licence is stated." in text
    tags = build_lineage_tags(found, {}, {})
    assert tags["weights.text"] == f"made 1.2, CC0, sha256 {'a' * 64}"
    assert tags["weights.image"] == "net.safetensors, no stated licence"
    assert "Pretrained weights" not in Card("m", plain, ROWS, "passed").markdown()
    assert not any(name.startswith("weights.") for name in build_lineage_tags(plain, {}, {}))


RESULTS = [
    {"task": "digits", "metric": "top1", "value": 0.25},
    {"task": "digits", "metric": "top5", "value": 0.5},
    {"task": "flickr <b>", "metric": "image_to_text_R_at_1", "value": 0.125},
]


def hub_card(init: str | None, license_: str = "Apache-2.0") -> Any:  # its fields have no types
    train = build_manifest("train", config={"init": init})
    fields = describe_model("m", {"train": train}, RESULTS, license_, ["pack/00"], {"en": 3, "zh-cn": 1, "": 2})
    return ModelCard(write_front_matter(fields) + "# m\n")


def test_hub_reads_results_data_and_licence() -> None:
    data = hub_card(None).data
    assert (data.license, data.datasets, data.language) == ("apache-2.0", ["pack/00"], ["en", "zh"])
    assert data.base_model is None
    results = {(one.dataset_name, one.task_type, one.metric_type): one.metric_value for one in data.eval_results}
    assert results == {
        ("digits", "zero-shot-image-classification", "top1"): 0.25,
        ("digits", "zero-shot-image-classification", "top5"): 0.5,
        ("flickr -b", "image-text-retrieval", "image_to_text_R_at_1"): 0.125,
    }


@pytest.mark.parametrize(
    ("init", "expected"), [("hf-hub:laion/CLIP-ViT-B-32@main", "laion/CLIP-ViT-B-32"), ("ViT-B-32.pt", None)]
)
def test_base_model_is_that_of_the_hub(init: str, expected: str | None) -> None:
    assert hub_card(init).data.base_model == expected


@pytest.mark.parametrize(
    ("stated", "license_", "name"),
    [("", None, None), ("Our <b>terms</b>, v1", "other", "our-b-terms-b-v1"), ("MIT", "mit", None)],
)
def test_licence_of_the_weights(stated: str, license_: str | None, name: str | None) -> None:
    data = hub_card(None, stated).data
    assert (data.license, data.get("license_name")) == (license_, name)


def test_front_matter_is_split_from_the_text() -> None:
    assert split_front_matter("---\na: 1\n---\n# x\n---\n") == ({"a": 1}, "# x\n---\n")
    assert split_front_matter("# x\n---\n---\n") == ({}, "# x\n---\n---\n")


COMMIT = "1e15253aa0"


@pytest.mark.parametrize(
    ("remote", "page"),
    [
        ("https://git.example.org/team/clip.git", f"https://git.example.org/team/clip/commit/{COMMIT}"),
        ("https://user:hunter2@git.example.org/team/clip", f"https://git.example.org/team/clip/commit/{COMMIT}"),
        ("git@git.example.org:team/sub/clip.git", f"https://git.example.org/team/sub/clip/commit/{COMMIT}"),
        ("ssh://git@git.example.org:2222/team/clip.git", f"https://git.example.org/team/clip/commit/{COMMIT}"),
        ("/srv/git/clip.git", ""),
        ("../clip", ""),
        ("file:///srv/git/clip.git", ""),
        ("", ""),
        ("https://git.example.org/a)](javascript:1", ""),
    ],
)
def test_commit_page_is_that_of_the_remote(remote: str, page: str):
    assert build_commit_url(remote, COMMIT) == page


def test_unknown_commit_has_no_page():
    assert build_commit_url("https://git.example.org/team/clip", "unknown") == ""
