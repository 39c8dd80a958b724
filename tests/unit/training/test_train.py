"""A job from shards to a finished model: the same bits after a kill, a stop or a corrupt checkpoint."""

import fcntl
import gc
import io
import json
import logging
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

import training.loop.interim_evaluation as interim_module
import training.losses.contrastive as loss_module
import training.model.checkpoint as checkpoint_module
import training.train as train_module
from dataops.errors import ConfigError
from dataops.process import find_precision
from dataops.snapshot import Draft
from dataops.store import FolderStore
from tests.job_processes import Ranks, run_job
from tests.trainings import before_step, output_of, outputs_of, packed, rows_of, run_training, stop_at, with_suite
from training import job as job_module
from training.checkpoints import CheckpointWriter
from training.config import TrainConfig
from training.loop.health import HealthMonitor
from training.model.checkpoint import load_model
from training.model.clip import CLIP
from training.train import set_up_torch

pytestmark = [pytest.mark.usefixtures("process_state"), pytest.mark.xdist_group("ranks")]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_runs_end_in_the_same_bits_and_learn(make_job, precision):
    jobs = [
        make_job("a", "resnet", precision=precision, workers=0, cache_bytes=0),
        make_job("b", "resnet", precision=precision, workers=3, log_every=1, checkpoint_every=5),
    ]
    assert [run_training(job) for job in jobs] == [0, 0]
    assert outputs_of(jobs[0]) == outputs_of(jobs[1])
    rows = rows_of(jobs[0])
    assert [row["step"] for row in rows] == list(range(1, 13))  # 25 pairs in 3 batches of 8 or 9
    assert rows[-1]["samples_seen"] == 4 * 25
    assert rows[-1]["loss"] < rows[0]["loss"]
    done = json.loads((output_of(jobs[0]) / "done.json").read_text())
    assert done["samples"] == 25
    loaded = load_model(output_of(jobs[0]))
    assert loaded.model.logit_scale.item() == pytest.approx(rows[-1]["logit_scale"])


def test_determinism_is_a_choice_and_fp32_is_never_tf32():
    """Nothing here needs a GPU: torch keeps these choices on any machine."""
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    for device, choice, expected in (
        ("cpu", None, True),
        ("cuda", None, False),
        ("cuda", True, True),
        ("cpu", False, False),
    ):
        cuda.allow_tf32 = True
        set_up_torch(TrainConfig(deterministic=choice), torch.device(device))
        found = (torch.are_deterministic_algorithms_enabled(), cudnn.benchmark, cuda.allow_tf32, cudnn.allow_tf32)
        assert found == (expected, not expected, False, False)
        assert (sys.getswitchinterval() < 1e-3) == (device == "cuda")
        sys.setswitchinterval(5e-3)


