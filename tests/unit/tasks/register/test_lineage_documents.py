"""Card and drawing of a model's lineage show hostile text as text."""

import re
from typing import Any
from xml.etree import ElementTree

import pytest

from dataops.facts import RegisteredPages
from dataops.snapshot import Counts, Input, Manifest
from dataops.trace.training_datasets import TrainingDataset
from tasks.register.card_front_matter import split_front_matter
from tasks.register.documents import Documents, list_files, list_urls
from tasks.register.gate import binomial_tail
from tasks.register.model_card import Card, describe_contamination
from tasks.register.svg_lineage import draw_lineage, make_boxes
from tasks.reports.page import render
from tasks.tracking.run_metadata import build_lineage_tags, build_params
from tests.manifests import build_manifest

HOSTILE = "<script>alert(1)</script> [x](javascript:1) \x1b[31m | `"


def lineage_svg(found: Any, model: str, documents: Documents | None = None, datasets: Any = ()) -> str:
    documents = documents or Documents()
    boxes = make_boxes(found, model, documents, datasets)
    links = {name: documents.files.get(name) or documents.urls.get(name) for name in boxes}
    return render("lineage.svg", drawing=draw_lineage(boxes, links))


FACTS: dict[str, dict[str, Any]] = {
    "pack": {"licenses": {HOSTILE: 3, "": 5}, "hosts": {HOSTILE: 8}}, "evaluate": {"metrics": {HOSTILE: {"n": 10}}},
}  # fmt: skip
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


def test_lineage_svg_has_a_box_per_stage_and_shows_hostile_text_as_text() -> None:
    drawn = lineage_svg(manifests(), HOSTILE)
    root = ElementTree.fromstring(drawn)
    space = "{http://www.w3.org/2000/svg}"
    names = [e.text for e in root.iter(f"{space}text") if e.get("class") == "name"]
    assert sorted(str(name) for name in names) == sorted([*manifests(), "sources", "code", "model"])
    assert not list(root.iter(f"{space}script"))
    assert "\x1b" not in drawn


def registered(
    base: str = "https://mlflow.example", commit_url: str | None = "https://git.example/r/commit/c"
) -> Documents:
    files = list_files(manifests())
    facts = RegisteredPages(model_name="my/model", version="3", experiment_id="1", run_id="r")
    return Documents("3", "2026-01-02", "0123456789abcdef", files, list_urls(base, facts, files, commit_url))


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


def test_lineage_svg_names_version_config_commit_and_queries() -> None:
    drawn = lineage_svg(balanced(), "m", registered())
    for text in ("version 3", "0123456789abcdef", "c" * 16, "queries.parquet", "ab" * 8, "1,234 queries", "2026-01-02"):
        assert f">{text}</text>" in drawn
    assert ">queries<" not in lineage_svg(manifests(), "m", registered()), "the filter did not balance"


def test_lineage_svg_links_each_box_to_its_document() -> None:
    root = ElementTree.fromstring(lineage_svg(balanced(), "m", registered()))
    space = "{http://www.w3.org/2000/svg}"
    links = {link.find(f"{space}rect").get("aria-label"): link.get("href") for link in root.iter(f"{space}a")}  # pyright: ignore[reportOptionalMemberAccess]
    assert links["filter"] == links["queries"] == "filter.html"
    assert links["config"] == "config.json"
    assert links["pack"] == "manifests/pack.json", "this dataset has no page"
    assert links["code"] == "https://git.example/r/commit/c"
    assert links["model"] == "https://mlflow.example/#/models/my%2Fmodel/versions/3?workflowType=machine_learning"
    assert links.keys() == {*manifests(), "sources", "queries", "config", "code", "model"}


def test_boxes_without_a_document_have_no_link() -> None:
    assert "<a " not in lineage_svg(manifests(), "m")
    drawn = lineage_svg(manifests(), "m", registered("sqlite:///x.db", None))
    assert "sqlite" not in drawn
    assert drawn.count("<a ") == len(registered().files) - 2, "this lineage has no queries and no suite"


def test_card_has_version_dates_links_and_no_raw_back_quotes() -> None:
    card = Card("m", balanced(), ROWS, "passed", "Made by `us`.", "MIT", registered())
    page, plain = card.html(), card.markdown()
    for text in ("m, version 3", "Trained on 2026-01-02, registered on 2026-01-02.", "0123456789abcdef"):
        assert text in page
    assert split_front_matter(plain)[1].startswith("# m, version 3\n")
    assert "Trained on 2026-01-02" in plain
    assert "<code>us</code>" in page
    assert "<code>pairmill takedown</code>" in page
    assert "`pairmill takedown`" in plain
    assert "`" not in page.replace(HOSTILE[-1], "", page.count("| `"))
    ids = set(re.findall(r'<tr id="(\w+)"', page))
    assert {href for href in re.findall(r'href="#(\w+)"', page)} == ids, "each box of the graph has a row"
    hrefs = set(re.findall(r'<a href="([^"#][^"]*)" target="_blank" rel="noopener noreferrer">', page))
    assert {"filter.html", "config.json", "https://git.example/r/commit/c"} < hrefs
    assert all(href.startswith("https://") or re.fullmatch(r"[\w/]+\.(html|json)", href) for href in hrefs)
    assert page.count("<a href=") == len(re.findall('<a href="#', page)) + page.count('target="_blank"')


