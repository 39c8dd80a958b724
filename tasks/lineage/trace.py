"""Where did this pair come from, what became of it, which models saw it; and what was a model made of? As plain values.

Everything is read from the store. MLflow is asked for versions, aliases and tags; without it, what register wrote down is
told, and that it was not asked.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from dataops.errors import ConfigError
from dataops.funnel import PAIR_STAGES, STAGES, funnel_stages
from dataops.snapshot import Manifest, SnapshotName
from dataops.trace.targets import Target, matching_rows
from tasks.lineage.graph import DROPPED, KEPT, Lineage
from tasks.lineage.search import Hit, Rows, Search, read_columns, read_rows
from tasks.tracking import run_metadata as ancestry
from tasks.tracking.registry import RegisteredVersion, Registry

EVIDENCE = ("fetched_at", "http_status", "final_url", "content_type", "etag", "last_modified", "opt_out", "bytes")
_MODEL = re.compile(r"(?:models:/)?(?P<name>[^/@]{1,128})(?:/(?P<version>\d+)|@(?P<alias>[A-Za-z_][\w-]*))")


@dataclass
class Trace:
    """Answers over one store.

    Args:
        limit: pairs that are told in full; all are counted.
    """

    lineage: Lineage
    search: Search
    registry: Registry
    limit: int = 20

    def pairs(self, targets: Sequence[Target]) -> dict[str, Any]:
        """The pairs that the targets mean: what became of each, and the datasets and models that hold any."""
        found = [hit for rows in self.lineage.ends() for hit in self.search.find(rows, targets)]
        found.sort(key=lambda hit: (hit.apart, hit.rows.prefix != KEPT, -PAIR_STAGES.index(hit.rows.manifest.stage)))
        return {
            "store": self.lineage.store.uri,
            "targets": [str(target) for target in targets],
            "places": _places(found),
            "pairs": self._fates(found, targets),
            "datasets": [self.dataset(manifest, n) for manifest, n in _datasets(found)],
            "registry": self.registry.status(),
        }

    def _fates(self, hits: Sequence[Hit], targets: Sequence[Target]) -> list[dict[str, Any]]:
        """The first pairs in full, each once, with the ways that it went through the stages."""
        chosen, fates = hits[: 4 * self.limit], dict[str, dict[str, Any]]()
        for hit, row in zip(chosen, self.search.rows(chosen), strict=True):
            told = pa.Table.from_pylist([row])
            if row["uid"] not in fates and len(fates) == self.limit:
                continue
            # A hash may be another's; a dropped row may hold no more than its uid.
            if row.get("url") and not matching_rows(told, targets)[0]:
                continue
            fate = fates.setdefault(row["uid"], {**_identity(row), "apart": hit.apart, "ways": []})
            for name, value in _identity(row).items():
                fate[name] = fate[name] if fate[name] is not None else value
            fate["ways"].append(self._way(hit, row))
        return list(fates.values())

    def _way(self, hit: Hit, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Each stage's verdict on a pair, from extract to where it ended."""
        steps: list[dict[str, Any]] = []
        for name, manifest in self.lineage.path(hit.rows.manifest):
            last = name == (hit.rows.manifest.stage, hit.rows.manifest.key)
            lost = last and hit.rows.prefix == DROPPED
            step: dict[str, Any] = {"stage": name.stage, "key": name.key, "verdict": "dropped" if lost else "kept"}
            step |= {"reason": row.get("drop_reason")} if lost else {}
            step |= {"gone": True} if manifest is None else {}
            if name.stage == "download" and manifest is not None:
                step |= self._fetched(manifest, row["uid"])
            elif name.stage == "pack" and not lost:
                step |= {"shard": row["shard"], "member": row["key"], "part": hit.part.name, "row": hit.place.row}
            steps.append(step)
        return steps

    def _fetched(self, download: Manifest, uid: str) -> dict[str, Any]:
        """The raw shard of a pair and what its server said."""
        target, step = [Target("uid", uid)], dict[str, Any]()
        hits = [hit for prefix in (KEPT, DROPPED) for hit in self.search.find(Rows(download, prefix), target)]
        if not hits:
            return step
        row = self.search.rows(hits[:1])[0]
        if row["status"] == "success":
            step |= {"shard": row["shard"], "member": row["key"], "sha256": row["sha256"]}
        elif row.get("error_message"):
            step["error_message"] = row["error_message"]
        if (evidence := self._evidence(download, hits[0], uid)) is not None:
            step["evidence"] = {name: evidence[name] for name in EVIDENCE if evidence.get(name) not in (None, [])}
        return step

    def _evidence(self, download: Manifest, hit: Hit, uid: str) -> dict[str, Any] | None:
        """The last word of the server on a pair. What was tried in several rounds has a row in each one's part."""
        number = re.sub(r"-r\d+$", "", hit.part.name.removesuffix(".parquet")).partition("-")[2]
        for part in download.named(f"evidence-{number}", ".parquet"):
            path = download.path(part.name)
            uids = read_columns(self.lineage.store, path, ["uid"])["uid"].to_pylist()
            if uid in uids:
                return next(row for _, row in read_rows(self.lineage.store, path, [uids.index(uid)]))
        return None

    def dataset(self, pack: Manifest, pairs: int | None = None) -> dict[str, Any]:
        """A dataset version, and what was made of it.

        Args:
            pairs: how many of its pairs the targets mean.
        """
        told = self.lineage.children(pack, "train")
        known = {(v.name, v.version): v for v in self.registry.of_snapshot("pack", pack.key)}
        trainings = [self._training(train) for train in told]
        written = {(m["name"], m["version"]) for training in trainings for m in training["models"]}
        elsewhere = [v.as_json() for key, v in sorted(known.items()) if key not in written]
        facts = {"digest": pack.content_digest, "samples": pack.counts.kept, "created_at": pack.created_at}
        taken = [i.key for i in pack.inputs if i.stage == "takedown"]
        return {
            "key": pack.key,
            **facts,
            "pairs": pairs,
            "takedowns": taken,
            "trainings": trainings,
            "models": elsewhere,
        }

    def _training(self, train: Manifest) -> dict[str, Any]:
        models = [self._model(register) for register in self.lineage.below(train, "register")]
        facts = {"model": ancestry.model_name(train.config), "created_at": train.created_at, "run": train.mlflow_run_id}
        evaluations = [m.key for m in self.lineage.children(train, "evaluate")]
        return {"key": train.key, **facts, "evaluations": evaluations, "models": models}

    def _model(self, register: Manifest) -> dict[str, Any]:
        """A registered version as MLflow has it now; else as register wrote it down."""
        facts = register.facts
        name, number = str(facts["model_name"]), str(facts["version"])
        now = next((v for v in self.registry.of_key(register.key) if (v.name, v.version) == (name, number)), None)
        version = now or RegisteredVersion(
            name, number, run_id=facts.get("run_id"), tags={"gate": str(facts.get("gate"))}
        )
        return {**version.as_json(), "register": register.key, "links": facts.get("links", {})}

    def snapshot(self, manifest: Manifest) -> dict[str, Any]:
        """A snapshot of any stage: what it was made of, and what was made of it."""
        above = self.lineage.ancestors(manifest)
        inputs = [i for i in manifest.inputs if i.stage in STAGES]
        packs = [above["pack"]] if "pack" in above else self.lineage.below(manifest, "pack")
        return {
            "store": self.lineage.store.uri,
            "snapshot": {"stage": manifest.stage, "key": manifest.key, "digest": manifest.content_digest},
            "stages": [_stage(above[stage]) for stage in above if stage != manifest.stage] + [_stage(manifest)],
            "gone": [f"{i.stage}/{i.key}" for i in inputs if self.lineage.parent(i) is None],
            "funnel": funnel_stages(above.values()),
            "sources": [{"source": i.key, "digest": i.digest} for i in _sources(above)][: self.limit],
            "source_files": len(_sources(above)),
            "datasets": [self.dataset(pack) for pack in packs],
            "registry": self.registry.status(),
        }

    def model(self, text: str) -> dict[str, Any] | None:
        """A model version, given as `models:/name/3`, `name/3` or `name@alias`; None where this store has it not."""
        found = _MODEL.fullmatch(text)
        if found is None:
            return None
        version = self.registry.version(found["name"], found["version"], found["alias"])
        register = self._register_of(version, found["name"], found["version"])
        if register is None:
            return None
        told = self.snapshot(register)
        stages = {name.stage: name.key for name, _ in self.lineage.path(register)}
        return {"model": self._model(register), **told, "path": stages}

    def _register_of(self, version: RegisteredVersion | None, name: str, number: str | None) -> Manifest | None:
        if version is not None:
            return self.lineage.manifests.get(SnapshotName("register", version.key or ""))
        for manifest in self.lineage.manifests.values():
            facts = manifest.facts
            if manifest.stage == "register" and (facts.get("model_name"), str(facts.get("version"))) == (name, number):
                return manifest
        return None


