"""Trainings that start from pretrained towers: the same bits after a stop, features computed once, and a finished model."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dataops.errors import ConfigError
from dataops.home import CHECKOUT
from dataops.toml_text import parse_toml
from plugins.towers import image_features as image_features_module
from plugins.towers import text_features as text_features_module
from plugins.towers.config import StartConfig
from plugins.towers.networks.resnet import build
from plugins.towers.tests.made_towers import table_of, write_bert, write_decoder, write_words
from tests.oracles import scipy
from tests.pretended_card import pretended_card
from tests.trainings import before_step, output_of, outputs_of, rows_of, run_training, stop_at
from training.config import TrainConfig
from training.hooks import used_hooks
from training.job import Job, Stopped, read_job
from training.model.checkpoint import load_model
from training.model.towers import BackboneTower, PretrainedTextTower
from training.model_config import BackboneConfig
from training.train import set_up

pytestmark = [pytest.mark.usefixtures("process_state"), pytest.mark.xdist_group("open_clip")]
ARCHITECTURE = "resnet18"
PLAIN = {"workers": 2}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Return a folder with a sentence encoder and a backbone."""
    folder = tmp_path_factory.mktemp("weights")
    write_bert(folder / "bert")
    torch.manual_seed(1)
    config = BackboneConfig(kind="backbone", architecture=ARCHITECTURE, image_size=32, mean=(0, 0, 0), std=(1, 1, 1))
    save_file(build(config).state_dict(), folder / "net.safetensors")
    return folder


@pytest.fixture
def tables(tmp_path, weights):
    """Return the tables of copies of both, frozen."""
    shutil.copytree(weights, tmp_path, dirs_exist_ok=True)
    return {
        "text_init": table_of(tmp_path / "bert", kind="bert"),
        "image_init": table_of(tmp_path / "net.safetensors", architecture=ARCHITECTURE, frozen=True),
    }  # fmt: skip


def with_recipe(tables):
    """Return the settings of a training that starts from least squares over features of several stages and copies."""
    pytest.importorskip("plugins.augment")
    image = {**tables["image_init"], "stages": [1], "grid": 2, "copies": 2, "dropout": 0.25}
    text = {**tables["text_init"], "centred": True, "projector_layers": 0, "projector_norm": False}
    return {
        "image_init": image,
        "text_init": text,
        "start": "least_squares",
        "start_ridge": 0.1,
        "augment": {"rotate": 20.0, "cutout": 0.5},
        "prompts": ["{}", "a picture of {}"],
    }


@pytest.mark.parametrize("kind", ["cached", "computed", "recipe"])
def test_a_training_on_frozen_towers_ends_in_the_same_bits_after_a_stop(make_job, tables, monkeypatch, kind):
    is_cached = kind != "computed"
    settings = {name: {**table, "cache": is_cached} for name, table in tables.items()}
    if kind == "recipe":
        settings = with_recipe(tables) | {"holdout": 0.2}
    elif kind == "cached":
        settings |= {"holdout": 0.2, "keep": "best"}
    jobs = [make_job(name, image_size=32, **PLAIN, **settings, epochs=2) for name in ("a", "b")]
    assert run_training(jobs[0]) == 0
    rows = rows_of(jobs[0])
    assert rows[-1]["loss"] < rows[0]["loss"]
    before_step(monkeypatch, stop_at(2))
    assert run_training(jobs[1]) == 75
    monkeypatch.undo()
    for tower, name in ((BackboneTower, "encode"), (PretrainedTextTower, "encode")):
        if is_cached:  # the second start reads all features
            monkeypatch.setattr(tower, name, None)
    assert run_training(jobs[1]) == 0
    assert outputs_of(jobs[0]) == outputs_of(jobs[1])
    assert not (output_of(jobs[1]) / "prepared").exists()


def test_frozen_towers_on_a_card_train_as_on_the_cpu(make_job, tables, monkeypatch):
    """The card is the CPU, with the batches and the threads of a card."""
    jobs = [
        make_job(name, image_size=32, **PLAIN, **with_recipe(tables), epochs=2, device=name, deterministic=False)
        for name in ("cpu", "cuda")
    ]
    assert run_training(jobs[0]) == 0
    with pretended_card(monkeypatch):
        assert run_training(jobs[1]) == 0
    losses = [[row["loss"] for row in rows_of(job)] for job in jobs]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_the_shipped_config_of_two_frozen_towers_trains_with_tiny_ones(make_job, tables, tmp_path):
    """Only the projector of the captions learns, from features that are computed once."""
    pytest.importorskip("transformers")
    shipped = parse_toml((CHECKOUT / "configs" / "sharelock.toml").read_text())["train"]
    TrainConfig.model_validate(shipped)
    write_decoder(tmp_path / "decoder", "qwen3")
    for name, table in tables.items():
        shipped[name] |= {key: table[key] for key in ("path", "architecture") if key in table}
    shipped["text_init"]["path"] = str(tmp_path / "decoder")
    shipped["text_init"]["projector_width"] = 8
    job = make_job("a", **(shipped | {"image_size": 32, "batch_size": 10, "epochs": 4, "lr": 1e-2, "threads": 1}))
    assert run_training(job) == 0
    rows, start = rows_of(job), load_file(output_of(job) / "model.safetensors")
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert sum(".projector.layers." in name and name.endswith("weight") for name in start) == 4
    assert not any(name.startswith("visual.projector.layers") for name in start)


