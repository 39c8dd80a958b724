"""Hostile weights and cards: each raises the one error that names the file, and allocates and runs nothing."""

import json
import pickle
import struct
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from dataops.errors import ConfigError, ContractError
from tests.costs import bounded
from tests.oracles import open_clip
from training.model.clip import CLIP
from training.model.load import load_any
from training.model.pretrained import load_pretrained, read_state_dict
from training.model_config import ModelConfig

pytestmark = pytest.mark.xdist_group("open_clip")

MAX_SECONDS = 30
"""CPU time; each takes below 1 s."""


@pytest.fixture(scope="module", autouse=True)
def _open_clip_is_loaded():
    """Import it before a test measures time and memory."""
    open_clip()


def archive(path, pickled, storages=None, *, script, **more):
    """Write a zip as torch does."""
    with zipfile.ZipFile(path, "w", more.get("compression", zipfile.ZIP_STORED)) as file:
        file.writestr("a/data.pkl", pickled)
        if script:
            file.writestr("a/constants.pkl", b"")
        file.writestr("a/byteorder", more.get("byteorder", b"little"))
        for name, data in (storages or {}).items():
            file.writestr(f"a/data/{name}", data)
    return path


def tensor(size, stride, offset=0, kind="FloatStorage"):
    """Return the opcodes of a tensor of the storage 0."""
    numbers = [pickle.dumps(value, 2)[2:-1] for value in (offset, size, stride, False)]
    storage = b"(X\x07\0\0\0storage" + f"ctorch\n{kind}\n".encode() + b"X\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"".join(numbers) + b"ccollections\nOrderedDict\n)RtR"


def state_dict(*tensors):
    items = b"".join(b"X" + struct.pack("<I", 2) + b"%02d" % i + value for i, value in enumerate(tensors))
    return b"\x80\x02}(" + items + b"u."


def shared_modules(depth):
    """A module whose two children are one module, whose two children are one module, and so on."""
    made = b"\x80\x02ctorch\nModule\n)R}b"
    for _ in range(depth):
        made = made[:2] + b"ctorch\nModule\n)R}(" + b"X\1\0\0\0a" + made[2:] + b"q\1X\1\0\0\0bh\1ub"
    return made + b"."


NUMBERS = {"0": struct.pack("<4f", 1, 2, 3, 4)}


def written(pickled, storages=None, **more):
    return lambda path, script: archive(path, pickled, NUMBERS if storages is None else storages, script=script, **more)


ARCHIVES = {
    "stride 0": written(state_dict(tensor((100_000, 100_000), (0, 0)))),
    "a huge size": written(state_dict(tensor((1 << 40,), (1,)))),
    "a size that overflows": written(state_dict(tensor((1 << 62, 1 << 62), (1, 1)))),
    "a negative size": written(state_dict(tensor((-4,), (1,)))),
    "an offset beyond the storage": written(state_dict(tensor((4,), (1,), offset=100))),
    "a negative offset": written(state_dict(tensor((4,), (1,), offset=-100))),
    "a stride beyond the storage": written(state_dict(tensor((2,), (1_000_000,)))),
    "many names of one storage": written(state_dict(*[tensor((100,), (1,))] * 99), {"0": bytes(400)}),
    "a storage that is missing": written(state_dict(tensor((4,), (1,))), {}),
    "an unknown storage": written(state_dict(tensor((4,), (1,), kind="SecretStorage"))),
    "shared modules": written(shared_modules(60)),
    "a deep tree": written(b"\x80\x02" + b"ctorch\nM\n)R}(X\1\0\0\0a" * 5000 + b"N" + b"ub" * 5000 + b"."),
    "a memo of 2 billion": written(b"\x80\x02}r\xff\xff\xff\x7f."),
    "a long text": written(b"\x80\x02X\xff\xff\xff\x7f."),
    "bytes that are no pickle": written(b"nonsense"),
    "no bytes": written(b""),
    "a bomb as data.pkl": written(bytes(100_000_000), compression=zipfile.ZIP_DEFLATED),
    "a bomb as a storage": written(
        state_dict(tensor((4,), (1,))), {"0": bytes(100_000_000)}, compression=zipfile.ZIP_DEFLATED
    ),
    "another byte order": written(state_dict(tensor((4,), (1,))), byteorder=b"big"),
    "a name that is no text": written(pickle.dumps({1: 2}, 2)),
    "8 million operations": written(b"\x80\x02" + b"N0" * 4_000_000 + b"}."),
    "300,000 tensors of one storage": written(
        b"\x80\x02}(" + b"".join(b"X\6\0\0\0%06dN" % i for i in range(300_000)) + b"u."
    ),
    "21,000 storages": written(state_dict(tensor((4,), (1,))), {str(i): b"" for i in range(21_000)}),
}
LARGE = ("a bomb as a storage", "8 million operations", "300,000 tensors of one storage", "21,000 storages")
"""They take seconds, and are refused before the kind of the archive matters."""