def test_model_file_is_named_without_its_folder() -> None:
    theirs = manifests()
    theirs["train"] = theirs["train"].model_copy(update={"config": {"model": "/home/somebody/models/tiny.json"}})
    drawn, card = lineage_svg(theirs, "m"), Card("m", theirs, ROWS, "passed", "", "")
    assert ">tiny.json<" in drawn
    assert "CLIP tiny.json, trained on" in card.html()
    assert "somebody" not in drawn + card.headline()


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
    assert "The funnel of the run's own dataset" in plain
    assert split_front_matter(plain)[0]["datasets"] == [f"pack/{theirs['pack'].key}", f"pack/{0xF0:016x}"]
    assert "Datasets" not in Card("m", manifests(), ROWS, "passed").markdown()


@pytest.mark.parametrize("others", [1, 3, 5])
def test_lineage_svg_has_a_box_for_each_other_dataset(others: int) -> None:
    drawn = lineage_svg(*mixture(others)[:1], "m", registered(), mixture(others)[1])
    root, space = ElementTree.fromstring(drawn), "{http://www.w3.org/2000/svg}"
    texts = [str(e.text) for e in root.iter(f"{space}text")]
    assert texts.count("dataset") == min(others, 3) - (others > 3)
    assert (f"{others - 2} more datasets" in texts) == (others > 3)
    assert ("deleted" in texts) == (others <= 3)
    shares = [float(text.partition("%")[0]) for text in texts if text.endswith("% of the samples")]
    assert sum(shares) == pytest.approx(100 * others / (others + 1), abs=0.2)
    width, ends = float(root.get("viewBox", "").split()[2]), list(root.iter(f"{space}rect"))
    assert all(float(e.get("x", 0)) + float(e.get("width", 0)) <= width for e in ends)
    arrows = len([e for e in root.iter(f"{space}path") if e.get("class") == "arrow"])
    alone = ElementTree.fromstring(lineage_svg(manifests(), "m", registered()))
    assert arrows == len([e for e in alone.iter(f"{space}path") if e.get("class") == "arrow"]) + min(others, 3)


@pytest.mark.parametrize(("heads", "throws", "p"), [(0, 0, 1.0), (5, 5, 1 / 32), (3, 4, 5 / 16), (0, 9, 1.0)])
def test_binomial_tail_gives_the_exact_probability(heads: int, throws: int, p: float) -> None:
    assert binomial_tail(heads, throws) == pytest.approx(p)


def with_sources(number: int) -> dict[str, Manifest]:
    theirs = manifests()
    names = [f"source-{letter}" for letter in "abcdef"[:number]]
    sources = [{"name": name, "kind": "pairs", "license": "https://l.test/1", "files": 2} for name in names]
    packed = theirs["pack"].facts | {"sources": dict.fromkeys(names, 4)}
    theirs["extract"] = theirs["extract"].model_copy(update={"facts": {"sources": sources}})
    theirs["pack"] = theirs["pack"].model_copy(update={"facts": packed})
    return theirs


@pytest.mark.parametrize(("number", "drawn"), [(1, 1), (3, 3), (5, 2)])
def test_lineage_svg_has_a_box_for_each_source_as_far_as_there_is_room(number: int, drawn: int) -> None:
    text = lineage_svg(with_sources(number), "m")
    assert len(set(re.findall(r"source-[a-f]", text))) == drawn
    assert text.count("4 pairs packed") == drawn
    assert ("3 more sources" in text) is (number == 5)
    assert len(list_files(with_sources(number))) == len(list_files(manifests())) + min(number - 1, 2)


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


def test_card_drawing_and_tags_name_the_weights_of_others() -> None:
    plain = manifests()
    found = {**plain, "train": plain["train"].model_copy(update={"facts": {"weights": WEIGHTS}})}
    text = Card("m", found, ROWS, "passed").markdown()
    assert "## Pretrained weights" in text
    assert re.search(rf"\| text \| made 1\.2 \| CC0 \| v\.npy \| {'a' * 64} \|", text)
    assert re.search(r"\| image \| net\.safetensors \| not stated \| - \| not known \|", text)
    assert "Licences of the pretrained weights in it: made: CC0, net.safetensors: not stated." in text
    assert "For the pretrained weights `net.safetensors` no licence is stated." in text
    drawn = lineage_svg(found, "m")
    assert all(name in drawn for name in ("text weights", "image weights", "made 1.2", "net.safetensors", "a" * 16))
    tags = build_lineage_tags(found, {}, {})
    assert tags["weights.text"] == f"made 1.2, CC0, sha256 {'a' * 64}"
    assert tags["weights.image"] == "net.safetensors, no stated licence"
    assert "Pretrained weights" not in Card("m", plain, ROWS, "passed").markdown()
    assert not any(name.startswith("weights.") for name in build_lineage_tags(plain, {}, {}))


def test_with_weights_of_others_fewer_datasets_have_boxes() -> None:
    found = manifests()
    found["train"] = found["train"].model_copy(update={"facts": {"weights": WEIGHTS}})
    source = Input(stage="pack", key="k", digest="0" * 64)
    datasets = [TrainingDataset(source, None, share=0.25, is_own=n == 0) for n in range(4)]
    drawn = lineage_svg(found, "m", datasets=datasets)
    assert "3 more datasets" in drawn
