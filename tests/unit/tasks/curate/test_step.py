"""A distribution of one module brings a step of curate, with its config, columns and drop reasons."""

import json
import subprocess
import sys
from pathlib import Path

from dataops.home import CHECKOUT

STEP = '''
import pyarrow as pa
from dataops.config import StageConfig
from dataops.facts import Facts
from dataops.schema import Column, DropReason
from tasks.curate.step import Step, StepOutput

class Config(StageConfig):
    longest: int = 9
    """Longest caption that is kept."""

def run(work, shards):
    from tasks.curate.stage import put_result, read_kept  # they read the config, which has the steps' tables

    for shard in shards:
        rows = read_kept(work.draft, shard, "short")
        lengths = [len(caption) for caption in rows["caption"].to_pylist()]
        reasons = ["wordy" if length > work.config.short.longest else None for length in lengths]
        result = pa.table({"length": pa.array(lengths, pa.int32()), "drop_reason": pa.array(reasons, pa.string())})
        put_result(work.draft, shard, "short", result)
    return StepOutput(facts=Facts(shards=len(shards)))

LENGTH = Column("length", pa.int32(), "Characters of the caption.")
STEP = Step("short", Config, "stranger:run", [LENGTH], {"wordy": DropReason("Too long.", "`curate.short.longest`")})
'''
POINTS = "[pairmill.steps]\nshort = stranger:STEP\n"
RUN = """
import json, os, sys
from pathlib import Path
from dataops.schema import find_meanings
from dataops.snapshot import read_parts
from dataops.store import FolderStore
from tasks.curate.config import CurateConfig
from tasks.curate.stage import CURATE
from tasks.engine.context import Context
from tasks.engine.stage import make, plan
from tasks.pack.config import PackConfig
from tasks.pack.stage import PACK
from tasks.reports.drop_reasons import DROP_REASONS
from tests.inline_executor import InlineExecutor
from tests.unit.tasks.raw_images import blocks, downloaded, jpeg, pair

store = FolderStore(Path(sys.argv[1]))
raw = downloaded(store, [pair(f"x{n}", "c" * (7 + n), jpeg(blocks(n))) for n in range(4)], 2)
context = Context(store, store.root, pool=InlineExecutor())
config = CurateConfig.model_validate({"short": {}})
made = make(plan(CURATE, config, 0, [raw]), context)
packed = make(plan(PACK, PackConfig(), 0, [made, raw]), context)
print(json.dumps({
    "dropped": made.counts.dropped,
    "lengths": sorted(read_parts(store, made)["length"].to_pylist()),
    "packed": sorted(read_parts(store, packed)["length"].to_pylist()),
    "facts": made.facts["short"],
    "reason": DROP_REASONS["curate"]["wordy"].remedy,
    "meaning": find_meanings()["length"],
    "key": [name for name in ("short", "plugins") if name in made.config],
    "key without": [name for name in CurateConfig().key_config() if name in ("short", "plugins")],
}), flush=True)
os._exit(0)  # a thread of Arrow that frees a buffer of Python while Python ends would abort
"""


def test_step_of_another_distribution(tmp_path: Path) -> None:
    site = tmp_path / "site"
    metadata = site / "stranger-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(POINTS)
    (site / "stranger.py").write_text(STEP)
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path / "store")],
        env={"PYTHONPATH": f"{site}:{CHECKOUT}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "dropped": {"wordy": 1},
        "lengths": [7, 8, 9],
        "packed": [7, 8, 9],
        "facts": {"shards": 2},
        "reason": "`curate.short.longest`",
        "meaning": "Characters of the caption.",
        "key": ["short", "plugins"],
        "key without": [],
    }
