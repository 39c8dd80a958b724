"""The commands over pairs and datasets: `trace`, `takedown(s)`, `publish`, `promote`, `diff` and `queries build`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dataops.errors import ConfigError
from flows.commands.options import Json, StoreUri, Yes
from infra.local import services


def trace(
    what: str,
    *,
    limit: Annotated[int, Parameter(help="Number of pairs to show in full.")] = 20,
    index: Annotated[bool, Parameter(negative="--no-index", help="Build missing indexes.")] = True,
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Show where a pair came from and which models were trained on it, or what a model was made from.

    Args:
        what: A uid, URL, domain, image file, model version (models:/name/3, name@alias), or a snapshot's key.
    """
    from flows.commands.trace import trace as trace_target

    return trace_target(what, services.home(), store, limit=limit, index=index, as_json=json)


def takedown(
    file: Path,
    *,
    reason: Annotated[str, Parameter(help="Recorded with the request.", show_default=False)] = "",
    delete_raw: Annotated[
        bool,
        Parameter(negative="", help="Also delete the images from raw shards, and the superseded dataset versions."),
    ] = False,
    yes: Annotated[Yes, Parameter(help="With --delete-raw: do not ask; required without a terminal.")] = False,
    requested_by: Annotated[
        str, Parameter(help="Who asked; kept in the store's register of requests only.", show_default=False)
    ] = "",
    received: Annotated[
        str, Parameter(help="Day on which the request came, YYYY-MM-DD; default: today.", show_default=False)
    ] = "",
    due: Annotated[
        str, Parameter(help="Day until which it must be done; default: 30 days later.", show_default=False)
    ] = "",
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Remove pairs from every dataset, tag the models that were trained on them, and verify that none is left.

    With --delete-raw, also erase them from reports, caches and MLflow, and search everything that pairmill wrote.

    Args:
        file: URLs, domains, uids, sha256, phash:HEX, image:PATH, one per line; or CSV (kind, value), or TOML.
    """
    from flows.commands.takedown import TakedownOptions
    from flows.commands.takedown import takedown as take_down

    options = TakedownOptions(file, reason, delete_raw, yes, requested_by, received, due)
    return take_down(options, services.home(), store, as_json=json)


def takedowns(
    *,
    csv: Annotated[Path | None, Parameter(help="Also write the list to this file.")] = None,
    check: Annotated[
        bool, Parameter(negative="", help="End with exit code 3 if an open request is overdue or due soon.")
    ] = False,
    days: Annotated[int, Parameter(help="With --check: number of days that count as soon.")] = 3,
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """List the takedown requests: who asked, when, until when it is due, and when it was done.

    With --check, each such request also gets an event in Prefect, for which `deploy --notify` sets up a notification.
    """
    from flows.commands.removal.listing import ListOptions, list_takedowns

    return list_takedowns(ListOptions(csv, check, days), services.home(), store, as_json=json)


def publish(
    what: str,
    *,
    to: Annotated[str, Parameter(help="Place: hub:OWNER/NAME, s3://bucket/prefix, or a folder.")],
    license: Annotated[
        str,
        Parameter(
            help="Licence of the dataset as a whole, or of the weights, such as cc-by-4.0, mit or other.",
            show_default=False,
        ),
    ] = "",
    public: Annotated[
        bool, Parameter(negative="", help="Let everybody read a repository of the Hub; by default it is private.")
    ] = False,
    dry_run: Annotated[
        bool, Parameter(negative="", help="Only show what would be sent, and the result of the gate.")
    ] = False,
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Publish a dataset or a model, and record it. An interrupted publication continues with the same command.

    The gate requires a stated licence, a dataset that no check blocks, and no pair that a takedown removes.

    Args:
        what: The key of a dataset or a run that made one, the key of a train snapshot, a registered model, or a folder.
    """
    from flows.commands.publish import PublishOptions
    from flows.commands.publish import publish as publish_to

    options = PublishOptions(what, to, license, public, dry_run)
    return publish_to(options, services.home(), store, as_json=json)


def promote(
    model: str,
    *,
    alias: Annotated[str, Parameter(help="The alias to move.")] = "champion",
    reason: Annotated[
        str,
        Parameter(help="Why; required to move the alias, and recorded in the audit trail.", show_default=False),
    ] = "",
    json: Json = False,
) -> int:
    """Move an alias to a version of a model, also back to an earlier one. Without a version, print the audit trail.

    Args:
        model: models:/name/3 or name/3; only the name for the audit trail.
    """
    from flows.commands.promote import promote as move_alias

    return move_alias(model, alias, reason, as_json=json)


def diff(
    a: str,
    b: str,
    *,
    rows: Annotated[
        Path | None,
        Parameter(
            help="Of datasets: also write each added and removed pair, and why, to this file (.parquet or .csv)."
        ),
    ] = None,
    page: Annotated[Path | None, Parameter(help="Of models: also write an HTML page to this file.")] = None,
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Show what differs between two datasets (pairs, and why) or two registered models (metrics, data and settings).

    Args:
        a: The key of a dataset (a snapshot of pack), a run that made or reused one, or a model: NAME/VERSION, NAME@ALIAS.
        b: Another one; `added` pairs are in B and not in A.
    """
    from flows.commands.diff import show_diff
    from flows.commands.registry.versions import show_model_diff
    from tasks.lineage.trace import is_model

    if is_model(a) != is_model(b):
        raise ConfigError(f"{a} and {b}: name two datasets, or two registered models")
    if is_model(a):
        if rows is not None:
            raise ConfigError("--rows is for two datasets: name the keys that `pairmill models` lists")
        return show_model_diff(a, b, services.home(), store, page, as_json=json)
    if page is not None:
        raise ConfigError("--page is for two registered models")
    return show_diff(a, b, services.home(), store, rows, as_json=json)
