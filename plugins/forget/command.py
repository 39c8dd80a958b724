"""`pairmill forget`: train a model again as if removed pairs had never been in its batches."""

from dataclasses import asdict
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter

from dataops.errors import ConfigError
from dataops.formatting import format_percent, format_quantity
from dataops.snapshot import Manifest, load_manifest
from dataops.stages import StageName
from dataops.store import Store
from dataops.trace.requests import FOLDER, list_requests
from flows.commands.options import Json, Name, StoreUri
from flows.commands.output import console, print_json
from infra.local import services
from plugins.forget.card import ForgetFacts
from plugins.forget.replay import Base, Plan, hash_uids, load_base, plan_replay, read_places

WEIGHTS = ("model.safetensors", "metrics.jsonl")
"""Parts of a training that a proof compares: the weights, and the loss of each step."""
_MEANINGS = {
    "forgotten": "forgotten exactly: trained as if its pairs had never been there",
    "in the model": "in the model: its pairs are only out of later versions of the dataset",
    "never seen": "never in the model: no pair of it was in the dataset",
}


def command(
    run_id: Name,
    *,
    request: Annotated[
        tuple[str, ...], Parameter(help="Takedown request to forget, as `pairmill takedown list` has it.")
    ] = (),
    dry_run: Annotated[bool, Parameter(negative="", help="Only show what it takes.")] = False,
    prove: Annotated[
        bool, Parameter(negative="", help="Also train from the first step without the pairs, and compare the weights.")
    ] = False,
    from_start: Annotated[
        bool, Parameter(negative="", help="Train from the first step, where no checkpoint can be used.")
    ] = False,
    until: Annotated[
        StageName | None, Parameter(help="Stop after this stage; with train, the model is not registered.")
    ] = None,
    store: StoreUri = None,
    json: Json = False,
) -> int:
    """Make a new model that equals, bit by bit, one trained with the places of removed pairs empty from the start.

    Without a request, list which of them the model of a run has forgotten. Exits with 3 if a proof finds a difference.

    Args:
        run_id: The run that trained the model.
    """
    from flows.commands.run import start_servers
    from flows.config import check_config
    from flows.records import load_run

    home = services.home()
    record, found_in = load_run(run_id, home, store)
    key = record.key_of("train")
    if key is None or load_manifest(found_in, "train", key) is None:
        raise ConfigError(
            f"run {run_id} has no finished training in {found_in.uri}; `pairmill rerun {run_id}` makes it"
        )
    base = load_base(found_in, key)
    if not request:
        return _list_requests(found_in, base, run_id, as_json=json)
    _check_named(found_in, base, request)
    table = dict(record.config.get("train") or {})
    settings = {**(table.get("forget") or {}), "base": key, "from_start": from_start}
    values = {**record.config, "train": {**table, "forget": settings}}
    config = check_config(values, f"run {run_id}", writes=not dry_run)
    if not dry_run:
        start_servers()
        services.apply_environment()
    dataset = _find_dataset(config, found_in, request)
    plan, _ = plan_replay(config.train, base, dataset, read_places(found_in, dataset), found_in)
    if plan.step and config.train.launch == "local":
        _check_machine(config, base)
    if not json:
        _show_plan(plan, run_id)
    if dry_run:
        if json:
            print_json({**asdict(plan), "share": plan.share})
        return 0
    return _make(config, values, found_in, until, prove=prove, as_json=json)


def _make(
    config: Any, values: dict[str, Any], store: Store, until: StageName | None, *, prove: bool, as_json: bool
) -> int:
    """Run the replay, and with `prove` the reference up to its training; return the exit code."""
    from flows.commands.run import run_record
    from flows.config import check_config
    from flows.records import create_run, load_run

    home = services.make_home()
    trainings: list[Manifest] = []
    references = [values["train"]["forget"] | {"from_start": True}] if prove else []
    for settings in (None, *references):
        one = config
        if settings is not None:
            one = check_config({**values, "train": {**values["train"], "forget": settings}}, "the reference")
        last = until if settings is None else "train"
        record = create_run(one, home, until=last)
        if code := run_record(record.run_id, until=last, as_json=as_json):
            return code
        key = load_run(record.run_id, home, store.uri)[0].key_of("train")
        manifest = load_manifest(store, "train", str(key))
        assert manifest is not None
        trainings.append(manifest)
    digests = [{part.name: part.sha256 for part in one.parts if part.name in WEIGHTS} for one in trainings]
    is_equal = None if len(digests) == 1 else digests[0] == digests[1]
    step = ForgetFacts.of(trainings[0]).step
    if as_json:
        print_json({"trainings": [one.key for one in trainings], "digests": digests, "equal": is_equal, "step": step})
    else:
        out, names = console(), ("replayed", "reference")
        for name, one, digest in zip(names, trainings, digests, strict=False):
            out.write(f"{name:<10} train/{one.key}  {digest[WEIGHTS[0]]}")
        if is_equal is None:
            out.write("no reference is trained; the same command with --prove compares both")
        else:
            out.write("equal, bit by bit" if is_equal else "THEY DIFFER", "bold")
    return 3 if is_equal is False else 0


