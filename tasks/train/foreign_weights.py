"""The pretrained weights that a training starts from: their digests for the key, and their owners for the card."""

from hashlib import sha256
from pathlib import Path
from typing import Any

from dataops.digest import canonical_json, file_sha256
from dataops.errors import ConfigError
from dataops.snapshot import Input
from training.config import TrainConfig
from training.towers.files import TowerFiles, find_files


def find_tower_files(config: TrainConfig) -> dict[str, TowerFiles]:
    """Return the files of the towers that start from pretrained weights, by tower.

    Raises: ConfigError if they are missing.
    """
    tables = {"text": config.text_init, "image": config.image_init}
    return {tower: find_files(table) for tower, table in tables.items() if table is not None}


def digest_towers(config: TrainConfig) -> list[Input]:
    """Return an input for each tower that starts from pretrained weights, with the digest of its files."""
    found = find_tower_files(config)
    return [Input(stage=f"train.{tower}_init", key=files.name, digest=files.digest()) for tower, files in found.items()]


def digest_path(field: str, path: Path) -> Input:
    """Return an input for the file or folder that a field names.

    Raises: ConfigError if it cannot be read.
    """
    try:
        files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
        digests = [[file.name, file_sha256(file)] for file in files]
    except OSError as error:
        raise ConfigError(f"{field}: {path} cannot be read ({error.strerror or error})") from error
    return Input(stage=field, key=path.name, digest=sha256(canonical_json(digests).encode()).hexdigest())


def describe_weights(config: TrainConfig) -> list[dict[str, Any]]:
    """Return tower, name, version, license, file and sha256 of all weights that a training starts from.

    What a config does not state, such as the licence of `init`, is "".
    """
    found = [files.describe(tower) for tower, files in find_tower_files(config).items()]
    if config.init is not None:
        tower = "image" if config.init_towers == "image" else "both"
        is_path = not config.init.startswith("hf-hub:")
        digest = digest_path("train.init", Path(config.init)).digest if is_path else ""
        name = Path(config.init).name if is_path else config.init
        found.append({"tower": tower, "name": name, "version": "", "license": "", "file": "", "sha256": digest})
    return found
