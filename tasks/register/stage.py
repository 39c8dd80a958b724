"""register: the trained model as a version in MLflow, with all that it was made of, behind a gate.

One MLflow run and one version per snapshot key, however often it was tried (tasks/register/registration.py). Torch is not imported.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dataops.digest import canonical_json
from dataops.errors import ConfigError, GateRefused
from dataops.snapshot import Manifest, Part
from tasks.engine.context import Context
from tasks.engine.stage import Stage, StageOutput, Work
from tasks.register.config import RegisterConfig
from tasks.register.evaluation_page import find_champion_evaluation
from tasks.register.gate import current, refusals
from tasks.register.registration import GATE_TAG, Registration, Verdict, find_version, pages
from tasks.tracking import client as tracking
from training.evaluation.intervals import flatten_metrics

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

logger = logging.getLogger(__name__)


def judge(floors: Mapping[str, float], rows: Sequence[Mapping[str, Any]]) -> Verdict:
    """Compare each floor with its metric; a value that is not a number is below every floor.

    Raises: ConfigError when a floor names no metric of the suite; lists those that there are.
    """
    values = {row["key"]: row["value"] for row in rows}
    keys = {floor: floor.replace("@", "_at_") for floor in floors}
    unknown = sorted(floor for floor, key in keys.items() if key not in values)
    if unknown:
        raise ConfigError(
            f"register.floors: {', '.join(unknown)}: no such metric; there are {', '.join(sorted(values))}"
        )
    refusals = []
    for floor, key in sorted(keys.items()):
        value = values[key]
        if value is None or not value >= floors[floor]:
            refusals.append(f"{floor} is {'no number' if value is None else f'{value:.4g}'}, floor {floors[floor]:g}")
    return Verdict(tuple(refusals))


def make(work: Work[RegisterConfig]) -> StageOutput:
    """Record the run, log the model, register a version and set its alias.

    Raises: GateRefused when a metric is below its floor, or the model worse than the champion (the version is kept, as
        `candidate`); ConfigError when a floor names no metric or MLflow refuses; ServiceError when MLflow does not answer.
    """
    store, evaluated = work.draft.store, work.inputs["evaluate"]
    metrics = json.loads(store.read(evaluated.path("metrics.json")))
    rows = flatten_metrics(metrics)
    verdict = judge(work.config.floors, rows)
    if unknown := sorted({*work.config.not_worse} - metrics.keys()):
        raise ConfigError(
            f"register.not_worse: {', '.join(unknown)}: no such task; there are {', '.join(sorted(metrics))}"
        )
    client = tracking.connect()
    with tracking.mlflow_errors():
        version = find_version(client, work.config.model_name, work.draft.key)
        if version is None or GATE_TAG not in version.tags:
            holder = current(client, work.config.model_name, work.config.alias)
            verdict = _against_champion(work, holder, verdict)
            champion = find_champion_evaluation(work, holder)
            version = Registration(work, client, metrics, rows, verdict, champion).version()
        else:
            verdict = Verdict.parsed(version.tags[GATE_TAG])  # the champion may be another by now
            logger.info("register %s: version %s is complete there", work.draft.key, version.version)
        if not verdict.passed:
            why = "; ".join(verdict.refusals)
            raise GateRefused(f"{work.config.model_name} version {version.version} is refused by the gate: {why}")
        return _made(work, client, version, rows, verdict)


def _against_champion(work: Work[RegisterConfig], holder: "ModelVersion | None", verdict: Verdict) -> Verdict:
    """The verdict, with what a comparison with the version that has the alias adds to it."""
    config = work.config
    if holder is None or not config.not_worse or holder.tags.get(tracking.KEY_TAG) == work.draft.key:
        return verdict
    why, told = refusals(work.draft.store, holder, work.inputs["evaluate"], config.not_worse, config.alpha)
    return Verdict((*verdict.refusals, *why), tuple(told))


def still_valid(manifest: Manifest, config: RegisterConfig, context: Context) -> bool:
    """Whether the version that the snapshot names is in the registry that the environment names, with our tag."""
    client = tracking.connect()
    with tracking.mlflow_errors():
        version = find_version(client, config.model_name, manifest.key)
        return version is not None and str(version.version) == str(manifest.facts.get("version"))


def run_links(facts: Mapping[str, Any]) -> dict[str, str]:
    """Addresses of the pages of the run and of the version in the MLflow UI; none where the server has no UI.

    Args:
        facts: of a register manifest.
    """
    base = tracking.without_credentials(str(facts["tracking_uri"])).rstrip("/")
    if not base.startswith(("http://", "https://")):
        return {}
    return {name: f"{base}/{page}" for name, page in pages(facts).items()}


def _made(
    work: Work[RegisterConfig],
    client: "MlflowClient",
    version: "ModelVersion",
    rows: Sequence[Mapping[str, Any]],
    verdict: Verdict,
) -> StageOutput:
    """The snapshot's parts: what was registered (the same at every making) and, as evidence, where and when."""
    config, number = work.config, str(version.version)
    registration = {
        "model_name": config.model_name,
        "alias": config.alias,
        "gate": str(verdict),
        "floors": config.floors,
        "metrics": {row["key"]: {n: row[n] for n in ("value", "low", "high", "chance", "n")} for row in rows},
        "inputs": {stage: manifest.content_digest for stage, manifest in sorted(work.inputs.items())},
    }
    facts: dict[str, Any] = {
        "model_uri": f"models:/{config.model_name}/{number}",
        "model_name": config.model_name,
        "version": number,
        "alias": config.alias,
        "gate": str(verdict),
        "run_id": version.run_id,
        "experiment_id": client.get_run(version.run_id).info.experiment_id if version.run_id else None,
        "tracking_uri": tracking.without_credentials(tracking.tracking_uri()),
    }
    facts["links"] = run_links(facts)
    created = datetime.fromtimestamp((version.creation_timestamp or 0) / 1000, UTC).isoformat(timespec="seconds")
    parts: list[Part] = [
        work.draft.put_bytes("registration.json", canonical_json(registration).encode()),
        work.draft.put_bytes("evidence-registration.json", canonical_json({**facts, "created": created}).encode()),
    ]
    return StageOutput(parts, facts=facts, mlflow_run_id=version.run_id)


REGISTER = Stage(name="register", version=1, make=make, still_valid=still_valid, conserves_rows=False)
