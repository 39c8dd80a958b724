"""The model card: what the model is, what it was made of, how good it is, what it is not for. As HTML and as Markdown.

Each sentence follows from the manifests; what was not looked for is said too. Whatever comes from the web or a config is
text: escaped for the place where it stands.

Source: Mitchell et al. 2019, "Model Cards for Model Reporting", for the sections.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dataops.escaping import markdown
from dataops.formatting import format_counts, format_interval, format_percent, format_share
from dataops.funnel import funnel_stages
from dataops.redaction import redact
from dataops.snapshot import Manifest
from tasks.register.svg_lineage import graph_svg
from tasks.reports.page import page, text
from tasks.tracking.run_metadata import model_name

LISTED = 8
_STYLE = "<style>li { overflow-wrap: anywhere; }</style>"
_SHOWN_CONFIG = {
    "filter": ("languages", "dedupe", "near_captions", "balance"),
    "download": ("image_size", "resize_mode", "encode_format", "opt_out"),
    "curate": ("min_side", "max_aspect_ratio", "near_duplicate_distance", "same_caption"),
    "pack": ("shard_size",),
    "train": ("model", "epochs", "batch_size", "lr", "weight_decay", "device"),
}


@dataclass(frozen=True)
class Section:
    """A heading, sentences, and a table: its columns and rows of plain values."""

    title: str
    said: Sequence[str] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


@dataclass(frozen=True)
class Card:
    """What a card is made of.

    Args:
        manifests: of all stages below register, by stage.
        rows: of `training.evaluation.intervals.flatten_metrics`.
        gate: what the gate said.
        about: the description of the config, Markdown of its owner.
        license: of the model's weights, as its owner states it.
    """

    name: str
    manifests: Mapping[str, Manifest]
    rows: Sequence[Mapping[str, Any]]
    gate: str
    about: str = ""
    license: str = ""

    def sections(self) -> list[Section]:
        """All sections but the head."""
        return [
            _data(self.manifests),
            *_listed(self.manifests),
            _funnel(self.manifests),
            _recipe(self.manifests),
            _scores(self.rows),
            contamination(self.manifests),
            Section("Limits", limits(self.manifests, self.rows)),
            Section("Licence and rights", rights(self.manifests, self.license)),
        ]

    def headline(self) -> str:
        """One sentence."""
        pack, train = self.manifests["pack"], self.manifests["train"]
        model = model_name(train.config)
        return f"CLIP {model}, trained on {pack.counts.kept:,} pairs of picture and caption. Gate: {self.gate}."

    def html(self) -> str:
        """The page, with the stage graph in it."""
        parts = [_STYLE, f"<h1>{text(self.name)}</h1>", f'<p class="note">{text(self.headline())}</p>']
        if self.about:
            parts.append(f"<p>{text(self.about)}</p>")
        parts += ["<h2>From archive to model</h2>", graph_svg(self.manifests, self.name)]
        for section in self.sections():
            parts.append(f"<h2>{text(section.title)}</h2>")
            if section.said:
                parts.append(f"<ul>{''.join(f'<li>{text(one)}</li>' for one in section.said)}</ul>")
            if section.rows:
                parts.append(_html_table(section))
        return page(f"Model card: {self.name}", parts)

    def markdown(self) -> str:
        """The same without the graph."""
        blocks = [f"# {markdown(self.name)}", markdown(self.headline())]
        blocks += [markdown(self.about)] if self.about else []
        for section in self.sections():
            blocks.append(f"## {section.title}")
            if section.said:
                blocks.append("\n".join(f"- {markdown(one)}" for one in section.said))
            if section.rows:
                lines = [section.columns, ["---"] * len(section.columns)]
                lines += [[markdown(cell) for cell in row] for row in section.rows]
                blocks.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
        return "\n\n".join(blocks) + "\n"


def _html_table(section: Section) -> str:
    numeric = [all(_is_number(row[place]) for row in section.rows) for place in range(len(section.columns))]
    style = [' class="n"' if number else "" for number in numeric]
    style[0] = ' class="name"'
    head = "".join(f"<th{s}>{text(c)}</th>" for s, c in zip(style, section.columns, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{s}>{text(cell)}</td>" for s, cell in zip(style, row, strict=True)) + "</tr>"
        for row in section.rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _is_number(cell: str) -> bool:
    return (
        cell.strip("-").replace(",", "").replace(".", "").replace("%", "").replace(" – ", "").isdigit() or cell == "-"
    )


def _data(manifests: Mapping[str, Manifest]) -> Section:
    pack = manifests["pack"]
    said = [
        f"Dataset {pack.key}, content digest {pack.content_digest}.",
        f"{pack.counts.kept:,} pairs in {len(pack.named('', '.tar')):,} shards, seed {pack.seed}.",
    ]
    if "extract" in manifests:
        count = sum(i.stage == "source" for i in manifests["extract"].inputs)
        kind = manifests["extract"].config.get("kind", "unknown")
        said.append(f"Read from {count:,} source file{'s' * (count != 1)} of kind {kind}.")
    if taken := [i.key for i in pack.inputs if i.stage == "takedown"]:
        said.append(f"Takedown requests heeded: {', '.join(taken)}.")
    return Section("Training data", said)


def _listed(manifests: Mapping[str, Manifest]) -> list[Section]:
    """The most frequent languages, hosts and licences, where the dataset's manifest counts them."""
    facts, kept = manifests["pack"].facts, max(manifests["pack"].counts.kept, 1)
    found: list[Section] = []
    for kind, column in (("languages", "language"), ("hosts", "host"), ("licenses", "licence")):
        counted = facts.get(kind)
        if isinstance(counted, dict) and counted:
            rows = [(name or "none", f"{n:,}", format_share(n, kept)) for name, n in list(counted.items())[:LISTED]]
            title = {"languages": "Languages", "hosts": "Hosts", "licenses": "Declared licences"}[kind]
            found.append(Section(title, (), (column, "pairs", "share"), rows))
    return found


