"""Inputs of a snapshot as datasets of a catalogue."""

from dataops.snapshot import Input
from plugins.openlineage.events import build_inputs


def test_weights_of_others_are_datasets_outside_the_store_and_names_of_files_are_none():
    names = Input(stage="source_names", key="1 files", digest="1" * 64)
    pack = Input(stage="pack", key="0" * 16, digest="2" * 64)
    weights = Input(stage="train.text_init", key="made", digest="3" * 64)
    found = [(one["namespace"], one["name"]) for one in build_inputs([names, pack, weights], "/store")]
    assert found == [("/store", f"pack/{'0' * 16}"), ("train.text_init", "made")]
