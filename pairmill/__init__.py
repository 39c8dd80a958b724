"""pairmill: from raw web archives to a registered CLIP model.

The only import name of the distribution. The wheel has the code of the stages in `pairmill/app`, under the names that it
has in a checkout (`flows`, `tasks`, `training`, ...); `import pairmill` alone makes none of them importable.
"""

from importlib.metadata import version as _version

__version__ = _version("pairmill")
