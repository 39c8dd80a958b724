"""A summary has every field of the Commission's template, with the figures of the manifests or who must fill it."""

import json
import re

import pytest

from dataops.store import FolderStore
from plugins.disclosure.pages import render_html, render_markdown
from plugins.disclosure.provider_facts import ProviderFacts, parse_facts
from plugins.disclosure.subject import describe_training
from plugins.disclosure.summary import Summary, as_json, summarise
from plugins.disclosure.template import BY_NAME, FIELDS, SECTIONS
from plugins.disclosure.tests.unit.made_model import make_model, pair
from tasks.web.request import format_user_agent
from tests.hostile_text import HOSTILE, Page

CHECKLIST = {
    "": ["version of the summary", "last update"],
    "1.1": ["provider name and contact details", "authorised representative name and contact details"],
    "1.2": ["versioned model name(s)", "model dependencies", "date of placement of the model on the union market"],
    "1.3": [
        *("text: training data size", "text: types of content", "image: training data size", "image: types of content"),
        *("audio: training data size", "video: training data size", "other modalities: training data size"),
        *(
            "latest date of data acquisition/collection for model training",
            "continuous training on new or dynamic data",
        ),
        "description of the linguistic characteristics of the overall training data",
        *("other relevant characteristics of the overall training data", "additional comments"),
    ],
    "2.1": [
        *("publicly available datasets", "modality(ies) of the content covered"),
        "list of large publicly available datasets",
        *("general description of other publicly available datasets not listed above", "additional comments"),
    ],
    "2.2.1": ["transactional commercial licensing agreements with rightsholders", "modality(ies) of the content"],
    "2.2.2": [
        *("private datasets", "modality(ies) of the content", "publicly known private datasets"),
        "general description of non-publicly known private datasets obtained from third parties",
        "additional comments",
    ],
    "2.3": [
        *("crawlers were used by the provider or on its behalf", "crawler name(s)/identifier(s)"),
        *("purposes of the crawler(s)", "general description of crawler behaviour", "period of data collection"),
        "comprehensive description of the type of content and online sources crawled",
        *("type of modality covered", "summary of the most relevant domain names crawled", "additional comments"),
    ],
    "2.4": [
        *("user interactions with the model", "user interactions with other services"),
        "general description of the services or products that were used to collect the user data",
        *("type of modality covered", "additional comments"),
    ],
    "2.5": [
        *("created by the provider or on its behalf", "modality of the synthetic data"),
        "general-purpose ai model(s) used to generate the synthetic data, if available on the market",
        *("other ai models used to generate synthetic data", "additional comments"),
    ],
    "2.6": ["other sources of data", "narrative description of these data sources and the data", "additional comments"],
    "3.1": ["signatory to the code of practice", "measures to respect reservations of rights", "additional comments"],
    "3.2": ["general description of measures taken"],
    "3.3": ["other relevant information about data processing"],
}
"""Fields of the template by section and in its order, in the words of filled templates and of the mapping in
https://github.com/CycloneDX/guides/blob/main/ML-BOM/en/0x80-Appendix-eu-ai-act-mappings.md, and not from the code."""
PAIRS = [pair(n, f"{'abcdefghijkl'[n]}.com", 10 * n) for n in range(12)]


def summarised(folder, facts=None, **more):
    store = FolderStore(folder)
    made = make_model(store, PAIRS, **more)
    return summarise(describe_training(made["train"], store), parse_facts(facts or {}, "here")), made


def test_template_has_each_section_and_field_of_the_checklist_in_its_order():
    assert [number for number, _ in SECTIONS if any(f.section == number for f in FIELDS)] == list(CHECKLIST)
    for section, phrases in CHECKLIST.items():
        labels = [field.label.lower() for field in FIELDS if field.section == section]
        assert len(labels) == len(phrases), section
        assert [label for label, phrase in zip(labels, phrases, strict=True) if phrase not in label] == []
    numbers = [number for number, _ in SECTIONS]
    assert numbers == sorted(numbers)


def test_each_field_is_answered_or_names_who_fills_it_in_all_formats(tmp_path):
    made, _ = summarised(tmp_path)
    assert list(made.answers) == list(BY_NAME)
    html, plain = render_html(made), render_markdown(made)
    page = Page(html)
    for field in FIELDS:
        found = made.answers[field.name]
        assert found.text or found.rows or found.stated or found.state in ("open", "not_applicable")
        assert field.label in page.text
        assert field.label in plain
    for name in made.list_open():
        field = rf'id="{name}">[^<]*</dt>\s*<dd class="open"><p><b>Open</b>, to be filled by (the provider|whoever)'
        assert re.search(field, html)
    assert {"provider", "placement_date", "code_of_practice", "public_used"} <= set(made.list_open())
    assert Summary.model_validate_json(as_json(made)) == made


