"""Trace pairs to the datasets and models that hold them, and models to their sources. Results are plain values.

All is read from the store. MLflow is queried for versions, aliases and tags; without it, the versions are those that the
register snapshots name, and the result states that MLflow was not asked.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dataops.facts import PackFacts, RegisterFacts
from dataops.plugins import load
from dataops.snapshot import Input, Manifest, SnapshotName
from dataops.stages import PAIR_STAGES, SOURCE, STAGES
from dataops.trace.requests import list_requests, load_report, report_name
from dataops.trace.sources import find_source, list_named_sources, list_shares, offset_unit
from dataops.trace.targets import Target
from tasks.lineage.graph import DROPPED, KEPT, Lineage
from tasks.search import Hit, Rows, Search
from tasks.tracking.registry import MODEL, RegisteredVersion, Registry
from tasks.tracking.run_metadata import model_name

EVIDENCE = (
    *("fetched_at", "http_status", "final_url", "content_type", "etag", "last_modified"),
    *("opt_out", "permissions", "bytes", "archive"),
)


@dataclass
class Trace:
    """Traces pairs, snapshots and models of one store.

    Args:
        limit: maximum number of pairs and sources in a result; all are counted.
    """

    lineage: Lineage
    search: Search
    registry: Registry
    limit: int = 20

    def pairs(self, targets: Sequence[Target]) -> dict[str, Any]:
        """Return the pairs that match the targets, where each ended, and the datasets and models that hold any."""
        found = [hit for rows in final_rows(self.lineage) for hit in self.search.find(rows, targets)]
        found.sort(key=lambda hit: (hit.apart, hit.rows.prefix != KEPT, -PAIR_STAGES.index(hit.rows.manifest.stage)))
        return {
            "store": self.lineage.store.uri,
            "targets": [str(target) for target in targets],
            "places": _count_by_snapshot(found),
            "pairs": self._describe_pairs(found),
            "datasets": [self.dataset(manifest, n) for manifest, n in _count_by_dataset(found)],
            "registry": self.registry.status(),
        }

    def _describe_pairs(self, hits: Sequence[Hit]) -> list[dict[str, Any]]:
        """Return the first `limit` pairs, each once, with their paths through the stages."""
        chosen, pairs = hits[: 4 * self.limit], dict[str, dict[str, Any]]()
        for hit, row in zip(chosen, self.search.rows(chosen), strict=True):
            if row["uid"] not in pairs and len(pairs) == self.limit:
                continue
            identity = {**_identify(row), "source_name": self._name_source(hit, row)}
            pair = pairs.setdefault(row["uid"], {**identity, "apart": hit.apart, "ways": []})
            for name, value in identity.items():
                pair[name] = pair[name] if pair[name] is not None else value
            pair["ways"].append(self._describe_path(hit, row))
        return list(pairs.values())

    def _name_source(self, hit: Hit, row: Mapping[str, Any]) -> str | None:
        """Return the name of the source of a pair; None if its config names none, or extract is no longer in the store."""
        sources = list_named_sources(self.lineage.ancestors(hit.rows.manifest))
        return find_source(row.get("source"), [source.name for source in sources])

    def _describe_path(self, hit: Hit, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the verdict of each stage on a pair, from extract to the snapshot of the hit."""
        steps: list[dict[str, Any]] = []

        def has_pair(manifest: Manifest) -> bool:
            return bool(self.search.find(Rows(manifest, KEPT), [Target("uid", row["uid"])]))

        for name, manifest in find_path(self.lineage, hit.rows.manifest, has_pair):
            is_final = name == (hit.rows.manifest.stage, hit.rows.manifest.key)
            dropped = is_final and hit.rows.prefix == DROPPED
            step: dict[str, Any] = {"stage": name.stage, "key": name.key, "verdict": "dropped" if dropped else "kept"}
            step |= {"reason": row.get("drop_reason")} if dropped else {}
            step |= {"gone": True} if manifest is None else {}
            step |= {"source": row.get("source")} if name.stage == "extract" else {}
            if name.stage == "download" and manifest is not None:
                step |= self._describe_download(manifest, row["uid"])
            elif name.stage == "pack" and not dropped:
                step |= {"shard": row["shard"], "member": row["key"], "part": hit.part.name, "row": hit.row}
            steps.append(step)
        return steps

    def _describe_download(self, download: Manifest, uid: str) -> dict[str, Any]:
        """Return the raw shard of a pair, and the evidence of its fetch."""
        target, step = [Target("uid", uid)], dict[str, Any]()
        hits = [hit for prefix in (KEPT, DROPPED) for hit in self.search.find(Rows(download, prefix), target)]
        if not hits:
            return step
        row = self.search.rows(hits[:1])[0]
        if row["status"] == "success":
            step |= {"shard": row["shard"], "member": row["key"], "sha256": row["sha256"]}
        elif row.get("error_message"):
            step["error_message"] = row["error_message"]
        if (evidence := self.search.read_evidence(download, uid, hits[0])) is not None:
            step["evidence"] = {name: evidence[name] for name in EVIDENCE if evidence.get(name) not in (None, [])}
        return step

    def dataset(self, pack: Manifest, pairs: int | None = None) -> dict[str, Any]:
        """Return a dataset version with its trainings and models.

        Args:
            pairs: number of its pairs that match the targets.
        """
        known = {(v.name, v.version): v for v in self.registry.of_snapshot("pack", pack.key)}
        trainings = [self._describe_training(train, pack) for train in self.lineage.children(pack, "train")]
        in_store = {(m["name"], m["version"]) for training in trainings for m in training["models"]}
        return {
            "key": pack.key,
            "digest": pack.content_digest,
            "samples": pack.counts.kept,
            "created_at": pack.created_at,
            "pairs": pairs,
            "takedowns": [i.key for i in pack.inputs if i.stage == "takedown"],
            "trainings": trainings,
            "models": [v.as_json() for key, v in sorted(known.items()) if key not in in_store],
        }

    def _describe_training(self, train: Manifest, pack: Manifest) -> dict[str, Any]:
        """Return a training, and the share of its samples that are of a dataset (0 to 1)."""
        models = [self._describe_model(register) for register in self.lineage.descendants(train, "register")]
        facts = {"model": model_name(train), "created_at": train.created_at, "run": train.mlflow_run_id}
        evaluations = [m.key for m in self.lineage.children(train, "evaluate")]
        shares = list_shares(train)
        share = next((share for i, share in shares if pack.key == i.key or pack.content_digest == i.digest), 1.0)
        stated = [section for write in load("card_sections").values() for section in write(train)]
        return {
            "key": train.key,
            **facts,
            "share": share,
            "evaluations": evaluations,
            "models": models,
            "removed_later": [request for request, old in self._removed_from if old == pack.key],
            "stated": [f"{one.title}: {' '.join(map(str, row))}" for one in stated for row in one.rows],
        }

    @cached_property
    def _removed_from(self) -> list[tuple[str, str]]:
        """The takedown requests, each with a dataset of which a later version does not have its pairs any more."""
        store = self.lineage.store
        reports = {one.key: load_report(store, report_name(one.key)) for one in list_requests(store)}
        return [(key, old) for key, report in reports.items() for old in report.versions]

    def _describe_model(self, register: Manifest) -> dict[str, Any]:
        """Return a registered version as MLflow has it now, else as its snapshot names it."""
        facts = RegisterFacts.of(register)
        name, number = facts.model_name, facts.version
        current = next((v for v in self.registry.of_key(register.key) if (v.name, v.version) == (name, number)), None)
        tags = {"gate": facts.gate}
        version = current or RegisteredVersion(name, number, run_id=facts.run_id, tags=tags)
        decided = {"decided_by": name} if (name := register.config.get("decided_by")) else {}
        return {**version.as_json(), "register": register.key, "links": facts.links, **decided}

    def snapshot(self, manifest: Manifest) -> dict[str, Any]:
        """Return a snapshot of any stage with its ancestors, sources, datasets and models."""
        above, chain = self.lineage.all_ancestors(manifest), self.lineage.ancestors(manifest)
        inputs = [i for i in manifest.inputs if i.stage in STAGES]
        packs = [m for m in above if m.stage == "pack"] or self.lineage.descendants(manifest, "pack")
        sources = _list_sources(above)
        others = sorted(above[1:], key=lambda m: (STAGES.index(m.stage), m is not chain[m.stage], m.key))
        return {
            "store": self.lineage.store.uri,
            "snapshot": {"stage": manifest.stage, "key": manifest.key, "digest": manifest.content_digest},
            "stages": [_describe_stage(one) for one in (*others, manifest)],
            "gone": [f"{i.stage}/{i.key}" for i in inputs if self.lineage.parent(i) is None],
            "sources": [{"source": i.key, "digest": i.digest} for i in sources][: self.limit],
            "source_files": len(sources),
            "named_sources": _count_sources(chain),
            "datasets": [self.dataset(pack) for pack in packs],
            "registry": self.registry.status(),
        }

    def model(self, text: str) -> dict[str, Any] | None:
        """Return a model version with its ancestors; None if this store does not have it.

        Args:
            text: `models:/name/3`, `name/3` or `name@alias`.
        """
        found = MODEL.fullmatch(text)
        if found is None:
            return None
        version = self.registry.version(found["name"], found["version"], found["alias"])
        register = self._find_register(version, found["name"], found["version"])
        if register is None:
            return None
        return {"model": self._describe_model(register), **self.snapshot(register)}

    def _find_register(self, version: RegisteredVersion | None, name: str, number: str | None) -> Manifest | None:
        if version is not None:
            return self.lineage.manifests.get(SnapshotName("register", version.key or ""))
        for manifest in self.lineage.manifests.values():
            if manifest.stage == "register":
                facts = RegisterFacts.of(manifest)
                if (facts.model_name, facts.version) == (name, number):
                    return manifest
        return None


