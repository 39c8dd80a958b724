"""`pairmill trace`: where a pair came from and what became of it, what a model was made of; as a tree, or as JSON."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from dataops.errors import ConfigError
from dataops.images.decode import ImageRefused
from dataops.trace.targets import Target, image_targets, parse_target
from flows.commands.output import console, print_json, text
from flows.records import stores
from tasks.lineage.graph import Lineage
from tasks.lineage.search import Search
from tasks.lineage.trace import Trace, is_model
from tasks.tracking.registry import Registry

_KEY = re.compile(r"[0-9a-f]{16}")
SHOWN = 3
"""Addresses of archives and pairs' further ways that the tree names; --json has all."""


def trace(what: str, home: Path, store_uri: str | None, *, limit: int, index: bool, as_json: bool) -> int:
    """Look in all known stores and print what they know; 2 where none knows anything.

    Args:
        what: a uid, address, domain, image file, model version, or the key of a snapshot.

    Raises: ConfigError when it is none of these, or nothing is found.
    """
    registry = Registry()
    answers = []
    for store in stores(home, store_uri):
        tracer = Trace(Lineage(store), Search(store, make=index), registry, limit)
        if (answer := _answer(tracer, what)) is not None:
            answers.append(answer)
    if not answers:
        searched = ", ".join(store.uri for store in stores(home, store_uri))
        raise ConfigError(f"nothing is known of {what} in {searched}; --store names another")
    if as_json:
        print_json({"what": what, "stores": answers})
        return 0
    out = console()
    for answer in answers:
        _show(answer, what, out)
    return 0


def _answer(tracer: Trace, what: str) -> dict[str, Any] | None:
    if Path(what).is_file():
        return _found(tracer.pairs(_image(Path(what))))
    if is_model(what):
        return tracer.model(what)
    if _KEY.fullmatch(what):
        found = next((m for name, m in tracer.lineage.manifests.items() if name.key == what), None)
        return None if found is None else tracer.snapshot(found)
    try:
        target = parse_target(what)
    except ValueError as error:
        raise ConfigError(
            f"{error}; an image file that exists; a model version (models:/name/3, name@alias); a snapshot's key (16 hex)"
        ) from error
    return _found(tracer.pairs([target]))


def _image(path: Path) -> list[Target]:
    try:
        return image_targets(path.read_bytes())
    except (ImageRefused, OSError) as error:
        raise ConfigError(f"{path}: not an image that can be looked for: {error}") from error


def _found(answer: dict[str, Any]) -> dict[str, Any] | None:
    return answer if answer["places"] else None


# What is printed ------------------------------------------------------------------------------------------------------


def _show(answer: Mapping[str, Any], what: str, out: Console) -> None:
    out.print(text(f"{what} in {answer['store']}", style="bold"), soft_wrap=True)
    if "pairs" in answer:
        _show_pairs(answer, out)
    else:
        _show_made_of(answer, out)
    _show_datasets(answer["datasets"], out)
    if answer["registry"] != "asked":
        out.print(text(f"MLflow was {answer['registry']}: versions are told as they were registered"), soft_wrap=True)


def _show_pairs(answer: Mapping[str, Any], out: Console) -> None:
    in_all = sum(place["rows"] for place in answer["places"])
    out.print(text(f"{in_all:,} {_plural('row', in_all)}:"))
    for place in answer["places"]:
        what = "in dataset" if (place["stage"], place["verdict"]) == ("pack", "kept") else f"{place['verdict']} by"
        out.print(text(f"  {place['rows']:>9,}  {what} {place['stage']}/{place['key']}"))
    for pair in answer["pairs"]:
        out.print()
        out.print(_pair_tree(pair), soft_wrap=True)
    if in_all > len(answer["pairs"]):
        out.print()
        told = len(answer["pairs"])
        out.print(text(f"Told in full: {told} {_plural('pair', told)}. --limit N tells more, --json all of each."))


def _pair_tree(pair: Mapping[str, Any]) -> Tree:
    near = f"  (looks alike: {pair['apart']} of 64 bits differ)" if pair["apart"] else ""
    tree = Tree(text(f"pair {pair['uid']}{near}", style="bold"))
    for name in ("caption", "url", "page_url", "license"):
        if pair[name]:
            tree.add(text(f"{name.removesuffix('_url'):<8}{pair[name]}"))
    if pair["source"]:
        where = f" at byte {pair['source_offset']:,}" if pair["source_offset"] is not None else ""
        tree.add(text(f"{'archive':<8}{pair['source']}{where} ({pair['extracted_with']}, {pair['caption_source']})"))
    for number, way in enumerate(pair["ways"][:SHOWN], 1):
        many = f" ({number} of {len(pair['ways'])})" if len(pair["ways"]) > 1 else ""
        branch = tree.add(text(f"its way{many}"))
        for step in way:
            _add_step(branch, step)
    if len(pair["ways"]) > SHOWN:
        tree.add(text(f"and {len(pair['ways']) - SHOWN} more ways, by other configs; --json has all"))
    return tree