def test_figures_equal_those_of_the_manifests(tmp_path):
    made, manifests = summarised(tmp_path)
    answers, pack = made.answers, manifests["pack"]
    assert made.pairs == pack.counts.kept == 12
    assert answers["image_size"].text == ("Less than 1 million images.", "12 images, each with a caption.")
    assert answers["languages"].rows == (("en", "12", "100.0%"),)
    assert answers["model_dependencies"].rows == (("image", "net 1", "cc-by-nc-4.0", "ab" * 32),)
    assert "CLIP ViT-B-32" in answers["model_names"].text[0]
    assert answers["latest_acquisition"].text[0].startswith("03/2026.")
    assert answers["crawl_period"].text == (
        "01/2026 to 03/2026.",
        "Images were requested from 2026-01-02 to 2026-03-02.",
    )
    assert re.fullmatch(r"\d\d/\d\d/20\d\d", answers["last_update"].text[0])
    assert answers["crawl_content"].text[0].startswith("17 image URLs from the sources"), "download's input"
    assert answers["crawl_domains"].rows == (("l.com", "1", "110 bytes"), ("k.com", "1", "100 bytes"))
    assert answers["crawler_names"].rows == ((format_user_agent("testbot", None), "images"),)
    assert any("more than 7 seconds" in line for line in answers["crawler_behaviour"].text)
    assert any("`tdmrep`, `iptc`. Dropped: opt_out 3." in line for line in answers["tdm_measures"].text)
    assert "download kept 12 of 17 pairs; dropped: opt_out 3, http_404 2." in answers["processing"].text
    assert answers["synthetic_used"].is_yes is False
    assert answers["synthetic_models"].state == "not_applicable"


def test_measures_and_synthetic_data_are_in_the_summary_where_the_configs_have_them(tmp_path):
    pytest.importorskip("plugins.common_crawl")  # which says that its crawler is a third party
    captioner = {"model": "writer-7b", "model_version": "2", "prompt": "Describe it", "outcomes": {"added": 5}}
    made, _ = summarised(
        tmp_path,
        configs={
            "filter": {"unsafe_languages": ["en"], "blocked_domains": ["x.test"]},
            "download": {"images": "archive", "hash_lists": {"md5": ["known"]}},
            "extract": {"kind": "common_crawl", "crawl": ["CC-MAIN-2026-43"], "num_files": 3},
        },
        taken_down=[PAIRS[0]["uid"], PAIRS[1]["uid"]],
        counted={"curate": {"recaption": captioner}, "pack": {"further_captions": {"synthetic": 5}}},
    )
    answers = made.answers
    assert len(answers["illegal_measures"].text) == 3
    assert "third parties obeyed when they collected common_crawl is not in" in answers["tdm_measures"].text[-1]
    assert answers["crawlers_used"].is_yes is False
    assert {answers[name].state for name in ("crawler_names", "crawl_domains", "crawl_period")} == {"not_applicable"}
    assert answers["public_used"].is_yes is True
    ((name, *_, pairs, share),) = answers["public_list"].rows
    assert (name, pairs, share) == ("common_crawl", "10", "100.0%")
    assert answers["licensed_used"].is_yes is answers["user_model_used"].is_yes is False
    assert answers["synthetic_used"].is_yes is True
    assert answers["synthetic_models"].text[0] == "writer-7b."
    assert "synthetic_other_models" in made.list_open()


def test_facts_of_the_provider_fill_open_fields_and_classify_sources(tmp_path):
    facts = {
        "provider": HOSTILE,
        "code_of_practice": True,
        "is_sme": True,
        "image_content": "Photographs.",
        "sources": {"warc": {"kind": "private", "description": "Archive of a library."}},
    }
    made, _ = summarised(tmp_path, facts)
    answers = made.answers
    assert (answers["provider"].state, answers["provider"].stated) == ("stated", (HOSTILE,))
    assert answers["code_of_practice"].is_yes is True
    assert answers["image_content"].state == "filled"
    assert answers["image_content"].stated == ("Photographs.",)
    assert answers["private_used"].is_yes is True
    assert answers["private_others"].text == ("Archive of a library.",)
    assert answers["public_list"].state == "not_applicable"
    assert len(answers["crawl_domains"].rows) == 1, "5% of 12 domains"
    page = render_html(made)
    assert not {"script", "img"} & set(Page(page).tags)
    assert Page(page).events == []
    assert "default-src 'none'; style-src 'unsafe-inline'\"" in page
    assert not re.search(r"(?<!\\)<", render_markdown(made))


def test_a_model_whose_dataset_a_takedown_deleted_is_summarised_from_the_next_version(tmp_path):
    store = FolderStore(tmp_path)
    made, later = make_model(store, PAIRS), make_model(store, PAIRS[1:], name="b")
    old, new = made["pack"], later["pack"].model_copy(update={"content_digest": "f" * 64})
    store.put(new.path("manifest.json"), new.model_dump_json().encode())
    store.delete_tree(old.path(""))
    subject = describe_training(made["train"], store)
    assert summarise(subject, ProviderFacts()).answers["image_size"].state == "open"
    middle = "c" * 16  # a second takedown deleted it too
    for number, (before, after) in enumerate([(old.key, middle), (middle, new.key)]):
        store.put(f"takedowns/{number:016d}.report.json", json.dumps({"versions": {before: after}}).encode())
    summary = summarise(subject, ProviderFacts())
    assert (summary.datasets, summary.pairs) == ((f"pack/{new.key}",), 11)
    text = summary.answers["image_size"].text[1]
    assert text.startswith("11 images, each with a caption.")
    assert f"takedowns deleted pack/{old.key}" in text
    assert len(summary.answers["crawl_domains"].rows) == 2
    store.put("takedowns/loop.report.json", json.dumps({"versions": {new.key: old.key}}).encode())
    store.delete_tree(new.path(""))
    assert summarise(subject, ProviderFacts()).datasets == (f"pack/{old.key}",), "no version is left"
