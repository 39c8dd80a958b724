"""What MLflow is told of a model's ancestry, as plain values made from manifests: params, tags, datasets, description.

No mlflow here. Nothing that looks like a credential leaves this module, whatever a config or a caption holds; text from the
web is escaped for the page that it will stand on.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import pyarrow as pa

from dataops.digest import canonical_json
from dataops.escaping import markdown, visible
from dataops.formatting import format_counts, format_interval, format_percent
from dataops.funnel import funnel_stages
from dataops.redaction import HIDDEN, is_secret_name, redact, without_credentials
from dataops.schema import PACKED
from dataops.snapshot import Manifest
from tasks.reports.page import page, text
from tasks.tracking.client import NAME_LENGTH, PARAM_LENGTH

SPACE = "&nbsp;"
"""What MLflow's style sheet does not leave below a table."""
DIGEST_LENGTH = 36
"""MLflow's limit for the digest of a dataset."""
DESCRIPTION_LENGTH = 5000
"""Of a model version, in MLflow's database."""
SOURCE_TAGS = {"mlflow.source.name": "pairmill", "mlflow.source.type": "JOB"}
COLSPEC = {"string": "string", "int64": "long", "int32": "integer", "float": "float", "double": "double"}


def redacted(value: Any) -> Any:
    """The value as JSON would hold it, without credentials: secret-looking fields starred, `user:password@` cut out."""
    if isinstance(value, Mapping):
        return {str(k): HIDDEN if is_secret_name(str(k)) and v else redacted(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item) for item in value]
    if isinstance(value, bool | int | float) or value is None:
        return value
    return redact(str(value))


def config_hash(config: Mapping[str, Any]) -> str:
    """16 hex digits that name a run's config."""
    return hashlib.sha256(canonical_json(redacted(config)).encode()).hexdigest()[:16]