def _identify(row: Mapping[str, Any]) -> dict[str, Any]:
    names = ("uid", "url", "caption", "page_url", "caption_source", "source", "source_offset", "extracted_with")
    found = {name: row.get(name) for name in (*names, "license", "sha256", "phash")}
    return {**found, "source_unit": offset_unit(found["extracted_with"])}


def _count_by_snapshot(hits: Sequence[Hit]) -> list[dict[str, Any]]:
    """Return the number of rows by snapshot and verdict, in the order of the stages."""
    counts = Counter(
        (hit.rows.manifest.stage, hit.rows.manifest.key, "kept" if hit.rows.prefix == KEPT else "dropped")
        for hit in hits
    )
    order = sorted(counts.items(), key=lambda item: (PAIR_STAGES.index(item[0][0]), item[0]))
    return [{"stage": stage, "key": key, "verdict": verdict, "rows": n} for (stage, key, verdict), n in order]


def _count_by_dataset(hits: Sequence[Hit]) -> list[tuple[Manifest, int]]:
    packed = [hit.rows.manifest for hit in hits if hit.rows.manifest.stage == "pack" and hit.rows.prefix == KEPT]
    counts, manifests = Counter(manifest.key for manifest in packed), {manifest.key: manifest for manifest in packed}
    return [(m, counts[m.key]) for m in sorted(manifests.values(), key=lambda m: (m.created_at, m.key))]


