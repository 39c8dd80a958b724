"""The stage `register`: it writes the trained model to MLflow as a version with its whole ancestry, behind a gate.

Each snapshot key has one MLflow run and one version, however many attempts it takes
(tasks/register/registration.py). Torch is not imported.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dataops.digest import canonical_json
from dataops.errors import ConfigError, GateRefused
from dataops.facts import RegisterFacts
from dataops.snapshot import Manifest
from tasks.engine.context import Context
from tasks.engine.stage import Stage, StageOutput, Work
from tasks.register.config import CANDIDATE, RegisterConfig
from tasks.register.gate import Verdict, check_floors, compare_with_champion, judge_without_gate
from tasks.register.registration import GATE_TAG, Registration, find_version, page_urls, record_registration
from tasks.tracking import client as tracking
from training.evaluation.intervals import flatten_metrics

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

logger = logging.getLogger(__name__)


def make(work: Work[RegisterConfig]) -> StageOutput:
    """Record the run, log the model, register a version and set its alias.

    Raises: GateRefused if a metric is below its floor, or the model is worse than the champion (the version stays, as
        `candidate`); ConfigError if a floor names no metric or MLflow refuses; ServiceError if MLflow does not answer.
    """
    store, evaluated, config = work.draft.store, work.inputs["evaluate"], work.config
    metrics = json.loads(store.read(evaluated.path("metrics.json")))
    rows = flatten_metrics(metrics)
    verdict = check_floors(config.floors, rows)
    if unknown := sorted({*config.not_worse} - metrics.keys()):
        raise ConfigError(
            f"register.not_worse: {', '.join(unknown)}: no such task; there are {', '.join(sorted(metrics))}"
        )
    client = tracking.connect()
    with tracking.mlflow_errors():
        version = find_version(client, config.model_name, work.draft.key)
        if version is None or GATE_TAG not in version.tags:
            champion = _find_champion(work, client)
            verdict = _add_comparison(work, champion, verdict)
            if verdict.passed and not config.floors and not verdict.comparisons:
                verdict = judge_without_gate(metrics, store, champion, evaluated, config.alpha)
            version = record_registration(Registration(work, client, metrics, rows, verdict))
        else:
            verdict = Verdict.parse(version.tags[GATE_TAG])  # by now another version may be the champion
            logger.info("register %s: version %s is already complete", work.draft.key, version.version)
        if not verdict.passed:
            reasons = "; ".join(verdict.refusals)
            raise GateRefused(f"{config.model_name} version {version.version} is refused by the gate: {reasons}")
        return _build_output(work, client, version, rows, verdict)


def _find_champion(work: Work[RegisterConfig], client: "MlflowClient") -> "ModelVersion | None":
    """Return the version that has the alias, unless a killed attempt of this registration gave it to its own version."""
    champion = tracking.find_aliased_version(client, work.config.model_name, work.config.alias)
    return None if champion is not None and champion.tags.get(tracking.KEY_TAG) == work.draft.key else champion


def _add_comparison(work: Work[RegisterConfig], champion: "ModelVersion | None", verdict: Verdict) -> Verdict:
    """Return the verdict extended by a comparison with the champion, if the config names tasks for it."""
    config = work.config
    if champion is None or not config.not_worse:
        return verdict
    compared = compare_with_champion(
        work.draft.store, champion, work.inputs["evaluate"], config.not_worse, config.alpha
    )
    return Verdict((*verdict.refusals, *compared.refusals), compared.comparisons)


def still_valid(manifest: Manifest, config: RegisterConfig, context: Context) -> bool:
    """Return whether the registry that the environment names still has the version of the snapshot."""
    client = tracking.connect()
    with tracking.mlflow_errors():
        version = find_version(client, config.model_name, manifest.key)
        return version is not None and str(version.version) == RegisterFacts.of(manifest).version


def _build_output(
    work: Work[RegisterConfig],
    client: "MlflowClient",
    version: "ModelVersion",
    rows: Sequence[Mapping[str, object]],
    verdict: Verdict,
) -> StageOutput:
    """Write what was registered, which is deterministic, and as evidence where and when."""
    config, number = work.config, str(version.version)
    alias = config.alias if verdict.gets_alias else CANDIDATE
    registration = {
        "model_name": config.model_name,
        "alias": alias,
        "gate": str(verdict),
        "floors": config.floors,
        "metrics": {row["key"]: {n: row[n] for n in ("value", "low", "high", "chance", "n")} for row in rows},
        "inputs": {stage: manifest.content_digest for stage, manifest in sorted(work.inputs.items())},
    }
    facts = RegisterFacts(
        model_uri=f"models:/{config.model_name}/{number}",
        model_name=config.model_name,
        version=number,
        alias=alias,
        gate=str(verdict),
        run_id=version.run_id,
        experiment_id=client.get_run(version.run_id).info.experiment_id if version.run_id else None,
        tracking_uri=tracking.remove_credentials(tracking.tracking_uri()),
    )
    facts = facts.model_copy(update={"links": page_urls(facts)})
    when = datetime.fromtimestamp((version.creation_timestamp or 0) / 1000, UTC).isoformat(timespec="seconds")
    dated = {**facts.as_json(), "created": when}
    parts = [
        work.draft.put_bytes("registration.json", canonical_json(registration).encode()),
        work.draft.put_bytes("evidence-registration.json", canonical_json(dated).encode()),
    ]
    return StageOutput(parts, facts=facts, mlflow_run_id=version.run_id)


REGISTER = Stage(name="register", version=2, make=make, still_valid=still_valid, conserves_rows=False)