def parse_model(text: str) -> tuple[str, str | None]:
    """The name and, where there is one, the number of a version. Raises: ConfigError for an alias or nonsense."""
    found = _MODEL.fullmatch(text)
    name = text.removeprefix("models:/") if found is None else found["name"]
    if (found is not None and found["alias"]) or not name or "/" in name:
        raise ConfigError(f"{text!r} is no model: write models:/name/3, name/3, or a name alone")
    return name, found["version"] if found else None


def is_model(text: str) -> bool:
    """Whether a text names a model version."""
    return "://" not in text and _MODEL.fullmatch(text) is not None


def _identity(row: Mapping[str, Any]) -> dict[str, Any]:
    names = ("uid", "url", "caption", "page_url", "caption_source", "source", "source_offset", "extracted_with")
    return {name: row.get(name) for name in (*names, "license", "sha256", "phash")}


def _places(hits: Sequence[Hit]) -> list[dict[str, Any]]:
    """Where the rows ended, each with their number."""
    counts: dict[tuple[str, str, str], int] = {}
    for hit in hits:
        place = (hit.rows.manifest.stage, hit.rows.manifest.key, "kept" if hit.rows.prefix == KEPT else "dropped")
        counts[place] = counts.get(place, 0) + 1
    order = sorted(counts.items(), key=lambda item: (PAIR_STAGES.index(item[0][0]), item[0]))
    return [{"stage": stage, "key": key, "verdict": verdict, "rows": n} for (stage, key, verdict), n in order]


def _datasets(hits: Sequence[Hit]) -> list[tuple[Manifest, int]]:
    found: dict[str, tuple[Manifest, int]] = {}
    for hit in hits:
        if hit.rows.manifest.stage == "pack" and hit.rows.prefix == KEPT:
            manifest = hit.rows.manifest
            found[manifest.key] = (manifest, found.get(manifest.key, (manifest, 0))[1] + 1)
    return sorted(found.values(), key=lambda one: (one[0].created_at, one[0].key))


def _stage(manifest: Manifest) -> dict[str, Any]:
    counts = manifest.counts.model_dump()
    named = {"stage": manifest.stage, "key": manifest.key, "created_at": manifest.created_at}
    return {**named, "commit": manifest.code.get("commit"), "counts": counts}


def _sources(above: Mapping[str, Manifest]) -> list[Any]:
    return [i for i in above["extract"].inputs if i.stage == "source"] if "extract" in above else []
