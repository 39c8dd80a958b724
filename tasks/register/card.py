"""The card of a model as one Markdown document: what it is, its lineage, data, recipe, results, limits and rights.

`Card.markdown` is the whole document, for people and for the Hugging Face Hub, whose fields are its
front matter. `Card.summary` is its beginning, for the pages of a run and of a version in MLflow.
Each sentence follows from the manifests, also about checks that were not made.

Sources: Mitchell et al. 2019, "Model Cards for Model Reporting", for the sections; Hugging Face Hub documentation, "Model
cards", for the front matter, whose model-index is that of Papers with Code.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from dataops.escaping import escape_markdown
from dataops.facts import EvaluateFacts, PackFacts, TrainFacts, funnel_stages
from dataops.formatting import (
    format_counts,
    format_interval,
    format_percent,
    format_quantity,
    format_share,
    rank_counts,
)
from dataops.plugins import load, targets
from dataops.redaction import redact
from dataops.rights.licenses import (
    ROW_TITLES,
    DeclaredLicense,
    list_licenses,
    list_rows,
    name_stated,
    state_facts,
    state_weight_facts,
)
from dataops.snapshot import Manifest
from dataops.stages import SOURCE, STAGES
from dataops.trace.sources import TrainingDataset, describe_sources, list_named_sources, list_sources, stored_manifests
from tasks.curate.step import describe_steps
from tasks.register.config import describe_gate
from tasks.reports.page import Section, make_link, render, render_document, shorten
from tasks.tracking.run_metadata import count_training_pairs, model_name

LISTED = 8
"""Number of values of a kind that a table has, and of drop reasons of a stage."""
LISTED_LICENSES = 12
SUMMARY_LENGTH = 5000
"""Limit for the description of a model version in MLflow's database."""
NO_LICENSE = "Its owner has stated no licence for the weights."
TAGS = ("clip", "zero-shot-image-classification", "pairmill")
PAGES = {
    "pack": "dataset.html",
    "evaluate": "evaluation.html",
    "config": "config.json",
}
"""Path in the MLflow run of what a row of the lineage links to, beside `stage_pages`."""
_SHOWN_CONFIG = {
    "filter": ("languages", "dedupe", "near_captions", "balance"),
    "download": ("image_size", "resize_mode", "encode_format", "opt_out"),
    "curate": ("min_side", "max_aspect_ratio", "near_duplicate_distance", "same_caption"),
    "pack": ("shard_size",),
    "train": ("model", "image_size", "epochs", "batch_size", "lr", "weight_decay", "device"),
}


def stage_pages() -> dict[str, str]:
    """Return the artefact with the page of each stage that has one, by the name of the stage."""
    return {stage: f"{stage}.html" for stage in targets("pages")}


