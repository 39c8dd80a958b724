"""Hostile evaluation sets, checkpoints and images: errors name them, memory is bounded, and no code of theirs runs."""

import io
import json
import pickle
import struct
import tarfile
import zlib

import pytest
import torch

from dataops.errors import ContractError
from tests.bombs import Bomb
from tests.image_files import noise, png_chunk
from training.checkpoints import find_newest_checkpoint, restore_checkpoint
from training.evaluation.sets import EvalSet
from training.model.preprocess import decode_rgb

# Pickle ---------------------------------------------------------------------------------------------------------------


def test_a_pickle_in_a_job_folder_does_not_run(tmp_path):
    """Refuse the pickle although the manifest has its digest."""
    from dataops.digest import file_sha256

    folder = tmp_path / "step-000005"
    folder.mkdir()
    names = ("model.safetensors", "optimizer.safetensors", "state.json")
    for name in names:
        (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    (folder / "manifest.json").write_text(json.dumps({name: file_sha256(folder / name) for name in names}))
    assert find_newest_checkpoint(tmp_path, "job", 0) is None
    model = torch.nn.Linear(1, 1)
    with pytest.raises(Exception, match=r"(?i)header"):
        restore_checkpoint(folder, model, torch.optim.AdamW(model.parameters()))
    assert not (tmp_path / "ran").exists()


# Images ---------------------------------------------------------------------------------------------------------------


def png(width, height, *more):
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rest = png_chunk(b"IDAT", zlib.compress(bytes(100))) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + rest


@pytest.mark.parametrize(
    ("data", "why"),
    [
        pytest.param(png(60_000, 60_000), "pixels|Bomb", id="pixels"),
        pytest.param(png(13_000, 13_000), "pixels|Bomb", id="fewer pixels"),
        pytest.param(png(2**31 - 1, 1), "pixels|Bomb", id="a long line"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "no known format", id="eps"),
        pytest.param(noise("TIFF"), "no known format", id="tiff"),
        pytest.param(noise("PPM"), "no known format", id="ppm"),
        pytest.param(pickle.dumps(5), "no known format", id="pickle"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_images_that_would_fill_memory_or_run_a_program_raise_value_error(data, why):
    with pytest.raises(ValueError, match=why):
        decode_rgb(data)


def test_each_damage_of_an_avif_raises_value_error():
    """Pillow's decoder of AVIF raises RuntimeError."""
    avif, refused = noise("AVIF"), 0
    for at in range(0, len(avif), 3):
        try:
            decode_rgb(avif[:at] + bytes([avif[at] ^ 0xFF]) + avif[at + 1 :])
        except ValueError:
            refused += 1
    assert refused > 20


# Evaluation sets ------------------------------------------------------------------------------------------------------


def eval_set(folder, *members, shards="1", form=tarfile.PAX_FORMAT):
    (folder / "set" / "test").mkdir(parents=True)
    (folder / "set" / "classnames.txt").write_text("one\ntwo\n")
    (folder / "set" / "zeroshot_classification_templates.txt").write_text("a {c}\n")
    (folder / "set" / "test" / "nshards.txt").write_text(shards)
    with tarfile.open(folder / "set" / "test" / "0.tar", "w", format=form) as archive:
        for name, what in members:
            info = tarfile.TarInfo(name)
            if isinstance(what, bytes):
                info.size = len(what)
                archive.addfile(info, io.BytesIO(what))
            else:
                info.type, info.linkname = what.encode(), "../../own"
                archive.addfile(info)
    return EvalSet(folder / "set", "test", "classification")


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("folder", ["../../../../", "/", "../" * 100])
def test_member_paths_outside_the_folder_are_only_keys(folder, form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    members = ((f"{folder}own/id.png", b"x"), (f"{folder}own/id.cls", b"1"))
    found = eval_set(tmp_path / "e", *members, form=form)
    assert [sample.label for sample in found.samples()] == [1]
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == sorted(
        ("0.tar", "nshards.txt", "classnames.txt", "zeroshot_classification_templates.txt")
    )


@pytest.mark.parametrize("kind", ["SYM", "LNK", "CHR", "BLK", "FIFO"])
def test_members_that_are_no_files_raise_contract_error(kind, tmp_path):
    members = (("a.png", getattr(tarfile, f"{kind}TYPE").decode()), ("a.cls", b"0"))
    with pytest.raises(ContractError, match=r"a\.png is no plain file"):
        list(eval_set(tmp_path, *members).samples())


def test_an_oversized_member_raises_contract_error(tmp_path):
    found = eval_set(tmp_path)
    member = tarfile.TarInfo("a.png")
    member.size = (256 << 20) + 1
    (tmp_path / "set" / "test" / "0.tar").write_bytes(member.tobuf() + bytes(1024))
    with pytest.raises(ContractError, match="no plain file of at most 256 MiB"):
        list(found.samples())
