"""State whether an image, a URL or a domain is in the datasets that a model saw, and sign it."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from dataops.errors import ConfigError, CorruptPart
from dataops.facts import PackFacts, TrainFacts
from dataops.formatting import format_now
from dataops.images.decode import ImageRefused
from dataops.regular_files import read_bytes, read_text
from dataops.snapshot import Manifest, SnapshotName
from dataops.store import Store
from dataops.trace.requests import list_reports, load_report
from dataops.trace.sources import list_shares
from dataops.trace.targets import PHASH_BITS, Target, image_targets, parse_target
from flows.records import find_dataset, find_snapshot, known_stores
from plugins.claims.tree import Trees, open_trees
from plugins.claims.verify_claim import FORMAT, WIDTHS, Refused, blind, encode, verify_proof
from tasks.lineage.graph import Lineage
from tasks.search import Rows, Search
from tasks.tracking.registry import MODEL, Registry, is_model

_SHOWN = ("uid", "url", "page_url", "caption", "license", "sha256", "phash", "source")
_IMAGE = re.compile(r"[^:]+\.(jpe|jpe?g|jfif|png|gif|webp|bmp|tiff?|avif|heic|jxl|svg)", re.IGNORECASE)
"""Names of files whose ends are no top-level domains."""
_EVIDENCE = ("fetched_at", "http_status", "final_url", "opt_out", "permissions")


@dataclass(frozen=True)
class Asked:
    """What a claim is about."""

    name: str
    targets: Sequence[Target]
    refused: str = ""
    """Why an image was not decoded, so that only its bytes are compared."""

    @property
    def fields(self) -> dict[str, str]:
        """The values by kind, for the statement."""
        return {target.kind: target.value for target in self.targets}


@dataclass(frozen=True)
class Subject:
    """A model or a dataset, with the packed datasets that it is made of."""

    name: str
    lineage: Lineage
    packs: Sequence[tuple[str, Manifest | None]]
    """Key and manifest of each; None if the store has neither the dataset nor a later version of it."""
    started_from: Sequence[str] = ()
    """Weights that a training started from, whose own data are not known here."""


def parse_asked(text: str) -> Asked:
    """Return what a text asks about: an image file, a URL, a domain, or `kind:value` as `trace` reads it.

    Raises: ConfigError.
    """
    path = Path(text)
    try:
        path = path.expanduser()
        is_there = path.exists()
    except (OSError, RuntimeError):  # it is too long, or of an unknown user
        is_there = False
    if not is_there:
        try:
            target = parse_target(text)
            if target.kind == "domain" and _IMAGE.fullmatch(text):
                raise ValueError(f"{text} is the name of an image; write domain:{text} if it is a domain")
            return Asked(text, [target])
        except ValueError as error:
            raise ConfigError(f"{error}; or an image file, and there is no file {text}") from error
    try:
        data = read_bytes(path)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}; name image files, or write domain:{text}"
        ) from error
    try:
        return Asked(path.name, image_targets(data))
    except ImageRefused as error:
        return Asked(path.name, [Target("sha256", hashlib.sha256(data).hexdigest())], str(error))


def find_subject(text: str, home: Path, store_uri: str | None) -> Subject:
    """Return a registered model, a training or a dataset by its name, key or run id.

    Raises: ConfigError if no known store has it.
    """
    if is_model(text):
        return _find_registered(text, home, store_uri)
    found = find_snapshot(text, home, store_uri)
    manifest, store = found if found and found[0].stage == "train" else find_dataset(text, home, store_uri)
    return _describe_subject(f"{manifest.stage}/{manifest.key}", manifest, Lineage(store))


def _find_registered(text: str, home: Path, store_uri: str | None) -> Subject:
    match, registry = MODEL.fullmatch(text), Registry()
    version = match and registry.version(match["name"], match["version"], match["alias"])
    if not version or not version.key:
        raise ConfigError(f"{text}: no version that pairmill registered; MLflow was {registry.status()}")
    stores = known_stores(home, store_uri)
    for store in stores:
        lineage = Lineage(store)
        if (register := lineage.manifests.get(SnapshotName("register", version.key))) is not None:
            return _describe_subject(version.uri, register, lineage)
    raise ConfigError(
        f"{version.uri} was registered from another store than {', '.join(store.uri for store in stores)}; name it with"
        " --store"
    )


def _describe_subject(name: str, manifest: Manifest, lineage: Lineage) -> Subject:
    above = lineage.all_ancestors(manifest)
    packs: dict[str, Manifest | None] = {one.key: one for one in above if one.stage == "pack"}
    trainings = [one for one in above if one.stage == "train"]
    for source, _ in (share for train in trainings for share in list_shares(train)):
        if lineage.parent(source) is None:
            packs[source.key] = _find_successor(lineage, source.key)
    if not packs:
        raise ConfigError(f"{name} is made of no dataset that `pack` wrote; name a training")
    weights = {one.full_name: None for train in trainings for one in TrainFacts.of(train).weights}
    return Subject(name, lineage, sorted(packs.items()), list(weights))


def _find_successor(lineage: Lineage, key: str) -> Manifest | None:
    """Return the newest version of a dataset that takedowns have replaced: it keeps the trees of the first."""
    following = {
        old: new
        for entry in list_reports(lineage.store)
        for old, new in load_report(lineage.store, entry.name).versions.items()
        if new
    }
    seen = set[str]()
    while key in following and key not in seen:
        seen.add(key)
        key = following[key]
    return lineage.manifests.get(SnapshotName("pack", key)) if seen else None


def make_statement(asked: Asked, subject: Subject, limit: int) -> dict[str, Any]:
    """Return the statement, with proofs for an image file or a sha256.

    Args:
        limit: maximum number of rows of a dataset that are shown; all are counted.

    Raises: CorruptPart if the trees of a dataset are damaged.
    """
    datasets = [
        {"key": key, "answer": "missing", "pairs": 0, "trees": [], "rows": []}
        if pack is None
        else _search_dataset(asked, key, pack, subject.lineage, limit)
        for key, pack in subject.packs
    ]
    answers = {dataset["answer"] for dataset in datasets}
    used = bool(answers & {"proved", "listed"})
    return {
        "format": FORMAT,
        "made_at": format_now(),
        "subject": subject.name,
        "name": asked.name,
        "asked": asked.fields,
        "not_compared": asked.refused,
        "bits": PHASH_BITS,
        "used": used or (None if "missing" in answers or asked.refused else False),
        "datasets": datasets,
        "started_from": list(subject.started_from),
    }


def _search_dataset(asked: Asked, key: str, pack: Manifest, lineage: Lineage, limit: int) -> dict[str, Any]:
    search, fields = Search(lineage.store), asked.fields
    hits = search.find(Rows(pack, "part-"), asked.targets)
    trees = [_prove(tree, fields, stated) for tree, stated in _open(lineage.store, pack)] if "sha256" in fields else []
    is_member = any(one.pop("is_member") for one in trees)
    facts = PackFacts.of(pack)
    removed = [] if hits or not is_member else facts.takedowns
    downloads = [one for one in lineage.all_ancestors(pack) if one.stage == "download"] if hits else []
    rows = [
        {**_select(row, _SHOWN), "differing_bits": hit.apart, **_find_evidence(search, downloads, row["uid"])}
        for hit, row in zip(hits[:limit], search.rows(hits[:limit]), strict=True)
    ]
    unproved = "listed" if hits else "absent" if trees else "unlisted"
    return {
        "key": key,
        "version": pack.key,
        "digest": pack.content_digest,
        "packed_at": pack.created_at,
        "answer": "proved" if is_member else unproved,
        "pairs": len(hits),
        "takedowns": facts.takedowns,
        "removed_by": removed,
        "rows": rows,
        "trees": trees,
    }


def _open(store: Store, pack: Manifest) -> Iterable[tuple[Trees, dict[str, Any]]]:
    return zip(open_trees(store, pack), PackFacts.of(pack).commitments.get("claims", ()), strict=True)


def _prove(trees: Trees, fields: dict[str, str], stated: dict[str, Any]) -> dict[str, Any]:
    """Return the proofs of one pair of trees, of which the nearest perceptual hash counts."""
    near, values = None, {"sha256": blind(fields["sha256"])}
    if "phash" in fields:
        values["phash"] = bytes.fromhex(fields["phash"])
        near = trees.find_near(values["phash"], PHASH_BITS)
        values["phash"] = near or values["phash"]
    proofs = {kind: trees.prove(kind, value) for kind, value in values.items()}
    roots = {kind: bytes.fromhex(stated["roots"][kind]) for kind in values}
    try:
        members = [
            verify_proof(proofs[kind], value, stated["values"][kind], roots[kind], WIDTHS[kind])
            for kind, value in values.items()
        ]
    except Refused as error:
        raise CorruptPart(f"{trees.name} is damaged ({error}); `run --verify` remakes it") from error
    return {
        **_select(stated, ("rows", "values", "roots", "root")),
        "near": near.hex() if near else None,
        "proofs": proofs,
        "is_member": any(members),
    }


def _find_evidence(search: Search, downloads: Sequence[Manifest], uid: str) -> dict[str, Any]:
    found = (search.read_evidence(download, uid) for download in downloads)
    return _select(next(filter(None, found), {}), _EVIDENCE)


def _select(row: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: row[name] for name in names if row.get(name) not in (None, "", [])}


def load_key(path: Path) -> Ed25519PrivateKey:
    """Return the private key of a PEM file. Raises: ConfigError, without the text of the library, if it is none."""
    try:
        key = load_pem_private_key(read_bytes(path), None)
    except OSError as error:
        raise ConfigError(f"--key {path} cannot be read: {error.strerror}") from error
    except Exception as error:  # each damaged file has its own
        key = type(error).__name__
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(
            f"--key {path} is no private Ed25519 key without a password: make one with"
            " `openssl genpkey -algorithm ed25519 -out key.pem`"
        )
    return key


def sign_statement(statement: dict[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    """Return the envelope: the statement, the public key and the signature, both in hex digits."""
    public = key.public_key().public_bytes_raw()
    return {"statement": statement, "key": public.hex(), "signature": key.sign(encode(statement)).hex()}


def read_list(path: Path) -> list[Asked]:
    """Return what a list asks about, a line each; empty lines and lines that begin with `#` are left out.

    Raises: ConfigError with the line.
    """
    try:
        lines = read_text(path, "utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--list {path} cannot be read: {getattr(error, 'strerror', error)}") from error
    found = list[Asked]()
    for number, line in enumerate(map(str.strip, lines), 1):
        try:
            found += [parse_asked(line)] if line and not line.startswith("#") else []
        except ConfigError as error:
            raise ConfigError(f"--list {path}, line {number}: {error}") from error
    if not found:
        raise ConfigError(f"--list {path} has no line with an image file, a URL or a domain")
    return found