@dataclass(frozen=True)
class Card:
    """The facts that a card is made of.

    Args:
        manifests: of all stages before register, by stage.
        rows: of `training.evaluation.intervals.flatten_metrics`.
        gate: the verdict of the gate.
        description: of the config, Markdown of its owner.
        license: of the model's weights, as its owner states it.
    """

    name: str
    manifests: Mapping[str, Manifest]
    rows: Sequence[Mapping[str, Any]]
    gate: str
    description: str = ""
    license: str = ""
    datasets: Sequence[TrainingDataset] = ()
    """Those of the training; empty: only that of its run."""
    version: str = ""
    registered: str = ""
    """Date of the registration."""
    config_hash: str = ""
    commit_url: str = ""
    """Page of the commit, if the checkout has one."""
    comparisons: Sequence[str] = ()
    """One sentence for each comparison with the version that had the alias."""
    decided_by: str = ""
    """Experiment that decided the config."""
    link: Callable[[str], str] | None = None
    """Returns what leads to a file of the model's MLflow run; None: there is no such run."""

    @property
    def packs(self) -> list[Manifest]:
        """Manifests of the datasets of the training, that of its run first."""
        return stored_manifests(self.datasets) or [self.manifests["pack"]]

    @property
    def is_mixture(self) -> bool:
        """Whether the model was trained on several datasets, of which the stages before made only one."""
        return len(self.datasets) > 1

    def sections(self) -> list[Section]:
        """Return all sections but the head."""
        train = self.manifests["train"]
        return [
            self.lineage(),
            _training_data(self.manifests),
            *([_list_datasets(self.datasets)] if self.is_mixture else []),
            *_sources(self.manifests, only_own=self.is_mixture),
            *_rankings(self.packs),
            *_list_licenses(self.packs),
            _recipe(self.manifests),
            *_list_weights(train),
            *_show_holdout(train),
            *(section for write in load("card_sections").values() for section in write(train)),
            *([_scores(self.rows, self.comparisons)] if self.rows else []),
            describe_contamination(self.manifests, only_own=self.is_mixture),
            Section("Limits", list_limits(self.manifests, self.rows, only_own=self.is_mixture)),
            Section("Licence and rights", list_rights(self.packs, self.license, train)),
        ]

    def title(self) -> str:
        """Return the name of the model, with its version if it is registered."""
        return f"{self.name}, version {self.version}" if self.version else self.name

    def headline(self) -> str:
        """Return the model, the number of its training pairs, the dates and the gate's verdict."""
        train = self.manifests["train"]
        model, gate = model_name(train), describe_gate(self.gate)
        dates = f"Trained on {train.created_at[:10]}"
        dates += f", registered on {self.registered}." if self.registered else "."
        count = format_quantity(count_training_pairs(self.manifests), "pair")
        datasets = f" in {len(self.datasets)} datasets" if self.is_mixture else ""
        pairs = f"CLIP {model}, trained on {count} of image and caption{datasets}."
        return f"{pairs} {dates} {gate[0].upper()}{gate[1:]}."

    def markdown(self) -> str:
        """Return the whole document, after its front matter."""
        datasets = [f"pack/{pack.key}" for pack in self.packs]
        languages = merge_counts(self.packs, "languages")
        fields = describe_model(self.name, self.manifests, self.rows, self.license, datasets, languages)
        return f"{write_front_matter(fields)}# {escape_markdown(self.title())}\n\n{self._body()}"

    def html(self) -> str:
        """Return the document as a page."""
        return render_document(f"Model card: {self.title()}", self._body())

    def summary(self, links: Mapping[str, str], main: Collection[str]) -> str:
        """Return the description of a run and a version in MLflow: whole lines, at most SUMMARY_LENGTH characters.

        Lists of versions show its beginning as it is, so the first sentences have no markup. The
        main results come first, and what does not fit is left out from the end.

        Args:
            links: of further pages, by title.
            main: keys of the metrics that it has.
        """
        linked = " · ".join(f"[{name}]({url})" for name, url in links.items())
        datasets = [_list_datasets(self.datasets)] if self.is_mixture else [_training_data(self.manifests)]
        results = [row for row in self.rows if row["key"] in main]
        sections = [*([_scores(results, self.comparisons)] if results else []), self.lineage(), *datasets]
        more = ""
        while True:
            # MLflow's style sheet sets no space between the columns of a table
            found = _write(sections, self.headline(), links=linked, space="&emsp;")
            text = f"{self.description}\n\n{found}".strip() + more
            if len(text) <= SUMMARY_LENGTH or not sections:
                return text if len(text) <= SUMMARY_LENGTH else text[: SUMMARY_LENGTH - 2].rpartition("\n")[0] + "\n…"
            more, last = "\n\n…", sections.pop()
            if len(last.rows) > 1:
                sections.append(replace(last, rows=last.rows[:-1]))

    def _body(self) -> str:
        return _write(self.sections(), self.headline(), description=self.description)

    def lineage(self) -> Section:
        """Return the table that leads from the model stage by stage down to its source files."""
        rows = [
            (make_link(name, self.link(page)) if page and self.link else name, *cells)
            for name, page, *cells in self._lineage_rows()
        ]
        if self.commit_url:
            rows = [(make_link("code", self.commit_url), *row[1:]) if row[0] == "code" else row for row in rows]
        note = ["The stages of the run's own dataset; `pairmill trace` names those of the others."]
        columns = ("", "identity", "rows in", "kept", "dropped, or what it is")
        return Section("Lineage", note if self.is_mixture else [], columns, rows, numbers=(2, 3))

    def _lineage_rows(self) -> Iterator[tuple[str, str, str, str, str, str]]:
        """Yield name, page, identity, rows in, rows kept, and a note of each of the model's ancestors, sources last."""
        yield from [("decided by", "", "", "", "", f"experiment {self.decided_by}")] if self.decided_by else []
        found, pages = self.manifests, PAGES | stage_pages()
        funnel = {stage["stage"]: stage for stage in funnel_stages(found.values())}
        for stage, manifest in ((name, found[name]) for name in reversed(STAGES) if name in found):
            page = pages.get(stage, "")
            if stage == "pack" and not manifest.named(page):  # made by an earlier version of pairmill
                page = "manifests/pack.json"
            if stage in funnel:
                counts = f"{manifest.counts.input:,}", f"{manifest.counts.kept:,}"
                note = _count_reasons(funnel[stage]["reasons"])
            else:
                counts, note = ("", ""), model_name(manifest) if stage == "train" else ""
            if stage == "evaluate":
                note = format_quantity(len(EvaluateFacts.of(manifest).metrics), "task")
            yield stage, page, manifest.key, *counts, note
            for source in manifest.inputs:
                if source.stage == "suite":
                    yield "suite", PAGES["evaluate"], source.digest[:16], "", "", source.key
                if stage == "filter" and manifest.config.get("balance") and source.stage == SOURCE:
                    yield "word list", pages.get("filter", ""), source.digest[:16], "", "", source.key
        yield from self._source_rows(found["extract"], pages.get("extract", "")) if "extract" in found else ()
        code = found["train"].code if "train" in found else {}
        dirty = "git commit with changes" if code.get("dirty") else "git commit"
        yield from [("code", "", str(code["commit"])[:16], "", "", dirty)] if code.get("commit") else []
        yield from [("config", PAGES["config"], self.config_hash, "", "", "")] if self.config_hash else []

    def _source_rows(self, extract: Manifest, page: str) -> Iterator[tuple[str, str, str, str, str, str]]:
        """Yield the same of each source and of its first files."""
        sources = list_sources(extract)
        for source in sources:
            yield f"source {source.name}".strip(), page, "", "", "", source.describe()
        files = [one for one in extract.inputs if one.stage == SOURCE]
        for one in files[:LISTED]:
            yield "source file", page, one.digest[:16], "", "", redact(one.key)
        if more := len(files) - LISTED if len(files) > LISTED else 0:
            yield f"{more:,} more files", page, "", "", "", ""


