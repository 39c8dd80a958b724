"""`pairmill publish WHAT --to PLACE`: checks the gate, sends what the place lacks, and records it in the store."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from cyclopts import Parameter

from dataops.errors import ConfigError, ContractError
from dataops.facts import PackFacts
from dataops.formatting import format_bytes, format_now, format_quantity
from dataops.snapshot import Manifest
from dataops.store import Store, open_store
from dataops.trace.lineages import Lineage, load_lineages
from dataops.trace.sources import list_training_datasets
from flows.commands.options import Json, Name, StoreUri
from flows.commands.output import console, print_json
from flows.dataset_checks import find_reports
from flows.records import find_dataset, find_snapshot, find_version_of, known_stores
from infra.local import services
from plugins.publish import gate
from plugins.publish.bundle import CARD, BundleFile, list_dataset_files, list_folder_files
from plugins.publish.hub import HubPlace
from plugins.publish.places import DATA, Kind, Place, StorePlace
from plugins.publish.publications import (
    HUB,
    Publication,
    PublishedFile,
    list_publications,
    list_stale,
    record_publication,
)
from tasks.engine.scratch_folders import scratch_folder
from tasks.growth.versions import Version
from tasks.models.export import check_card, export_model, fetch_snapshot_model
from tasks.models.find import REGISTERED, find_model
from tasks.pack.union import load_union
from tasks.register.card import NO_LICENSE, write_front_matter
from tasks.register.documents import describe_files, describe_snapshot, describe_version
from tasks.tracking import client as tracking

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
LISTED = 20
"""Number of files that a dry run prints."""


@dataclass
class Subject:
    """A dataset or a model that is to be published."""

    kind: Kind
    name: str
    store: Store
    """The store that records the publication."""
    datasets: tuple[str, ...]
    license: str
    conditions: list[gate.Condition]
    pack: Manifest | None = None
    lineages: Sequence[Lineage] = ()
    model: Path | None = None
    documents: Mapping[str, str] = field(default_factory=dict[str, str])


def command(
    what: Name,
    *,
    to: Annotated[str, Parameter(help="Place: hub:OWNER/NAME, s3://bucket/prefix, or a folder.")],
    license: Annotated[
        str,
        Parameter(
            help="Licence of the dataset as a whole, or of the weights, such as cc-by-4.0, mit or other.",
            show_default=False,
        ),
    ] = "",
    public: Annotated[
        bool, Parameter(negative="", help="Let everybody read a repository of the Hub; by default it is private.")
    ] = False,
    dry_run: Annotated[
        bool, Parameter(negative="", help="Only show what would be sent, and the result of the gate.")
    ] = False,
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Publish a dataset or a model, and record it. An interrupted publication continues with the same command.

    The gate requires a stated licence, a dataset that no check blocks, and no pair that a takedown removes.

    Args:
        what: The key of a dataset or a run that made one, a version of a dataset that grows (NAME-DIGEST/NUMBER), the key
            of a train snapshot, a registered model, or a folder.
    """
    home, license = services.home(), license.strip()
    if not license.isprintable():
        raise ConfigError(f"--license {license!r} has a line break or another control character; remove it")
    with scratch_folder("publish") as scratch:
        subject = _find_subject(what, license, home, store, scratch)
        place = open_place(to, subject.kind, is_public=public)
        if _resolve(place.name).startswith(_resolve(subject.store.uri)):
            raise ConfigError(f"--to {to} lies in the store {subject.store.uri}; name a place outside it")
        if not dry_run:
            gate.refuse(subject.name, subject.conditions)
        files = _list_files(subject, place.name, home, scratch)
        published = [file.as_published() for file in files]
        stale = list_stale(subject.store, (place.name, subject.kind), published)
        names = place.list_names()
        present, stale = place.find_present(files), [file for file in stale if file.name in names]
        if foreign := _find_foreign(names, [file.name for file in [*files, *stale]]):
            raise ConfigError(
                f"{place.name} has data that pairmill did not publish as a {subject.kind}: {', '.join(foreign[:3])}; "
                "name an empty place"
            )
        waiting = [file for file in files if file.name not in present]
        report = _report(subject, place, files, waiting, stale)
        if dry_run:
            _show(report, waiting, as_json=json)
            return 0 if all(condition.is_met for condition in subject.conditions) else 3
        if isinstance(place, StorePlace):
            place.check()
        record = Publication(
            target=place.name,
            kind=subject.kind,
            name=subject.name,
            datasets=subject.datasets,
            license=subject.license,
            is_public=public,
            state="sending",
            began_at=format_now(),
            files=tuple(published),
        )
        report["revision"] = _send(record, subject.store, place, waiting, stale, as_json=json)
        report["record"] = f"{subject.store.uri}/{record.object_name}"
        _show(report, waiting, as_json=json)
    return 0


