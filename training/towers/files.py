"""The files of a pretrained tower, in an installed package or at a path, and who made them. No torch here.

A package is found by its metadata, and none of its code is run.
"""

from dataclasses import dataclass
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

from dataops.digest import canonical_json, file_sha256
from dataops.errors import ConfigError
from training.options.image_init import ImageInit
from training.options.text_init import TextInit

WEIGHTS = {
    "words": (".safetensors", ".npz", ".npy"),
    "bert": (".safetensors", ".bin"),
    "image": (".safetensors", ".pth", ".pt", ".bin"),
}
"""Suffixes of the weights of each kind."""
BERT_CONFIG, POOLING = "config.json", "1_Pooling/config.json"


@dataclass(frozen=True)
class TowerFiles:
    """The files that decide what a pretrained tower computes, and their owner."""

    weights: Path
    tokenizer: Path | None
    """None for an image tower."""
    name: str
    """Name of the package, or of the file or folder."""
    version: str
    """Version of the package; empty for a path."""
    license: str

    @property
    def config(self) -> Path:
        """Path of the config.json beside the weights, which BERT has."""
        return self.weights.with_name(BERT_CONFIG)

    @property
    def pooling(self) -> Path:
        """Path of the config of the pooling, which a sentence encoder may have."""
        return self.weights.parent / POOLING

    def list_files(self) -> list[Path]:
        """Return all files that decide what the tower computes."""
        beside = (self.config, self.pooling) if self.tokenizer is not None else ()
        return [self.weights, *([self.tokenizer] if self.tokenizer else []), *(p for p in beside if p.is_file())]

    def digest(self) -> str:
        """Return the sha256 over the names and digests of these files."""
        digests = [[path.name, file_sha256(path)] for path in self.list_files()]
        return sha256(canonical_json(digests).encode()).hexdigest()

    def describe(self, tower: str) -> dict[str, Any]:
        """Return whose weights they are, for the model card, with the file's name and sha256."""
        return {
            "tower": tower,
            "name": self.name,
            "version": self.version,
            "license": self.license,
            "file": self.weights.name,
            "sha256": file_sha256(self.weights),
        }


def find_files(init: TextInit | ImageInit) -> TowerFiles:
    """Find the files that a table names.

    Raises: ConfigError if there are none, or several of a kind; names the key to set.
    """
    table = "train.text_init" if isinstance(init, TextInit) else "train.image_init"
    kind = init.kind if isinstance(init, TextInit) else "image"
    try:
        if init.package is not None:
            distribution = metadata.distribution(init.package)
            files = [Path(str(distribution.locate_file(file))) for file in distribution.files or ()]
            name, version = init.package, distribution.version
            license_ = init.license or find_license(distribution.metadata)
        else:
            root = Path(str(init.path))
            files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
            if root.is_file():  # its tokenizer lies beside it
                files += [path for path in sorted(root.parent.iterdir()) if path.suffix in (".json", ".txt")]
            name, version, license_ = root.name, "", init.license
    except metadata.PackageNotFoundError as error:
        raise ConfigError(f"{table}.package: {init.package} is not installed: pip install {init.package}") from error
    except OSError as error:
        raise ConfigError(f"{table}.path: {init.path} cannot be read ({error.strerror})") from error
    if not license_:
        raise ConfigError(f"{table}.license: the metadata of {name} states none; set the licence of its weights")
    weights = _choose(files, WEIGHTS[kind], init.file, f"{table}.file", f"weights in {name}")
    tokenizer = None
    if isinstance(init, TextInit):
        suffixes = (".json", ".txt") if kind == "words" else (".json",)
        named = [path for path in files if "tokenizer" in path.name and path.name != "tokenizer_config.json"]
        words = [path for path in files if path.suffix == ".txt" and path.parent == weights.parent]
        candidates = files if init.tokenizer else named or words
        tokenizer = _choose(
            candidates, suffixes, init.tokenizer, f"{table}.tokenizer", f"tokenizer.json or list of words in {name}"
        )
    found = TowerFiles(weights, tokenizer, name, version, license_)
    if kind == "bert" and not found.config.is_file():
        raise ConfigError(f"{table}: no {BERT_CONFIG} lies beside {weights.name} in {name}")
    return found


def _choose(files: list[Path], suffixes: tuple[str, ...], wanted: str | None, key: str, what: str) -> Path:
    found = [path for path in files if path.suffix in suffixes]
    if wanted is not None:
        found = [path for path in files if path.as_posix().endswith(f"/{wanted}") or path.name == wanted]
    found = [path for path in found if path.is_file()]
    if not found:
        raise ConfigError(f"{key}: found no {what}" + (f" named {wanted}" if wanted else f" ({', '.join(suffixes)})"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:5])
        raise ConfigError(f"{key}: there are {len(found)} files that may be the {what}: {names}; name one")
    return found[0]


def find_license(facts: Any) -> str:
    """Return the licence that a package's metadata states: its SPDX expression, a classifier, or a short text; or ""."""
    if expression := facts.get("License-Expression"):
        return str(expression)
    classified = [
        str(c).rpartition(" :: ")[2] for c in facts.get_all("Classifier") or () if str(c).startswith("License ::")
    ]
    if classified:
        return ", ".join(classified)
    text = str(facts.get("License") or "").strip()
    return "" if text.upper() in ("", "UNKNOWN", "NONE") else text.partition("\n")[0][:100]
