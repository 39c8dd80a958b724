"""croissant.json is valid Croissant 1.1, and mlcroissant reads the rows, images and captions of a dataset by it."""

import json
import logging

import pytest

from plugins.croissant.croissant import CONFORMS_TO
from tests.unit.tasks.dataset_chain import dropped_pairs, packed_in, pair

pytestmark = pytest.mark.filterwarnings(  # theirs: rdflib's old classes, and files left to the collector
    "ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
FURTHER = [{"uid": "a", "caption": "more é"}, {"uid": "b"}]
ROWS = {"sampling_probability": 0.5, "query_ids": [3, 9], "clip_score": None}
FACES = [[[0.0, 0.25, 0.5, 1.0], [0.5, 0.5, 0.75, 1.0]], [], None]
BY_KEY = {
    row["key"]: row
    for row in (
        pair(n, caption=f"picture {n} é 赤い", face_bboxes=FACES[n % 3], captions=[FURTHER, [], None][n % 3], **ROWS)
        for n in range(5)
    )
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return the folder and manifest of a dataset of two shards."""
    root = tmp_path_factory.mktemp("store")
    _, manifests = packed_in(root, [*BY_KEY.values(), *dropped_pairs()], shard_size=3)
    return root / "pack" / manifests["pack"].key, manifests["pack"]


@pytest.fixture(scope="module")
def dataset(made, tmp_path_factory):
    mlcroissant = pytest.importorskip(
        "mlcroissant"
    )  # here, since each process collects all tests, and it takes seconds
    from mlcroissant._src.operation_graph.operations import extract

    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logging.getLogger("absl").addHandler(handler)
    with pytest.MonkeyPatch.context() as patch:  # it unpacks into a folder of the user, by the name of the shard
        patch.setattr(extract, "EXTRACT_PATH", type(extract.EXTRACT_PATH)(tmp_path_factory.mktemp("unpacked")))
        yield mlcroissant.Dataset(made[0] / "croissant.json")
        logging.getLogger("absl").removeHandler(handler)
    assert [one.getMessage() for one in records if one.levelno >= logging.WARNING] == []


def test_mlcroissant_reads_every_column_of_the_rows(dataset):
    rows = {row["pairs/uid"].decode(): row for row in dataset.records("pairs")}
    assert rows.keys() == BY_KEY.keys()
    for key, row in rows.items():
        expected = BY_KEY[key]
        assert row["pairs/caption"].decode() == expected["caption"]
        assert row["pairs/original_width"] == expected["original_width"]
        assert row["pairs/sampling_probability"] == 0.5
        assert [*row["pairs/query_ids"]] == [3, 9]
        assert row.get("pairs/clip_score") is None  # a column of the plugin scores
    found = next(row for key, row in rows.items() if BY_KEY[key]["face_bboxes"] == FACES[0])
    if "pairs/face_bboxes" in found:  # a column of the plugin moderation
        assert [[*box] for box in found["pairs/face_bboxes"]] == FACES[0]
    assert [one["pairs/captions/uid"] for one in found["pairs/captions"]] == [b"a", b"b"]
    assert found["pairs/captions"][0]["pairs/captions/caption"].decode() == "more é"


def test_mlcroissant_reads_each_image_with_its_caption(dataset):
    samples = list(dataset.records("samples"))
    read = {row["samples/key"].decode(): row["samples/caption"].decode() for row in samples}
    assert read == {key: row["caption"] for key, row in BY_KEY.items()}
    assert {row["samples/image"].size for row in samples} == {(48, 48)}


def test_document_has_the_digests_and_what_the_manifests_know(made):
    folder, manifest = made
    found = json.loads((folder / "croissant.json").read_text("utf-8"))
    assert found["conformsTo"] == CONFORMS_TO
    shards = {one["@id"]: one["sha256"] for one in found["distribution"] if one["@type"] == "cr:FileObject"}
    assert shards == {part.name: part.sha256 for part in manifest.named("", ".tar")}
    assert manifest.content_digest in found["identifier"]
    assert found["license"] == ["http://creativecommons.org/licenses/by/4.0/"]
    assert "filter kept 8 of 15 pairs; dropped: too_short 7" in found["rai:dataPreprocessingProtocol"][1]
    assert found["rai:dataCollectionMissingData"].startswith("Of 5 pairs: 3 without a declared licence (60.0%)")
    assert found["rai:machineAnnotationTools"][1] == "Near-duplicates: perceptual hashes of the images."
    assert any("Nobody has checked that they are true" in text for text in found["rai:dataLimitations"])