def flat_params(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested config as `stage.field.field: text`, in MLflow's lengths and characters; lists and empty tables as JSON."""
    params: dict[str, str] = {}
    for name, value in redacted(config).items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            params |= flat_params(value, f"{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            params[re.sub(r"[^\w\-. /]", "_", key, flags=re.ASCII)[:NAME_LENGTH]] = text[:PARAM_LENGTH]
    return params


def stage_params(manifests: Mapping[str, Manifest], config: Mapping[str, Any], seed: int) -> dict[str, str]:
    """The params of a run: the config of every stage as it entered the snapshot's key, and the seed."""
    nested = {stage: manifest.config for stage, manifest in sorted(manifests.items())}
    return flat_params({**nested, "register": config, "seed": seed})


def lineage_tags(
    manifests: Mapping[str, Manifest], config: Mapping[str, Any], code: Mapping[str, Any]
) -> dict[str, str]:
    """Tags that a run and a version share: which data, config and code made the model."""
    dataset = manifests.get("pack")
    return {
        **({"dataset_key": dataset.key, "dataset_digest": dataset.content_digest} if dataset else {}),
        "config_hash": config_hash(config),
        "git_commit": code.get("commit") or "unknown",
        "code_dirty": str(code.get("dirty")).lower(),
        **{f"snapshot.{stage}": manifest.key for stage, manifest in sorted(manifests.items())},
    }


def model_name(train: Mapping[str, Any]) -> str:
    """What a training's config calls its model; of a file of one's own the name, not where it lay."""
    name = str(train.get("model", "CLIP"))
    return PurePath(name).name if name.endswith(".json") else name


def run_tags(run_id: str | None, flow_run_id: str | None, flow_run_url: str | None) -> dict[str, str]:
    """Tags that say which run of pairmill and of Prefect it was."""
    told = {"pairmill.run_id": run_id, "prefect_flow_run_id": flow_run_id, "prefect_flow_run_url": flow_run_url}
    return {name: without_credentials(value) for name, value in told.items() if value}


def training_dataset(manifest: Manifest, store_uri: str) -> dict[str, Any]:
    """The packed dataset, as the fields of an MLflow dataset.

    Its source is the snapshot's folder in the store, in MLflow's own source types, so that
    `mlflow.data.get_source(...).load()` finds it without pairmill.
    """
    columns = [{"name": f.name, "type": COLSPEC.get(str(f.type), "string"), "required": False} for f in PACKED]
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
        **_source(store_uri, f"pack/{manifest.key}"),
        "schema": json.dumps({"mlflow_colspec": columns}),
        "profile": json.dumps(profile),
    }


def evaluation_datasets(manifest: Manifest, metrics: Mapping[str, Any], store_uri: str) -> dict[str, dict[str, Any]]:
    """Each task of the suite as an MLflow dataset, by the task's name.

    The suite's files lie outside the store, so the source names the predictions, which hold every example's key and label;
    the digest is of the suite's digest and the task's name, and so changes with any file of the suite.
    """
    suite = next((i for i in manifest.inputs if i.stage == "suite"), None)
    found: dict[str, dict[str, Any]] = {}
    for task, result in metrics.items():
        identity = f"{suite.digest if suite else manifest.content_digest}\0{task}"
        facts = {name: value for name, value in result.items() if name != "metrics"}
        profile = {"num_rows": result["n"], "suite": suite.key if suite else None, **facts}
        found[task] = {
            "name": task,
            "digest": hashlib.sha256(identity.encode()).hexdigest()[:DIGEST_LENGTH],
            **_source(store_uri, manifest.path(f"predictions-{task}.parquet")),
            "schema": None,
            "profile": json.dumps(profile),
        }
    return found


def _source(store_uri: str, name: str) -> dict[str, str]:
    uri = f"{without_credentials(store_uri)}/{name}"
    return {"source_type": "s3" if uri.startswith("s3://") else "local", "source": json.dumps({"uri": uri})}


def describe(
    manifests: Mapping[str, Manifest], rows: Sequence[Mapping[str, Any]], head: Sequence[str], links: Mapping[str, str]
) -> str:
    """The Markdown that a run and a version show: what it is, the funnel, the results, where to look.

    Args:
        rows: of `training.evaluation.intervals.flatten_metrics`.
        head: paragraphs that stand first, already Markdown.
        links: addresses by name.
    """
    dataset, model = manifests["pack"], model_name(manifests["train"].config)
    about = (
        f"CLIP `{_code(model)}`, trained on **{dataset.counts.kept:,} pairs**: dataset `{dataset.key}`, "
        f"digest `{dataset.content_digest[:16]}…`"
    )
    funnel = [table_line("stage", "rows in", "kept", "dropped"), "|:--|--:|--:|:--|"]
    for row in funnel_stages(manifests.values()):
        reasons = format_counts((markdown(reason), n) for reason, n in list(row["reasons"].items())[:6]) or "-"
        funnel.append(table_line(row["stage"], f"{row['input']:,}", f"{row['kept']:,}", reasons))
    scores = [table_line("task", "metric", "result", "99.5% interval", "chance", "n"), "|:--|:--|--:|--:|--:|--:|"]
    for row in rows[:24]:
        names, figures = (
            (markdown(row["task"]), markdown(row["metric"])),
            (format_percent(row["value"]), format_interval(row["low"], row["high"])),
        )
        scores.append(table_line(*names, *figures, format_percent(row["chance"]), f"{row['n']:,}"))
    places = " · ".join(f"[{name}]({address})" for name, address in links.items())
    blocks = [
        *head,
        about,
        "**Zero-shot results**",
        "\n".join(scores),
        SPACE,
        "**Funnel**",
        "\n".join(funnel),
        SPACE,
        places,
    ]
    return _within("\n\n".join(block for block in blocks if block), DESCRIPTION_LENGTH)


def table_line(*cells: str) -> str:
    """A line of a Markdown table; MLflow's style sheet sets no space between columns, so each cell ends in one."""
    return "| " + " | ".join(f"{cell}&emsp;" for cell in cells) + " |"


def _within(text: str, limit: int) -> str:
    """Whole lines up to the limit."""
    if len(text) <= limit:
        return text
    return text[: limit - 2].rpartition("\n")[0] + "\n…"


def _code(text: Any) -> str:
    return re.sub(r"[`\n]", " ", visible(str(text)))


def html_page(title: str, rows: Iterable[Mapping[str, Any]], note: str = "") -> str:
    """A page with one table. Every value is escaped: captions and names come from the web."""
    rows = list(rows)
    names = list(rows[0]) if rows else []
    head = "".join(f"<th>{text(name)}</th>" for name in names)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{text(_shown(row.get(name)))}</td>" for name in names) + "</tr>" for row in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"
    return page(title, [f"<h1>{text(title)}</h1>", f'<p class="note">{text(note)}</p>', table])


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_shown(item) for item in value[:5])
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return text if len(text) <= 300 else text[:299] + "…"


def sample_rows(table: pa.Table, chosen: Sequence[int]) -> list[dict[str, Any]]:
    """The chosen rows of a table of predictions, without the columns that are empty in all of them."""
    rows = table.take(sorted(chosen)).to_pylist()
    used = [name for name in table.column_names if any(row[name] is not None for row in rows)]
    return [{name: row[name] for name in used} for row in rows]
