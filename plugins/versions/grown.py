"""Show in Prefect what a run of a dataset that grows found, why each stage was made, and what a new start changed."""

import logging

from dataops.escaping import escape_markdown
from dataops.formatting import format_quantity
from dataops.redaction import redact
from dataops.snapshot import find_manifest
from dataops.stages import RunState, find_table
from flows.listeners.base import LiveRun, RunListener, StageEnd
from tasks.engine.stage import Plan
from tasks.growth.versions import Version, find_version, list_history, load_version

logger = logging.getLogger(__name__)

LISTED = 20
"""Maximum number of rows that are listed of what only one of two versions has."""


class GrownVersion(RunListener):
    """Creates the artefact `version` of a run that adds to a dataset that grows."""

    order = 35

    def __init__(self, run: LiveRun):
        super().__init__(run)
        self._why: list[tuple[str, str]] = []
        self._planned: Plan | None = None

    def stage_started(self, planned: Plan) -> None:
        self._planned = planned

    def stage_ended(self, end: StageEnd) -> None:
        """Log and keep why the stage was made: what differs from the snapshot of the run that made the version before."""
        base = self.run.config.base
        if base is None or end.outcome == "Reused" or self._planned is None:
            return
        why = self._explain(self._planned, base)
        self._why.append((end.stage, why))
        logger.info("%s was made: %s", end.stage, why)
        if end.stage == "pack" and end.manifest is not None and (name := self.run.record.version) is not None:
            packs = find_version(self.run.context.store, name).packs  # of the version that an earlier attempt has made
            if end.manifest.key not in {pack.key for pack in packs}:
                do = f"`pairmill run` of the config with `--set grow.base={base.number}` makes the next version with it"
                logger.warning("%s stays without pack/%s; %s", name, end.manifest.key, do)

    def _explain(self, planned: Plan, base: Version) -> str:
        from flows.planning.reasons import Wanted, find_differences
        from flows.records import read_record

        stage, history = planned.stage, list_history(self.run.context.store, base)
        made = next((one for one in history if one.run_id), None)  # none has packed small datasets again
        if made is None:
            return "the dataset begins"
        record = read_record(self.run.context.store, f"runs/{made.run_id}.json")
        key = record.key_of(stage.name)
        before = find_manifest(self.run.context.store, stage.name, key) if key else None
        if before is None:
            return f"{made.run_id}, which made version {made.number}, has no snapshot of it"
        settings, table = planned.config.key_config(), find_table(stage.name)
        wanted = Wanted(stage.name, stage.version, settings, planned.seed, planned.inputs, table)
        return "; ".join(find_differences(wanted, before)) or "its snapshot was deleted"

    def ended(self, state: RunState, error: str | None) -> None:
        """Create the artefact."""
        version = self.run.version
        if version is None:
            return
        from prefect.artifacts import create_markdown_artifact

        blocks = [escape_markdown(version.describe())]
        if self._why:
            rows = [f"| {stage} | {escape_markdown(redact(why))} |" for stage, why in self._why]
            blocks.append("\n".join(["| stage | why it was made |", "|---|---|", *rows]))
        if not version.base and version.number > 1:
            earlier = load_version(self.run.context.store, version.line, version.number - 1)
            blocks.append(render_difference(self.run, earlier, version))
        create_markdown_artifact("\n\n".join(blocks), key="version", description=version.describe())


def render_difference(run: LiveRun, earlier: Version, version: Version) -> str:
    """Return the Markdown of the pairs that only one of two versions has, with the reasons."""
    from plugins.versions.datasets import compare_datasets, of_version

    store = run.context.store
    found = compare_datasets(of_version(earlier, store), of_version(version, store))
    lines = [
        f"**In version {version.number}, which started again, and in version {earlier.number}**: {found.common:,} pairs."
    ]
    for side, here, there in ((found.removed, earlier, version), (found.added, version, earlier)):
        lines.append(f"**Only in version {here.number}**: {format_quantity(side.rows.height, 'pair')}.")
        if not side.rows.height:
            continue
        rows = [f"| {stage or '?'} | {reason} | {count:,} |" for (stage, reason), count in side.why.items()]
        lines.append("\n".join([f"| stage | why absent from version {there.number} | pairs |", "|---|---|---|", *rows]))
        first = side.rows.head(LISTED).select("uid", "url", "reason").iter_rows()
        pairs = [f"| {uid} | {escape_markdown(url)} | {reason} |" for uid, url, reason in first]
        lines.append("\n".join(["| uid | url | reason |", "|---|---|---|", *pairs]))
    lines.append(f"All of them: `pairmill diff {earlier.name} {version.name} --rows FILE`")
    return "\n\n".join(lines)
