"""The snapshots that register reads, with a real, tiny CLIP model and hostile text."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow as pa

from dataops.facts import BalancedRows
from dataops.schema import DOWNLOADED, PAIRS, conform, dropped_schema
from dataops.snapshot import Counts, Draft, Input, content_digest
from dataops.store import FolderStore
from tasks.engine import stage
from tasks.filter.summary import merge_balance
from tasks.pack.config import PackConfig
from tasks.pack.stage import PACK
from tasks.register.config import RegisterConfig
from tasks.register.stage import REGISTER
from tasks.tracking import client as tracking
from tests.manifests import build_manifest
from tests.python_code import run_python
from tests.unit.tasks.dataset_chain import chain, pair

TEXTS = ["a red circle", "a blue square", "nothing at all", "a Cat <script>"]


# Built in a subprocess: this one, like the orchestrator, never loads torch.
BUILD = """
import json, sys, torch
from pathlib import Path
from training.model.checkpoint import save_model
from training.model_config import ModelConfig
from training.model.clip import CLIP
from training.model.preprocess import Preprocess
from training.model.tokenizer import train_tokenizer

folder, texts = Path(sys.argv[1]), json.loads(sys.argv[2])
tokenizer = train_tokenizer(texts, 400, 16)
vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
text = {"context_length": 16, "vocab_size": tokenizer.vocab_size, "width": 32, "heads": 2, "layers": 2}
torch.manual_seed(7)
model = CLIP(ModelConfig(embed_dim=24, vision_cfg=vision, text_cfg=text))
save_model(folder, model, tokenizer, Preprocess(image_size=32))
"""


METRICS = {
    "twemoji-seen": {
        "kind": "classification",
        "n": 200,
        "classes": 100,
        "templates": 2,
        "unreadable": 0,
        "metrics": {
            "top1": {"value": 0.06, "low": 0.03, "high": 0.1, "chance": 0.01, "n": 200},
            "mean_per_class": {"value": 0.06, "low": None, "high": None, "chance": 0.01},
        },
        "contamination": {
            "metric": "top1",
            "n": 200,
            "overlap": 10,
            "unknown_members": 0,
            "all": 0.06,
            "clean": 0.05,
            "p_value": 0.085,
            "overlap_accuracy": 0.25,
            "overlap_low": 0.01,
            "overlap_high": 0.71,
            "inflation": 0.01,
            "significant": False,
            "significant_corrected": False,
        },
    },
    "held-out": {
        "kind": "retrieval",
        "n": 50,
        "metrics": {"image_to_text_R_at_1": {"value": 0.1, "low": 0.03, "high": 0.2, "chance": 0.02, "n": 50}},
    },
}


def commit(store, name, parts, counts, **more):
    key = f"{name:0<16}"[:16]
    manifest = build_manifest(name, parts, key=key, seed=3, counts=counts, **more)
    return Draft(store, name, key).commit(manifest)


def write_download_parts(draft):
    """Write a downloaded row and a dropped row, with hostile text."""
    row = {"uid": "0" * 32, "url": "http://h.example/1.jpg", "caption": "<script>alert(2)</script>"}
    dropped = row | {"uid": "1" * 32, "error_message": "<img src=x onerror=alert(3)>", "drop_reason": "http_404"}
    tables = {"part": (row, DOWNLOADED), "dropped": (dropped, dropped_schema(DOWNLOADED))}
    return [
        draft.put_table(f"{kind}-00000.parquet", conform(pa.Table.from_pylist([one]), schema, kind))
        for kind, (one, schema) in tables.items()
    ]


def build_snapshots(folder):
    """Write all seven snapshots before register, with a real model and hostile text."""
    store = FolderStore(folder / "store")
    model = folder / "model"
    model.mkdir()
    run_python(BUILD, model, json.dumps(TEXTS))
    pairs = {
        "extract": Counts(input=1000, kept=900, dropped={"not_http": 100}),
        "filter": Counts(input=900, kept=500, dropped={"language": 300, "too_short": 100}),
        "download": Counts(input=500, kept=480, dropped={"http_404": 20}),
        "curate": Counts(input=480, kept=400, dropped={"near_duplicate": 80}),
    }
    config = {"endpoint": "https://user:hunter2@example.org/x", "api_token": "hunter2", "min_words": 2}
    seen = BalancedRows(pairs=500, unmatched=0, kept=500, seen=400)
    balance = merge_balance(["<script>", "kite"], np.array([400, 9]), np.array([90.5, 9.0]), [seen])
    manifests = {}
    for name, counts in pairs.items():
        draft = Draft(store, name, f"{name:0<16}"[:16])
        parts = (
            [draft.put_table("part-00000.parquet", PAIRS.empty_table())]
            if name != "download"
            else write_download_parts(draft)
        )
        facts = {"balance": balance} if name == "filter" else {}
        files = [Input(stage="source", key="pages.warc.gz", digest="6" * 64)] if name == "extract" else []
        manifests[name] = commit(store, name, parts, counts, config=config, facts=facts, inputs=files)
    pack = Draft(store, "pack", "pack000000000000")
    shards = [pack.put_bytes(f"0000{i}.tar", bytes([i]) * 512, 200) for i in range(2)]
    shards.append(pack.put_bytes("dataset.html", b"<!doctype html>what is in it"))
    manifests["pack"] = commit(store, "pack", shards, Counts(input=400, kept=400))
    train = Draft(store, "train", "train00000000000")
    rows = [{"step": s, "loss": 5 / s, "lr": 1e-3, "logit_scale": 2.6, "grad_norm": 1.0} for s in range(1, 121)]
    parts = [train.put_file(path.name, path) for path in sorted(model.iterdir())]
    parts += [train.put_bytes("metrics.jsonl", "\n".join(json.dumps(row) for row in rows).encode())]
    manifests["train"] = commit(store, "train", parts, Counts(), config={"model": "tiny", "epochs": 3})
    evaluate = Draft(store, "evaluate", "evaluate00000000")
    table = pa.table({"key": [str(i) for i in range(200)], "label_name": ["<img src=x onerror=alert(1)>"] * 200})
    parts = [evaluate.put_bytes("metrics.json", json.dumps(METRICS).encode())]
    parts += [evaluate.put_bytes("evaluation.html", b"<!doctype html>how good it is")]
    parts += [evaluate.put_table("predictions-twemoji-seen.parquet", table)]
    suite = [Input(stage="suite", key="demo", digest="5" * 64)]
    manifests["evaluate"] = commit(store, "evaluate", parts, Counts(), inputs=suite, facts={"metrics": METRICS})
    order = ["evaluate", "train", "pack", "curate", "download", "filter", "extract"]
    return SimpleNamespace(store=store, manifests=[manifests[name] for name in order], model=model, home=folder)


def plan_registration(upstream, evaluation=None, **config):
    """Plan to register a model with the upstream's evaluation, or with another one."""
    evaluations = [evaluation] if evaluation else upstream.manifests[:1]
    context = stage.Context(
        store=upstream.store,
        home=upstream.home,
        run_id="demo-20260102-abcd",
        run_name="demo",
        flow_run_id="0d9f6f6e-0000-4000-8000-000000000000",
        flow_run_url="http://user:hunter2@127.0.0.1:4200/runs/flow-run/0d9f6f6e",
        run_config={"name": "demo", "store": {"uri": "s3://a:hunter2@bucket/x"}, "secret": "hunter2"},
    )
    return stage.plan(REGISTER, RegisterConfig(**config), 3, [*evaluations, *upstream.manifests[1:]]), context