def _describe_stage(manifest: Manifest) -> dict[str, Any]:
    return {
        "stage": manifest.stage,
        "key": manifest.key,
        "created_at": manifest.created_at,
        "commit": manifest.code.get("commit"),
        "counts": manifest.counts.model_dump(),
    }


def _count_sources(above: Mapping[str, Manifest]) -> list[dict[str, Any]]:
    """Return the named sources, with the pairs that extract kept of each and that the dataset has."""
    packed = PackFacts.of(above["pack"]).sources if "pack" in above else {}
    return [
        {
            "name": source.name,
            "kind": source.kind,
            "license": source.license,
            "files": source.files,
            "extracted": source.counts.kept,
            "packed": packed.get(source.name),
        }
        for source in list_named_sources(above)
    ]


def _list_sources(above: Sequence[Manifest]) -> list[Input]:
    """Return the source files of all datasets, each once."""
    found = [i for m in above if m.stage == "extract" for i in m.inputs if i.stage == SOURCE]
    return list(dict.fromkeys(found))


def final_rows(lineage: Lineage) -> Iterator[Rows]:
    """Yield the rows at which the path of a pair ends: dropped by a stage, or kept without a next stage."""
    for manifest in lineage.manifests.values():
        if manifest.stage in PAIR_STAGES:
            yield Rows(manifest, DROPPED)
            following = PAIR_STAGES[PAIR_STAGES.index(manifest.stage) + 1 :][:1]
            if not following or not lineage.children(manifest, following[0]):
                yield Rows(manifest, KEPT)


def find_path(
    lineage: Lineage, manifest: Manifest, has_pair: Callable[[Manifest], bool]
) -> list[tuple[SnapshotName, Manifest | None]]:
    """Return the snapshots from extract to this one that a pair went through; None for each that was deleted.

    Args:
        has_pair: whether a snapshot kept the pair, where a dataset was packed from several.
    """
    path: list[tuple[SnapshotName, Manifest | None]] = [(SnapshotName(manifest.stage, manifest.key), manifest)]
    current: Manifest | None = manifest
    while current is not None and (source := next((i for i in current.inputs if i.stage in PAIR_STAGES), None)):
        packed = [i for i in current.inputs if i.stage == source.stage]
        if len(packed) > 1:
            found = (i for i in packed if (parent := lineage.parent(i)) is not None and has_pair(parent))
            source = next(found, source)
        current = lineage.parent(source)
        path.append((SnapshotName(source.stage, source.key), current))
    return path[::-1]
