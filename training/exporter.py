"""The seam of exporters: how a finished model is written for another tool. No torch is imported here.

`pairmill.exporters` registers them by the name that `pairmill export --format` takes.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from dataops import plugins
from training.model_config import ModelConfig

if TYPE_CHECKING:
    from training.model.checkpoint import LoadedModel


class Exporter:
    """Writes a finished model in the format of another tool."""

    packages: tuple[str, ...] = ()
    """Import names of the packages that it needs beside those of every installation."""
    extra: str = ""
    """Extra of pairmill that brings them."""
    use: str
    """Python code that loads the export from the folder `{out}`."""

    def check(self, config: ModelConfig) -> None:
        """Raise a ConfigError with the remedy if the format cannot hold a model."""

    def write(self, loaded: "LoadedModel", output: Path, final: Path) -> None:
        """Write a model into an existing folder.

        Args:
            final: folder where the files will lie.
        """
        raise NotImplementedError


def find_exporter(form: str) -> Exporter:
    """Return the exporter of a format. Raises: ConfigError if there is none, or a package that it needs is missing."""
    exporter: Exporter = plugins.find("exporters", form)
    plugins.require(exporter.packages, exporter.extra, form)
    return exporter
