"""Write the artefacts of a registration's MLflow run: reports, charts, manifests, and samples of the predictions."""

import json
import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dataops import plugins
from dataops.facts import RegisteredPages
from dataops.formatting import format_percent, format_quantity
from dataops.funnel import funnel_rows
from dataops.snapshot import UNDIGESTED, read_table
from tasks.download.report import report_html as download_html
from tasks.engine.scratch_folders import scratch_folder
from tasks.filter.report import report_html as filter_html
from tasks.register.commit_page import find_commit_url
from tasks.register.documents import Documents, list_files, list_urls
from tasks.register.evaluation_page import render_evaluation_page
from tasks.register.model_card import Card
from tasks.register.registration import Registration
from tasks.tracking import client as tracking
from tasks.tracking import run_metadata

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

Files = dict[str, bytes | str]
"""Contents of files by their path in the run."""
SAMPLED_PREDICTIONS = 100


def log_artefacts(registration: Registration, run: "Run") -> None:
    """Write the artefacts of the run that do not name its version; a repeated call replaces them."""
    files: Files = {
        **_describe_data(registration),
        **_describe_model(registration),
        **_copy_parts(registration),
        **_sample_predictions(registration),
    }
    _log_files(registration, run, files)


def log_card(registration: Registration, run: "Run", version: "ModelVersion") -> None:
    """Write the card into a version's run; a repeated call replaces it."""
    work = registration.work
    config, tags = work.config, registration.tags
    files = list_files(work.inputs)
    facts = RegisteredPages(
        model_name=config.model_name,
        version=str(version.version),
        experiment_id=run.info.experiment_id,
        run_id=run.info.run_id,
    )
    base = tracking.remove_credentials(tracking.tracking_uri()).rstrip("/")
    created = datetime.fromtimestamp((version.creation_timestamp or 0) / 1000, UTC)
    documents = Documents(
        version=str(version.version),
        registered=created.date().isoformat(),
        config_hash=tags["config_hash"],
        files=files | {one.key: f"manifests/pack-{one.key}.json" for one in registration.other_datasets},
        urls=list_urls(base, facts, files, find_commit_url(str(work.inputs["train"].code.get("commit")))),
    )
    verdict = str(registration.verdict)
    card = Card(
        config.model_name,
        work.inputs,
        registration.rows,
        verdict,
        config.description,
        config.license,
        documents,
        registration.datasets,
    )
    _log_files(registration, run, {"model_card.html": card.html(), "model_card.md": card.markdown()})


def _log_files(registration: Registration, run: "Run", files: Files) -> None:
    with scratch_folder("register") as folder:
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "replace"))
        registration.client.log_artifacts(run.info.run_id, str(folder))


def _describe_data(registration: Registration) -> Files:
    work = registration.work
    inputs, store = work.inputs, work.draft.store
    funnel = funnel_rows(inputs.values())
    return {
        "config.json": json.dumps(run_metadata.redact_values(work.context.run_config), indent=2, ensure_ascii=False),
        "funnel.json": json.dumps(funnel, indent=2),
        "funnel.html": run_metadata.render_table_page(
            "Funnel",
            [{**row, "share": format_percent(row["share"])} for row in funnel],
            "Rows of each stage, and the reasons for which they were dropped, as a share of the stage's input.",
        ),
        "filter.html": filter_html(inputs["filter"]),
        "download.html": download_html(inputs["download"], store),
        **{name: render(registration.lineage, store.uri) for name, render in plugins.load("version_files").items()},
    }


def _describe_model(registration: Registration) -> Files:
    return {
        "evaluation.html": render_evaluation_page(registration.work, registration.champion),
        "metrics.json": json.dumps(registration.metrics, indent=2, ensure_ascii=False),
    }


def _copy_parts(registration: Registration) -> Files:
    """Return the manifests of all inputs and other datasets, the full training curve, and the dataset's documents."""
    inputs = registration.work.inputs
    files: Files = {f"manifests/{stage}.json": manifest.encode() for stage, manifest in inputs.items()}
    others = [one for one in registration.lineage if one not in inputs.values()]
    files |= {f"manifests/{one.stage}-{one.key}.json": one.encode() for one in others}
    documents = [part.name for part in inputs["pack"].parts if part.name in UNDIGESTED]
    files |= {name: registration.read("pack", name) for name in documents}
    return files | {"metrics.jsonl": registration.read("train", "metrics.jsonl")}


def _sample_predictions(registration: Registration) -> Files:
    """Return a page for each task with some of its predictions, sampled by the seed."""
    work, manifest = registration.work, registration.work.inputs["evaluate"]
    pages: Files = {}
    for part in manifest.named("predictions-", ".parquet"):
        table = read_table(work.draft.store, manifest.path(part.name))
        count = min(SAMPLED_PREDICTIONS, table.num_rows)
        rows = run_metadata.select_rows(table, random.Random(work.seed).sample(range(table.num_rows), count))
        name = part.name.removesuffix(".parquet")
        note = f"{count:,} of {format_quantity(table.num_rows, 'row')}, sampled at random (seed {work.seed})."
        pages[f"predictions/{name}.html"] = run_metadata.render_table_page(name, rows, note)
    return pages
