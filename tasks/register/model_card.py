"""The model card: the model, its training data, recipe, results and limits. As HTML and as Markdown.

Each sentence follows from the manifests, also about checks that were not made.

Source: Mitchell et al. 2019, "Model Cards for Model Reporting", for the sections.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dataops.facts import EvaluateFacts, PackFacts, TrainFacts
from dataops.formatting import format_counts, format_interval, format_percent, format_quantity, format_share
from dataops.funnel import funnel_stages
from dataops.redaction import redact
from dataops.snapshot import Manifest
from dataops.trace.sources import describe_sources, list_named_sources
from dataops.trace.training_datasets import TrainingDataset, stored_manifests
from tasks.curate.step import describe_steps
from tasks.register.card_front_matter import describe_model, write_front_matter
from tasks.register.card_rights import list_licenses, list_rights, merge_counts
from tasks.register.config import describe_gate
from tasks.register.documents import Documents
from tasks.register.svg_lineage import draw_lineage, make_boxes
from tasks.reports.page import render, shorten
from tasks.reports.section import Section
from tasks.tracking.run_metadata import count_training_pairs, model_name

LISTED = 8
"""Number of values of a kind that a table has, and of drop reasons of a stage."""
_SHOWN_CONFIG = {
    "filter": ("languages", "dedupe", "near_captions", "balance"),
    "download": ("image_size", "resize_mode", "encode_format", "opt_out"),
    "curate": ("min_side", "max_aspect_ratio", "near_duplicate_distance", "same_caption"),
    "pack": ("shard_size",),
    "train": ("model", "image_size", "epochs", "batch_size", "lr", "weight_decay", "device"),
}


@dataclass(frozen=True)
class Card:
    """The facts that a card is made of.

    Args:
        manifests: of all stages before register, by stage.
        rows: of `training.evaluation.intervals.flatten_metrics`.
        gate: the verdict of the gate.
        description: of the config, Markdown of its owner.
        license: of the model's weights, as its owner states it.
        documents: of the registered version, if there is one.
    """

    name: str
    manifests: Mapping[str, Manifest]
    rows: Sequence[Mapping[str, Any]]
    gate: str
    description: str = ""
    license: str = ""
    documents: Documents = field(default_factory=Documents)
    datasets: Sequence[TrainingDataset] = ()
    """Those of the training; empty: only that of its run."""

    @property
    def packs(self) -> list[Manifest]:
        """Manifests of the datasets of the training, that of its run first."""
        return stored_manifests(self.datasets) or [self.manifests["pack"]]

    def sections(self) -> list[Section]:
        """Return all sections but the head."""
        return [
            _training_data(self.manifests),
            *([_list_datasets(self.datasets)] if len(self.datasets) > 1 else []),
            *_sources(self.manifests, only_own=len(self.datasets) > 1),
            *_rankings(self.packs),
            *list_licenses(self.packs),
            _funnel(self.manifests, only_own=len(self.datasets) > 1),
            _recipe(self.manifests),
            *_list_weights(self.manifests["train"]),
            *([_scores(self.rows)] if self.rows else []),
            describe_contamination(self.manifests, only_own=len(self.datasets) > 1),
            Section("Limits", list_limits(self.manifests, self.rows, only_own=len(self.datasets) > 1)),
            Section("Licence and rights", list_rights(self.packs, self.license, self.manifests["train"])),
        ]

    def title(self) -> str:
        """Return the name of the model, with its version if it is registered."""
        return f"{self.name}, version {self.documents.version}" if self.documents.version else self.name

    def headline(self) -> str:
        """Return the model, the number of its training pairs, the dates and the gate's verdict."""
        train = self.manifests["train"]
        model, gate = model_name(train.config), describe_gate(self.gate)
        dates = f"Trained on {train.created_at[:10]}"
        dates += f", registered on {self.documents.registered}." if self.documents.registered else "."
        count = format_quantity(count_training_pairs(self.manifests), "pair")
        datasets = f" in {len(self.datasets)} datasets" if len(self.datasets) > 1 else ""
        towers = [one.name for one in TrainFacts.of(train).weights if one.tower in ("text", "image")]
        others = f" with towers of {' and '.join(towers)}" if towers else ""
        pairs = f"CLIP {model}{others}, trained on {count} of image and caption{datasets}."
        return f"{pairs} {dates} {gate[0].upper()}{gate[1:]}."

    def html(self) -> str:
        """Return the page, with the lineage as a drawing whose boxes link to the rows of a table of documents."""
        boxes = make_boxes(self.manifests, self.name, self.documents, self.datasets)
        documents = [
            {
                "name": name,
                "lines": [line for line in box.lines if line],
                "file": self.documents.files.get(name),
                "url": self.documents.urls.get(name),
            }
            for name, box in boxes.items()
        ]
        return self._render(
            "model_card.html",
            title=f"Model card: {self.title()}",
            lineage=draw_lineage(boxes, {name: f"#{name}" for name in boxes}),
            documents=documents,
        )

    def markdown(self) -> str:
        """Return the same without the drawing, after the front matter of a model card."""
        datasets = [f"pack/{pack.key}" for pack in self.packs]
        languages = merge_counts(self.packs, "languages")
        fields = describe_model(self.name, self.manifests, self.rows, self.license, datasets, languages)
        return write_front_matter(fields) + self._render("model_card.md")

    def _render(self, template: str, **values: object) -> str:
        return render(
            template,
            name=self.title(),
            headline=self.headline(),
            description=self.description,
            sections=self.sections(),
            **values,
        )


