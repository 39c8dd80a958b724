"""A model is published in open_clip's layout with its card, after the gate, and open_clip loads it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from dataops.errors import ContractError
from dataops.home import CHECKOUT
from dataops.snapshot import Counts, Draft
from dataops.store import FolderStore
from plugins.publish.publications import Publication, list_publications, record_publication
from plugins.publish.publish import PublishOptions, publish
from tests.manifests import build_manifest

LOAD = """
import sys, warnings
warnings.simplefilter("ignore")
import open_clip
model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{sys.argv[1]}")
print(sum(p.numel() for p in model.parameters()))
"""


def test_model_of_a_snapshot_is_published_with_card_and_record(
    finished_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = FolderStore(tmp_path / "store")
    facts = {"licenses": {"": 8}, "languages": {"en": 8}}
    pack = build_manifest("pack", key="a" * 16, counts=Counts(input=8, kept=8), facts=facts)
    Draft(store, "pack", pack.key).commit(pack)
    draft = Draft(store, "train", "b" * 16)
    parts = [draft.put_file(path.name, path) for path in sorted(finished_model.iterdir())]
    config = {"model": "tiny", "init": "hf-hub:laion/x@main"}
    draft.commit(build_manifest("train", parts, key=draft.key, inputs=[pack.as_input()], config=config))
    earlier = {"target": "hub:team/kites", "kind": "dataset", "name": f"pack/{pack.key}", "datasets": (pack.key,)}
    state = {"license": "other", "is_public": False, "state": "complete", "began_at": "2026-01-01", "files": ()}
    record_publication(store, Publication.model_validate({**earlier, **state}))
    out, home = tmp_path / "out", tmp_path / "home"

    def run(**options: str) -> int:
        return publish(PublishOptions(draft.key, str(out), **options), home, store.uri, as_json=True)

    with pytest.raises(
        ContractError, match=r"licence: its owner has stated none; set register\.license, or add --license"
    ):
        run()
    assert run(license="apache-2.0") == 0
    report = json.loads(capsys.readouterr().out)
    names = {path.name for path in out.iterdir()}
    assert names == {file["name"] for file in report["files"]}
    assert {"open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json", "README.md", "LICENSE"} <= names
    card = ModelCard((out / "README.md").read_text("utf-8")).data
    assert (card.license, card.base_model, card.datasets) == ("apache-2.0", "laion/x", ["team/kites"])
    for name in ("README.md", "LICENSE"):
        assert "Licence of the weights: apache-2.0." in (out / name).read_text("utf-8")
    record = next(one for one in list_publications(store) if one.kind == "model")
    assert (record.name, record.datasets, record.state) == (f"train/{draft.key}", (pack.key,), "complete")
    loaded = subprocess.run([sys.executable, "-c", LOAD, str(out)], capture_output=True, text=True, cwd=CHECKOUT)
    assert int(loaded.stdout) > 1000, loaded.stderr
