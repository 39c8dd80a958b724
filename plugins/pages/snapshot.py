"""The page of a snapshot whose stage has none of its own: its rows, what it read, its curve, its weights and settings."""

import json

from dataops.facts import ExtractFacts, TrainFacts
from dataops.formatting import format_counts, format_quantity, format_share
from dataops.redaction import redact
from dataops.snapshot import Input, Manifest
from dataops.stages import SOURCE, STAGES
from dataops.store import Store
from dataops.trace.sources import list_sources
from tasks.register.card import describe_code
from tasks.reports.drop_reasons import find_reason
from tasks.reports.page import Section, render, render_document
from tasks.tracking.run_metadata import flatten_params

FILES = 1000
"""Maximum number of source files that the page lists; the manifest has all."""
CURVE_ROWS = 20
CURVES = ("step", "samples_seen", "loss", "image_to_text_recall", "text_to_image_recall", "logit_scale", "lr")
"""Columns of a training's curve that the page has."""


def render_snapshot(manifest: Manifest, store: Store) -> str:
    """Return the page of a snapshot."""
    sections = [*_rows(manifest), *_sources(manifest), *_training(manifest, store), _settings(manifest)]
    made_from = ", ".join(_name(one) for one in manifest.inputs if one.stage in STAGES)
    sentences = [
        f"Key `{manifest.key}`, which identifies what was asked for; content digest `{manifest.content_digest}`, which "
        "identifies what came out.",
        *([f"Made from {made_from}."] if made_from else []),
        f"Made on {manifest.created_at[:19].replace('T', ' ')} UTC by {describe_code(manifest.code)}.",
    ]
    kept, rows = f"{manifest.counts.kept:,}", format_quantity(manifest.counts.input, "row")
    headline = f"Trained on {kept} pairs." if manifest.stage == "train" else f"{kept} of {rows} kept."
    values = {"headline": headline, "description": "", "links": "", "space": ""}
    text = render("card.md", sections=[Section("Snapshot", sentences), *sections], **values)
    return render_document(f"{manifest.stage.capitalize()} {manifest.key}", text)


def _name(source: Input) -> str:
    return f"`{source.stage}/{source.key}`"


def _rows(manifest: Manifest) -> list[Section]:
    """Return the drop reasons with their meanings, most frequent first."""
    dropped = sorted(manifest.counts.dropped.items(), key=lambda item: -item[1])
    described = [(name, count, find_reason(manifest.stage, name)) for name, count in dropped]
    rows = [
        (
            name,
            f"{count:,}",
            format_share(count, manifest.counts.input),
            found.meaning.replace("`", "") if found else "",
        )
        for name, count, found in described
    ]
    columns = ("drop reason", "rows", "share", "meaning")
    return [Section("Dropped rows", (), columns, rows, numbers=(1, 2))] if rows else []


def _sources(manifest: Manifest) -> list[Section]:
    """Return the source files of extract, with what was read of them."""
    if manifest.stage != "extract":
        return []
    facts = ExtractFacts.of(manifest)
    sources = list_sources(manifest)
    sentences = [f"{one.describe()}." for one in sources if not one.name]
    sentences += [f"Read: {format_counts(facts.read.items())}."] if facts.read else []
    sentences += [f"Not or not wholly usable: {format_counts(facts.damages.items())}."] if facts.damages else []
    named = [
        (one.name, one.kind, one.license or "none", f"{one.files:,}", f"{one.counts.kept:,}")
        for one in sources
        if one.name
    ]
    files = [one for one in manifest.inputs if one.stage == SOURCE]
    more = [f"The first {FILES:,} of {len(files):,}; manifests/extract.json has all."] if len(files) > FILES else []
    more += ["A pair's column `source` names its file, and `source_offset` the record in it."]
    failed = [(file, error) for file, error in facts.failed_files]
    return [
        Section("Sources", sentences, ("source", "kind", "licence", "files", "pairs"), named, numbers=(3, 4)),
        Section("Source files", more, ("file", "digest"), [(redact(one.key), one.digest) for one in files[:FILES]]),
        *([Section("Files that could not be read", (), ("file", "error"), failed)] if failed else []),
    ]


def _training(manifest: Manifest, store: Store) -> list[Section]:
    """Return the curve of a training, its processor and the weights that it started from."""
    if manifest.stage != "train":
        return []
    facts = TrainFacts.of(manifest)
    where = f"Trained in {facts.precision or 'unknown precision'} on {facts.processor or 'an unknown processor'}."
    curve = [json.loads(line) for line in store.read(manifest.path("metrics.jsonl")).splitlines() if line.strip()]
    shown = curve[:: -(-len(curve) // CURVE_ROWS) or 1]
    shown += curve[-1:] if shown[-1:] != curve[-1:] else []
    columns = [name for name in CURVES if any(name in row for row in curve)]
    rows = [[_number(row.get(name)) for name in columns] for row in shown]
    weights = [(one.name, one.version, one.license or "not stated", one.sha256 or "not known") for one in facts.weights]
    found = [Section("Curve", (where,), columns, rows, numbers=range(len(columns)))]
    names = ("weights", "version", "licence", "sha256")
    return [*found, Section("Pretrained weights", (), names, weights)] if weights else found


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else ""


def _settings(manifest: Manifest) -> Section:
    rows = [(name, value) for name, value in flatten_params(manifest.config).items() if value not in ("", "null")]
    return Section("Settings", (), ("setting", "value"), [*rows, ("seed", str(manifest.seed))])