@pytest.mark.parametrize("name", ["", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_the_allocator_is_set_before_the_device_is_used_unless_the_user_set_it(make_job, monkeypatch, name):
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "CUBLAS_WORKSPACE_CONFIG")
    for one in names:
        monkeypatch.delenv(one, raising=False)
    if name:
        monkeypatch.setenv(name, "backend:native")
    found = []

    def stop(*_):
        found.extend(os.environ.get(one) for one in names)
        raise job_module.Stopped("enough")

    monkeypatch.setattr(train_module, "resolve_device", stop)
    assert run_training(make_job("a")) == 75
    mine, both = ["backend:native" if one == name else None for one in names[:2]], ["expandable_segments:True"] * 2
    assert found == [*(mine if name else both), ":4096:8"]


@pytest.mark.usefixtures("sampled_shards")
def test_sigterm_checkpoints_and_the_next_start_ends_in_the_same_bits(make_job, monkeypatch):
    undisturbed, stopped = make_job("a", "resnet"), make_job("b", "resnet")
    assert run_training(undisturbed) == 0
    steps = []
    before_step(monkeypatch, lambda run: (steps.append(run.step), stop_at(5)(run)))
    assert run_training(stopped) == 75
    assert [path.name for path in (output_of(stopped) / "checkpoints").iterdir()] == ["step-000005"]
    assert not (output_of(stopped) / "done.json").exists()
    assert run_training(stopped) == 0
    assert len(steps) == len(rows_of(undisturbed))
    assert rows_of(undisturbed)[-1]["samples_seen"] < 4 * 25
    assert outputs_of(stopped) == outputs_of(undisturbed)


def test_the_watch_for_stuck_ranks_knows_each_step_and_pauses_for_checkpoints(make_job, monkeypatch):
    seen = []

    class Watch(job_module.StuckWatch):
        def end_step(self, step, *, is_limited):
            seen.append((step, is_limited))
            super().end_step(step, is_limited=is_limited)

        def pause(self):
            seen.append("pause")
            super().pause()

    monkeypatch.setattr(train_module, "StuckWatch", Watch)
    assert run_training(make_job("j", epochs=1, checkpoint_every=2)) == 0
    assert seen == [(1, True), (2, True), "pause", (3, True), "pause", "pause"], "the third step is the last one"
    assert not list((output_of(make_job("j")) / "flight-records").glob("*")), "one rank waits for nobody"


@pytest.mark.parametrize("is_stopped", [False, True])
def test_the_run_has_ended_when_the_ranks_part(make_job, monkeypatch, is_stopped):
    """torch's process group can deadlock if a model that still holds it ends later."""
    left = []
    monkeypatch.setattr(job_module.distributed, "leave", lambda: left.append(find_runs()))
    if is_stopped:
        monkeypatch.setattr(job_module.logger, "error", lambda *_: None)  # caplog would keep the error and its frames
        monkeypatch.setattr(train_module, "resume", lambda run: os.kill(os.getpid(), signal.SIGTERM))
    assert run_training(make_job("j", epochs=1)) == (75 if is_stopped else 0)
    assert left == [[]]


def test_sigterm_while_a_rank_ends_with_an_error_does_not_replace_it(make_job, monkeypatch):
    """The launcher ends the other ranks when one has failed."""

    def leave():
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(train_module, "set_up", Mock(side_effect=ConfigError("too few pairs")))
    monkeypatch.setattr(job_module.distributed, "leave", leave)
    assert run_training(make_job("j", epochs=1)) == 2


def find_runs():
    return [each for each in gc.get_objects() if type(each) is train_module.TrainingRun]


def die_in(step, *arguments):
    """Run a job whose process is killed in a step."""
    loss, calls = loss_module.contrastive_loss, []

    def die(*inputs):
        calls.append(1)
        if len(calls) == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss(*inputs)

    loss_module.contrastive_loss = die
    run_job(*arguments)


def test_kill_9_at_random_steps_then_rerun_ends_in_the_same_bits(make_job):
    """Kill three times, each within a step or while a checkpoint is written."""
    undisturbed, killed = make_job("a"), make_job("b", checkpoint_every=1)
    assert run_training(undisturbed) == 0
    for step in random.Random(8).sample(range(2, 5), 3):
        assert Ranks(killed, 1, target=partial(die_in, step)).wait() == [-signal.SIGKILL]
    assert 0 < len(rows_of(killed)) <= 9
    assert run_training(killed) == 0
    assert outputs_of(killed) == outputs_of(undisturbed)


def test_the_step_does_not_wait_for_the_disk(make_job, monkeypatch):
    """Block the write of step 2's checkpoint until step 7; it must still hold the state of step 2."""
    job, undisturbed = make_job("a", checkpoint_every=2, keep_checkpoints=9), make_job("b", checkpoint_every=2)
    loss, save, calls, reached = loss_module.contrastive_loss, checkpoint_module.save_file, [], threading.Event()

    def counted(*arguments):
        calls.append(1)
        if len(calls) == 4:
            reached.set()
        return loss(*arguments)

    def slow(*arguments):
        assert reached.wait(60), "the fourth step waits for the checkpoint of the second"
        save(*arguments)

    monkeypatch.setattr(loss_module, "contrastive_loss", counted)
    monkeypatch.setattr(checkpoint_module, "save_file", slow)
    assert run_training(job) == 0
    monkeypatch.undo()
    crash(undisturbed, 3)
    first = [output_of(j) / "checkpoints" / "step-000002" / "model.safetensors" for j in (job, undisturbed)]
    assert first[0].read_bytes() == first[1].read_bytes()


def test_out_of_memory_names_the_batch_and_what_lowers_its_memory(make_job, monkeypatch, caplog):
    encode_image = CLIP.encode_image

    def allocate(model, images, *more):
        if not images.is_meta:  # those only count operations
            torch.empty(1 << 60, dtype=torch.uint8)  # the allocator's own error
        return encode_image(model, images, *more)

    monkeypatch.setattr(CLIP, "encode_image", allocate)
    assert run_training(make_job("a", grad_cache=4)) == 2
    assert "step 1: memory does not hold the step of 9 pairs on rank 0 of 1" in caplog.text
    assert "lower grad_cache, now 4, or set grad_checkpointing = true, or set precision" in caplog.text


def test_a_full_disk_ends_the_job_at_once_and_is_retryable(make_job, monkeypatch):
    job, failed, calls = make_job("a", checkpoint_every=3), threading.Event(), []
    loss, check = loss_module.contrastive_loss, CheckpointWriter.check

    def fill_disk(tensors, path):
        path.write_bytes(b"half")
        failed.set()
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    def wait(*arguments):
        calls.append(1)
        assert len(calls) <= 3 or failed.wait(60)
        return loss(*arguments)

    def check_until_it_raises(writer):
        check(writer)
        while failed.is_set():  # the thread that writes has yet to end
            check(writer)

    monkeypatch.setattr(CheckpointWriter, "check", check_until_it_raises)
    monkeypatch.setattr(checkpoint_module, "save_file", fill_disk)
    monkeypatch.setattr(loss_module, "contrastive_loss", wait)
    assert run_training(job) == 75
    assert len(calls) < 6, "it does not wait for the next checkpoint"
    failure = json.loads((output_of(job) / "failure.json").read_text())
    assert failure["exit_code"] == 75
    assert "model.safetensors: No space left on device" in failure["message"]
    assert not list((output_of(job) / "checkpoints").iterdir()), "the half checkpoint takes no room"
    monkeypatch.undo()
    assert run_training(job) == 0


def test_a_bias_that_the_softmax_ignores_is_resumed(make_job):
    job = make_job("a", epochs=2, checkpoint_every=2)
    model = Path(json.loads(job.read_text())["train"]["model"])
    model.write_text(json.dumps({**json.loads(model.read_text()), "init_logit_bias": -3.0}))
    crash(job, 5)
    assert run_training(job) == 0
    assert load_file(output_of(job) / "model.safetensors")["logit_bias"] == -3.0


@pytest.mark.parametrize("moment", ["evaluate", "copy_whole"])
def test_sigterm_ends_an_interim_evaluation_at_once_and_the_next_start_repeats_it(make_job, suite, monkeypatch, moment):
    """The signal arrives in the evaluation, or after the checkpoint before it."""

    def stop(model, *_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        return model

    job = with_suite(make_job("a", epochs=2, evaluate_every=3), suite)
    with monkeypatch.context() as patch:
        patch.setattr(interim_module, moment, stop)
        assert run_training(job) == 75
    assert not (output_of(job) / "evidence-suite.jsonl").exists()
    assert [path.name for path in (output_of(job) / "checkpoints").iterdir()] == ["step-000003"]
    assert run_training(job) == 0
    rows = [json.loads(line) for line in (output_of(job) / "evidence-suite.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3]


def test_collapsed_features_end_the_job_with_exit_code_4(make_job, monkeypatch, caplog):
    monkeypatch.setattr(train_module, "HealthMonitor", partial(HealthMonitor, patience=3))
    encode = CLIP.encode_text
    monkeypatch.setattr(CLIP, "encode_text", lambda self, *inputs: 0 * encode(self, *inputs) + 1)
    assert run_training(make_job("a", checkpoint_every=2)) == 4
    assert "step 4: features have collapsed: the texts" in caplog.text
    assert "the last good checkpoint is step-000002" in caplog.text


def test_interim_evaluation_is_logged_and_changes_no_bit(make_job, suite):
    plain, watched = make_job("a", epochs=2), with_suite(make_job("b", epochs=2, evaluate_every=2), suite)
    assert [run_training(job) for job in (plain, watched)] == [0, 0]
    assert outputs_of(watched) == outputs_of(plain)
    rows = [json.loads(line) for line in (output_of(watched) / "evidence-suite.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]
    for row in rows:
        assert {name.partition("/")[0] for name in row} == {"step", "colours", "few"}
        assert all(0 <= value <= 1 for name, value in row.items() if "/" in name), row
    assert run_training(make_job("c", evaluate_every=2)) == 2, "no suite"


def test_a_bad_checkpoint_is_skipped_on_resume(make_job, caplog):
    settings = {"epochs": 3, "checkpoint_every": 2, "keep_checkpoints": 3}
    undisturbed, crashed = make_job("a", epochs=3), make_job("b", **settings)
    assert run_training(undisturbed) == 0
    crash(crashed, 8)
    for damage, harm in DAMAGES.items():
        job = make_job(damage, **settings)
        shutil.copytree(output_of(crashed), output_of(job))
        checkpoints = output_of(job) / "checkpoints"
        assert sorted(path.name for path in checkpoints.iterdir()) == ["step-000002", "step-000004", "step-000006"]
        harm(checkpoints / "step-000006")
        caplog.clear()
        with caplog.at_level(logging.INFO):
            assert run_training(job) == 0
        assert "resumed from step-000004" in caplog.text, damage
        assert ("checkpoint step-000006 is skipped" in caplog.text) == (damage != "half written")
        assert outputs_of(job) == outputs_of(undisturbed), damage


def flipped(weights):
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)


DAMAGES = {
    "missing": lambda newest: (newest / "model.safetensors").unlink(),
    "flipped": lambda newest: flipped(newest / "model.safetensors"),
    "half written": lambda newest: newest.rename(newest.with_name(".step-000006.part")),
    "no manifest": lambda newest: (newest / "manifest.json").unlink(),
}


def crash(job, step):
    """Run a job that is interrupted in a step."""
    loss, calls = loss_module.contrastive_loss, []

    def interrupt(*arguments):
        calls.append(1)
        if len(calls) == step:
            raise KeyboardInterrupt
        return loss(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_module, "contrastive_loss", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_training(job)


def test_a_checkpoint_of_another_job_is_skipped(make_job, caplog):
    job = make_job("a", checkpoint_every=2)
    crash(job, 4)
    assert run_training(make_job("a", lr=2e-3)) == 0
    assert "it belongs to another job" in caplog.text
    other = make_job("b", lr=2e-3)
    assert run_training(other) == 0
    assert outputs_of(make_job("a", lr=2e-3)) == outputs_of(other)


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_a_non_finite_loss_ends_the_job_with_exit_code_4(make_job, monkeypatch, caplog, poison):
    job = make_job("a", checkpoint_every=2)
    loss, calls = loss_module.contrastive_loss, []

    def poisoned(images, *arguments):
        calls.append(1)
        if len(calls) == 4 and poison == "loss":
            images = images * math.nan
        elif len(calls) == 4:
            images.register_hook(lambda gradient: gradient * math.inf)
        return loss(images, *arguments)

    monkeypatch.setattr(loss_module, "contrastive_loss", poisoned)
    assert run_training(job) == 4
    assert "step 4" in caplog.text
    assert "the last good checkpoint is step-000002" in caplog.text
    assert json.loads((output_of(job) / "failure.json").read_text())["exit_code"] == 4
    weights = load_file(output_of(job) / "checkpoints" / "step-000002" / "model.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())


def test_corrupt_samples_are_skipped_and_listed(make_job, shards):
    with tarfile.open(shards[1], "a") as tar:
        for name, data in [
            ("900000.jpg", b"<html>not a picture</html>"),
            ("900000.txt", b"a page"),
            ("900001.txt", b"a caption alone"),
            ("900002.jpg", b"\xff\xd8\xff"),
            ("900002.txt", b"\xff\xfe\xff"),
        ]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    job = make_job("a", max_skipped=0.3)
    assert run_training(job) == 0
    again = make_job("c", max_skipped=0.3, workers=0)
    assert run_training(again) == 0
    assert outputs_of(again) == outputs_of(job)
    skipped = json.loads((output_of(job) / "skipped.json").read_text())
    assert [(item["shard"], item["key"]) for item in skipped] == [
        ("00001.tar", "900000"),
        ("00001.tar", "900001"),
        ("00001.tar", "900002"),
    ]
    assert "not a readable picture" in skipped[0]["reason"]
    assert skipped[1]["reason"] == "no picture member"
    assert run_training(make_job("b", max_skipped=0.05)) == 3


def test_broken_shards_end_the_job_and_are_named(make_job, shards, caplog):
    whole = shards[1].read_bytes()
    shards[1].write_bytes(whole[: len(whole) // 2 + 100])
    assert run_training(make_job("a")) == 3
    assert str(shards[1]) in caplog.text
    shards[1].unlink()
    assert run_training(make_job("a")) == 2


def test_two_trainers_never_share_an_output(make_job, monkeypatch, caplog):
    job = make_job("a", epochs=1)
    output_of(job).mkdir()
    monkeypatch.setattr(train_module, "lock_output", partial(job_module.lock_output, timeout=0.3))
    with (output_of(job) / ".lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert run_training(job) == 75
        assert "another trainer holds" in caplog.text
    assert run_training(job) == 0


def test_the_job_imports_no_more_than_it_needs_and_ends_with_its_parent(make_job, tmp_path):
    job = make_job("a", epochs=1_000, log_every=1)
    parent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    settings = json.loads(job.read_text())
    draft = Draft(FolderStore(tmp_path), "pack", "a" * 16)
    packed(draft, 2, 12)  # with indexes, which pyarrow parses
    shards = [str(path) for path in sorted((tmp_path / draft.path("")).glob("*.tar"))]
    job.write_text(json.dumps({**settings, "shards": shards, "parent_pid": parent.pid}))
    command = [sys.executable, "-X", "importtime", "-m", "training.train", str(job)]
    trainer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    imported = set()
    try:
        for line in trainer.stderr:
            if line.startswith("import time:"):
                imported.add(line.rpartition("|")[2].strip())
            if "step 1/" in line:
                parent.kill()  # and not waited for: a zombie is gone as well
                break
        assert trainer.wait() == 75
        assert "torch" in imported
        assert imported.isdisjoint({"pandas.core", "polars", "scipy", "sklearn"})  # a failed import of pandas is listed
    finally:
        for process in (trainer, parent):
            process.kill()
            process.wait()
        trainer.stderr.close()


def test_the_processors_bf16_units_are_those_that_torch_finds():
    found = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert find_precision(on_gpu=False) == ("bf16" if found else "fp32")