def _check_named(store: Store, base: Base, requests: tuple[str, ...]) -> None:
    """Raise ConfigError if there is no such request, or one names no pair of a training."""
    trained, known = base.places.keys[~base.places.removed], {one.key for one in list_requests(store)}
    for one in requests:
        if one not in known:
            raise ConfigError(
                f"there is no takedown request {one} in {store.uri}/{FOLDER}; `pairmill takedown list` lists them"
            )
        if not np.isin(hash_uids(store, one), trained).any():
            done = one in base.facts.forgotten
            what = "is forgotten by it already" if done else "names no pair that it was trained on"
            raise ConfigError(f"train/{base.manifest.key}: the takedown request {one} {what}; nothing is to be done")


def _find_dataset(config: Any, store: Store, requests: tuple[str, ...]) -> Manifest:
    """Return the dataset that a run with a config trains on now.

    Raises: ConfigError if it is not made, or has a pair of the requests.
    """
    from flows.planning.plan import plan_run

    planned = next(one for one in plan_run(config, services.home(), 1, until="pack").stages if one.stage == "pack")
    dataset = load_manifest(store, "pack", planned.key) if planned.key else None
    if dataset is None or planned.action != "reuse":
        raise ConfigError(
            f"the dataset of the run is not complete without the pairs of {', '.join(requests)}; `pairmill takedown FILE` "
            "makes its next version"
        )
    left = read_places(store, dataset).keys
    if still := [one for one in requests if np.isin(hash_uids(store, one), left).any()]:
        raise ConfigError(
            f"pack/{dataset.key}, which a run trains on now, has pairs of {', '.join(still)}; repeat "
            "`pairmill takedown FILE`"
        )
    return dataset


def _check_machine(config: Any, base: Base) -> None:
    """Raise ConfigError if the bits of the base's checkpoints would not go on in the same way here."""
    from plugins.forget.checkpoint import check_environments, describe_environment
    from training.job import resolve_device
    from training.train import set_up_torch

    device = resolve_device(config.train.device)
    set_up_torch(config.train, device)
    check_environments(base.facts.environments, describe_environment(device))


def _show_plan(plan: Plan, run_id: str) -> None:
    out = console()
    lines = [
        f"takedown {', '.join(plan.forgotten)}: leaves {format_quantity(plan.removed, 'place')} of {run_id} empty",
        f"  first visit in step {plan.first_visit:,} of {plan.steps:,}; replayed from step {plan.step:,}: "
        f"{format_percent(plan.share)} of the steps",
    ]
    lines += [f"  no checkpoint is used: {plan.why}"] if plan.why else []
    for line in lines:
        out.write(line)


def _list_requests(store: Store, base: Base, run_id: str, *, as_json: bool) -> int:
    """Print what the model of a training is to each request of its store."""
    trained = base.places.keys[~base.places.removed]
    rows = []
    for one in list_requests(store):
        is_in = np.isin(hash_uids(store, one.key), trained)
        state = "forgotten" if one.key in base.facts.forgotten else "in the model" if is_in.any() else "never seen"
        rows.append({"request": one.key, "state": state, "pairs": int(is_in.sum())})
    if as_json:
        print_json({"run_id": run_id, "training": base.manifest.key, "requests": rows})
        return 0
    out = console()
    out.write(f"{run_id}, train/{base.manifest.key}", "bold")
    for row in rows:
        out.write(f"  {row['request']}  {_MEANINGS[row['state']]}")
    if not rows:
        out.write("  the store has no takedown request")
    return 0
