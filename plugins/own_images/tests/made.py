"""Photographs, shards and tables that tests make, and the stages that read them."""

from dataops.snapshot import read_parts
from dataops.store import FolderStore
from flows.config import RunConfig
from flows.pipeline import PIPELINE
from tasks.engine.context import Context
from tasks.engine.stage import make, plan


def write_files(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def run(folder, source, pool, until="pack", **tables):
    """Make the snapshots from extract on."""
    values = {"name": "own", "source": source, **tables}
    values["download"] = {"image_size": 32, "min_success": 0, "shard_size": 4} | values.get("download", {})
    values["curate"] = {"min_side": 8} | values.get("curate", {})
    config = RunConfig.model_validate(values)
    assert not config.stage_config("download").problems()
    context = Context(FolderStore(folder / "store"), folder / "home", workers=1, pool=pool)
    made = {}
    for step in PIPELINE[:5]:
        inputs = [made[name] for name in step.reads]
        made[step.stage.name] = make(
            plan(step.stage, config.stage_config(step.table), 0, inputs, context.store), context
        )
        if step.stage.name == until:
            break
    return made


def outcomes(store, made):
    """Return the drop reason of each pair by path and caption (None: it is in the last snapshot)."""
    found = {}
    for manifest in made.values():
        for row in read_parts(store, manifest, "dropped-").to_pylist() if manifest.counts.dropped else []:
            found[_name(row["url"]), row["caption"]] = row["drop_reason"]
    last = [*made.values()][-1]
    for row in read_parts(store, last).to_pylist() if last.counts.kept else []:
        found[_name(row["url"]), row["caption"]] = None
    return found


def _name(url):
    assert url.startswith("source://")
    return url.removeprefix("source://").partition("/")[2]