@pytest.mark.parametrize(
    ("name", "script"), [(name, script) for name in ARCHIVES for script in (False, True)[: 1 + (name not in LARGE)]]
)
def test_a_hostile_archive_raises_config_error_with_its_name(tmp_path, name, script):
    path = ARCHIVES[name](tmp_path / "model.pt", script)
    message = r"model\.pt: (the weights cannot be read safely|not the weights of a CLIP)"
    with bounded(MAX_SECONDS, 500 << 20), pytest.raises(ConfigError, match=message):
        load_pretrained(path)


def test_an_archive_whose_entries_share_bytes_is_refused(tmp_path):
    path = archive(
        tmp_path / "model.pt", state_dict(tensor((4,), (1,))), {str(i): bytes(64) for i in range(9)}, script=False
    )
    data = path.read_bytes()
    first = data.index(b"PK\1\2")
    data = data[:first] + data[first:].replace(struct.pack("<II", 64, 64), struct.pack("<II", 2000, 2000))
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"model\.pt: .*the tensors would have more bytes than the file"):
        read_state_dict(path)


def safetensors(path, header, data=bytes(4), size=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(header) if size is None else size) + header + data)
    return path


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HEADERS = {
    "a header of 2^63 bytes": (b"{}", b"", 1 << 63),
    "a header of 1 GB": (b"{}", b"", 10**9),
    "overlap": ({"a": entry(), "b": entry()},),
    "a hole": ({"a": entry(offsets=(4, 8))}, bytes(8)),
    "too much data": ({"a": entry(shape=(1 << 40,), offsets=(0, 1 << 42))},),
    "a shape that overflows": ({"a": entry(shape=(1 << 62, 1 << 62))},),
    "an unknown dtype": ({"a": entry("Q9")},),
    "a dtype that torch lacks": ({"a": entry("F4", (8,))},),
    "nested JSON": (b"[" * 1_000_000, b""),
    "no JSON": (b"\xff\xfe", b""),
    "negative offsets": ({"a": entry(offsets=(-4, 0))},),
    "30,000 tensors": ({str(i): entry(shape=(0,), offsets=(0, 0)) for i in range(30_000)}, b""),
    "a name of many": ({str(i): entry(shape=(0,), offsets=(0, 0)) for i in range(5000)}, b""),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_hostile_safetensors_file_raises_an_error_with_its_name(tmp_path, name):
    path = safetensors(tmp_path / "model.safetensors", *HEADERS[name])
    with pytest.raises(ConfigError, match=r"model\.safetensors: "):
        load_pretrained(path)


SMALL = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 8, "layers": 1, "width": 64, "head_width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 300, "width": 64, "heads": 1, "layers": 1},
}
BILLION = 10**9


def changed(path, value):
    card = json.loads(json.dumps(SMALL))
    *parents, last = path.split(".")
    place = card
    for parent in parents:
        place = place[parent]
    place[last] = value
    return card


CARDS = {
    f"{path} {value}": json.dumps({"model_cfg": changed(path, value), **changed(path, value)})
    for path, value in (
        ("embed_dim", BILLION),
        ("embed_dim", 65_536),
        ("vision_cfg.layers", BILLION),
        ("vision_cfg.width", BILLION),
        ("vision_cfg.width", 65_536),
        ("vision_cfg.image_size", BILLION),
        ("vision_cfg.layers", [BILLION] * 4),
        ("text_cfg.layers", BILLION),
        ("text_cfg.width", 65_536),
        ("text_cfg.vocab_size", BILLION),
        ("text_cfg.context_length", BILLION),
        ("text_cfg", None),
        ("vision_cfg", []),
        ("embed_dim", -1),
        ("embed_dim", "8"),
    )
} | {
    "nested": "[" * 100_000,
    "a long number": '{"model_cfg": ' + "9" * 10_000 + "}",
    "a list": "[]",
    "no JSON": "\0",
}


@pytest.mark.parametrize("card", ["open_clip_config.json", "model.json"])
@pytest.mark.parametrize("name", CARDS)
def test_a_hostile_card_raises_an_error_before_anything_is_allocated(tmp_path, name, card):
    weights = CLIP(ModelConfig.model_validate(SMALL)).state_dict()
    save_file({key: value.contiguous() for key, value in weights.items()}, tmp_path / "model.safetensors")
    (tmp_path / card).write_text(CARDS[name])
    (tmp_path / "tokenizer.json").write_text("{}")
    with bounded(MAX_SECONDS, 1 << 30), pytest.raises((ConfigError, ContractError), match=str(tmp_path)):
        load_any(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"_rebuild_tensor_v2", b"_rebuild" + b"s" * 300_000, "a class whose name has over 1000 characters"),
        (b"ctorch._utils", b"N0" * 4_000_000 + b"ctorch._utils", "over 500,000 operations"),
    ],
)
def test_an_old_file_costs_no_quadratic_time_and_few_seconds(tmp_path, old, new, message):
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.ones(1)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(old, new))
    with bounded(10), pytest.raises(ConfigError, match=message):  # minutes in torch.load
        read_state_dict(path)
