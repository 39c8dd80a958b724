"""Erase removed pairs from caches of the home folder in which no search finds them: features, and files of a database."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dataops.errors import PairmillError, StorageError
from dataops.images.feature_table import FeatureTable, image_ids
from dataops.storage.cached_files import SESSIONS, delete_unheld
from dataops.store import Store
from tasks.lineage.graph import Lineage
from tasks.takedown.traces import Traces
from training.feature_files import parse_shard

TEACHERS, TOWERS = "features", "features/towers"
"""Folders of the home with the features of training data: a folder for each teacher and dataset, and files."""
BROWSE_RUNS = "a running `pairmill browse` may hold removed pairs: end it, and repeat the takedown"
TRAINING_RUNS = "a running training reads these features of removed pairs: repeat the takedown after its end"


def erase_caches(home: Path, traces: Traces, stores: Sequence[Store]) -> tuple[int, dict[str, str]]:
    """Erase the features of removed images, and what may have any of a removed pair.

    Features of a training are deleted unless they are of a shard that one of the stores still has. A takedown replaces
    the shards of removed pairs.

    Returns: the number of changed files and folders; and why something stays as it is, by its name.
    """
    refused: dict[str, str] = {}
    if not traces.uids or not home.is_dir():
        return 0, refused
    changed = 0
    for folder in sorted((home / "browse" / "features").glob("*")):
        try:
            changed += FeatureTable(folder).erase(image_ids(sorted(traces.images)))
        except PairmillError as error:
            refused[str(folder)] = str(error)
    folders = {folder: BROWSE_RUNS for folder in sorted((home / SESSIONS).glob("*"))}
    teachers = (path for path in sorted((home / TEACHERS).glob("*")) if path.is_dir() and path != home / TOWERS)
    folders |= dict.fromkeys(teachers, TRAINING_RUNS)
    for folder, why in folders.items():
        if delete_unheld(folder):
            changed += 1
        else:
            refused[str(folder)] = why
    towers = sorted((home / TOWERS).glob("*"))
    shards = _list_shards(stores) if towers else set[str]()
    for path in towers:
        if (shard := parse_shard(path.name)) is None or not any(sha256.startswith(shard) for sha256 in shards):
            changed += delete_unheld(path)
    return changed, refused


def _list_shards(stores: Sequence[Store]) -> set[str]:
    """Return the sha256 of the shards of all datasets; of a store that does not answer, none is known."""
    found: set[str] = set()
    for store in stores:
        with suppress(StorageError):
            packs = (one for one in Lineage(store).manifests.values() if one.stage == "pack")
            found |= {part.sha256 for pack in packs for part in pack.named("", ".tar")}
    return found
