"""What a replay starts from: the places and the checkpoints of its base, chosen before anything is trained."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataops.errors import ConfigError, CorruptPart
from dataops.snapshot import Manifest, fetch_table, load_manifest
from dataops.store import Store
from dataops.trace.requests import load_report, report_name, select_requests
from plugins.forget.card import ForgetFacts
from plugins.forget.places import FILE, Places, cut_phases, find_first_visits, find_phase_step, list_shards, make_plan
from tasks.train.stage import TRAIN, external_inputs
from training.checkpoint_files import step_of
from training.config import TrainConfig
from training.data.shard_index import hash_identity
from training.step_hooks import StepHook, used_step_hooks

PLAN, ENVIRONMENT, REPLAY = "forget-plan.json", "forget-environment.json", "replay"
FROM_START = "--from-start"
_CHECKPOINT = "checkpoints-step-"


@dataclass(frozen=True)
class Base:
    """A training to replay."""

    manifest: Manifest
    places: Places
    facts: ForgetFacts

    steps: list[int]
    """Steps of the checkpoints that its snapshot keeps, ascending."""
    lost: list[int]
    """Steps of those of which a file is gone."""


@dataclass(frozen=True)
class Plan:
    """What a replay takes."""

    base: str | None
    removed: int
    step: int
    steps: int
    first_visit: int
    seed: int = 0
    why: str = ""
    """Why it begins at step 0 though a checkpoint before the first visit is kept, or would be."""
    forgotten: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Share of the steps of a training that it takes."""
        return (self.steps - self.step) / self.steps


def read_places(store: Store, dataset: Manifest) -> Places:
    """Return the places of the pairs of a dataset in a training on it."""
    parts = list_shards([part.name for part in dataset.parts])
    return Places.of_tables(fetch_table(store, dataset.path(name)) for name in parts)


def load_base(store: Store, key: str) -> Base:
    """Return a training with the places of its pairs.

    Raises: ConfigError if it is not in the store, or neither its places nor its dataset are.
    """
    manifest = load_manifest(store, "train", key)
    if manifest is None:
        raise ConfigError(
            f"train.forget.base: there is no complete training train/{key} in {store.uri}; `pairmill show RUN` names the "
            "key of a run's training, and --store another store"
        )
    if manifest.stage_version != TRAIN.version:
        raise ConfigError(
            f"train.forget.base: train/{key} is of version {manifest.stage_version} of the stage, and this pairmill has "
            f"{TRAIN.version}, which trains other bits; train the run again, with a table [train.forget]"
        )
    facts, there = ForgetFacts.of(manifest), {*store.names(f"train/{key}")}
    steps = {_step_of(part.name) for part in manifest.parts} - {0}
    lost = {_step_of(part.name) for part in manifest.parts if manifest.path(part.name) not in there} - {0}
    found = (facts, sorted(steps - lost), sorted(lost))
    if manifest.path(FILE) in there:
        with store.open(manifest.path(FILE)) as file:
            return Base(manifest, Places.read(file, manifest.path(FILE)), *found)
    packs = [one for one in manifest.inputs if one.stage == "pack"]
    dataset = load_manifest(store, "pack", packs[0].key) if len(packs) == 1 else None
    if len(packs) != 1 or manifest.config.get("dataset"):
        raise ConfigError(f"train.forget.base: train/{key} read several datasets, which cannot be replayed")
    if dataset is None:
        raise ConfigError(
            f"train.forget.base: the order of the pairs of train/{key} is not known: there is no file {FILE}, which a "
            f"table [train.forget] keeps, and its dataset pack/{packs[0].key} is deleted: train on its next version with it"
        )
    return Base(manifest, read_places(store, dataset), *found)


def _step_of(part: str) -> int:
    """Return the step of the checkpoint to which a part belongs; 0 for any other part."""
    return int(part.removeprefix(_CHECKPOINT).partition("-")[0]) if part.startswith(_CHECKPOINT) else 0


def plan_replay(config: TrainConfig, base: Base, dataset: Manifest, left: Places, store: Store) -> tuple[Plan, Places]:
    """Choose the checkpoint to replay from, and return the places without what the dataset has no more.

    Raises: ConfigError if the config is not that of the base, or the dataset no later version of its dataset.
    """
    _check_config(config, base)
    settings: Any = getattr(config, "forget", None)
    places = base.places.without(left)
    seed = base.manifest.seed if config.seed is None else config.seed
    plan = make_plan(config, seed, base.places)
    removed = np.flatnonzero(places.removed & ~base.places.removed)
    first, why = int(find_first_visits(plan)[removed].min(initial=plan.total_steps + 1)), ""
    computing = list_computing(config)
    latest = find_phase_step(plan, int(removed.min(initial=plan.samples - 1))) if computing else first - 1
    usable = [step for step in base.steps if step <= latest]
    reason = "it is asked for" if settings.from_start else find_reason(config, len(left.keys))
    if not reason and computing and not latest:
        of_phase = " of the first phase" if settings.phases > 1 else ""
        reason = f"{', '.join(computing)} read all pairs{of_phase} before the first step"
    if reason:
        usable, why = [], reason
    elif not usable and first > 1:
        kept = f"it keeps those after {', '.join(map(str, base.steps))}" if base.steps else "it keeps none"
        kept += f", and files of those after {', '.join(map(str, base.lost))} are gone" if base.lost else ""
        why = f"the base has no checkpoint before step {latest + 1} ({kept})"
    forgotten = [*base.facts.forgotten, *_list_forgotten(store, base, dataset, places)]
    count, step = int(places.removed.sum()), max(usable, default=0)
    return Plan(base.manifest.key, count, step, plan.total_steps, first, seed, why, tuple(forgotten)), places