def _training_data(manifests: Mapping[str, Manifest]) -> Section:
    pack = manifests["pack"]
    shards = format_quantity(len(pack.named("", ".tar")), "shard")
    sentences = [
        f"Dataset `{pack.key}`, content digest `{pack.content_digest}`.",
        f"{format_quantity(pack.counts.kept, 'pair')} in {shards}, seed {pack.seed}.",
    ]
    if "extract" in manifests:
        sentences.append(f"Read from {describe_sources(manifests['extract'])}.")
    if takedowns := [i.key for i in pack.inputs if i.stage == "takedown"]:
        sentences.append(f"Takedown requests applied: {', '.join(takedowns)}.")
    return Section("Training data", sentences)


def _sources(manifests: Mapping[str, Manifest], *, only_own: bool) -> list[Section]:
    """Return a table of the named sources, with the licence that the config states for each."""
    sources, pack = list_named_sources(manifests), manifests["pack"]
    counted, kept = PackFacts.of(pack).sources, max(pack.counts.kept, 1)
    rows = [
        (
            source.name,
            source.kind,
            source.license or "none",
            f"{source.files:,}",
            f"{counted.get(source.name, 0):,}",
            format_share(counted.get(source.name, 0), kept),
        )
        for source in sources
    ]
    columns = ("source", "kind", "licence", "files", "pairs", "share")
    sentences = ["Of duplicates, the pair of the first of their sources was kept."]
    sentences += ["These are the sources of the run's own dataset."] if only_own else []
    return [Section("Sources", sentences, columns, rows, numbers=(3, 4, 5))] if rows else []


def _list_datasets(datasets: Sequence[TrainingDataset]) -> Section:
    """Return the table of the datasets, with the share of each, and what is known of the licences of its pairs."""
    rows: list[tuple[str, ...]] = []
    for one in datasets:
        pairs = licensed = "no longer in the store"
        if one.manifest is not None:
            pairs, licensed = f"{one.manifest.counts.kept:,}", _count_licensed(one.manifest)
        name = f"{one.key} (of the run)" if one.is_own else one.key
        rows.append((name, one.source.digest[:16], pairs, format_percent(one.share), licensed))
    sentence = "Share is that of the samples of each epoch; every pair of a dataset is seen equally often within one."
    columns = ("dataset", "content digest", "pairs", "share", "with a declared licence")
    return Section("Datasets", (sentence,), columns, rows, numbers=(2, 3, 4))


