"""The pages of a dataset, which lie beside its shards: `dataset.html` for a browser, `DATASET.md` for wherever it goes.

One HTML file that needs nothing else: no script, no address. Whatever comes from the web is text: escaped, with control
characters spelt out.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dataops.escaping import markdown
from dataops.formatting import format_counts, format_share
from dataops.funnel import funnel_stages
from dataops.snapshot import Draft, Manifest, Part, ancestors
from dataops.stages import PAIR_STAGES
from tasks.engine.stage import Work
from tasks.pack.card_samples import Row, Samples
from tasks.pack.card_text import DatasetFacts, came_from, citation, headline, limits, loading, rights
from tasks.pack.config import PackConfig
from tasks.pack.summary import LENGTH_STEP, LENGTH_STEPS, SCORE_STEP, SIDE_STEP, SIDE_STEPS
from tasks.reports.gallery import GALLERY, figures
from tasks.reports.page import page, ranking, short, text
from tasks.reports.svg_charts import histogram_svg
from tasks.reports.svg_funnel import funnel_svg

HTML, MARKDOWN = "dataset.html", "DATASET.md"
KINDS = (
    ("languages", "Languages", "language"),
    ("hosts", "Hosts", "host"),
    ("licenses", "Licences", "address of the licence"),
    ("crawls", "Source crawls", "crawl or file"),
    ("sizes", "Sizes of the pictures", "pixels"),
    ("caption_sources", "Where captions stood", "place"),
)
_STYLE = """<style>
.sides { display: grid; grid-template-columns: minmax(0, 2fr) minmax(0, 3fr); gap: 0 2.2rem;
border-top: 1px solid var(--line); padding-top: .8rem; margin-top: 1.2rem; }
.sides h4 { margin: 0 0 .5rem; font-size: .95rem; }
.sides .text { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 0 1.4rem; }
.sides .why { margin-bottom: 1.4rem; } .sides small.n { color: var(--soft); font-weight: 400; }
ul.captions { margin: 0; padding-left: 1.1rem; color: var(--soft); } ul.captions li { overflow-wrap: anywhere; }
pre { background: var(--line); padding: .6rem .8rem; border-radius: 4px; white-space: pre-wrap; overflow-wrap: anywhere;
font-size: .82rem; margin: .3rem 0 .9rem; } h3 { font-size: 1rem; margin: 1.6rem 0 0; } dt { font-weight: 600; }
@media (max-width: 40rem) { .sides { grid-template-columns: 1fr; } }
</style>"""


_HIDDEN = (
    "<p class=note>Somebody had pairs taken out, so of what was dropped no example is shown: it may be theirs.</p>"
)


def lineage_of(work: Work[PackConfig]) -> dict[str, Manifest]:
    """The snapshots that a dataset is made of, by stage from the first on, as far as they are in the store."""
    found = {**ancestors(work.draft.store, work.inputs["curate"]), **work.inputs}
    return {stage: found[stage] for stage in PAIR_STAGES if stage in found}


def put_pages(draft: Draft, about: DatasetFacts, samples: Samples) -> list[Part]:
    """Write both pages of a dataset that is being made."""
    pages = {HTML: html(about, samples), MARKDOWN: markdown_page(about)}
    return [draft.put_bytes(name, said.encode("utf-8", "replace")) for name, said in pages.items()]


def html(about: DatasetFacts, samples: Samples) -> str:
    """The page."""
    title = f"Dataset {about.key}"
    stages = _stages(about)
    sections = [
        GALLERY,
        _STYLE,
        f"<h1>{text(title)}</h1>",
        f'<p class="note">{text(headline(about))} Seed {about.seed}, content digest '
        f"<code>{about.digest[:16]}</code>.</p>",
        "<h2>From archive to shard</h2>",
        funnel_svg(stages, came_from(about), headline(about)),
        f"<h2>Some of the pairs</h2>{figures([_plain(row) for row in samples.kept])}",
        "<h2>Kept and dropped</h2>",
        _HIDDEN if about.facts.get("takedowns") else "",
        *_sides(stages, samples),
        "<h2>What is in it</h2>",
        *_distributions(about),
        f"<h2>Known limits</h2>{_list(limits(about))}",
        f"<h2>Licences and rights</h2>{_list(rights(about))}",
        "<h2>How to read it</h2>",
        *(f"<p class=note>{text(who)}</p><pre>{text(code)}</pre>" for who, code in loading(about)),
        f"<h2>How to cite it</h2><pre>{text(citation(about))}</pre>",
        "<h2>How it was made</h2>",
        *_recipe(about),
    ]
    return page(title, sections, pictures=True)


def _stages(about: DatasetFacts) -> list[dict[str, Any]]:
    """The funnel, to the shards: the dataset's own manifest is not written yet."""
    stages = funnel_stages(about.lineage.values())
    counts = about.counts
    lost = {"dropped": sum(counts.dropped.values()), "reasons": counts.dropped}
    return [*stages, {"stage": "pack", "input": counts.input, "kept": counts.kept, **lost}]