def _add_step(branch: Tree, step: Mapping[str, Any]) -> None:
    verdict = "kept" if step["verdict"] == "kept" else f"dropped: {step['reason']}"
    place = f", {step['shard']} member {step['member']}.*" if step.get("shard") else ""
    gone = " (this snapshot is no longer in the store)" if step.get("gone") else ""
    style = "green" if step["verdict"] == "kept" else "red"
    line = Text.assemble(text(f"{step['stage']:<9}{step['key']}  "), text(verdict, style), text(place + gone))
    node = branch.add(line)
    if step.get("error_message"):
        node.add(text(step["error_message"]))
    if evidence := step.get("evidence"):
        said = [f"HTTP {evidence['http_status']}"] if evidence.get("http_status") else []
        said += [f"{evidence['bytes']:,} bytes"] if evidence.get("bytes") else []
        said += [str(evidence["fetched_at"])] if evidence.get("fetched_at") else []
        said += [f"from {evidence['final_url']}"] if evidence.get("final_url") else []
        said += [f"opt-outs: {evidence['opt_out']}"] if evidence.get("opt_out") else []
        node.add(text("fetched: " + ", ".join(said)))


def _show_made_of(answer: Mapping[str, Any], out: Console) -> None:
    if "model" in answer:
        out.print(_model_line(answer["model"]), soft_wrap=True)
        for name, link in sorted(answer["model"]["links"].items()):
            out.print(text(f"  {name}: {link}"), soft_wrap=True)
    tree = Tree(text("made of", style="bold"))
    for stage in answer["stages"]:
        counts = stage["counts"]
        kept = f"{counts['kept']:,} of {counts['input']:,}" if counts["input"] else ""
        commit = f"  commit {stage['commit'][:10]}" if stage["commit"] else ""
        tree.add(text(f"{stage['stage']:<9}{stage['key']}  {stage['created_at'][:19]}  {kept:>24}{commit}"))
    for name in answer["gone"]:
        tree.add(text(f"{name} is no longer in the store (gc, or a takedown with --delete-raw)"))
    files = tree.add(text(f"{answer['source_files']:,} source {_plural('file', answer['source_files'])}"))
    for source in answer["sources"][:SHOWN]:
        files.add(text(source["source"]))
    if answer["source_files"] > SHOWN:
        files.add(text("... (--json has more)"))
    out.print(tree, soft_wrap=True)


def _show_datasets(datasets: Sequence[Mapping[str, Any]], out: Console) -> None:
    for dataset in datasets:
        out.print()
        held = f", of them {dataset['pairs']:,} looked for" if dataset["pairs"] is not None else ""
        after = f", after takedown {', '.join(dataset['takedowns'])}" if dataset["takedowns"] else ""
        title = f"dataset {dataset['key']}: {dataset['samples']:,} pairs{held}{after}"
        tree = Tree(text(title, style="bold"))
        tree.add(text(f"digest  {dataset['digest']}"))
        for training in dataset["trainings"]:
            branch = tree.add(text(f"train {training['key']}: {training['model']}, {training['created_at'][:19]}"))
            for evaluation in training["evaluations"]:
                branch.add(text(f"evaluate {evaluation}"))
            for model in training["models"]:
                branch.add(_model_line(model))
        for model in dataset["models"]:
            tree.add(_model_line(model))
        if not dataset["trainings"] and not dataset["models"]:
            tree.add(text("no model was trained on it"))
        out.print(tree, soft_wrap=True)


def _model_line(model: Mapping[str, Any]) -> Text:
    aliases = "".join(f" @{alias}" for alias in model["aliases"])
    gate = f"  gate {model['tags']['gate']}" if model["tags"].get("gate") else ""
    taken = f"  saw what takedown {model['tags']['takedowns']} removed" if model["tags"].get("takedowns") else ""
    return Text.assemble(text(f"model {model['uri']}", style="bold"), text(f"{aliases}{gate}{taken}"))


def _plural(word: str, number: int) -> str:
    return word if number == 1 else f"{word}s"
