"""The options of the commands that write documents: `summary` and `bom`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flows.commands.options import Json, StoreUri
from infra.local import services


def summary(
    what: str,
    *,
    out: Annotated[Path | None, Parameter(help="File to write: .md, .html or .json.")] = None,
    facts: Annotated[
        Path | None, Parameter(help="TOML file with a table [summary]: what the provider states of open fields.")
    ] = None,
    since: Annotated[
        str | None,
        Parameter(help="Also show what has changed since this one: a summary in JSON, a model, a dataset or a run."),
    ] = None,
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Write the public summary of training content that the EU AI Act asks for, in the Commission's template.

    Each field is filled from the manifests, or it is listed as open, with who must fill it. With --json the summary is
    printed.

    Args:
        what: The key of a dataset or a train snapshot, a run, or a registered model (NAME/VERSION, NAME@ALIAS).
    """
    from flows.commands.documents.summary import summary as write_summary

    return write_summary(what, out, facts, since, services.home(), store, json=json)


def bom(
    model: str,
    *,
    out: Annotated[Path, Parameter(help="File to write, such as model.cdx.json.")],
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Write the bill of materials of a model (ML-BOM) in CycloneDX: its datasets, pretrained weights and software.

    Args:
        model: The key of a train snapshot, a run that trained, or a registered model (NAME/VERSION, NAME@ALIAS).
    """
    from flows.commands.documents.bom import bom as write_bom

    return write_bom(model, out, services.home(), store, as_json=json)
