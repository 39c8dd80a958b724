"""Name a list and its content in the inputs of a snapshot."""

from collections.abc import Iterable

from dataops.snapshot import Input

HASH_LIST, OPT_OUT_LIST = "hash_list", "opt_out_list"
"""Stages of inputs that are lists."""


def list_input(stage: str, name: str, digest: str) -> Input:
    """Return a list as an input: by its name and the digest of its entries."""
    return Input(stage=stage, key=name, digest=digest)


def select_lists(inputs: Iterable[Input], stage: str) -> dict[str, str]:
    """Return the digests of the lists among the inputs of a snapshot, by name."""
    return {one.key: one.digest for one in inputs if one.stage == stage}
