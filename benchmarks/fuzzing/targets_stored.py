"""Define the targets that people and programs write: configs, suites, takedowns, records in the store, and models."""

import io
import json
import zipfile
from functools import lru_cache
from unittest.mock import patch

from benchmarks.fuzzing.target import Limits, Parser, Target
from benchmarks.fuzzing.targets_archives import scratch_folder, write_scratch
from dataops.home import CHECKOUT

_UID, _KEY = "0123456789abcdef" * 2, "0123456789abcdef"
_TOML_WORDS = tuple(
    b'[|]|[[|]]|=|"|\'\'\'|"""|\n|.|{|}|,|true|1e999|inf|nan|1979-05-27T07:32:00Z|0x|\\u0000|\\ud800|[source]\n|[train]\n|[store]\n'
    b"|[download]\n|[curate]\n|[execution]\n|[[task]]\n|kind = |-1|9999999999999999999".split(b"|")
)
_JSON_WORDS = tuple(
    b'{|}|[|]|"|:|,|null|true|-1|1e999|NaN|Infinity|\\ud800|\\u0000|""|{}|[]|99999999999999999999'.split(b"|")
)


class _OneObject:
    """A store with one object, whatever its name is."""

    uri = "/store"

    def __init__(self, data):
        self._data = data

    def read(self, name):
        return self._data

    find = read

    def size(self, name):
        return len(self._data)

    def entries(self, prefix):
        return []


def _load_config():
    from dataops.errors import ConfigError
    from flows.config import load_config

    def parse(data):
        # The files and services that a config names are not for a mutated one to touch.
        with patch("flows.config._problems_outside", lambda *_, **__: []):
            return str(sorted(load_config(write_scratch("fuzz.toml", data)).model_fields_set))

    return Parser(parse, (ConfigError,))


def _load_suite():
    from dataops.errors import ConfigError
    from training.evaluation.suite import load_suite

    def parse(data):
        suite = load_suite(write_scratch("suite.toml", data), scratch_folder() / "sets", partial=True)
        return f"{len(suite.tasks)} {len(suite.absent)} {suite.digest()[:0]}"

    return Parser(parse, (ConfigError,))


def _toml_files(folder):
    return [path.read_bytes() for path in sorted((CHECKOUT / "configs" / folder).glob("*.toml"))]


def _load_takedown(suffix):
    from dataops.errors import ConfigError
    from plugins.erasure.target_files import read_targets

    def parse(data):
        if b"image" in data:
            return None  # it would read any file
        return frozenset(target.kind for target in read_targets(write_scratch(f"takedown{suffix}", data)))

    return Parser(parse, (ConfigError,))


_TARGETS = (f"uid:{_UID}", "https://a.example/x.jpg", "a.example", "domain:münchen.example", f"phash:{_KEY}~4")


def _load_request():
    from dataops.errors import CorruptPart
    from dataops.snapshot import Input
    from dataops.trace.requests import STAGE, load_report, load_targets

    def parse(data):
        try:
            return len(load_targets(_OneObject(data), [Input(stage=STAGE, key=_KEY, digest=_KEY)]))
        except CorruptPart:
            load_report(_OneObject(data), "takedowns/x.report.json")
            raise

    return Parser(parse, (CorruptPart,))


def _request_seeds():
    from dataops.trace.requests import make_request
    from dataops.trace.targets import parse_target

    request = make_request([parse_target(text) for text in _TARGETS], "a reason").model_dump_json().encode()
    return [request, json.dumps({"uids": [_UID], "versions": {"a": "b"}}).encode()]


def _load_manifest():
    from dataops.errors import CorruptPart
    from dataops.snapshot import content_digest, load_manifest

    def parse(data):
        manifest = load_manifest(_OneObject(data), "extract", _KEY)
        return manifest and f"{len(manifest.parts)} {content_digest(manifest.parts)[:0]}"

    return Parser(parse, (CorruptPart,))


def _manifest_seeds():
    part = {"name": "part-00000.parquet", "rows": 5, "bytes": 100, "sha256": "0" * 64, "uid_sum": "1"}
    counts = {"input": 9, "kept": 5, "dropped": {"no_caption": 4}}
    manifest = {
        "stage": "extract", "stage_version": 1, "key": _KEY, "inputs": [{"stage": "source", "key": "a", "digest": "b"}],
        "config": {"a": [1, 2.5, None]}, "seed": 0, "code": {}, "parts": [part], "counts": counts, "facts": {},
        "content_digest": "0" * 64, "created_at": "2026-11-27T00:00:00+00:00",
    }  # fmt: skip
    return [json.dumps(manifest).encode()]


def _load_run_record():
    from dataops.errors import ConfigError
    from flows.records import read_record

    def parse(data):
        record = read_record(_OneObject(data), f"runs/{_RUN_ID}.json")
        record.summary()
        return f"{record.first_flow} {record.last_stage} {len(record.own_attempts)} {record.key_of('pack')}"

    return Parser(parse, (ConfigError,))


_RUN_ID = "demo-20261127T000000-abcd"


def _record_seeds():
    from flows.records import Attempt, RunRecord, StageRun

    record = RunRecord(
        run_id=_RUN_ID, name="demo", created_at="2026-11-27T00:00:00+00:00", config={"name": "demo"},
        attempts=[Attempt(started_at="2026-11-27T00:00:00+00:00", host="a", pid=1, flow="train", flow_run_id="x")],
        stages=[StageRun(stage="pack", key=_KEY, state="Completed")],
    )  # fmt: skip
    return [record.model_dump_json().encode()]


