"""The gate of a publication: the licence is stated, no check blocks, and nothing that was taken down is in it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dataops.errors import ContractError
from dataops.formatting import format_quantity
from dataops.rights.licenses import UNKNOWN
from dataops.snapshot import Manifest, load_manifest, read_table
from dataops.store import Store
from dataops.trace.requests import list_reports, list_requests, load_report, load_targets
from dataops.trace.targets import COLUMNS, Target, matching_rows
from tasks.checks.check import CheckReport
from tasks.lineage.graph import KEPT


@dataclass(frozen=True)
class Condition:
    """A condition of the gate, with its result."""

    name: str
    is_met: bool
    text: str


def refuse(what: str, conditions: Iterable[Condition]) -> None:
    """Raise a ContractError that names each condition that is not met."""
    if missed := [condition for condition in conditions if not condition.is_met]:
        lines = [f"  {condition.name}: {condition.text}" for condition in missed]
        raise ContractError("\n".join([f"{what} is not published:", *lines]))


def check_dataset_license(pack: Manifest, store: Store, stated: str) -> Condition:
    """Return whether each pair has a licence, or the owner states one for the dataset."""
    if stated:
        return Condition("licence", stated.lower() != UNKNOWN, f"stated: {stated}")
    # the manifest has the most frequent licences only, and no licence may be rarer than these
    columns = (read_table(store, pack.path(p.name), ["license"])["license"] for p in pack.named(KEPT, ".parquet"))
    missing = sum(license_ is None or not license_.strip() for column in columns for license_ in column.to_pylist())
    pairs = format_quantity(pack.counts.kept, "pair")
    if not missing:
        return Condition("licence", True, f"declared for all {pairs}")
    return Condition("licence", False, f"{missing:,} of {pairs} have no licence; add --license NAME, such as other")


def check_model_license(stated: str) -> Condition:
    """Return whether the owner states a licence of the weights."""
    if stated and stated.lower() != UNKNOWN:
        return Condition("licence", True, f"stated: {stated}")
    return Condition("licence", False, "its owner has stated none; set register.license, or add --license NAME")


def check_report(report: CheckReport | None) -> Condition:
    """Return whether a check of `[checks]` blocks the dataset."""
    if report is None:
        return Condition("checks", True, "no run has checked it")
    failed = [f"{one.check}: {one.text}" for one in report.failed if one.blocks]
    return Condition("checks", not failed, "; ".join(failed) or report.verdict)


def check_takedowns(stores: Sequence[Store], datasets: Iterable[str], *, is_model: bool) -> Condition:
    """Return whether no dataset has a pair that a recorded takedown names.

    Args:
        datasets: keys, also of datasets that are no longer in the store.
        is_model: the datasets are those that a model was trained on.
    """
    keys = list(datasets)
    for store in stores:
        versions = {
            old: (entry.name.removesuffix(".report.json").rpartition("/")[2], new)
            for entry in list_reports(store)
            for old, new in load_report(store, entry.name).versions.items()
        }
        targets = load_targets(store, list_requests(store))
        for key in keys:
            if key in versions:
                digest, successor = versions[key]
                why = f"the takedown {digest} removed pairs of dataset {key}; its next version is {successor}"
            else:
                why = _find_taken_down(store, key, targets)
            if why:
                remedy = (
                    "publish a model that was trained on the next version" if is_model else "publish the next version"
                )
                return Condition("takedowns", False, f"{why}; {remedy}")
    found = "no dataset is known" if is_model and not keys else "no pair was taken down"
    if missing := [key for key in keys if not any(load_manifest(store, "pack", key) for store in stores)]:
        found = f"{found}; not searched, since no store has its pack: {', '.join(missing)}"
    return Condition("takedowns", True, found)


def _find_taken_down(store: Store, key: str, targets: Sequence[Target]) -> str | None:
    """Return what a recorded takedown is to remove from a dataset; None if nothing."""
    if not targets or (pack := load_manifest(store, "pack", key)) is None:
        return None
    for part in pack.named(KEPT, ".parquet"):
        rows = read_table(store, pack.path(part.name), list(COLUMNS))
        if count := int(matching_rows(rows, targets).sum()):
            return (
                f"{format_quantity(count, 'pair')} in {part.name} of dataset {key} match a recorded takedown; "
                "`pairmill takedown` with its file makes the next version"
            )
    return None