def _count_licensed(pack: Manifest) -> str:
    licenses = PackFacts.of(pack).licenses
    return f"{pack.counts.kept - licenses.get('', 0):,}" if licenses else "not counted"


def _rankings(packs: Sequence[Manifest]) -> list[Section]:
    """Return the most frequent languages and hosts of all datasets, where their manifests count them."""
    kept = max(sum(pack.counts.kept for pack in packs), 1)
    found: list[Section] = []
    for kind, title, column in (
        ("languages", "Languages", "language"),
        ("hosts", "Hosts", "host"),
    ):
        counts = merge_counts(packs, kind)
        if counts:
            rows = [(name or "none", f"{n:,}", format_share(n, kept)) for name, n in list(counts.items())[:LISTED]]
            found.append(Section(title, (), (column, "pairs", "share"), rows, numbers=(1, 2)))
    return found


def _funnel(manifests: Mapping[str, Manifest], *, only_own: bool) -> Section:
    rows = []
    for stage in funnel_stages(manifests.values()):
        reasons = format_counts(list(stage["reasons"].items())[:LISTED]) or "-"
        rows.append((stage["stage"], f"{stage['input']:,}", f"{stage['kept']:,}", reasons))
    sentences = (
        ("The funnel of the run's own dataset; `pairmill trace` names the stages of the others.",) if only_own else ()
    )
    return Section("Funnel", sentences, ("stage", "rows in", "kept", "drop reasons"), rows, numbers=(1, 2))


def _recipe(manifests: Mapping[str, Manifest]) -> Section:
    """Return the most important settings; the params of the MLflow run have all."""
    rows = [
        (stage, name, redact(_format_setting(manifests[stage].config[name])))
        for stage, names in _SHOWN_CONFIG.items()
        if stage in manifests
        for name in names
        if manifests[stage].config.get(name) is not None
    ]
    code = manifests["train"].code
    dirty = ", with changes that were not committed" if code.get("dirty") else ""
    precision = TrainFacts.of(manifests["train"]).precision or "unknown precision"
    commit = f"Code: git commit `{code.get('commit') or 'unknown'}`{dirty}."
    sentences = [f"Trained in {precision}. {commit} All settings are params of the MLflow run."]
    sentences += describe_teachers(manifests["train"])
    return Section("How it was made", sentences, ("stage", "setting", "value"), rows)


def describe_teachers(train: Manifest) -> list[str]:
    """Return a sentence for each other model whose features of the dataset the training read."""
    roles = TrainFacts.of(train).other_models
    return [
        f"{roles[source.stage]} {redact(source.key)}, digest `{source.digest}`."
        for source in train.inputs
        if source.stage in roles
    ]


def _list_weights(train: Manifest) -> list[Section]:
    """Return the table of the pretrained weights that the training started from, if there are any."""
    rows = [
        (
            "image and text" if one.tower == "both" else one.tower,
            one.full_name,
            one.license or "not stated",
            one.file or "-",
            one.sha256 or "not known",
        )
        for one in TrainFacts.of(train).weights
    ]
    sentence = "The training started from these weights, and the model holds them or what training made of them."
    columns = ("tower", "weights", "licence", "file", "sha256")
    return [Section("Pretrained weights", (sentence,), columns, rows)] if rows else []


def _format_setting(value: object) -> str:
    return shorten(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), 160)


def _scores(rows: Sequence[Mapping[str, Any]]) -> Section:
    table = [
        (
            row["task"],
            row["metric"],
            format_percent(row["value"]),
            format_interval(row["low"], row["high"]),
            format_percent(row["chance"]),
            f"{row['n']:,}",
        )
        for row in rows
    ]
    sentence = (
        "Intervals are 99.5% confidence intervals. They cover the sampling of test examples; another seed or dataset may "
        "change a result by more."
    )
    columns = ("task", "metric", "result", "99.5% interval", "chance", "n")
    return Section("Zero-shot results", (sentence,), columns, table, numbers=(2, 3, 4, 5))


