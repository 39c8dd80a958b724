"""Multilingual sets in small files of their published layouts, converted and read as evaluation sets."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dataops.errors import ConfigError, ContractError
from dataops.home import CHECKOUT
from dataops.shards.tar import ShardWriter
from plugins.evaluation_sets.convert import convert
from training.evaluation.sets import EvalSet
from training.evaluation.suite import read_tasks


def encode_image(shade, kind="JPEG"):
    sink = io.BytesIO()
    Image.new("L", (4, 4), shade).save(sink, kind)
    return sink.getvalue()


def test_xm3600_becomes_a_retrieval_set_a_language(tmp_path):
    (tmp_path / "images").mkdir()
    rows = []
    for key, shade in (("a1", 10), ("b2", 200)):
        (tmp_path / "images" / f"{key}.jpg").write_bytes(encode_image(shade))
        texts = {
            "de": {"caption": [f"Bild {key}", "noch\neins"], "caption/tokenized": []},
            "sw": {"caption": f"picha {key}"},
        }
        rows.append({"image/key": key, "image/locale": "de", **texts})
    (tmp_path / "captions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert convert("xm3600", tmp_path, tmp_path / "out") == 0
    data = EvalSet(tmp_path / "out" / "de", "test", "retrieval")
    assert data.problems() == []
    assert [(s.captions, s.image) for s in data.samples()] == [
        (("Bild a1", "noch eins"), encode_image(10)),
        (("Bild b2", "noch eins"), encode_image(200)),
    ]
    assert [s.captions for s in EvalSet(tmp_path / "out" / "sw", "test", "retrieval").samples()] == [
        ("picha a1",),
        ("picha b2",),
    ]
    with pytest.raises(ConfigError, match="there already"):
        convert("xm3600", tmp_path, tmp_path / "out", languages=("de",))
    for unknown in ("", "tlh"):
        with pytest.raises(ConfigError, match=rf"no xm3600 in \['{unknown}'\]; --languages names some of de, sw"):
            convert("xm3600", tmp_path, tmp_path / "unknown", languages=("de", unknown))
    with pytest.raises(ConfigError, match="cannot write"):
        convert("xm3600", tmp_path, tmp_path / "captions.jsonl" / "out")
    rows[1]["sw"] = {"caption": 7}  # the second language fails
    (tmp_path / "captions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(ContractError, match="not in the layout of xm3600"):
        convert("xm3600", tmp_path, tmp_path / "again")
    rows[1]["sw"] = texts["sw"]
    (tmp_path / "captions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert convert("xm3600", tmp_path, tmp_path / "again") == 0
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["de", "sw"]
    (tmp_path / "images" / "b2.jpg").unlink()
    with pytest.raises(ContractError, match=r"b2\.jpg"):
        convert("xm3600", tmp_path, tmp_path / "third")
    assert not (tmp_path / "third" / "de").exists()
    for code in ("../elsewhere", "d\x1b[2J"):
        (tmp_path / "captions.jsonl").write_text(json.dumps(rows[0] | {code: texts["de"]}))
        with pytest.raises(ContractError, match="no code of a language"):
            convert("xm3600", tmp_path, tmp_path / "out", languages=(code,))


def test_babel_imagenet_keeps_the_images_of_the_classes_that_a_language_names(tmp_path):
    imagenet = tmp_path / "imagenet"
    (imagenet / "test").mkdir(parents=True)
    (imagenet / "test" / "nshards.txt").write_text("1")
    (imagenet / "classnames.txt").write_text("tench\nshark\ncat\n")
    with (imagenet / "test" / "0.tar").open("wb") as file:
        writer = ShardWriter(file)
        for number, label in enumerate((2, 0, 1, 2)):
            writer.write(f"{number:04d}", {"png": encode_image(number, "PNG"), "cls": str(label).encode()})
        writer.close()
    (tmp_path / "babel_imagenet.json").write_text(
        json.dumps({"DE": [[2, 0], ["Katze", "Schleie"]], "FR": [[1], ["requin"]]})
    )
    (tmp_path / "nllb_dist13b_prompts.json").write_text(json.dumps({"DE": ["ein Foto: {}"], "FR": ["{}"]}))
    assert convert("babel-imagenet", tmp_path, tmp_path / "out", languages=("de",), images=imagenet) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["de"]
    data = EvalSet(tmp_path / "out" / "de", "test", "classification")
    assert (data.problems(), data.class_names(), data.templates()) == ([], ["Katze", "Schleie"], ["ein Foto: {c}"])
    assert [(s.label, s.image) for s in data.samples()] == [
        (n, encode_image(i, "PNG")) for n, i in ((0, 0), (1, 1), (0, 3))
    ]
    with pytest.raises(ConfigError, match="--images"):
        convert("babel-imagenet", tmp_path, tmp_path / "more")


def test_cvqa_becomes_a_choice_set_a_language(tmp_path):
    def write(label, second="('Sundanese', 'Indonesia')"):
        row = {
            "image": {"bytes": encode_image(1)},
            "Question": "Que es?",
            "Options": ["uno", "dos", "tres", "dos"],
            "Label": label,
        }
        rows = [{**row, "Subset": "('Spanish', 'Chile')"}, {**row, "Subset": second}]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test-0.parquet")

    write(2)
    assert convert("cvqa", tmp_path, tmp_path / "out", languages=("Spanish",)) == 0
    (sample,) = EvalSet(tmp_path / "out" / "spanish", "test", "choice").samples()
    assert sample.captions == ("Que es? tres", "Que es? uno", "Que es? dos")
    write(None)
    with pytest.raises(ContractError, match="Label"):
        convert("cvqa", tmp_path, tmp_path / "more")
    for second in ("(" * 1000, "-" * 100_000 + "1", "1+" * 50_000 + "1"):
        write(2, second)
        with pytest.raises(ContractError, match="not in the layout of cvqa"):
            convert("cvqa", tmp_path, tmp_path / "more")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "test-1.parquet")
    with pytest.raises(ContractError, match="not in the layout of cvqa"):
        convert("cvqa", tmp_path, tmp_path / "more")


def test_stamps_become_a_set_of_their_photographs_a_language(tmp_path):
    photographs = np.random.default_rng(0).integers(0, 255, (3, 9, 9, 3), np.uint8)
    texts = {
        "birds/a": "A magpie.\nde.utf8=Eine Elster.\n",
        "birds/b": "A magpie.\nja.utf8=カササギ\nde.utf8=\n",
        "symbols/c": "A letter.",
    }
    for (name, text), pixels in zip(texts.items(), photographs, strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(text, "utf-8")
    Image.fromarray(photographs[0]).save(tmp_path / "birds" / "a_mirror.png")
    (tmp_path / "birds" / "drawing.png").write_bytes(encode_image(10, "PNG"))
    (tmp_path / "birds" / "drawing.txt").write_text("A drawing.")
    assert convert("stamps", tmp_path, tmp_path / "out", languages=("en", "de")) == 0
    found = {code: EvalSet(tmp_path / "out" / code, "test", "classification") for code in ("en", "de")}
    assert [data.problems() for data in found.values()] == [[], []]
    assert {code: data.class_names() for code, data in found.items()} == {"en": ["A magpie."], "de": ["Eine Elster."]}
    images = [(tmp_path / "birds" / name).read_bytes() for name in ("a.png", "b.png")]
    assert [sample.image for sample in found["en"].samples()] == images
    assert [sample.image for sample in found["de"].samples()] == images[:1]
    (tmp_path / "birds" / "b.png").write_bytes(images[1][:-20])
    with pytest.raises(ContractError, match=r"b\.png"):
        convert("stamps", tmp_path, tmp_path / "more")


def test_the_shipped_suite_names_the_folders_that_convert_writes():
    _, labelled, problems = read_tasks(CHECKOUT / "configs/suites/multilingual.toml", Path("/data"))
    assert problems == []
    assert {task.root.split("/")[2] for _, task in labelled} == {"xm3600", "babel-imagenet", "cvqa"}
    assert {task.kind for _, task in labelled} == {"retrieval", "classification", "choice"}