@lru_cache(maxsize=1)
def _model_folder():
    """Return a folder with a finished model, and an open_clip folder in it."""
    from training.model.checkpoint import save_model
    from training.model.clip import CLIP
    from training.model.preprocess import Preprocess
    from training.model.tokenizer import train_tokenizer
    from training.model_config import ModelConfig

    folder = scratch_folder() / "model"
    folder.mkdir()
    tokenizer = train_tokenizer(["a"], 300, 8)
    vision = {"image_size": 8, "layers": 1, "width": 8, "head_width": 8, "patch_size": 8}
    text = {"context_length": 8, "vocab_size": tokenizer.vocab_size, "width": 8, "heads": 1, "layers": 1}
    model = CLIP(ModelConfig.model_validate({"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}))
    save_model(folder, model, tokenizer, Preprocess(image_size=8))
    return folder


def _load_model_file(name):
    """Return a loader of models of which one file is the input."""
    from dataops.errors import ContractError
    from training.model.checkpoint import load_model

    def parse(data):
        path = _model_folder() / name
        good = path.read_bytes()
        path.write_bytes(data)
        try:
            return load_model(_model_folder()).config.embed_dim
        finally:
            path.write_bytes(good)

    return Parser(parse, (ContractError,))


def _load_model_card():
    from dataops.errors import ConfigError
    from training.model.pretrained import load_pretrained

    def parse(data):
        folder = scratch_folder() / "card"
        folder.mkdir(exist_ok=True)
        (folder / "model.safetensors").write_bytes((_model_folder() / "model.safetensors").read_bytes())
        (folder / "model.json").write_bytes(data)
        return load_pretrained(folder).config.embed_dim

    return Parser(parse, (ConfigError,))


def _load_weights(name, wrap=bytes):
    from dataops.errors import ConfigError
    from training.model.pretrained import read_state_dict

    return Parser(lambda data: len(read_state_dict(write_scratch(name, wrap(data)))), (ConfigError,))


def _model_file(name):
    return (_model_folder() / name).read_bytes()


def _torch_files():
    import torch

    found = []
    for tensors in (
        {"a": torch.ones(3, 2), "b": torch.zeros(4, dtype=torch.float16)},
        {"state_dict": {"x": torch.ones(1)}},
    ):
        for is_zip in (True, False):
            sink = io.BytesIO()
            torch.save(tensors, sink, _use_new_zipfile_serialization=is_zip)
            found.append(sink.getvalue())
    return found


def _wrap_pickle(data):
    """Return an archive as torch writes it, with this data.pkl."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", "little")
        for i in range(3):
            archive.writestr(f"archive/data/{i}", bytes(24))
    return sink.getvalue()


def _pickles():
    found = []
    for data in _torch_files()[::2]:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found.append(archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl"))))
    return found


_PICKLE_WORDS = tuple(
    b"ctorch._utils\n_rebuild_tensor_v2\n|ctorch\nFloatStorage\n|cos\nsystem\n|ccollections\nOrderedDict\n|q\0|h\0|(|)|t|R|}|u|"
    b"s|Q|b|.|2|]|a|e|\x85|\x94|X\x01\0\0\0a|J\xff\xff\xff\x7f|r\0\0\0\x7f|\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f|"
    b"\x8e\0\0\0\x40\0\0\0\0|\x96\0\0\0\x40\0\0\0\0".split(b"|")
)
_MODEL = Limits(seconds=3.0, memory_mb=200)
# pydantic makes an error of over a kilobyte for each wrong value; who may write to the store may fill memory.
_RECORD = Limits(memory_per_byte=3_000)

STORED_TARGETS = (
    Target("config_toml", _load_config, lambda: _toml_files("."), _TOML_WORDS),
    Target("suite_toml", _load_suite, lambda: _toml_files("suites")[:3], _TOML_WORDS, max_bytes=1 << 17),
    Target(
        "takedown_txt",
        lambda: _load_takedown(".txt"),
        lambda: ["\n".join(_TARGETS).encode()],
        (b"uid:", b"phash:", b"~", b"#"),
    ),
    Target(
        "takedown_csv",
        lambda: _load_takedown(".csv"),
        lambda: ["\n".join(["kind,value", *(f",{text}" for text in _TARGETS)]).encode()],
        (b",", b'"', b"\n", b"domain,"),
    ),
    Target("takedown_request", _load_request, _request_seeds, _JSON_WORDS, _RECORD),
    Target("manifest", _load_manifest, _manifest_seeds, _JSON_WORDS, _RECORD),
    Target("run_record", _load_run_record, _record_seeds, _JSON_WORDS, _RECORD),
    Target(
        "model_json", lambda: _load_model_file("model.json"), lambda: [_model_file("model.json")], _JSON_WORDS, _MODEL
    ),
    Target("model_card", _load_model_card, lambda: [_model_file("model.json")], _JSON_WORDS, _MODEL),
    Target(
        "tokenizer_json",
        lambda: _load_model_file("tokenizer.json"),
        lambda: [_model_file("tokenizer.json")],
        _JSON_WORDS,
        _MODEL,
    ),
    Target(
        "safetensors",
        lambda: _load_weights("fuzz.safetensors"),
        lambda: [_model_file("model.safetensors")],
        (*_JSON_WORDS, b'"F32"', b'"BF16"', b'"data_offsets":[0,4]', b'"shape":[4294967296]', b"\x08\0\0\0\0\0\0\0"),
        _MODEL,
    ),
    Target(
        "torch_file",
        lambda: _load_weights("fuzz.pt"),
        _torch_files,
        (b"PK\x03\x04", b"PK\x01\x02", *_PICKLE_WORDS),
        _MODEL,
    ),
    Target("torch_pickle", lambda: _load_weights("fuzz.pt", _wrap_pickle), _pickles, _PICKLE_WORDS, _MODEL),
)
"""Targets of people, the store and models."""
