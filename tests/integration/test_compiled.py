"""`train.compile` with torch's own compiler, on the CPU: the unit tests run each graph as it is."""

import ctypes
import json
import os
import shutil
from pathlib import Path

import pytest

from dataops.errors import ConfigError
from tests import trainings
from tests.trainings import VIT, output_of, rows_of, run_training
from training.compiler import CACHES, prepare_compiler

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("torch")]
make_job, shards, process_state = trainings.make_job, trainings.shards, trainings.process_state  # fixtures


needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C compiler is installed: apt install g++")


@needs_compiler
@pytest.mark.long
@pytest.mark.usefixtures("process_state")
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")  # of the compiler's own code
def test_a_compiled_training_has_five_graphs_for_all_steps_and_the_losses_of_another(make_job, monkeypatch):
    """Pixels, the image tower, embeddings of words, the blocks of the text tower, and those of the loss.

    Their kernels are kept in the user's cache, since g++ takes most of a minute for them.
    """
    from torch._dynamo.utils import counters  # here, since each test process would load the compiler

    kept = Path(os.environ["XDG_CACHE_HOME"], "pairmill-tests", "inductor")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(kept))
    plain, compiled = (
        make_job(name, "vit", compile=name == "compiled", patch_dropout=0.5) for name in ("plain", "compiled")
    )
    small = json.dumps(VIT).replace('"layers": 2', '"layers": 1')
    Path(json.loads(plain.read_text())["train"]["model"]).write_text(small)  # compiling takes half the time
    counters.clear()
    assert [run_training(job) for job in (plain, compiled)] == [0, 0]
    assert counters["stats"]["unique_graphs"] == 5
    assert not counters["graph_break"]
    assert sum(counters["inductor"][f"fxgraph_cache_{what}"] for what in ("miss", "hit", "bypass")) > 0
    losses = [[row["loss"] for row in rows_of(job)] for job in (plain, compiled)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@needs_compiler
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_the_folder_of_kernels_is_the_first_that_runs_them(tmp_path, monkeypatch, device):
    for name in CACHES:
        monkeypatch.delenv(name, raising=False)
    load = ctypes.CDLL

    def load_unless_noexec(path):
        if path.startswith(str(tmp_path / "noexec")):
            raise OSError(f"{path}: failed to map segment from shared object")
        return load(path)

    monkeypatch.setattr(ctypes, "CDLL", load_unless_noexec)
    (tmp_path / "file").touch()
    folders = [tmp_path / "file" / "below", tmp_path / "noexec", tmp_path / "home"]
    assert prepare_compiler(device, folders) == folders[2]
    assert {name: os.environ[name] for name in CACHES} == {n: str(folders[2] / c) for n, c in CACHES.items()}
    for name in CACHES:
        with monkeypatch.context() as patch:
            patch.setenv(name, str(folders[1]))
            with pytest.raises(ConfigError, match=r"failed to map segment.*TRITON_CACHE_DIR"):
                prepare_compiler(device, folders)
    monkeypatch.setenv("CC" if device == "cuda" else "CXX", "false")
    with pytest.raises(ConfigError, match="install gcc and libc6-dev"):
        prepare_compiler(device, folders[2:])


def test_a_job_that_compiles_ends_with_2_where_no_compiler_is(make_job, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    job = make_job("a", "vit", compile=True)
    assert run_training(job) == 2
    assert "no compiler is installed (g++" in (output_of(job) / "failure.json").read_text()