def find_reason(config: TrainConfig, pairs: int) -> str:
    """Return why a training depends on all pairs from its first step on; "" if it does not."""
    if config.with_holdout(pairs).holdout:
        return "which pairs are held out depends on all pairs"
    if config.max_rollbacks:
        return "a rollback needs older checkpoints"
    return ""


def list_computing(config: TrainConfig) -> list[str]:
    """Return the hooks that compute something from the pairs of the first phase, or of a whole shard."""
    return [
        hook.table or type(hook).__name__.strip("_").lower()
        for hook in used_step_hooks(config)
        if hook.table != "forget"
        and (type(hook).start is not StepHook.start or type(hook).compute_features is not StepHook.compute_features)
    ]


def _check_config(config: TrainConfig, base: Base) -> None:
    own, known = dict(config.key_config()), dict(base.manifest.config)
    phases = [dict(one.get("forget") or {}).get("phases", 1) for one in (own, known)]
    of_plugins = [dict(one.pop("plugins", {})) for one in (own, known)]
    for one in (own, known, *of_plugins):
        one.pop("forget", None)
    named = sorted({*own, *known}, key=str)
    differing = [name for name in named if own.get(name) != known.get(name)]
    differing += ["forget.phases"] if phases[0] != phases[1] else []
    differing += ["plugins"] if of_plugins[0] != of_plugins[1] else []
    files = {one.stage: one.digest for one in base.manifest.inputs if one.stage.startswith("train.")}
    differing += [one.stage for one in external_inputs(config) if files.get(one.stage) != one.digest]
    if differing:
        raise ConfigError(
            f"train.forget.base: train/{base.manifest.key} was trained with another {', '.join(differing)}; a replay has "
            "the config of its base"
        )


def _list_forgotten(store: Store, base: Base, dataset: Manifest, places: Places) -> list[str]:
    """Return the requests that remove pairs of the base from a dataset."""
    new = places.keys[places.removed & ~base.places.removed]
    return [one.key for one in select_requests(dataset.inputs) if np.isin(hash_uids(store, one.key), new).any()]


def hash_uids(store: Store, request: str) -> np.ndarray:
    """Return the hashes of the uids that a request removed, as those of places."""
    uids = load_report(store, report_name(request)).uids
    return np.array([hash_identity(None, uid) for uid in uids], np.uint64)


# The stage -------------------------------------------------------------------------------------------------------------


def prepare_job(config: TrainConfig, store: Store, datasets: Sequence[Manifest], folder: Path) -> None:
    """Write the places of a training into the folder of its job, and the checkpoints that it replays from."""
    if len(datasets) != 1:
        raise ConfigError("train.forget: a training on several datasets cannot be replayed; remove it or [grow]")
    settings: Any = getattr(config, "forget", None)
    places = read_places(store, datasets[0])
    cut_phases(np.bincount(places.shards), settings.phases)  # an error now, not when the trainer has started
    if settings.base is None:
        made = Plan(None, 0, 0, 0, 0)
    else:
        base = load_base(store, settings.base)
        made, places = plan_replay(config, base, datasets[0], places, store)
        if made.step and not (folder / ENVIRONMENT).exists():  # else the trainer has placed them
            _bring_checkpoints(store, base, made.step, folder / REPLAY)
    places.write(folder / FILE)
    (folder / PLAN).write_text(json.dumps(asdict(made)), "utf-8")


def _bring_checkpoints(store: Store, base: Base, step: int, folder: Path) -> None:
    """Download the checkpoints of a base up to a step, with its curve up to that step."""
    shutil.rmtree(folder, ignore_errors=True)
    names = {part.name for part in base.manifest.parts}
    if ENVIRONMENT not in names:
        raise CorruptPart(f"train/{base.manifest.key} keeps checkpoints, but not {ENVIRONMENT}; {FROM_START}")
    for one in (one for one in base.steps if one <= step):
        target, prefix = folder / f"step-{one:06d}", f"{_CHECKPOINT}{one:06d}-"
        target.mkdir(parents=True)
        for name in sorted(name for name in names if name.startswith(prefix)):
            store.download(base.manifest.path(name), target / name.removeprefix(prefix))
    for name in ("tokenizer.json", ENVIRONMENT, "metrics.jsonl"):
        store.download(base.manifest.path(name), folder / name)
    state = json.loads((folder / f"step-{step:06d}" / "state.json").read_text("utf-8"))
    with (folder / "metrics.jsonl").open("ab") as file:
        file.truncate(state["metrics_bytes"])


def list_output(folder: Path) -> list[Path]:
    """Return the files of a finished job that its snapshot keeps for a later replay."""
    kept = sorted((folder / "checkpoints").glob("step-*"), key=step_of)
    steps = set(json.loads((kept[-1] / "state.json").read_text("utf-8")).get("kept", ())) if kept else set()
    files = [file for one in kept if step_of(one) in steps for file in sorted(one.iterdir())]
    return [folder / FILE, folder / ENVIRONMENT, *files]


def state_facts(folder: Path) -> dict[str, Any]:
    """Return the facts of a finished job."""
    plan, ran = (json.loads((folder / name).read_text("utf-8")) for name in (PLAN, ENVIRONMENT))
    steps = json.loads((folder / "done.json").read_text("utf-8"))["steps"]
    stated = {"environments": ran["environments"], "steps": steps}
    if plan["base"] is not None:
        stated |= {
            "base": plan["base"],
            "removed": plan["removed"],
            "step": ran["step"],
            "forgotten": plan["forgotten"],
        }
    return stated