def _sides(stages: Sequence[Mapping[str, Any]], samples: Samples) -> Iterator[str]:
    """For each stage that dropped something what it kept, and beside it what it dropped, by reason."""
    for number, stage in enumerate(row for row in stages if row["dropped"]):
        shown = samples.dropped.get(stage["stage"], {})
        pictures = any(row["preview"] for rows in shown.values() for row in rows)
        start = number * 6 % max(len(samples.kept), 1)
        kept = [_plain(row) for row in [*samples.kept[start:], *samples.kept[:start]][:6]]
        told = f"<small class=n>{stage['kept']:,} of {stage['input']:,}</small>"
        whys = "whys" if pictures else "whys text"
        left = f"<h4>kept {told}</h4>{_shown(kept, pictures=pictures)}"
        right = "".join(
            f"<div class=why><h4><code>{text(reason)}</code> <small class=n>{count:,} "
            f"({format_share(count, stage['input'])})</small></h4>"
            f"{_shown([_plain(row) for row in shown.get(reason, [])], pictures=pictures)}</div>"
            for reason, count in stage["reasons"].items()
        )
        if not any(shown.values()):
            whys, right = "whys", _counted(stage)
        yield f"<h3>{text(stage['stage'])}</h3><div class=sides><div>{left}</div><div class='{whys}'>{right}</div></div>"


def _counted(stage: Mapping[str, Any]) -> str:
    """The reasons of a stage of which no example may be shown: as numbers, which need no room of their own."""
    rows = "".join(
        f"<li><code>{text(reason)}</code> <small class=n>{count:,} ({format_share(count, stage['input'])})</small></li>"
        for reason, count in stage["reasons"].items()
    )
    return f"<h4>dropped</h4><ul class=captions>{rows}</ul>"


def _plain(row: Row) -> Row:
    """Without what its heading says."""
    return {**row, "drop_reason": None}


def _shown(rows: Sequence[Row], *, pictures: bool) -> str:
    if not rows:
        return "<p class=note>no example at hand</p>"
    if pictures and any(row["preview"] for row in rows):
        return figures(rows)
    said = (row["caption"] or row.get("url") or "nothing" for row in rows)
    captions = "".join(f"<li>{short(each, 120)}</li>" for each in said)
    return f"<ul class=captions>{captions}</ul>"


def _distributions(about: DatasetFacts) -> Iterator[str]:
    facts = about.facts
    tables = [ranking(title, what, facts[kind], shown=12) for kind, title, what in KINDS]
    sides = {step: number for step, number in facts["original_sides"].items() if step}
    plots = [
        ("Length of the captions", histogram_svg(
            "captions by length", facts["lengths"], LENGTH_STEP, ("characters", "captions"), LENGTH_STEPS)),
        ("Shorter side of the originals", histogram_svg(
            "originals by their shorter side", sides, SIDE_STEP, ("pixels", "pictures"), SIDE_STEPS)),
    ]  # fmt: skip
    for kind in sorted(facts):
        name = kind.removeprefix("score:")
        if name != kind:
            scores = {step: number for step, number in facts[kind].items() if step}
            plots.append((f"<code>{text(name)}</code>", histogram_svg(name, scores, SCORE_STEP, ("score", "pairs"))))
    boxes = [*tables, *(f"<h2>{title}</h2>{drawing}" for title, drawing in plots)]
    yield f"<div class=columns>{''.join(f'<div>{box}</div>' for box in boxes)}</div>"


def _list(sentences: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{_coded(sentence)}</li>' for sentence in sentences)}</ul>"


def _coded(sentence: str) -> str:
    """Escaped, and what stands in back quotes as code."""
    pieces = text(sentence).split("`")
    return "".join(f"<code>{piece}</code>" if odd % 2 else piece for odd, piece in enumerate(pieces))


def _recipe(about: DatasetFacts) -> Iterator[str]:
    for stage, manifest in about.lineage.items():
        told = json.dumps(manifest.config, indent=1, ensure_ascii=False, sort_keys=True)
        yield f"<h3>{text(stage)} {text(manifest.key)}</h3><pre>{text(told)}</pre>"
    yield f"<h3>pack {text(about.key)}</h3><pre>{text(json.dumps(about.config, indent=1, sort_keys=True))}</pre>"


def markdown_page(about: DatasetFacts) -> str:
    """The same in Markdown, without pictures."""
    funnel = ["| stage | in | kept | dropped because |", "|:--|--:|--:|:--|"]
    for row in _stages(about):
        reasons = format_counts((markdown(reason), n) for reason, n in row["reasons"].items()) or "-"
        funnel.append(f"| {row['stage']} | {row['input']:,} | {row['kept']:,} | {reasons} |")
    counted = [f"- {title}: {_first(about.facts[kind])}" for kind, title, _ in KINDS]
    reading = [f"{who}:\n\n```\n{code}\n```" for who, code in loading(about)]
    made = [f"- {stage} `{manifest.key}`" for stage, manifest in about.lineage.items()]
    blocks = [
        f"# Dataset {about.key}",
        f"{headline(about)} Seed {about.seed}, content digest `sha256:{about.digest}`.",
        "\n".join([*made, f"- pack `{about.key}`"]),
        "## From archive to shard",
        f"From {came_from(about)}:",
        "\n".join(funnel),
        "## What is in it",
        "\n".join(counted),
        "## Known limits",
        "\n".join(f"- {_marked(sentence)}" for sentence in limits(about)),
        "## Licences and rights",
        "\n".join(f"- {_marked(sentence)}" for sentence in rights(about)),
        "## How to read it",
        *reading,
        "## How to cite it",
        f"```bibtex\n{citation(about)}\n```",
    ]
    return "\n\n".join(blocks) + "\n"


def _first(counted: Mapping[str, int], shown: int = 8) -> str:
    said = [f"{markdown(name) or 'none'} {number:,}" for name, number in list(counted.items())[:shown]]
    return ", ".join([*said, "…"] if len(counted) > shown else said)


def _marked(sentence: str) -> str:
    """Escaped, but for the back quotes of our own."""
    pieces = sentence.split("`")
    return "`".join(piece if odd % 2 else " ".join(map(markdown, piece.split(" "))) for odd, piece in enumerate(pieces))
