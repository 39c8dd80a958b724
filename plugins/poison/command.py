"""`pairmill quarantine`: what the checks for poison hold. `pairmill quarantine release`: let pairs in."""

from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from dataops.errors import ConfigError
from dataops.formatting import format_quantity
from flows.commands.options import Json, Name, StoreUri
from flows.commands.output import console, first_of, new_table, print_json, text
from infra.local import services

Findings = Annotated[tuple[str, ...], Parameter(help="A finding, such as 12.1. May be repeated.")]


def quarantine(
    dataset: Name,
    *,
    finding: Findings = (),
    limit: Annotated[PositiveInt, Parameter(help="Number of pairs of each finding to show.")] = 20,
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """List what the checks for poison have found in a dataset that grows, and the pairs of some findings.

    Args:
        dataset: a run, or a version such as LINE/12, whose findings and those of earlier versions are listed.
    """
    from plugins.poison.quarantine import list_findings, list_pairs, load_releases, open_version

    version, opened = open_version(dataset, services.home(), store)
    found = list_findings(opened, version, finding)
    released = {uid for one in load_releases(opened, version.line) for uid in one.uids}
    pairs = {one.finding: list_pairs(opened, one) for one in found if finding}
    if json:
        rows = [{**asdict(one), "released": len(released & {*one.uids})} for one in found]
        print_json([row | ({"pairs": pairs[row["finding"]]} if finding else {}) for row in rows])
        return 0
    out = console()
    table = new_table(
        version.line, "finding", "check", "level", "pairs", "released", "subject", right=("pairs", "released")
    )
    for one in found:
        held, let_in = f"{len(one.uids):,}", f"{len(released & {*one.uids}):,}"
        table.add_row(one.finding, one.check, one.level, held, let_in, text(one.subject))
    out.print(table)
    for one in found:
        out.write(f"{one.finding}: {one.evidence}{one.describe_probability()}")
        for row in first_of(pairs.get(one.finding, []), limit):
            out.write(f"  {row['uid']}  {row['url']}  {row['caption']}")
    if any(not released >= {*one.uids} for one in found if one.level in ("quarantine", "block")):
        out.message(f"let pairs in: pairmill quarantine release {dataset} --finding ... --reason ...")
    return 0


def release(
    dataset: Name,
    *,
    finding: Findings = (),
    uid: Annotated[tuple[str, ...], Parameter(help="Only this pair of the findings. May be repeated.")] = (),
    reason: Annotated[str, Parameter(help="Why; recorded in the store.", show_default=False)] = "",
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Let pairs in that the checks for poison hold: make the next version of the dataset with them.

    No image is requested again. What is usual for the domains of the pairs is what they have now.

    Args:
        dataset: a run, or a version such as LINE/12.
    """
    from plugins.poison.quarantine import open_version, release_pairs
    from tasks.engine.context import Context

    if not finding:
        raise ConfigError("name what to release by --finding, such as --finding 12.1; `pairmill quarantine` lists them")
    if not reason.strip():
        raise ConfigError("--reason is empty; write why these pairs are good: it is recorded")
    home = services.home()
    version, opened = open_version(dataset, home, store)
    context = Context(store=opened, home=home, run_id=f"release-{version.line}")
    made = release_pairs(context, version, finding, uid, reason.strip())
    if json:
        print_json([{"version": one.name, "pairs": one.new} for one in made])
        return 0
    for one in made:
        console().write(f"version {one.name} has {format_quantity(one.new, 'released pair')}")
    return 0
