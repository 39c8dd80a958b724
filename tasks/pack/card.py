"""The pages of a dataset, which lie beside its shards.

`dataset.html` is for a browser, `DATASET.md` for the Hub and other readers of Markdown. Plugins add further documents.
"""

import json
from collections.abc import Iterator
from typing import Any

from dataops import plugins
from dataops.facts import funnel_stages
from dataops.rights.licenses import ROW_TITLES, list_rows
from dataops.snapshot import Draft, Part, load_ancestors
from dataops.trace.lineages import Lineage
from tasks.engine.stage import Work
from tasks.pack.card_samples import Samples
from tasks.pack.card_text import (
    DatasetFacts,
    describe_sources,
    list_limits,
    list_readers,
    list_rights,
    list_source_rows,
    write_citation,
    write_front_matter,
    write_headline,
)
from tasks.pack.config import PackConfig
from tasks.pack.summary import FURTHER_CAPTIONS, LENGTH_STEP, LENGTH_STEPS, SCORE_STEP, SIDE_STEP, SIDE_STEPS
from tasks.reports.page import encode_page, gallery_rows, label_steps, render

HTML_PAGE, MARKDOWN_PAGE = "dataset.html", "DATASET.md"
KINDS = (
    ("languages", "Languages", "language"),
    ("hosts", "Hosts", "host"),
    ("crawls", "Source crawls", "crawl or file"),
    ("sizes", "Sizes of the images", "pixels"),
    ("caption_sources", "Sources of the captions", "source"),
    (FURTHER_CAPTIONS, "Sources of the further captions", "source"),
)
"""Facts of the manifest that have a table, with its title and first column."""
KEPT_BESIDE = 6
"""Number of kept pairs beside the dropped ones of a stage."""


def find_lineages(work: Work[PackConfig]) -> list[Lineage]:
    """Return the snapshots that a dataset is made of, as far as they are in the store: several where packs are merged."""
    found = list[Lineage]()
    for curate in (one for one in work.upstream or work.inputs.values() if one.stage == "curate"):
        lineage = load_ancestors(work.draft.store, curate)
        found.append(lineage if work.upstream[2:] else {**lineage, **work.inputs})
    return found


def put_pages(draft: Draft, dataset: DatasetFacts, samples: Samples) -> list[Part]:
    """Write the pages of a dataset that is being made."""
    pages = {
        HTML_PAGE: render_html(dataset, samples),
        MARKDOWN_PAGE: render_markdown(dataset),
    } | {document.file: document.write(dataset) for document in plugins.load("documents").values()}
    return [draft.put_bytes(name, encode_page(page)) for name, page in pages.items()]


def render_html(dataset: DatasetFacts, samples: Samples) -> str:
    """Return the page for a browser."""
    stages = _funnel_stages(dataset)
    return render(
        "dataset.html",
        title=f"Dataset {dataset.key}",
        sources=describe_sources(dataset),
        stages=stages,
        kept=gallery_rows(samples.kept, show_reason=False),
        hide_dropped=bool(dataset.facts.takedowns),
        sides=list(_sides(stages, samples)),
        histograms=list(_histograms(dataset)),
        **_values(dataset),
    )


def render_markdown(dataset: DatasetFacts) -> str:
    """Return the same in Markdown, without images, after the front matter of a dataset card."""
    sources = describe_sources(dataset)
    return write_front_matter(dataset) + render(
        "dataset.md", key=dataset.key, sources=sources, stages=_funnel_stages(dataset), **_values(dataset)
    )


def _values(dataset: DatasetFacts) -> dict[str, object]:
    """Return what both pages show."""
    snapshots = [
        (stage, ", ".join(made.key for made in dataset.list_made(stage)), manifest.config)
        for stage, manifest in dataset.lineage.items()
    ]
    return {
        "headline": write_headline(dataset),
        "seed": dataset.seed,
        "digest": dataset.digest,
        "rankings": [
            (title, column, counts) for kind, title, column in KINDS if (counts := getattr(dataset.facts, kind))
        ],
        "source_rows": list_source_rows(dataset),
        "limits": list_limits(dataset),
        "rights": list_rights(dataset),
        "license_titles": ROW_TITLES,
        "license_rows": list_rows(dataset.licenses, dataset.samples),
        "readers": list_readers(dataset),
        "citation": write_citation(dataset),
        "recipe": [
            (stage, key, json.dumps(config, indent=1, ensure_ascii=False, sort_keys=True))
            for stage, key, config in [*snapshots, ("pack", dataset.pack_keys, dataset.config)]
        ],
    }


def _funnel_stages(dataset: DatasetFacts) -> list[dict[str, object]]:
    """Return the funnel with `pack` at its end: the dataset's own manifest is not written yet."""
    counts = dataset.counts
    dropped = {"dropped": sum(counts.dropped.values()), "reasons": counts.dropped}
    pack = {"stage": "pack", "input": counts.input, "kept": counts.kept, **dropped}
    return [*funnel_stages(dataset.lineage.values()), pack]


def _sides(stages: list[dict[str, Any]], samples: Samples) -> Iterator[dict[str, object]]:
    """Yield each stage that dropped pairs, with some that it kept and some that it dropped, by reason."""
    for number, stage in enumerate(row for row in stages if row["dropped"]):
        dropped = samples.dropped.get(stage["stage"], {})
        start = number * KEPT_BESIDE % max(len(samples.kept), 1)  # others beside each stage
        kept = [*samples.kept[start:], *samples.kept[:start]][:KEPT_BESIDE]
        yield {
            **stage,
            "kept_rows": gallery_rows(kept, show_reason=False),
            "dropped_rows": {
                reason: gallery_rows(dropped.get(reason, ()), show_reason=False) for reason in stage["reasons"]
            },
            "has_examples": any(dropped.values()),
            "with_images": any(row["preview"] for rows in dropped.values() for row in rows),
        }


def _histograms(dataset: DatasetFacts) -> Iterator[tuple[str, str, dict[str, int]]]:
    """Yield title, unit and counts of each number that the manifest counts."""
    facts = dataset.facts
    yield "Length of the captions", "characters", label_steps(facts.lengths, LENGTH_STEP, LENGTH_STEPS)
    yield "Shorter side of the originals", "pixels", label_steps(facts.original_sides, SIDE_STEP, SIDE_STEPS)
    for name, counts in facts.scores.items():
        yield name, "score", label_steps(counts, SCORE_STEP)