def _write(
    sections: Sequence[Section], headline: str, *, description: str = "", links: str = "", space: str = ""
) -> str:
    from markupsafe import Markup  # what was escaped already

    values = {"links": Markup(links), "space": Markup(space), "description": description}
    return render("card.md", headline=headline, sections=sections, **values)


def _count_reasons(reasons: Mapping[str, int]) -> str:
    """Return the most frequent drop reasons with their counts, and the others together."""
    found = list(reasons.items())
    if rest := sum(count for _, count in found[LISTED:]):
        found[LISTED:] = [("other reasons", rest)]
    return format_counts(found) or "-"


def write_front_matter(fields: Mapping[str, Any]) -> str:
    """Return the fields of a card as YAML, with the two lines that delimit it."""
    return f"---\n{yaml.safe_dump(dict(fields), sort_keys=False, width=100)}---\n"


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


def merge_counts(packs: Sequence[Manifest], kind: str) -> dict[str, int]:
    """Return the counts of a kind in the facts of datasets, summed, most frequent first; empty if one does not count it."""
    found: list[dict[str, int]] = [getattr(PackFacts.of(pack), kind) for pack in packs]
    if not all(found) or len(found) == 1:
        return found[0] if len(found) == 1 else {}
    merged = sum((Counter(counts) for counts in found), Counter[str]())
    return dict(rank_counts(merged))


def _count_pairs(packs: Sequence[Manifest]) -> int:
    return sum(pack.counts.kept for pack in packs)


def _merge_licenses(packs: Sequence[Manifest]) -> list[DeclaredLicense]:
    """Return the declared licences of the pairs of all datasets; none if one of them does not count licences."""
    counts = merge_counts(packs, "licenses")
    return list_licenses(counts, _count_pairs(packs)) if counts else []


def _list_licenses(packs: Sequence[Manifest]) -> list[Section]:
    """Return the table of the declared licences with their terms, if the datasets count them."""
    rows = list_rows(_merge_licenses(packs), max(_count_pairs(packs), 1))
    more = (
        [f"And {len(rows) - LISTED_LICENSES:,} more licences; LICENSE has all."] if len(rows) > LISTED_LICENSES else []
    )
    return [Section("Declared licences", more, ROW_TITLES, rows[:LISTED_LICENSES], numbers=(2, 3))] if rows else []


def list_rights(packs: Sequence[Manifest], license_: str, train: Manifest | None = None) -> list[str]:
    """Return what is known of the licences of the weights and of the data, and how to take data out."""
    first = f"Licence of the weights: {license_}." if license_ else NO_LICENSE
    sentences = [first]
    if weights := [] if train is None else TrainFacts.of(train).weights:
        stated = (f"{one.name}: {one.license or 'not stated'}" for one in weights)
        sentences.append(f"Licences of the pretrained weights in it: {', '.join(stated)}.")
        sentences += state_weight_facts((one.name, one.license) for one in weights)
    if licenses := _merge_licenses(packs):
        kept = _count_pairs(packs)
        licensed = kept - sum(one.pairs for one in licenses if not one.license)
        sentences.append(
            f"For {licensed:,} of {kept:,} training pairs a licence was declared beside the image or on its page."
        )
        sentences += state_facts(licenses, kept)
    sentences.append(
        "`pairmill trace` names the pairs that this model was trained on; `pairmill takedown` removes pairs from later "
        "models."
    )
    return sentences


