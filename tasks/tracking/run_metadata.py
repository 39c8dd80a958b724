"""Convert manifests to the params, tags, datasets, descriptions and pages that MLflow shows, as plain values.

Nothing here imports mlflow. Credentials are removed from all values, whatever a config or a caption
holds; text from the web is escaped for its page.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from dataops.digest import canonical_json, text_sha256
from dataops.facts import TrainFacts
from dataops.redaction import HIDDEN, is_secret_name, redact, remove_credentials
from dataops.schema import CURATED
from dataops.snapshot import Manifest
from dataops.trace.sources import TrainingDataset, key_sources_by_name
from tasks.tracking.client import DATASETS_TAG, NAME_LENGTH, PARAM_LENGTH, RUN_TAG

SPACE = "&nbsp;"
"""A paragraph below a table, where MLflow's style sheet leaves no space."""
DIGEST_LENGTH = 36
"""MLflow's limit for the digest of a dataset."""
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
SOURCE_TAGS = {"mlflow.source.name": "pairmill", "mlflow.source.type": "JOB"}
COLSPEC = {"string": "string", "int64": "long", "int32": "integer", "float": "float", "double": "double"}


def redact_values(value: object) -> Any:
    """Return a JSON value without credentials: fields with secret names are starred, `user:password@` is removed."""
    if isinstance(value, Mapping):
        return {str(k): HIDDEN if is_secret_name(str(k)) and v else redact_values(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [redact_values(item) for item in value]
    if isinstance(value, bool | int | float) or value is None:
        return value
    return redact(str(value))


def hash_config(config: Mapping[str, object]) -> str:
    """Return 16 hex digits that identify a run's config."""
    return text_sha256(canonical_json(redact_values(config)))[:16]


def flatten_params(config: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Return a nested config as `stage.field.field: text`, within MLflow's limits; lists and empty tables as JSON."""
    params: dict[str, str] = {}
    for name, value in redact_values(config).items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            params |= flatten_params(value, f"{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            params[re.sub(r"[^\w\-. /]", "_", key, flags=re.ASCII)[:NAME_LENGTH]] = text[:PARAM_LENGTH]
    return params


def build_params(manifests: Mapping[str, Manifest], config: Mapping[str, object], seed: int) -> dict[str, str]:
    """Return the params of a run: the seed, and each stage's config as hashed into the key of its snapshot."""
    nested = {stage: key_sources_by_name(manifest.config) for stage, manifest in sorted(manifests.items())}
    return flatten_params({**nested, "register": config, "seed": seed})


def build_lineage_tags(
    manifests: Mapping[str, Manifest],
    config: Mapping[str, Any],
    code: Mapping[str, Any],
    datasets: Sequence[TrainingDataset] = (),
) -> dict[str, str]:
    """Return the tags of a run and a version that identify the data, config and code of the model.

    Args:
        datasets: those of the training, if it has several.
    """
    dataset = manifests.get("pack")
    return {
        **({"dataset_key": dataset.key, "dataset_digest": dataset.content_digest} if dataset else {}),
        **({DATASETS_TAG: " ".join(one.key for one in datasets)} if len(datasets) > 1 else {}),
        **_tag_weights(manifests.get("train")),
        "config_hash": hash_config(config),
        "git_commit": code.get("commit") or "unknown",
        "code_dirty": str(code.get("dirty")).lower(),
        **{f"snapshot.{stage}": manifest.key for stage, manifest in sorted(manifests.items())},
    }


def _tag_weights(train: Manifest | None) -> dict[str, str]:
    """Return a tag for each file of pretrained weights that a training started from."""
    found = [] if train is None else TrainFacts.of(train).weights
    return {
        f"weights.{one.tower}": ", ".join(
            filter(
                None,
                (
                    one.full_name,
                    one.license or "no stated licence",
                    one.sha256 and f"sha256 {one.sha256}",
                ),
            )
        )
        for one in found
    }


def model_name(train: Manifest) -> str:
    """Return the name of a training's model, or of its config file without the path, and the towers that replace its own.

    The model has no part in the name if both are replaced.
    """
    name = PurePath(train.config.get("model", "CLIP")).name
    towers = [one.name for one in TrainFacts.of(train).weights if one.tower in ("text", "image")]
    return " + ".join([name, *towers][len(towers) > 1 :])


def name_run(run_id: str | None, otherwise: str) -> str:
    """Return the name of a run in MLflow: the time in its pipeline run's id, and the id's end.

    The list of runs shows some 15 characters of a name, and all runs of a config begin with its
    name, which is that of the experiment. The id itself is the tag `pairmill.run_id`.
    """
    found = re.search(r"-\d{4}(0[1-9]|1[0-2])(\d\d)T(\d\d)(\d\d)\d\d-([0-9a-f]{4})$", run_id or "")
    if found is None:
        return run_id or otherwise
    month, day, hour, minute, suffix = found.groups()
    return f"{int(day)} {MONTHS[int(month) - 1]} {hour}:{minute} {suffix}"


def build_run_tags(run_id: str | None, flow_run_id: str | None, flow_run_url: str | None) -> dict[str, str]:
    """Return the tags that identify the runs of pairmill and of Prefect."""
    tags = {RUN_TAG: run_id, "prefect_flow_run_id": flow_run_id, "prefect_flow_run_url": flow_run_url}
    return {name: remove_credentials(value) for name, value in tags.items() if value}


def describe_training_dataset(manifest: Manifest, store_uri: str) -> dict[str, Any]:
    """Return the packed dataset as the fields of an MLflow dataset.

    Its source is the snapshot's folder in the store, with a source type of MLflow, so that
    `mlflow.data.get_source(...).load()` works without pairmill.
    """
    columns = [{"name": f.name, "type": COLSPEC.get(str(f.type), "string"), "required": False} for f in CURATED]
    shards = manifest.named("", ".tar")
    profile = {
        "num_rows": manifest.counts.kept,
        "num_shards": len(shards),
        "bytes": sum(part.bytes for part in shards),
        "content_digest": manifest.content_digest,
    }
    return {
        "name": f"pack-{manifest.key}",
        "digest": manifest.content_digest[:DIGEST_LENGTH],
        **_build_source(store_uri, f"pack/{manifest.key}"),
        "schema": json.dumps({"mlflow_colspec": columns}),
        "profile": json.dumps(profile),
    }


def describe_evaluation_datasets(
    manifest: Manifest, metrics: Mapping[str, Any], store_uri: str
) -> dict[str, dict[str, Any]]:
    """Return each task of the suite as the fields of an MLflow dataset, by the task's name.

    The files of the suite are outside the store, so the source is the predictions, which hold the
    key and label of every example. The digest covers the suite's digest and the task's name, and so
    changes with any file of the suite.
    """
    suite = next((i for i in manifest.inputs if i.stage == "suite"), None)
    found: dict[str, dict[str, Any]] = {}
    for task, result in metrics.items():
        identity = f"{suite.digest if suite else manifest.content_digest}\0{task}"
        facts = {name: value for name, value in result.items() if name != "metrics"}
        profile = {"num_rows": result["n"], "suite": suite.key if suite else None, **facts}
        found[task] = {
            "name": task,
            "digest": text_sha256(identity)[:DIGEST_LENGTH],
            **_build_source(store_uri, manifest.path(f"predictions-{task}.parquet")),
            "schema": None,
            "profile": json.dumps(profile),
        }
    return found


def _build_source(store_uri: str, name: str) -> dict[str, str]:
    uri = f"{remove_credentials(store_uri)}/{name}"
    return {"source_type": "s3" if uri.startswith("s3://") else "local", "source": json.dumps({"uri": uri})}


def count_training_pairs(manifests: Mapping[str, Manifest]) -> int:
    """Return the number of pairs of all datasets of a training."""
    train, pack = manifests.get("train"), manifests["pack"]
    return train.counts.kept if train is not None and train.config.get("dataset") else pack.counts.kept


def render_stages(stages: Sequence[Mapping[str, Any]], manifests: Mapping[str, Manifest]) -> str:
    """Return the stages of a run as a Markdown table; empty if there are none.

    Args:
        stages: `stage`, `key`, `state` and `seconds` of each stage that it reached.
    """
    lines = [format_table_row("stage", "snapshot", "state", "rows in", "kept", "seconds"), "|:--|:--|:--|--:|--:|--:|"]
    for stage in stages:
        counts = manifests[stage["stage"]].counts if stage["stage"] in manifests else None
        rows = (f"{counts.input:,}", f"{counts.kept:,}") if counts is not None and counts.input else ("-", "-")
        state = (str(stage["stage"]), f"`{stage['key']}`", str(stage["state"]))
        lines.append(format_table_row(*state, *rows, f"{stage['seconds']:,.1f}"))
    return "\n".join(lines) if stages else ""


def format_table_row(*cells: str) -> str:
    """Return a row of a Markdown table; MLflow's style sheet sets no space between columns, so each cell ends in one."""
    return "| " + " | ".join(f"{cell}&emsp;" for cell in cells) + " |"