def _funnel(manifests: Mapping[str, Manifest]) -> Section:
    rows = []
    for stage in funnel_stages(manifests.values()):
        reasons = format_counts(list(stage["reasons"].items())[:LISTED]) or "-"
        rows.append((stage["stage"], f"{stage['input']:,}", f"{stage['kept']:,}", reasons))
    return Section("Funnel", (), ("stage", "in", "kept", "dropped because"), rows)


def _recipe(manifests: Mapping[str, Manifest]) -> Section:
    """The settings that say most; the run's params have all."""
    rows = [
        (stage, name, redact(_shown(manifests[stage].config[name])))
        for stage, names in _SHOWN_CONFIG.items()
        if stage in manifests
        for name in names
        if manifests[stage].config.get(name) is not None
    ]
    code = manifests["train"].code
    dirty = ", with changes that were not committed" if code.get("dirty") else ""
    precision = manifests["train"].facts.get("precision", "unknown precision")
    commit = f"Code: commit {code.get('commit') or 'unknown'}{dirty}."
    said = [f"Trained in {precision}. {commit} All settings are params of the MLflow run."]
    return Section("How it was made", said, ("stage", "setting", "value"), rows)


def _shown(value: Any) -> str:
    said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return said if len(said) <= 160 else said[:159] + "…"


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
    said = (
        "Intervals cover 99.5% and speak of the drawing of test examples only: another seed or dataset may move a result "
        "further.",
    )
    return Section("Zero-shot results", said, ("task", "metric", "result", "99.5% interval", "chance", "n"), table)


def contamination(manifests: Mapping[str, Manifest]) -> Section:
    """What of the results may be owed to pictures that are in the training data: what was looked for, and found."""
    said = [*_left_out(manifests)]
    results = manifests["evaluate"].facts.get("metrics", {})
    found = {task: result["contamination"] for task, result in results.items() if "contamination" in result}
    if not found:
        said.append("Pictures of the evaluation sets were not looked for in the dataset: results may be too good.")
        return Section("Contamination", said)
    dirty = {task: row for task, row in found.items() if row["overlap"]}
    images = sum(row["n"] for row in found.values())
    said.append(
        f"{sum(row['overlap'] for row in dirty.values()):,} of {images:,} pictures of {len(found):,} evaluation sets were "
        f"found in the dataset, in {len(dirty):,} of the sets, by perceptual hashes and an overlay (docs/curate.md)."
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
    return Section("Contamination", said, columns if rows else (), rows)


def _left_out(manifests: Mapping[str, Manifest]) -> Iterable[str]:
    """What curation looked for before training."""
    curate = manifests.get("curate")
    if curate is not None and curate.config.get("overlap"):
        number = curate.counts.dropped.get("evaluation_overlap", 0)
        yield f"Pictures of evaluation sets were looked for before training; {number:,} pairs were left out for it."


def limits(manifests: Mapping[str, Manifest], rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """What a user of the model should know."""
    languages = manifests["filter"].config.get("languages") if "filter" in manifests else None
    spoken = f"Captions were kept in {', '.join(languages)} only" if languages else "Captions are of any language"
    said = [
        f"{spoken}, as a detector told them.",
        "Captions are what web pages say beside a picture; nobody has checked that they are true, or kind. The model "
        "repeats what they associate.",
        "Not for the identification of people, for surveillance, or for decisions about a person.",
        "Similarities are comparable within one call, not across models; probabilities are relative to the texts given.",
    ]
    weak = sorted({str(row["task"]) for row in rows if _is_chance(row)})
    if weak:
        said.append(f"No better than chance, as far as the suite can tell, on: {', '.join(weak)}.")
    return said


def _is_chance(row: Mapping[str, Any]) -> bool:
    return row["metric"] in ("top1", "image_to_text_R@1") and None not in (row["low"], row["chance"]) and (
        row["low"] <= row["chance"]
    )  # fmt: skip


def rights(manifests: Mapping[str, Manifest], license_: str) -> list[str]:
    """What is known of licences and wishes."""
    said = [f"Licence of the weights: {license_}." if license_ else "Its owner has stated no licence for the weights."]
    licenses = manifests["pack"].facts.get("licenses")
    if isinstance(licenses, dict):
        kept = manifests["pack"].counts.kept
        known = kept - int(licenses.get("", 0))
        said.append(
            f"For {known:,} of {kept:,} training pairs a licence was declared beside the picture or on its page."
        )
    said.append(
        "`pairmill trace` names the pairs that this model saw; `pairmill takedown` removes pairs from later ones."
    )
    return said