def _recipe(manifests: Mapping[str, Manifest]) -> Section:
    """Return the most important settings; the params of the MLflow run have all."""
    rows = [
        (stage, name, redact(_format_setting(manifests[stage].config[name])))
        for stage, names in _SHOWN_CONFIG.items()
        if stage in manifests
        for name in names
        if manifests[stage].config.get(name) is not None
    ]
    precision = TrainFacts.of(manifests["train"]).precision or "unknown precision"
    processor = TrainFacts.of(manifests["train"]).processor or "an unknown processor"
    code = describe_code(manifests["train"].code)
    sentences = [f"Trained in {precision} on {processor}. Code: {code}. All settings are params of the MLflow run."]
    sentences.append(
        "A key identifies what was asked for, a content digest what came out: bits depend on the processor."
    )
    return Section("How it was made", sentences, ("stage", "setting", "value"), rows)


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


def _show_holdout(train: Manifest) -> list[Section]:
    """Return the curve on the held-out pairs, if there are any."""
    if (found := TrainFacts.of(train).holdout) is None:
        return []
    names = ("holdout_loss", "holdout_mean_R_at_1")
    rows = [(f"{row['step']:,.0f}", f"{row[names[0]]:.4f}", format_percent(row[names[1]])) for row in found.curve]
    about = (
        f"Measured on {found.pairs:,} pairs that were never trained on. The model is that of step {found.kept_step:,}."
    )
    ended = ["The training ended early, since the loss of these pairs did not fall any more."] * found.ended_early
    return [Section("Held-out pairs", (about, *ended), ("step", "loss", "R@1"), rows, numbers=(0, 1, 2))]


def describe_code(code: Mapping[str, Any]) -> str:
    """Return the release that made a snapshot, and the git commit if it was a checkout or an image."""
    dirty = ", with changes that were not committed" if code.get("dirty") else ""
    commit = f", git commit `{code['commit']}`{dirty}" if code.get("commit") else ""
    return f"pairmill {code.get('release', '0.1')}{commit}"


def _format_setting(value: object) -> str:
    return shorten(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), 160)


def _scores(rows: Sequence[Mapping[str, Any]], comparisons: Sequence[str]) -> Section:
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
    return Section("Zero-shot results", (sentence, *comparisons), columns, table, numbers=(2, 3, 4, 5))


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
        "perceptual hashes and an overlay (docs/clean/curate.md)."
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
    manifests: Mapping[str, Manifest], rows: Iterable[Mapping[str, Any]], *, only_own: bool = False
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
    if row["metric"] not in ("top1", "image_to_text_R_at_1") or None in (row["low"], row["chance"]):
        return False
    return row["low"] <= row["chance"]


def describe_model(
    name: str,
    manifests: Mapping[str, Manifest],
    rows: Sequence[Mapping[str, Any]],
    license_: str,
    datasets: Iterable[str],
    languages: Iterable[str],
) -> dict[str, Any]:
    """Return the fields of a card.

    Args:
        manifests: of the stages before register, by stage.
        rows: of `training.evaluation.intervals.flatten_metrics`.
        license_: of the weights, as their owner states it; "" if it is not stated.
        datasets: names of the training data.
        languages: of the captions.
    """
    known = sorted(
        {found[1] for one in languages if (found := re.fullmatch(r"([a-z]{2,3})(?:[-_]\w+)*", one, re.ASCII))}
    )
    training = manifests["train"].config if "train" in manifests else {}
    init = str(training.get("init") or "")
    base = init.removeprefix("hf-hub:").partition("@")[0] if init.startswith("hf-hub:") else None
    # open_clip has no networks but its own.
    is_plain = not (training.get("text_init") or training.get("image_init"))
    return {
        **(name_stated(license_) if license_.strip() else {}),
        **({"language": known} if known else {}),
        "library_name": "open_clip" if is_plain else "pairmill",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": [*TAGS, "open_clip"] if is_plain else list(TAGS),
        **({"datasets": found} if (found := list(datasets)) else {}),
        **({"base_model": base} if base else {}),
        **({"model-index": [{"name": _plain(name), "results": _list_results(rows)}]} if rows else {}),
    }


def _list_results(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a result for each task, with its metrics."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        task, metric = _plain(str(row["task"])), _plain(str(row["metric"]))
        kind = (
            "image-text-retrieval"
            if re.fullmatch(r"(image_to_text|text_to_image)_.*", metric)
            else "zero-shot-image-classification"
        )
        slug = task.replace(" ", "-")
        result = {"task": {"type": kind}, "dataset": {"name": task, "type": slug}, "metrics": []}
        value = {"type": metric, "name": metric, "value": float(row["value"]), "verified": False}
        found.setdefault(f"{task}/{kind}", result)["metrics"].append(value)
    return list(found.values())


def _plain(text: str) -> str:
    """Return a name without characters that Markdown or HTML may interpret; a viewer may show front matter as text."""
    return re.sub(r"[^\w .:/@-]+", "-", text, flags=re.ASCII).strip("- ")[:100] or "unnamed"