def test_cached_features_are_those_of_each_step(make_job, tables):
    """The images of the first job are squares, so a random crop of the height is that of the centre."""
    from tests.tar_files import write_tar
    from tests.trainings import jpeg

    job = json.loads(make_job("a", image_size=32, **PLAIN, **tables).read_text())
    members = [
        m for n in range(20) for m in ((f"{n:03d}.jpg", jpeg(n, (40, 40))), (f"{n:03d}.txt", f"thing {n}".encode()))
    ]
    shard = write_tar(Path(job["output"]).parent / "square.tar", members)
    losses = []
    for name, is_cached in (("cached", True), ("computed", False)):
        train = job["train"] | {key: {**table, "cache": is_cached} for key, table in tables.items()}
        path = Path(job["output"]).parent / f"{name}.json"
        output = str(path.with_suffix(""))
        path.write_text(json.dumps({**job, "train": train, "shards": [str(shard)], "output": output}))
        assert run_training(path) == 0
        losses.append([row["loss"] for row in rows_of(path)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_the_start_is_the_regression_of_captions_on_features_of_the_first_shards(make_job, tables):
    """The oracle is scipy's least squares over the plain images and copies of pairs, with a row for each ridge.

    Its predictions are whitened by the inverse of scipy's square root of the captions' second moments. At the end of all
    steps, and not after a stop, the layer is a quarter of the way to its last weights.
    """
    settings = {**PLAIN, **with_recipe(tables), "holdout": 0.2}
    job = read_job([str(make_job("a", image_size=32, **settings))], Job)
    run = set_up(job, torch.device("cpu"))
    texts = run.text_features
    (hook,) = (one for one in used_hooks(run.config) if one.config is StartConfig)
    assert run.dataset.shards_at_start == 2  # all, unless a hook chooses
    run.dataset.shards_at_start = 1
    hook.start(run.model, run.config, run.dataset, texts)
    inputs, targets = [], []
    for copy in range(3):
        for pair in run.dataset.index.without_held(run.dataset.index.samples_of(0)):
            loaded = run.dataset.load(pair, (0, 0, (copy + 0.5) / 3))
            vectors = [texts([prompt.format(loaded[1])])[0].double().numpy() for prompt in run.config.prompts]
            targets.append(np.mean([vector / np.linalg.norm(vector) for vector in vectors], axis=0))
            norm = run.model.visual.get_submodule("projector.norm")
            inputs.append(norm(torch.from_numpy(loaded[0].copy())).detach().double().numpy())
    x, y = np.array(inputs), np.array(targets)
    assert len({row.tobytes() for row in x}) == len(x)  # each copy differs
    assert len(x) < 3 * len(run.dataset)
    scales = x.std(axis=0)
    rows = np.vstack([(x - x.mean(axis=0)) / scales, np.sqrt(0.1 * len(x)) * np.eye(x.shape[1])])
    targets = np.vstack([y - y.mean(axis=0), np.zeros((x.shape[1], y.shape[1]))])
    expected = scipy("linalg").lstsq(rows, targets, lapack_driver="gelsy")[0]  # by QR, in a tenth of the time of an SVD
    moments = y.T @ y
    moments += 0.1 * np.trace(moments) / len(moments) * np.eye(len(moments))
    whitening = np.linalg.inv(scipy("linalg").sqrtm(moments / (np.trace(moments) / len(moments))))
    weights = run.model.visual.get_parameter("projector.layers.0.weight").detach().double().numpy().T
    np.testing.assert_allclose(weights * scales[:, None], expected @ whitening, atol=1e-5)
    found = run.model.visual(torch.from_numpy(np.array([run.dataset.load(0)[0]]))).detach().double().numpy()
    predicted = (x[0] - x.mean(axis=0)) / scales @ expected + y.mean(axis=0)
    np.testing.assert_allclose(found[0], predicted @ whitening, atol=1e-5)
    layer = run.model.visual.get_submodule("projector.layers.0")
    layer.weight.data += 2
    with pytest.raises(Stopped), hook.watch_steps(job, run.config, 1, run.model):
        raise Stopped("before the last step")
    with hook.watch_steps(job, run.config, 1, run.model):
        pass
    np.testing.assert_allclose(layer.weight.detach().double().T.numpy(), weights + 0.5, atol=1e-5)
    assert not list(layer.buffers())


@pytest.mark.parametrize("kind", ["bert", "words"])
def test_a_centred_text_tower_subtracts_the_mean_of_the_captions_by_itself(make_job, tables, tmp_path, kind):
    write_words(tmp_path / "words")
    text = tables["text_init"] | {"kind": kind, "path": str(tmp_path / kind), "projector_layers": 0}
    text |= {"projector_norm": False}
    runs = []
    for name, centred in (("plain", False), ("centred", True)):
        tower = {**text, "centred": centred}
        path = make_job(name, image_size=32, **PLAIN, image_init=tables["image_init"], text_init=tower)
        runs.append(set_up(read_job([str(path)], Job), torch.device("cpu")))
    plain, centred = runs
    captions = sorted(set(plain.dataset.captions()))
    expected = plain.text_features(captions)
    expected = (expected - expected.mean(dim=0)).numpy()
    network = [centred.model.encode_text(centred.tokenizer([caption])).detach()[0].numpy() for caption in captions]
    for found in (network, centred.text_features(captions).numpy()):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.long
def test_kept_features_serve_another_job_until_weights_or_data_change(make_job, tables, tmp_path, monkeypatch):
    computed = []
    writers = ((image_features_module, "images", "write_features"), (text_features_module, "texts", "write_array"))
    for module, name, writer in writers:
        write = getattr(module, writer)

        def record(*arguments, write=write, name=name):
            computed.append(name)
            write(*arguments)

        monkeypatch.setattr(module, writer, record)

    def run(output, **train):
        path = make_job(output, image_size=32, **PLAIN, **{**tables, **train})
        path.write_text(json.dumps({**json.loads(path.read_text()), "features": str(tmp_path / "kept")}))
        computed.clear()
        set_up(read_job([str(path)], Job), torch.device("cpu"))
        return sorted(computed)

    assert run("a") == ["images", "images", "texts", "texts"]  # two shards
    assert run("b", lr=0.01) == []
    for number, path in enumerate(sorted((tmp_path / "kept" / "towers").iterdir())[::2]):
        data = path.read_bytes()
        path.write_bytes(data[:-20] + bytes([data[-20] ^ 4]) + data[-19:])
        assert run(f"flipped-{number}") == [path.name.partition("-")[0]]
    assert run("c", prompts=["{}", "a picture of {}"]) == ["texts", "texts"]
    weights = load_file(tmp_path / "net.safetensors")
    save_file({name: t * 1.5 for name, t in weights.items()}, tmp_path / "net.safetensors")
    assert run("d") == ["images", "images"]
    recipe = with_recipe(tables)
    first = run("e", **recipe)
    assert first.count("images") == 6  # two shards, plain and two copies
    assert run("f", lr=0.01, **recipe, seed=1) == []
    more = {**recipe["image_init"], "copies": 3}
    assert run("g", **{**recipe, "image_init": more}).count("images") == 2
    assert run("h", **{**recipe, "augment": {"rotate": 5.0}}).count("images") == 4


def test_an_image_of_several_shards_passes_through_the_network_once(make_job, tables, shards, monkeypatch):
    """Its plain feature and its copies are the same in each shard, also if one shard is computed by a later job."""
    from tests.tar_files import write_tar
    from tests.trainings import pairs

    again = [(f"1{name[1:]}", b"another caption" if name.endswith("txt") else data) for name, data in pairs(0, 12)]
    write_tar(shards[1], again + pairs(12, 2))
    images, encode = [], BackboneTower.encode

    def count(tower, images_B3SS, *encoder):
        images.append(len(images_B3SS))
        return encode(tower, images_B3SS, *encoder)

    monkeypatch.setattr(BackboneTower, "encode", count)
    path = make_job("a", image_size=32, **PLAIN, **with_recipe(tables))
    whole = []
    runs = {"together": [shards], "apart": [shards[:1], shards], "one without the other": [shards[:1], shards[1:]]}
    for kept, jobs in runs.items():
        for job_shards in jobs:
            job = {**json.loads(path.read_text()), "features": str(path.parent / kept), "checksums": {}}
            job["shards"] = [str(shard) for shard in job_shards]
            path.write_text(json.dumps(job))
            dataset = set_up(read_job([str(path)], Job), torch.device("cpu")).dataset
        assert sum(images) == 3 * 14
        images.clear()
        found = [np.concatenate(variants) for variants in zip(*dataset.image_features.arrays, strict=True)]
        whole = whole or found
        for features, expected in zip(found, whole, strict=True):
            assert len(np.unique(expected, axis=0)) == 14
            np.testing.assert_array_equal(expected[:12], expected[13:25])
            np.testing.assert_array_equal(features, expected[-len(features) :])


def test_a_text_of_several_shards_is_encoded_once_and_alike_in_any_group(make_job, tables, tmp_path, caplog):
    run = set_up(read_job([str(make_job("a", image_size=32, **PLAIN, **tables))], Job), torch.device("cpu"))
    tower, arrays = run.model.text, []
    texts = [["a thing", "red", "thing 7"], ["red", "a red thing"], ["thing 7", "a thing"]]
    shards = [(f"{number:064d}", of_shard) for number, of_shard in enumerate(texts)]
    caplog.set_level("INFO")
    for at_once, encoded in ((100, 4), (5, 6), (1, 7)):
        parts = (shards, "", tmp_path / str(at_once), "fp32", at_once)
        arrays.append(text_features_module.prepare_text_features(tower, run.tokenizer, *parts).arrays)
        assert f"the features of {encoded} captions are computed" in caplog.text
    for found in arrays[1:]:
        for features, expected in zip(found, arrays[0], strict=True):
            np.testing.assert_array_equal(features, expected)
    for of_shard, features in zip(texts, arrays[0], strict=True):
        alone = [text_features_module.encode(tower, run.tokenizer, [text], "fp32")[0] for text in sorted(of_shard)]
        np.testing.assert_allclose(features, np.stack(alone), atol=1e-5)


def test_an_image_that_cannot_be_read_is_skipped_with_its_reason(make_job, tables, shards):
    from tests.tar_files import write_tar
    from tests.trainings import pairs

    members = dict(pairs(0, 13))
    members["000004.jpg"] = members["000004.jpg"][:200]
    write_tar(shards[0], members)
    jobs = [make_job("a", image_size=32, max_skipped=0.5, epochs=2, **PLAIN, **tables)]
    jobs.append(make_job("b", image_size=32, max_skipped=0.5, epochs=2, **PLAIN, text_init=tables["text_init"]))
    assert [run_training(job) for job in jobs] == [0, 0]
    skipped = [json.loads((output_of(job) / "skipped.json").read_text()) for job in jobs]
    assert len(skipped[0]) == 1
    assert skipped[0] == skipped[1]


def test_a_finished_model_loads_without_the_files_it_started_from(make_job, tables, tmp_path):
    """The towers are trained here, with augmentation: the features at the end are those of the weights at the end."""
    write_words(tmp_path / "words")
    words = table_of(tmp_path / "words", kind="words", frozen=False)
    image = {**tables["image_init"], "frozen": False, "lr_scale": 0.1}
    job = make_job("a", image_size=32, epochs=2, text_init=words, image_init=image, word_dropout=0.2, grad_cache=None)
    assert run_training(job) == 0
    shutil.rmtree(tmp_path / "words")
    (tmp_path / "net.safetensors").unlink()
    loaded = load_model(output_of(job))
    assert loaded.config.vision_cfg.model_dump()["architecture"] == ARCHITECTURE
    ids_BL = loaded.tokenizer(["a red thing 3", "no such word as this"])
    assert ids_BL.tolist() == [[6, 1, 5, 0], [0, 0, 0, 0]] or ids_BL[0, :3].tolist() == [6, 1, 5]
    assert torch.isfinite(loaded.model.encode_text(ids_BL)).all()
    trained = load_file(output_of(job) / "model.safetensors")
    assert not trained["text.encoder.embedding.weight"][0].any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocabulary": "clip"}, "vocabulary: text_init brings its own"),
        ({"init": "x"}, "init: both init and text_init"),
        ({"sharding": "full"}, "sharding: a model with text_init"),
        ({"patch_dropout": 0.5}, "patch_dropout"),
    ],
)
def test_a_contradiction_is_an_error_that_names_the_key(tables, fields, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig.model_validate({**tables, **fields})


@pytest.mark.parametrize(
    ("table", "fields", "message"),
    [
        ("image_init", {"frozen": False}, r"image_init\.copies: it needs features .* computed once, and it is trained"),
        ("image_init", {"copies": 0, "dropout": 0}, r"start: .* image tower .*augment changes its inputs"),
        ("image_init", {"projector_layers": 2}, r"start: .* set image_init\.projector_layers = 1"),
        ("image_init", {"stages": [3, 1]}, r"stages: \[3, 1\]; name stages of resnet18 from 1 to 4"),
        ("text_init", {"cache": False}, r"text_init\.centred: .*cache is false"),
        ("text_init", {"projector_layers": 1}, r"start: .* set text_init\.projector_layers = 0"),
    ],
)
def test_what_the_recipe_lacks_is_an_error_that_names_the_key(tables, table, fields, message):
    recipe = with_recipe(tables)
    TrainConfig.model_validate(recipe)
    with pytest.raises((ValueError, ConfigError), match=message):
        TrainConfig.model_validate({**recipe, table: {**recipe[table], **fields}}).load_dimensions()