def connect():
    return tracking.connect()


def find_versions(name):
    return connect().search_model_versions(f"name = '{name}'")


def commit_evaluation(store, name, right, metrics=None):
    """Write an evaluation of the task `twemoji-seen`, given which examples are right."""
    table = pa.table({"key": [str(n) for n in range(len(right))], "rank": [1 if one else 2 for one in right]})
    draft = Draft(store, "evaluate", f"{name:0<16}"[:16])
    parts = [draft.put_bytes("metrics.json", json.dumps(metrics or METRICS).encode())]
    parts += [draft.put_table("predictions-twemoji-seen.parquet", table)]
    parts += [draft.put_bytes("evaluation.html", b"<!doctype html>how good it is")]
    suite = [Input(stage="suite", key="demo", digest="5" * 64)]
    manifest = commit(store, "evaluate", parts, Counts(), inputs=suite)
    fresh = manifest.model_copy(update={"key": draft.key, "parts": parts, "content_digest": content_digest(parts)})
    return draft.commit(fresh)


def register_mixed(upstream, folder, name="saw-it", train_key="mixed"):
    """Register a model that was trained on two datasets in a copy of the store; return it with the second dataset."""
    store = FolderStore(folder / "store")
    shutil.copytree(upstream.store.root, store.root)
    here = stage.Context(store=store, home=folder, workers=1, run_name="demo")
    below = chain(store, [pair(n) for n in range(12)], 5)
    packed = stage.make(stage.plan(PACK, PackConfig(shard_size=4), 0, [below["curate"], below["download"]]), here)
    by_stage = {m.stage: m for m in upstream.manifests}
    old = by_stage["train"]
    inputs, config = [by_stage["pack"].as_input(), packed.as_input()], {**old.config, "dataset": [1, 3]}
    changed = {"key": train_key.ljust(16, "0"), "content_digest": "f" * 64, "inputs": inputs, "config": config}
    train = old.model_copy(update=changed)
    shutil.copytree(store.root / "train" / old.key, store.root / "train" / train.key)
    store.delete([train.path("manifest.json")])
    store.put(train.path("manifest.json"), train.model_dump_json().encode())
    by_stage["train"] = train
    theirs = SimpleNamespace(store=store, home=folder, manifests=[by_stage[m.stage] for m in upstream.manifests])
    stage.make(*plan_registration(theirs, model_name=name))
    return store, packed
