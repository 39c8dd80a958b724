"""Files of earlier versions are still readable: models, checkpoints, manifests, run records and leases.

The files in tests/data/stored were written at commit db77885, before the modules were moved to their present folders.
"""

import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from dataops.snapshot import Manifest
from flows.records import RunRecord
from tasks.engine.lease import Lease
from training.checkpoints import find_newest_checkpoint, restore_checkpoint
from training.model.checkpoint import load_model
from training.model.clip import CLIP
from training.model.load import load_any

STORED = Path(__file__).parents[1] / "data" / "stored"


def test_load_model_reads_an_earlier_model():
    loaded = load_model(STORED / "model")
    features = normalize(loaded.model.encode_text(loaded.tokenizer(["a red kite", "two cats"])), dim=-1)
    expected = torch.tensor(json.loads((STORED / "text_features.json").read_text()))
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    assert load_any(STORED / "model").model.state_dict().keys() == loaded.model.state_dict().keys()


def test_restore_reads_an_earlier_checkpoint():
    model = CLIP(load_model(STORED / "model").config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    found = find_newest_checkpoint(STORED / "checkpoints", "0" * 64, 0)
    path, state = found
    assert state == {"job": "0" * 64, "metrics_bytes": 0, "skipped": [], "step": 3}
    restore_checkpoint(path, model, optimizer)
    assert {int(slot["step"]) for slot in optimizer.state.values()} == {1}


@pytest.mark.parametrize(
    ("name", "kind"), [("manifest.json", Manifest), ("run.json", RunRecord), ("lease.json", Lease)]
)
def test_record_of_an_earlier_version_is_read_and_written_unchanged(name, kind):
    text = (STORED / name).read_text()
    added = {} if kind is Lease else {"schema_version": 1}
    assert kind.model_validate_json(text).model_dump(mode="json") == added | json.loads(text)