def _find_subject(what: str, stated: str, home: Path, store_uri: str | None, scratch: Path) -> Subject:
    """Return what is named, with the licence that its owner states."""
    if version := find_version_of(what, home, store_uri):
        return _find_grown(*version, stated)
    if not Path(what).exists() and (found := find_snapshot(what, home, store_uri)) is not None:
        if found[0].stage == "train":
            return _find_trained(*found, stated, scratch)
        if found[0].stage != "pack":
            raise ConfigError(f"{what} is a snapshot of {found[0].stage}; name one of pack or train, or a model")
        return _find_packed(*found, stated)
    if Path(what).expanduser().exists() or REGISTERED.fullmatch(what):
        return _find_model(what, stated, home, store_uri)
    return _find_packed(*find_dataset(what, home, store_uri), stated)


def _find_packed(pack: Manifest, store: Store, stated: str) -> Subject:
    return _describe(pack, load_lineages(store, pack), store, f"pack/{pack.key}", (pack.key,), stated)


def _find_grown(version: Version, store: Store, stated: str) -> Subject:
    union, lineages = load_union(version, store)
    return _describe(union, lineages, store, version.name, tuple(pack.key for pack in union.packs), stated)


def _describe(
    pack: Manifest, lineages: Sequence[Lineage], store: Store, name: str, keys: tuple[str, ...], stated: str
) -> Subject:
    if not (licenses := PackFacts.of(pack).licenses):
        raise ConfigError(f"{name} was made by an earlier version of pairmill; a run of its config makes it again")
    conditions = [
        gate.check_dataset_license(pack, store, stated),
        *map(gate.check_report, find_reports(keys, store) or [None]),
        gate.check_takedowns([store], keys, is_model=False),
    ]
    license_ = stated or f"declared by source: {', '.join(url for url in licenses if url)}"
    return Subject("dataset", name, store, keys, license_, conditions, pack=pack, lineages=lineages)


def _find_trained(train: Manifest, store: Store, stated: str, scratch: Path) -> Subject:
    datasets = tuple(one.key for one in list_training_datasets(train, store))
    folder = scratch / "model"
    folder.mkdir()
    fetch_snapshot_model(train, store, folder, "open_clip")
    conditions, documents = _check_model(stated, [store], datasets), describe_snapshot(train, store)
    name = f"train/{train.key}"
    return Subject("model", name, store, datasets, stated, conditions, model=folder, documents=documents)


def _find_model(what: str, stated: str, home: Path, store_uri: str | None) -> Subject:
    """Return a registered version, or a model in a folder of which nothing else is known."""
    files, stores = find_model(what, home), known_stores(home, store_uri)
    if Path(what).expanduser().exists():
        documents, datasets = describe_files(files.path.name), ()
        name = files.path.name
    else:
        documents, datasets, name = describe_version(files.name), _list_datasets(files.name), files.name
    license_ = stated or _read_license(documents[CARD])
    holders = [store for store in stores if any(store.names(f"pack/{key}") for key in datasets)]
    store = (holders or [open_store(store_uri or str(home / "store"))])[0]
    conditions = _check_model(license_, stores, datasets)
    return Subject("model", name, store, datasets, license_, conditions, model=files.path, documents=documents)


