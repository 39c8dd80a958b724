"""The Python API reads what a run made, in a process that has modules of the user's own under the names of ours."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import pairmill
from dataops.errors import CorruptPart
from dataops.home import CHECKOUT
from dataops.snapshot import Counts, Draft
from dataops.store import FolderStore
from flows.records import RunRecord, StageRun
from tests.manifests import build_manifest
from tests.trainings import packed


def make_dataset(store, key, shards):
    draft = Draft(store, "pack", key)
    manifest = build_manifest(
        "pack", packed(draft, shards, 4), key=key, counts=Counts(input=4 * shards, kept=4 * shards)
    )
    draft.commit(manifest)
    return manifest


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with two runs of `mine`, of which the second has no dataset, and one of `other`."""
    home = tmp_path / "project" / ".pairmill"
    store = FolderStore(home / "store")
    for number, (name, shards) in enumerate([("mine", 3), ("other", 1), ("mine", 0)]):
        key, stages = f"{number:016x}", []
        if shards:
            manifest = make_dataset(store, key, shards)
            stages = [StageRun(stage="pack", key=key, state="Completed", counts=manifest.counts)]
        RunRecord(
            run_id=f"{name}-{number}", name=name, created_at=f"2026-01-0{number + 1}", config={}, stages=stages
        ).save(store)
    monkeypatch.chdir(home.parent)
    return home.parent


def test_dataset_is_found_by_config_run_and_key(project):
    mine, other = pairmill.dataset("mine"), pairmill.dataset()
    assert (mine.key, other.key) == (f"{0:016x}", f"{1:016x}")
    assert pairmill.dataset("mine-0") == mine == pairmill.dataset(mine.key)
    assert (len(mine), len(other)) == (12, 4)
    for name in ("nobody", "mine-2", "f" * 16):
        with pytest.raises(LookupError, match=name):
            pairmill.dataset(name)


def test_rows_and_samples_are_those_of_the_shards_in_their_order(project):
    dataset = pairmill.dataset("mine")
    frame = dataset.frame(["uid", "caption"])
    samples = [*dataset.samples()]
    assert frame["caption"].to_list() == [sample.caption for sample in samples] == [f"thing {n}" for n in range(12)]
    assert frame["uid"].to_list() == [sample.metadata["uid"] for sample in samples]
    assert all(sample.image.startswith(b"\xff\xd8") for sample in samples)
    assert [Path(shard).name for shard in dataset.shards] == ["00000.tar", "00001.tar", "00002.tar"]
    assert [sample.uid for sample in dataset.samples([2])] == [sample.uid for sample in samples[8:]]


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_of_torch_divide_the_shards(project, workers):
    dataset = pairmill.dataset("mine")
    loader = torch.utils.data.DataLoader(dataset.torch(), batch_size=None, num_workers=workers)
    assert sorted(sample.uid for sample in loader) == [sample.uid for sample in dataset.samples()]


def test_hugging_face_reads_the_shards(project):
    rows = [*pairmill.dataset("mine").hugging_face()]
    assert [row["txt"] for row in rows] == [f"thing {number}" for number in range(12)]


def test_damaged_shard_is_an_error_and_not_the_end(project):
    dataset = pairmill.dataset("mine")
    with Path(dataset.shards[1]).open("r+b") as shard:
        shard.write(bytes(512))
    with pytest.raises(CorruptPart, match=r"00001\.tar"):
        list(dataset.samples())


def run_beside_own_modules(project, code):
    """Run code in a folder that has packages of its own under our names; return the JSON value that it prints."""
    for name in ("tasks", "training", "dataops"):
        (project / name).mkdir()
        (project / name / "__init__.py").write_text("OWNER = 'user'\n")
    path = f"import sys; sys.path.append({str(CHECKOUT)!r})\n"
    command = [sys.executable, "-c", path + textwrap.dedent(code)]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_modules_of_the_user_are_the_same_before_between_and_after(project):
    code = """
    import json, os
    import pairmill, polars, tasks  # polars sets a variable of its own
    before = dict(os.environ), list(sys.path)
    samples = pairmill.dataset("mine").samples()
    first = next(samples)
    import training
    rows = pairmill.dataset("mine").frame()
    import dataops
    rest = list(samples)
    owners = [module.OWNER for module in (tasks, training, dataops)]
    assert sys.modules["tasks"] is tasks and "flows" not in sys.modules
    print(json.dumps([owners, len(rows), len(rest), before == (dict(os.environ), list(sys.path))]))
    """
    assert run_beside_own_modules(project, code) == [["user"] * 3, 12, 11, True]


def test_commands_return_what_they_print_and_raise_their_errors(project):
    code = """
    import json, pairmill
    found = pairmill.runs()
    try:
        pairmill.run("missing.toml", settings={"train.epochs": 3})
    except pairmill.CommandError as error:
        print(json.dumps([[run["run_id"] for run in found], str(error), error.exit_code]))
    """
    names, message, code_of_error = run_beside_own_modules(project, code)
    assert sorted(names) == ["mine-0", "mine-2", "other-1"]
    assert "missing.toml" in message
    assert code_of_error == 2
