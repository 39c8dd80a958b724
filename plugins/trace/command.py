"""`pairmill trace`: prints the ancestry of a pair, a dataset or a model, and what was made from it, as a tree or JSON."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.types import PositiveInt
from rich.text import Text
from rich.tree import Tree

from dataops.errors import ConfigError
from dataops.formatting import format_percent, format_quantity
from dataops.images.decode import ImageRefused
from dataops.regular_files import read_bytes
from dataops.trace.targets import Target, image_targets, parse_target
from flows.commands.options import Json, Name, StoreUri
from flows.commands.output import Output, console, first_of, print_json, show_links, text
from flows.records import known_stores
from infra.local import services
from plugins.trace.tracing import Trace
from tasks.lineage.graph import Lineage
from tasks.register.config import describe_gate
from tasks.search import Search
from tasks.tracking.registry import Registry, is_model

_KEY = re.compile(r"[0-9a-f]{16}")
_WIDTH = 10_000
"""Columns of the output: Rich cuts off what of a tree is wider than its console, and a terminal wraps lines by itself."""
REMOVED_LATER = "in the model, only out of later versions"
EVIDENCE = {
    "http_status": "HTTP {}",
    "bytes": "{:,} bytes",
    "fetched_at": "{}",
    "final_url": "from {}",
    "archive": "read from {}",
}
"""What the tree has of the evidence of a fetch, beside its signals."""
SIGNALS = {"opt_out": "opt-out", "permissions": "permission"}
LISTED = 3
"""Maximum number of source files, and of paths of a pair, that the tree names; --json has all."""


def command(
    what: Name,
    *,
    limit: Annotated[PositiveInt, Parameter(help="Number of pairs to show in full.")] = 20,
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Show where a pair came from and which models were trained on it, or what a model was made from.

    Args:
        what: A uid, URL, domain, image file, model version (models:/name/3, name@alias), or a snapshot's key.
    """
    registry, stores = Registry(), known_stores(services.home(), store)
    found = (_answer(Trace(Lineage(one), Search(one), registry, limit), what) for one in stores)
    answers = [answer for answer in found if answer is not None]
    if not answers:
        searched = ", ".join(one.uri for one in stores)
        raise ConfigError(f"no trace of {what} in {searched}; name another store with --store")
    if json:
        print_json({"what": what, "stores": answers})
        return 0
    out = console(_WIDTH)
    for answer in answers:
        _show(answer, what, out)
    return 0


def _answer(tracer: Trace, what: str) -> dict[str, Any] | None:
    if Path(what).is_file():
        return _or_none(tracer.pairs(_image(Path(what))))
    if is_model(what):
        return tracer.model(what)
    if _KEY.fullmatch(what):
        found = next((m for name, m in tracer.lineage.manifests.items() if name.key == what), None)
        return None if found is None else tracer.snapshot(found)
    try:
        target = parse_target(what)
    except ValueError as error:
        raise ConfigError(
            f"{error}; an image file; a model version (models:/name/3, name@alias); a snapshot's key (16 hex digits)"
        ) from error
    return _or_none(tracer.pairs([target]))


def _image(path: Path) -> list[Target]:
    try:
        return image_targets(read_bytes(path))
    except (ImageRefused, OSError) as error:
        raise ConfigError(f"{path}: not an image that can be searched for: {error}") from error


def _or_none(answer: dict[str, object]) -> dict[str, Any] | None:
    return answer if answer["places"] else None


# Output ---------------------------------------------------------------------------------------------------------------


def _show(answer: Mapping[str, Any], what: str, out: Output) -> None:
    out.write(f"{what} in {answer['store']}", "bold")
    if "pairs" in answer:
        _show_pairs(answer, out)
    else:
        _show_ancestors(answer, out)
    _show_datasets(answer["datasets"], out)
    if answer["registry"] != "asked":
        out.write(f"MLflow was {answer['registry']}: tags and aliases are those of the registration")


def _show_pairs(answer: Mapping[str, Any], out: Output) -> None:
    total = sum(place["rows"] for place in answer["places"])
    out.write(f"{format_quantity(total, 'row')}:")
    for place in answer["places"]:
        verdict = "in dataset" if (place["stage"], place["verdict"]) == ("pack", "kept") else f"{place['verdict']} by"
        out.write(f"  {place['rows']:>9,}  {verdict} {place['stage']}/{place['key']}")
    for pair in answer["pairs"]:
        out.print()
        out.print(_pair_tree(pair))
    if total > len(answer["pairs"]):
        out.print()
        shown = format_quantity(len(answer["pairs"]), "pair")
        out.write(f"Shown in full: {shown}. --limit N shows more, --json all of each.")


def _pair_tree(pair: Mapping[str, Any]) -> Tree:
    distance = f"  (similar image: {pair['apart']} of 64 bits differ)" if pair["apart"] else ""
    tree = Tree(text(f"pair {pair['uid']}{distance}", style="bold"))
    for name in ("caption", "url", "page_url", "license"):
        if pair[name]:
            tree.add(text(f"{name.removesuffix('_url'):<8}{pair[name]}"))
    if pair["source"]:
        where = f" at {pair['source_unit']} {pair['source_offset']:,}" if pair["source_offset"] is not None else ""
        name = f"{pair['source_name']}: " if pair["source_name"] else ""
        file = pair["source"].removeprefix(f"{pair['source_name']}/")
        tree.add(text(f"{'source':<8}{name}{file}{where} ({pair['extracted_with']}, {pair['caption_source']})"))
    shown = first_of(pair["ways"], LISTED)
    for number, path in enumerate(shown, 1):
        position = f" ({number} of {len(pair['ways'])})" if len(pair["ways"]) > 1 else ""
        branch = tree.add(text(f"path{position}"))
        for step in path:
            _add_step(branch, step, pair["source"])
    if more := len(pair["ways"]) - len(shown):
        tree.add(text(f"and {format_quantity(more, 'more path')}, by other configs; --json has all"))
    return tree