def _list_datasets(model: str) -> tuple[str, ...]:
    """Return the keys of the datasets that a registered version was trained on."""
    match = REGISTERED.fullmatch(model)
    assert match is not None
    with tracking.mlflow_errors():
        tags = tracking.connect().get_model_version(match["name"], match["version"]).tags
    keys = [tags.get("snapshot.pack", ""), *tags.get(tracking.DATASETS_TAG, "").split()]
    return tuple(dict.fromkeys(filter(None, keys)))


def _read_license(card: str) -> str:
    fields = split_front_matter(card)[0]
    return str(fields.get("license_name") or fields.get("license") or "")


def _check_model(license_: str, stores: Sequence[Store], datasets: Sequence[str]) -> list[gate.Condition]:
    return [gate.check_model_license(license_), gate.check_takedowns(stores, datasets, is_model=True)]


def _list_files(subject: Subject, target: str, home: Path, scratch: Path) -> list[BundleFile]:
    hub = target.removeprefix(HUB) if target.startswith(HUB) else ""
    folder = scratch / "files"
    if subject.pack is not None:
        folder.mkdir()
        stated = "" if subject.license.startswith("declared by source") else subject.license
        owner = {"@type": "sc:Organization", "name": hub.partition("/")[0]}
        links = {"url": f"https://huggingface.co/datasets/{hub}", "creator": owner} if hub else {}
        return list_dataset_files(subject.pack, subject.lineages, subject.store, folder, stated, hub, links)
    assert subject.model is not None
    stated = f"Licence of the weights: {subject.license}."
    documents = {**subject.documents, CARD: _complete_card(subject)}
    documents = {name: document.replace(NO_LICENSE, stated) for name, document in documents.items()}
    paths = {path.name: path for path in export_model(subject.model, "open_clip", folder, home, documents)}
    if _fits_transformers(subject.model):
        for path in export_model(subject.model, "hf", scratch / "hf", home, {}):
            paths[path.name] = path
    return list_folder_files([paths[name] for name in sorted(paths)])


def _fits_transformers(model: Path) -> bool:
    try:
        check_card((model / "model.json").read_bytes(), "hf")
    except ConfigError:
        return False
    return True


def _complete_card(subject: Subject) -> str:
    """Return the model card with the stated licence, and with the Hub's names of the datasets that are published there."""
    from dataops.rights.licenses import name_stated

    fields, body = split_front_matter(subject.documents[CARD])
    for name in ("license", "license_name", "datasets"):
        fields.pop(name, None)
    names = [
        one.target.removeprefix(HUB)
        for one in list_publications(subject.store)
        if one.kind == "dataset" and one.target.startswith(HUB) and set(one.datasets) & set(subject.datasets)
    ]
    return (
        write_front_matter(
            {
                **(name_stated(subject.license) if subject.license else {}),
                **fields,
                **({"datasets": names} if names else {}),
            }
        )
        + body
    )


def _resolve(place: str) -> str:
    """Return a place with a slash at its end; a folder without links and `..`."""
    return f"{place if place.startswith((HUB, 's3://')) else os.path.realpath(place)}/"


def _find_foreign(names: Sequence[str], ours: Sequence[str]) -> list[str]:
    known = set(ours)
    return [name for name in names if DATA.fullmatch(name) and name not in known]


def _send(
    record: Publication,
    store: Store,
    place: Place,
    files: Sequence[BundleFile],
    stale: Sequence[PublishedFile],
    *,
    as_json: bool,
) -> str | None:
    """Send files between two states of the record, and mark the publications that this one replaces.

    Until the stale files are deleted, the record has them too, with the datasets of an earlier one of this name.
    """
    replaced = [one for one in list_publications(store) if one.object_name == record.object_name]
    datasets = dict.fromkeys(key for one in (record, *replaced) for key in one.datasets)
    record_publication(store, record.model_copy(update={"files": (*record.files, *stale), "datasets": tuple(datasets)}))
    try:  # a takedown that was requested since the first check may have read the publications before this record
        gate.refuse(record.name, [gate.check_takedowns([store], record.datasets, is_model=record.kind == "model")])
    except ContractError:
        if not replaced:
            store.delete([record.object_name])
        for one in replaced:
            record_publication(store, one)
        raise
    out = None if as_json else console()

    def show(file: BundleFile) -> None:
        if out:
            out.write(f"sent {file.name}  {format_bytes(file.bytes)}")

    revision = place.send(files, [file.name for file in stale], show)
    record_publication(
        store, record.model_copy(update={"state": "complete", "published_at": format_now(), "revision": revision})
    )
    for earlier in list_publications(store):
        place_of_both = (earlier.target, earlier.kind) == (record.target, record.kind)
        if place_of_both and earlier.name != record.name and earlier.state != "replaced":
            record_publication(store, earlier.model_copy(update={"state": "replaced"}))
    return revision