def describe_contamination(manifests: Mapping[str, Manifest], *, only_own: bool = False) -> Section:
    """Return which images of the evaluation sets are in the training data, and what difference they make.

    Args:
        only_own: the manifests before `train` are those of one of several datasets.
    """
    sentences = [*_describe_overlap_filter(manifests, only_own=only_own)]
    searched = "datasets" if only_own else "dataset"
    results = EvaluateFacts.of(manifests["evaluate"]).metrics if "evaluate" in manifests else {}
    if not results:
        return Section("Contamination", [*sentences, "The model was not evaluated."])
    found = {task: result["contamination"] for task, result in results.items() if "contamination" in result}
    if not found:
        sentences.append(
            f"Images of the evaluation sets were not searched for in the {searched}: results may be too high."
        )
        return Section("Contamination", sentences)
    dirty = {task: row for task, row in found.items() if row["overlap"]}
    images = sum(row["n"] for row in found.values())
    sentences.append(
        f"{sum(row['overlap'] for row in dirty.values()):,} of {format_quantity(images, 'image')} of "
        f"{format_quantity(len(found), 'evaluation set')} were found in the {searched}, in {len(dirty):,} of the sets, by "
        "perceptual hashes and an overlay (docs/curate.md)."
    )
    rows = [
        (
            task,
            row["metric"],
            f"{row['overlap']:,}",
            *(format_percent(row[name]) for name in ("all", "clean", "overlap_accuracy")),
            format_interval(row["overlap_low"], row["overlap_high"]),
            "-" if row["p_value"] is None else f"{row['p_value']:.2g}",
            {None: "-", False: "no", True: "yes"}[row["significant_corrected"]],
        )
        for task, row in dirty.items()
    ]
    columns = ("task", "metric", "overlap", "all", "clean", "on overlap", "99.5% interval", "p", "p < 0.05, corrected")
    return Section("Contamination", sentences, columns if rows else (), rows, numbers=range(2, 8))


def _describe_overlap_filter(manifests: Mapping[str, Manifest], *, only_own: bool) -> Iterable[str]:
    """Yield what curate dropped before training."""
    curate = manifests.get("curate")
    if curate is not None and curate.config.get("overlap"):
        count = curate.counts.dropped.get("evaluation_overlap", 0)
        where = " in the run's own dataset" if only_own else ""
        yield f"Images of evaluation sets were searched for{where} before training; pairs dropped for it: {count:,}."


def list_limits(
    manifests: Mapping[str, Manifest], rows: Iterable[Mapping[str, object]], *, only_own: bool = False
) -> list[str]:
    """Return what a user of the model should know."""
    languages = manifests["filter"].config.get("languages") if "filter" in manifests else None
    kept = f"Only captions in {', '.join(languages)} were kept" if languages else "Captions are in any language"
    kept += " in the run's own dataset; the others have the languages of their own configs" if only_own else ""
    sentences = [
        f"{kept}. The language is detected automatically.",
        "Captions are the text of web pages beside an image; nobody has checked that they are true, or kind. The model "
        "repeats what they associate.",
        *describe_steps(manifests.get("curate")),
        "Not for the identification of people, for surveillance, or for decisions about a person.",
        "Similarities are comparable within one call, not across models; probabilities are relative to the given texts.",
    ]
    weak = sorted({str(row["task"]) for row in rows if _is_chance(row)})
    if weak:
        sentences.append(f"No better than chance, within the precision of the suite, on: {', '.join(weak)}.")
    return sentences


def _is_chance(row: Mapping[str, Any]) -> bool:
    if row["metric"] not in ("top1", "image_to_text_R@1") or None in (row["low"], row["chance"]):
        return False
    return row["low"] <= row["chance"]