def _add_step(branch: Tree, step: Mapping[str, Any], source: str | None) -> None:
    """Add the verdict of a stage; `source` is that of the pair, which another source may have too."""
    verdict = "kept" if step["verdict"] == "kept" else f"dropped: {step['reason']}"
    member = f", {step['shard']} member {step['member']}.*" if step.get("shard") else ""
    deleted = " (this snapshot is no longer in the store)" if step.get("gone") else ""
    style = "green" if step["verdict"] == "kept" else "red"
    line = Text.assemble(text(f"{step['stage']:<9}{step['key']}  "), text(verdict, style), text(member + deleted))
    node = branch.add(line)
    if step.get("source") not in (None, source):
        node.add(text(f"from {step['source']}"))
    if step.get("error_message"):
        node.add(text(step["error_message"]))
    if evidence := step.get("evidence"):
        if facts := [form.format(evidence[name]) for name, form in EVIDENCE.items() if evidence.get(name)]:
            node.add(text("fetched: " + ", ".join(facts)))
        for column, kind in SIGNALS.items():
            for found in evidence.get(column, ()):
                node.add(text(f"{kind} {found['signal']}: {found['detail']}, in {found['where']}"))


def _show_ancestors(answer: Mapping[str, Any], out: Output) -> None:
    if "model" in answer:
        out.print(_model_line(answer["model"]))
        show_links(answer["model"]["links"], out)
    tree = Tree(text("made from", style="bold"))
    for stage in answer["stages"]:
        counts = stage["counts"]
        kept = f"{counts['kept']:,} of {counts['input']:,}" if counts["input"] else ""
        commit = f"  commit {stage['commit'][:10]}" if stage["commit"] else ""
        tree.add(text(f"{stage['stage']:<9}{stage['key']}  {stage['created_at'][:19]}  {kept:>24}{commit}"))
    for name in answer["gone"]:
        tree.add(text(f"{name} is no longer in the store (gc, or a takedown with --delete-raw)"))
    for source in answer["named_sources"]:
        packed = f", {format_quantity(source['packed'], 'pair')} in the dataset" if source["packed"] is not None else ""
        files = format_quantity(source["files"], "file")
        branch = tree.add(text(f"source {source['name']}: {files} of kind {source['kind']}{packed}"))
        if source["license"]:
            branch.add(text(f"licence {source['license']}"))
    files = tree.add(text(format_quantity(answer["source_files"], "source file")))
    shown = first_of(answer["sources"], LISTED)
    for source in shown:
        files.add(text(source["source"]))
    if (more := answer["source_files"] - len(shown)) > 0:
        where = "--json has all" if len(answer["sources"]) == answer["source_files"] else "--json --limit N has N"
        files.add(text(f"and {more:,} more ({where})"))
    out.print(tree)


def _show_datasets(datasets: Sequence[Mapping[str, Any]], out: Output) -> None:
    for dataset in datasets:
        out.print()
        matching = f", {dataset['pairs']:,} of them matching" if dataset["pairs"] is not None else ""
        after = f", after takedown {', '.join(dataset['takedowns'])}" if dataset["takedowns"] else ""
        title = f"dataset {dataset['key']}: {format_quantity(dataset['samples'], 'pair')}{matching}{after}"
        tree = Tree(text(title, style="bold"))
        tree.add(text(f"digest  {dataset['digest']}"))
        for training in dataset["trainings"]:
            share = f", {format_percent(training['share'])} of its samples" if training["share"] < 1 else ""
            line = f"train {training['key']}: {training['model']}, {training['created_at'][:19]}{share}"
            branch = tree.add(text(line))
            for request in training["removed_later"]:
                branch.add(text(f"takedown {request}: {REMOVED_LATER}"))
            for sentence in training["stated"]:
                branch.add(text(sentence))
            for evaluation in training["evaluations"]:
                branch.add(text(f"evaluate {evaluation}"))
            for model in training["models"]:
                branch.add(_model_line(model))
        for model in dataset["models"]:
            tree.add(_model_line(model))
        if not dataset["trainings"] and not dataset["models"]:
            tree.add(text("no model was trained on it"))
        out.print(tree)


def _model_line(model: Mapping[str, Any]) -> Text:
    aliases = "".join(f" @{alias}" for alias in model["aliases"])
    gate = f"  {describe_gate(model['tags']['gate'])}" if model["tags"].get("gate") else ""
    gate += f"  decided by experiment {model['decided_by']}" if model.get("decided_by") else ""
    removed = (
        f"  was trained on pairs that takedown {model['tags']['takedowns']} removed"
        if model["tags"].get("takedowns")
        else ""
    )
    return Text.assemble(text(f"model {model['uri']}", style="bold"), text(f"{aliases}{gate}{removed}"))