def _report(
    subject: Subject,
    place: Place,
    files: Sequence[BundleFile],
    waiting: Sequence[BundleFile],
    stale: Sequence[PublishedFile],
) -> dict[str, Any]:
    sent = {file.name for file in waiting}
    return {
        "what": subject.name,
        "kind": subject.kind,
        "to": place.name,
        "license": subject.license,
        "gate": [asdict(condition) for condition in subject.conditions],
        "files": [{**file.as_published().model_dump(), "sent": file.name in sent} for file in files],
        "bytes": sum(file.bytes for file in files),
        "bytes_to_send": sum(file.bytes for file in waiting),
        "deleted": [file.name for file in stale],
    }


def _show(report: dict[str, Any], waiting: Sequence[BundleFile], *, as_json: bool) -> None:
    is_done = "record" in report
    if as_json:
        print_json({**report, "dry_run": not is_done})
        return
    out = console()
    files, size = format_quantity(len(report["files"]), "file"), format_bytes(report["bytes"])
    out.write(f"{report['what']} to {report['to']}: {files}, {size}", "bold")
    for condition in report["gate"]:
        mark, style = ("passed", "green") if condition["is_met"] else ("REFUSED", "red")
        out.write(f"  {condition['name']}: {mark}: {condition['text']}", style)
    if not is_done:
        for file in waiting[:LISTED]:
            out.write(f"  would send {file.name}  {format_bytes(file.bytes)}")
        if len(waiting) > LISTED:
            out.write(f"  and {len(waiting) - LISTED:,} more; --json lists all")
    verb = "sent" if is_done else "would be sent"
    total = format_bytes(report["bytes_to_send"])
    kept = len(report["files"]) - len(waiting)
    out.write(f"  {format_quantity(len(waiting), 'file')} {verb} ({total}); {kept:,} were there already")
    if report["deleted"]:
        verb = "deleted" if is_done else "would be deleted"
        out.write(f"  {verb}: {', '.join(report['deleted'][:LISTED])}")
    if is_done:
        out.write(f"  record: {report['record']}")


def open_place(target: str, kind: Kind, *, is_public: bool) -> Place:
    """Return the place of `--to`.

    Raises: ConfigError if the target is not one of the three forms.
    """
    if target.startswith(HUB):
        repository = target.removeprefix(HUB)
        if not _REPOSITORY.fullmatch(repository):
            raise ConfigError(f"--to {target} names no repository; write hub:OWNER/NAME")
        return HubPlace(repository, kind, is_public=is_public)
    if is_public:
        raise ConfigError("--public is for hub:OWNER/NAME; who can read a folder or bucket is set there")
    if target.startswith("s3://"):
        return StorePlace(open_store(target), target.rstrip("/"))
    if "://" in target or not target.strip():
        raise ConfigError(f"--to {target!r} is none of hub:OWNER/NAME, s3://bucket/prefix and a folder")
    folder = Path(target).expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--to {target} is a file; name a folder")
    return StorePlace(open_store(str(folder)), str(folder))


def split_front_matter(card: str) -> tuple[dict[str, Any], str]:
    """Return the fields of a card's front matter, and its text; no fields if it has none."""
    found = re.match(r"---\n(.*?\n)---\n(.*)", card, re.DOTALL)
    fields = yaml.safe_load(found[1]) if found else None
    return (fields, found[2]) if found and isinstance(fields, dict) else ({}, card)
